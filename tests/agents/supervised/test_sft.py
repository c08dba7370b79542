"""Warm starts: what is learned are the demonstrations, EOS included, and nothing of the prompts."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import Policy, SFTConfig, fine_tune
from agents.supervised import sft
from agents.supervised.sft import demonstrations, perplexity, sft_loss
from tests.agents.helpers import ECHO_KWARGS, Echo, Letters, lanes, make_policy, word_tokenizer
from textenvs import Example
from textenvs.tokenizer import SubwordTokenizer


def test_demonstrations_are_prompt_answer_and_eos_by_hand(caplog):
    data = demonstrations(lanes(2, task=Echo()))
    assert len(data) == 6
    assert data.input_ids[1].tolist() == [4, 5, 6, 4, 5, 0, 2, 2]  # " b c" -> " good b c" EOS PAD PAD
    assert data.positions[1, :4].tolist() == [2, 3, 4, 5]
    assert data.response_mask[1].tolist() == [True] * 4 + [False]
    assert len(demonstrations(lanes(2, task=Echo()), limit=2)) == 2
    assert not caplog.messages
    cut = demonstrations(lanes(2, task=Echo(), max_new_tokens=2))
    assert "demonstrations are longer than max_new_tokens=2, and were cut" in caplog.text
    assert cut.input_ids[2, :5].tolist() == [5, 3, 4, 6, 5], "an answer that is too long has no EOS"


class Interview(Letters):
    """Two turns are asked for at most; the reply to the first repeats the prompt."""

    max_turns = 2
    max_reply_tokens = 3

    def reply(self, example, turns):
        return None if turns[-1].startswith(" bad") else example.prompt

    def demonstration(self, example):
        return [" good\n a", " bad\n a", " good good\n a b c\n b"][example.metadata["index"] % 3]


def test_turns_of_a_demonstration_with_replies_between_them_by_hand():
    """A reply to " good" repeats the prompt; " bad" gets none, and ends the episode."""
    data = demonstrations(lanes(4, task=Interview()))
    assert data.input_ids.shape == (6, 12)
    assert data.input_ids[0].tolist() == [3, 6, 0, 3, 3, 0, *[2] * 6]  # " a" -> " good" EOS (" a") " a" EOS
    assert data.positions[0].tolist() == [1, 2, 4, 5, 1, 1]
    assert data.response_mask[0].tolist() == [True] * 4 + [False] * 2
    assert data.input_ids[1].tolist() == [4, 5, 7, 0, *[2] * 8]  # " b c" -> " bad" EOS, and no more
    assert data.positions[1].tolist() == [2, 3, 1, 1, 1, 1]
    # " c a b" -> " good" " good" EOS (" c a b") " a" " b" " c", and the budget of six is spent
    assert data.input_ids[2].tolist() == [5, 3, 4, 6, 6, 0, 5, 3, 4, 3, 4, 5]
    assert data.positions[2].tolist() == [3, 4, 5, 9, 10, 11]
    assert data.input_ids[5].tolist() == data.input_ids[2].tolist()
    short = demonstrations(lanes(4, task=Interview(), max_new_tokens=2))
    assert short.input_ids[0].tolist() == [3, 6, 0, 2, 2], "a reply that nobody answers is no part of it"


def test_turns_of_a_conversation_stand_as_the_environment_writes_them():
    """Played through the environment, a demonstration leaves the very row that is learned from, replies included."""
    envs = gym.make_vec("TextGen/Dialogue-v0", num_envs=3, autoreset_mode="Disabled")
    tokenizer, task = envs.unwrapped.tokenizer, envs.unwrapped.task
    data = demonstrations(envs.unwrapped, limit=3)
    for place in range(3):
        observation, _ = envs.reset(options={"example": place})
        for turn in task.demonstration(task.example("train", place)).split("\n"):
            for token in (*tokenizer.encode_response(turn), tokenizer.eos_token_id):
                observation, _, terminated, _, infos = envs.step(np.full(3, token))
        assert terminated[0]
        assert infos["score"][0] == pytest.approx(1.0)
        length = int(observation["attention_mask"][0].sum())
        assert data.input_ids[place, :length].tolist() == observation["input_ids"][0, :length].tolist()
        written = data.positions[place][data.response_mask[place]].tolist()
        assert written == np.flatnonzero(observation["response_mask"][0]).tolist()


def test_references_stand_in_where_there_are_no_demonstrations():
    class Referenced(Letters):
        def example(self, split, index):
            return Example(" a", references=(" b", " c"))

    data = demonstrations(lanes(2, task=Referenced()))
    assert data.input_ids[0].tolist() == [3, 4, 0]
    with pytest.raises(ValueError, match="Expected task 'letters' to have demonstrations, or examples with references"):
        demonstrations(lanes(2))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_loss_is_that_of_transformers(kind):
    """Plain Transformers, with -100 as the label of all that is not a response."""
    policy = make_policy(kind, seed=1)
    data = demonstrations(lanes(2, task=Echo()))
    labels = torch.full_like(data.input_ids, -100)
    for row, step in data.response_mask.nonzero().tolist():
        place = int(data.positions[row, step])
        labels[row, place] = data.input_ids[row, place]
    theirs = policy.model(data.input_ids, labels=labels).loss
    ours = sft_loss(policy, data)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    found = [torch.autograd.grad(loss, list(policy.model.parameters())) for loss in (ours, theirs)]
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    for size in (1, 4, 64):
        assert perplexity(policy, data, micro_batch_size=size) == pytest.approx(math.exp(theirs.item()), rel=1e-5)


class Everywhere(Echo):
    """Validation examples too."""

    def num_examples(self, split):
        return 6


def fresh():
    return make_policy(seed=1, spread=0.1)


def test_learns_the_demonstrations_and_keeps_the_best_epoch(tmp_path):
    policy = fresh()
    config = SFTConfig(epochs=30, batch_size=3, learning_rate=0.01, eval_episodes=12)
    seen = []
    kwargs = {**ECHO_KWARGS, "task": Everywhere()}
    rows = fine_tune(
        policy, "TextGen-v0", config=config, env_kwargs=kwargs, folder=tmp_path / "run", on_epoch=seen.append
    )
    assert seen == rows
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    assert rows[0]["validation_perplexity"] > 5
    best = min(row["validation_perplexity"] for row in rows)
    assert best < 1.2
    assert rows[-1]["validation_score"] > rows[0]["validation_score"] + 0.5
    data = demonstrations(lanes(2, task=Everywhere()))
    assert perplexity(policy, data) == pytest.approx(best, rel=1e-4), "the weights are those of the best epoch"
    kept = Policy.from_pretrained(tmp_path / "run" / "policy", device="cpu")
    assert (policy.pretrained, kept.pretrained) == (True, True)
    assert perplexity(kept, data) == pytest.approx(best, rel=1e-4)
    state = json.loads((tmp_path / "run" / "sft.json").read_text())
    assert state["config"]["batch_size"] == 3
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == len(rows)
    with pytest.raises(ValueError, match="holds another run"):
        fine_tune(policy, "TextGen-v0", config=config, env_kwargs=kwargs, folder=tmp_path / "run")


def test_stops_early_where_validation_no_longer_falls():
    """With a step size that only does harm: after `patience` epochs, and with the weights of the start."""
    policy = fresh()
    assert not policy.pretrained
    before = [one.clone() for one in policy.model.parameters()]
    config = SFTConfig(
        epochs=30, optimizer="sgd", learning_rate=100.0, patience=3, eval_episodes=0, max_grad_norm=100.0
    )
    rows = fine_tune(policy, "TextGen-v0", config=config, env_kwargs={**ECHO_KWARGS, "task": Everywhere()})
    assert len(rows) == 4
    assert "validation_score" not in rows[0]
    for one, two in zip(policy.model.parameters(), before, strict=True):
        assert torch.equal(one, two)
    assert not policy.pretrained, "they are still random"


def test_micro_batches_change_nothing_and_the_seed_decides():
    def run(**settings):
        policy = fresh()
        seed = settings.pop("seed", 0)
        config = SFTConfig(epochs=2, batch_size=4, learning_rate=0.01, eval_episodes=0, **settings)
        fine_tune(policy, "TextGen-v0", config=config, env_kwargs={**ECHO_KWARGS, "task": Everywhere()}, seed=seed)
        return torch.cat([one.detach().flatten() for one in policy.model.parameters()])

    reference = run()
    assert torch.equal(run(), reference)
    torch.testing.assert_close(run(micro_batch_size=1), reference, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(run(seed=1), reference)
    for changed in ({"learning_rate_schedule": "linear"}, {"warmup": 0.9}, {"demonstrations": 3}):
        assert not torch.allclose(run(**changed), reference), changed


def test_a_tokenizer_that_cannot_write_says_so():
    class Mute:
        def __init__(self):
            self._tokenizer = SubwordTokenizer(
                word_tokenizer(), eos_token="<eos>", bos_token="<bos>", pad_token="<pad>"
            )

        def __getattr__(self, name):
            if name == "encode_response":
                raise AttributeError(name)
            return getattr(self._tokenizer, name)

    with pytest.raises(ValueError, match=r"Expected a tokenizer with encode_response\(text\)"):
        demonstrations(lanes(2, task=Echo(), tokenizer=Mute()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "Expected epochs to be at least 1, got 0"),
        ({"eval_episodes": -1}, "Expected eval_episodes to be at least 0, got -1"),
        ({"learning_rate": -1.0}, "Expected learning_rate in"),
        ({"demonstrations": 0}, "Expected demonstrations to be at least 1, got 0"),
    ],
)
def test_wrong_settings_say_so(settings, message):
    with pytest.raises(ValueError, match=message):
        SFTConfig(**settings)


def test_what_cannot_be_written_is_said_before_anything_is_played(tmp_path, monkeypatch):
    class Four:
        """A tokenizer of one's own class: welcome, and nothing that a folder could hold."""

        vocab_size, bos_token_id, eos_token_id, pad_token_id = 4, 0, 0, 0
        pieces = (b"", b"a", b"b", b" ")

        def encode_batch(self, texts):
            return [[1 + ord(letter) % 3 for letter in text] for text in texts]

    played = []
    monkeypatch.setattr(sft, "make_env", lambda *args, **kwargs: played.append(args))
    with pytest.raises(ValueError, match="no other can be written beside the model, got Four"):
        fine_tune(Policy.fresh(Four(), device="cpu"), "TextGen/Copy-v0", folder=tmp_path / "sft")
    assert not played
    assert not list(tmp_path.rglob("*.*")), "the trial is gone"
