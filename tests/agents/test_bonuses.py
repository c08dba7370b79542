"""Bonuses: hand-worked numbers, what they remember, and their place beside the rewards."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents import PPO, REINFORCE, ActorCritic, Policy, load
from agents.bonuses import BONUSES, Bonuses, last_hidden_states, self_bleu, text_hashes
from agents.rollout import Rollout
from agents.training.agent import Algorithm
from tests.agents.helpers import make_policy, word_tokenizer
from tests.helpers import slow_but

EOS, A, B, C, GOOD = 0, 3, 4, 5, 6


def rollout(rows: list[list[int]], prompt: int = 1, **changes: object) -> Rollout:
    """Episodes by hand: each row a prompt of `prompt` tokens, then actions."""
    length, steps = max(map(len, rows)), max(len(row) - prompt for row in rows)
    input_ids = torch.full((len(rows), length), 2)
    mask = torch.zeros(len(rows), steps, dtype=torch.bool)
    positions = torch.ones(len(rows), steps, dtype=torch.int64)
    for place, row in enumerate(rows):
        input_ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row) - prompt] = True
        positions[place, : len(row) - prompt] = torch.arange(prompt, len(row))
    zeros, flags = torch.zeros(len(rows), steps), torch.ones(len(rows), dtype=torch.bool)
    made = Rollout(
        input_ids=input_ids, positions=positions, response_mask=mask, rewards=zeros, log_probs=zeros, values=zeros,
        terminated=flags, truncated=~flags, last_values=torch.zeros(len(rows)), group=torch.zeros(len(rows), dtype=int),
        scores=torch.zeros(len(rows)), examples=torch.arange(len(rows)), ref_log_probs=zeros,
    )  # fmt: skip
    return replace(made, **changes)


def paid(name: str, batch: Rollout, policy: Policy, **arguments: object) -> torch.Tensor:
    """Pays one bonus for one batch, alone and with a weight of 1."""
    found, _ = Bonuses({name: arguments}, policy, 0).pay(batch, policy)
    assert found.bonuses is not None
    return found.bonuses


def test_novelty_by_hand(policy: Policy) -> None:
    """Bigrams: " a a" is written three times, all others once; then once more."""
    bonuses = Bonuses({"novelty": {"n": 2, "weight": 2.0}}, policy, 0)
    first = rollout([[1, A, A, A, EOS], [1, B, A, A]])
    found, row = bonuses.pay(first, policy)
    third = 2 / math.sqrt(3)
    assert found.bonuses is not None
    assert found.bonuses.tolist() == [
        pytest.approx([2, third, third, 2]),  # BOS a, a a, a a, a EOS
        pytest.approx([2, 2, third, 0]),  # BOS b, b a, a a, padding
    ]
    assert row == {"bonus/novelty": pytest.approx((4 + 2 * third + 4 + third) / 2)}
    again, _ = bonuses.pay(rollout([[1, A, A, C]]), policy)
    assert again.bonuses is not None
    assert again.bonuses.tolist() == [pytest.approx([2 / math.sqrt(2), 1.0, 2])]  # a a for the fourth time
    assert not found.rewards.any(), "the raw rewards stay as they were"


def test_novelty_of_whole_texts(policy: Policy) -> None:
    """The same action after another text, or to another prompt, is new."""
    batch = rollout([[1, A, B], [1, C, B], [1, A, B], [B, A, B]])
    half = 1 / math.sqrt(2)
    assert paid("novelty", batch, policy, n=None).tolist() == [
        pytest.approx([half, half]),
        pytest.approx([1, 1]),
        pytest.approx([half, half]),
        pytest.approx([1, 1]),
    ]
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(
        paid("novelty", batch, policy, n=None)[order], paid("novelty", batch.select(order), policy, n=None)
    )


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=7), min_size=2, max_size=6),
    st.sampled_from([1, 2, 3, None]),
)
def test_hashes_are_equal_where_the_tokens_are(rows: list[list[int]], n: int | None) -> None:
    width = max(map(len, rows))
    ids = np.array([[*row, *[2] * (width - len(row))] for row in rows])
    positions = np.tile(np.arange(1, width), (len(rows), 1))
    hashes = text_hashes(ids, positions, n)
    keys: dict[tuple[int, ...], int] = {}
    for row, line in enumerate(ids.tolist()):
        for column, position in enumerate(positions[row].tolist()):
            start = 0 if n is None else position + 1 - n
            key = tuple(line[start : position + 1] if start >= 0 else [-1] * -start + line[: position + 1])
            assert keys.setdefault(key, hashes[row, column]) == hashes[row, column]
    assert len(set(keys.values())) == len(keys)


def test_hashes_are_those_of_every_machine() -> None:
    """Counts are saved under them, so they may never change."""
    found = text_hashes(np.array([[1, 5, 7]]), np.array([[1, 2]]), 2).tolist()
    state = [0, 0]
    for step, tokens in enumerate(((2, 6), (6, 8))):  # each token + 1
        for token in tokens:
            state[step] = ((state[step] ^ token) * 0x9E3779B97F4A7C15) % 2**64
            state[step] = ((state[step] ^ (state[step] >> 32)) * 0xD6E8FEB86659FD93) % 2**64
            state[step] ^= state[step] >> 32
    assert found == [state]


def test_entropy_and_kl_are_the_samples_estimates(policy: Policy) -> None:
    log_probs, ref = torch.tensor([[-1.0, -3.0], [-0.5, -7.0]]), torch.tensor([[-2.0, -2.5], [-0.5, -9.0]])
    batch = rollout([[1, A, B], [1, C]], log_probs=log_probs, ref_log_probs=ref)
    assert paid("entropy", batch, policy).tolist() == [[1.0, 3.0], [0.5, 0.0]]
    assert paid("kl", batch, policy, weight=-2.0).tolist() == [[-2.0, 1.0], [-0.0, 0.0]]


# Diversity


def oracle(texts: list[str], order: int) -> list[float]:
    """The same by sacrebleu, one text after the other."""
    bleu = sacrebleu.BLEU(effective_order=True, tokenize="none", smooth_method="exp", max_ngram_order=order)
    return [
        bleu.sentence_score(text, texts[:place] + texts[place + 1 :]).score / 100 if text.split() else 0.0
        for place, text in enumerate(texts)
    ]


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), min_size=2, max_size=6),
    st.integers(1, 5),
)
def test_self_bleu_is_sacrebleus(texts: list[str], order: int) -> None:
    assert self_bleu(texts, order) == pytest.approx(oracle(texts, order), abs=1e-9)


def test_self_bleu_of_real_texts(shared_data) -> None:
    files = sorted((shared_data / "commongen").glob("*.jsonl"))
    rows = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()[:200]]
    texts = [text for row in rows for text in _texts(row)][:120]
    assert len(texts) >= 100
    assert self_bleu(texts) == pytest.approx(oracle(texts, 4), abs=1e-9)


def _texts(row: object) -> list[str]:
    """The sentences in a row of JSON, wherever they stand."""
    if isinstance(row, str):
        return [" ".join(row.split())] if row.count(" ") > 3 else []
    inner = row.values() if isinstance(row, dict) else row if isinstance(row, list) else []
    return [text for one in inner for text in _texts(one)]


def test_diversity_is_paid_with_the_last_token(policy: Policy) -> None:
    rows = [[1, A, B, EOS], [1, A, B], [1, C, GOOD, A, A], [1, EOS]]
    batch = rollout(rows, group=torch.tensor([0, 0, 1, 1]))
    assert paid("diversity", batch, policy).tolist() == [
        pytest.approx([0, 0, 0, 0]),  # both of its group wrote " a b"
        pytest.approx([0, 0, 0, 0]),
        pytest.approx([0, 0, 0, 1]),  # nothing of it is in an empty text
        pytest.approx([0, 0, 0, 0]),  # and an empty text is not diverse
    ]
    over = paid("diversity", batch, policy, over="batch")
    assert over[2, 3] == pytest.approx(1 - oracle([" a b", " a b", " c good a a", ""], 4)[2])
    alone = rollout(rows, group=torch.arange(4))
    with pytest.raises(ValueError, match="several episodes of each example for bonus 'diversity', got one"):
        paid("diversity", alone, policy)


# Random network distillation


def test_states_are_those_after_the_actions(policy: Policy) -> None:
    batch = rollout([[1, A, B, EOS], [1, C]])
    states = last_hidden_states(policy, batch, micro_batch_size=1)
    alone = policy.model.base_model(input_ids=torch.tensor([[1, A, B, EOS]])).last_hidden_state
    assert torch.allclose(states[0], alone[0, 1:], atol=1e-5)
    assert not states[1, 1:].any()
    assert torch.allclose(states, last_hidden_states(policy, batch), atol=1e-5)


def test_states_are_the_start_models_under_adapters_too() -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[agents,lora]'")
    batch = rollout([[1, A, B, EOS], [1, C]])
    start, policy = make_policy(), make_policy().adapt(lora=2)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    assert not torch.allclose(last_hidden_states(policy, batch), last_hidden_states(start, batch), atol=0.01)
    assert torch.equal(last_hidden_states(policy.frozen_copy(), batch), last_hidden_states(start, batch))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 6},
    ],
    ids=["t5", "bart"],
)  # fmt: skip
def test_states_of_an_encoder_decoder_are_its_decoders(config: dict) -> None:
    policy = Policy.from_config(config, word_tokenizer(), device="cpu")
    rows = [[1, A, B, C, GOOD, EOS], [1, A, B, C, 9]]
    states = last_hidden_states(policy, rollout(rows, prompt=3))
    start = policy.model.config.decoder_start_token_id
    for row, found in zip(rows, states, strict=True):
        read = {"input_ids": torch.tensor([row[:3]]), "decoder_input_ids": torch.tensor([[start, *row[3:]]])}
        expected = policy.model(**read, output_hidden_states=True).decoder_hidden_states[-1][0, 1:]
        torch.testing.assert_close(found[: len(expected)], expected, atol=1e-5, rtol=1e-5)
    assert not states[1, 2:].any()


def test_rnd_pays_less_for_what_it_has_seen(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(0)
    common = [[1, *torch.randint(3, 6, (6,), generator=generator).tolist()] for _ in range(32)]
    rare = [[1, GOOD, 9, GOOD, 9, GOOD, 9]]
    bonuses = Bonuses({"rnd": {"learning_rate": 0.01}}, policy, 3)
    means = []
    for _ in range(30):
        _, row = bonuses.pay(rollout(common), policy)
        means.append(row["bonus/rnd"])
    found, _ = bonuses.pay(rollout(common + rare), policy)
    assert found.bonuses is not None
    assert found.bonuses[-1].mean() > 3 * found.bonuses[:-1].mean()
    assert all(math.isfinite(mean) and mean > 0 for mean in means)


def test_rnd_draws_from_its_seed_alone(policy: Policy) -> None:
    batch = rollout([[1, A, B, EOS], [1, C, GOOD, 9]])
    before = torch.get_rng_state()
    one, other = (Bonuses({"rnd": 1.0}, policy, seed).pay(batch, policy)[0].bonuses for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = Bonuses({"rnd": 1.0}, policy, 0).pay(batch, policy)[0].bonuses
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("settings", [{"novelty": {"n": 2, "bits": 8}}, {"rnd": {"chunk": 3}, "novelty": 1, "kl": -1}])
def test_a_state_goes_on_exactly(settings: dict, policy: Policy) -> None:
    batches = [rollout([[1, A, B, last], [1, C, last, last]]) for last in (A, GOOD, 9)]
    straight, stopped = Bonuses(settings, policy, 5), Bonuses(settings, policy, 5)
    for batch in batches[:2]:
        straight.pay(batch, policy)
        stopped.pay(batch, policy)
    state = {name: tensor.clone() for name, tensor in stopped.state_dict().items()}
    stopped.pay(batches[0], policy)  # what was saved is a copy
    resumed = Bonuses(settings, policy, 77)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.pay(batches[2], policy)[0].bonuses, straight.pay(batches[2], policy)[0].bonuses)
    assert all(torch.equal(one, resumed.state_dict()[name]) for name, one in straight.state_dict().items())
    with pytest.raises(ValueError, match=r"state of the bonuses \[\], got that of"):
        Bonuses({"entropy": 1}, policy, 0).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"novlty": 0.1}, ValueError, r"Expected a bonus from \['diversity', .*Did you mean 'novelty'"),
        ({"novelty": "much"}, ValueError, "weight of bonus 'novelty' to be a finite number, got 'much'"),
        ({"kl": {"weight": math.nan}}, ValueError, "finite number, got nan"),
        ({"novelty": {"m": 3}}, TypeError, r"'novelty' with arguments from \['n', 'bits', 'weight'\], got 'm'"),
        ({"novelty": {"n": 0}}, ValueError, "n of bonus 'novelty'"),
        ({"novelty": {"bits": 31}}, ValueError, "bits of bonus 'novelty'"),
        ({"rnd": {"hidden": 0}}, ValueError, "hidden of bonus 'rnd'"),
        ({"rnd": {"learning_rate": 0}}, ValueError, "learning_rate of bonus 'rnd'"),
        ({"diversity": {"over": "all"}}, ValueError, "'group' or 'batch', got 'all'"),
        ({"diversity": {"order": 0}}, ValueError, "order of bonus 'diversity'"),
    ],
)
def test_errors(settings: dict, error: type[Exception], message: str, policy: Policy) -> None:
    with pytest.raises(error, match=message):
        Bonuses(settings, policy, 0)


def test_a_bonus_that_is_not_finite_stops_the_run(policy: Policy) -> None:
    batch = rollout([[1, A]], log_probs=torch.tensor([[-math.inf]]))
    with pytest.raises(ValueError, match="bonus 'entropy' to pay finite numbers, got inf"):
        Bonuses({"entropy": 1}, policy, 0).pay(batch, policy)


# In training

SMALL = {"num_envs": 4, "episodes_per_update": 4, "env_kwargs": {"max_new_tokens": 4}}
EVERY = {"novelty": 0.1, "rnd": 0.1, "entropy": 0.01, "kl": -0.02, "diversity": {"weight": 0.2, "over": "batch"}}


@pytest.fixture(scope="module")
def tiny() -> Policy:
    return Policy.from_pretrained("tiny", device="cpu")


def agent(algorithm: Algorithm, tiny: Policy, **settings: object):
    return algorithm(tiny.frozen_copy().requires_grad_(True), **{**SMALL, **settings})


@pytest.mark.usefixtures("own_algorithms")
@pytest.mark.parametrize("algorithm", slow_but({PPO}, [PPO, ActorCritic, REINFORCE]), ids=lambda one: one.name)
def test_every_algorithm_learns_from_them(algorithm: Algorithm, tiny: Policy) -> None:
    """A bonus moves the weights as the same number in the reward would; and the rewards stay as they are."""
    seen: list[Rollout] = []
    update = algorithm.update

    def spy(policy: Policy, optimizer: object, batch: Rollout, config: object, generator: torch.Generator) -> dict:
        seen.append(batch)
        return update(policy, optimizer, batch, config, generator)

    one = agent(Algorithm("spying", algorithm.config, spy), tiny, bonuses=EVERY)
    row = one._iterate(0.0)
    twin = agent(algorithm, tiny)
    batch = seen[0]
    assert batch.bonuses is not None
    assert batch.bonuses.abs().sum() > 0
    assert batch.bonuses.sum() / len(batch) == pytest.approx(sum(row[f"bonus/{name}"] for name in EVERY), abs=1e-4)
    assert float(batch.rewards.sum() / len(batch)) == pytest.approx(row["episode_return"], abs=1e-5)
    assert float(batch.rewards.sum(dim=1).mean()) == pytest.approx(row["score"], abs=1e-5), "bonuses are not rewards"
    moved = replace(batch, rewards=batch.rewards + batch.bonuses, bonuses=None)
    generator = torch.Generator().manual_seed(0)
    results = []
    for learner, played in ((twin, moved), (agent(algorithm, tiny), batch)):
        algorithm.update(learner.policy, learner.optimizer, played, learner.config, generator.manual_seed(0))
        results.append(torch.cat([one.detach().flatten() for one in learner.policy.parameters()]))
    assert torch.equal(*results)
    plain = agent(algorithm, tiny)
    algorithm.update(
        plain.policy, plain.optimizer, replace(batch, bonuses=None), plain.config, generator.manual_seed(0)
    )
    assert not torch.equal(torch.cat([one.detach().flatten() for one in plain.policy.parameters()]), results[0])


def test_the_kl_bonus_is_the_kl_penalty_of_the_return(tiny: Policy) -> None:
    rows = []
    for settings in (
        {"bonuses": {"kl": -0.05}, "kl_coef": 0.0},
        {"kl_coef": 0.05, "kl_credit": "return", "kl_limit": None},
    ):
        learner = agent(REINFORCE, tiny, learning_rate=0.01, **settings)
        rows.append([learner._iterate(0.0) for _ in range(3)])
    for one, other in zip(*rows, strict=True):
        assert one["score"] == other["score"]
        assert one["policy_loss"] == pytest.approx(other["policy_loss"], rel=1e-4, abs=1e-6)
    assert rows[0][2]["kl"] != 0


def test_a_run_with_bonuses_resumes_exactly(tiny: Policy, tmp_path) -> None:
    straight, stopped = (agent(REINFORCE, tiny, bonuses=EVERY, seed=2, learning_rate=0.01) for _ in range(2))
    rows = [straight._iterate(0.0) for _ in range(3)]
    stopped._iterate(0.0)
    stopped.save(tmp_path)
    resumed = load(tmp_path, device="cpu")
    assert resumed.config.bonuses == EVERY
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pkl", ".bin", ".npz")]
    again = [resumed._iterate(0.0) for _ in range(2)]
    for one, other in zip(rows[1:], again, strict=True):
        assert {k: v for k, v in one.items() if "second" not in k} == {
            k: v for k, v in other.items() if "second" not in k
        }


def test_settings_are_checked_when_the_agent_is_made(tiny: Policy) -> None:
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        agent(PPO, tiny, bonuses={"entrpy": 1})
    with pytest.raises(TypeError, match="Expected bonuses to be a dict"):
        agent(PPO, tiny, bonuses=["entropy"])
    assert set(BONUSES) == set(EVERY)
