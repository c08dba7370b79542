"""Preference models: pairs, training, calibration, and the whole way from noisy labels to a policy."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from agents import PPO, Policy
from agents.__main__ import main
from agents.losses import preference_loss
from agents.rewards.preference import LogRatioScore, PreferenceScore
from agents.rewards.preference_record import RECORD
from agents.supervised import reward_model
from agents.supervised.configs import PreferenceConfig
from agents.supervised.reward_model import (
    Pair,
    evaluate_margins,
    fit_temperature,
    load_pairs,
    margins,
    save,
    split_pairs,
    train,
)
from tests.agents.helpers import lanes, make_policy, noisy_pairs, utility
from tests.helpers import slow_but
from textenvs import Example, make_reward


def true_margins(pairs):
    return np.array([utility(None, pair.chosen) - utility(None, pair.rejected) for pair in pairs])


def write(file, pairs):
    lines = [json.dumps({"prompt": one.prompt, "chosen": one.chosen, "rejected": one.rejected}) for one in pairs]
    file.write_text("\n".join(lines) + "\n")
    return file


# From labels to a policy ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bradley_terry", "dpo"])
def trained(request, tmp_path_factory):
    """A model of each method, its test pairs, and the folder that it was saved in."""
    pairs, policy = noisy_pairs(4000), make_policy(spread=0.1)
    test = noisy_pairs(1000, seed=1)
    config = PreferenceConfig(method=request.param, epochs=3, learning_rate=5e-3, beta=0.5, batch_size=32)
    found = train(policy, pairs[:3600], pairs[3600:], config)
    measured = evaluate_margins(margins(policy, test, found), found.temperature)
    folder = save(tmp_path_factory.mktemp("models") / request.param, policy, found, measured)
    return policy, found, measured, test, folder


def test_a_model_of_noisy_labels_comes_near_the_noise_ceiling(trained):
    _, found, measured, test, _ = trained
    true = true_margins(test)
    ceiling = np.mean(1 / (1 + np.exp(-np.abs(true))))
    assert 0.7 < ceiling < 0.9
    assert measured.accuracy > ceiling - 0.04  # 0.04: about three standard errors of 1000 labels
    oracle = np.mean(np.logaddexp(0, -true))
    assert oracle - 0.05 < measured.calibrated_log_loss < oracle + 0.05
    assert measured.calibrated_ece < 0.06
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_the_saved_model_is_a_reward_whose_differences_are_the_margins(trained):
    policy, found, _, test, folder = trained
    score = PreferenceScore if found.config.method == "bradley_terry" else LogRatioScore
    reward = score(folder)
    pairs = test[:20]
    expected = margins(policy, pairs, found) / found.temperature
    for pair, margin in zip(pairs, expected, strict=True):
        example = Example(pair.prompt)
        gap = reward.score(example, pair.chosen) - reward.score(example, pair.rejected)
        assert gap == pytest.approx(margin, abs=1e-4)  # trained in float32, scored in float64


@pytest.mark.parametrize("payout", slow_but({"sparse"}, ["immediate", "sparse"]))
def test_ppo_on_the_model_raises_the_true_utility(trained, payout):
    """It never sees the utility, and writes what has the most of it."""
    _, found, _, _, folder = trained
    name = "preference" if found.config.method == "bradley_terry" else "dpo"
    environment = lanes(32, payout, reward={name: {"model": str(folder)}}, max_new_tokens=4)
    agent = PPO(
        make_policy(spread=0.05), environment, learning_rate=0.01, num_envs=32, episodes_per_update=64, kl_coef=0.0
    )

    def mean_utility():
        from agents import collect

        generator = torch.Generator().manual_seed(3)
        responses = collect(environment, agent.policy, 128, seed=5, generator=generator).responses(agent.policy)
        return np.mean([utility(None, response) for response in responses])

    before = mean_utility()
    assert before < 1.5
    agent.learn(64 * 4 * 30)
    assert mean_utility() > 4.5  # 6 is the most that four words can have


# Training -------------------------------------------------------------------------------------------------------------


def weights_after(method="bradley_terry", **settings):
    policy = make_policy(seed=1, spread=0.1)
    pairs = noisy_pairs(50, seed=2)
    found = train(policy, pairs[:40], pairs[40:], PreferenceConfig(method=method, **{"epochs": 1, **settings}))
    return torch.cat([one.detach().flatten() for one in policy.parameters()]), found


def test_the_same_seed_gives_the_same_model_and_micro_batches_change_nothing():
    one, _ = weights_after(batch_size=16)
    assert torch.equal(one, weights_after(batch_size=16)[0])
    torch.testing.assert_close(one, weights_after(batch_size=16, micro_batch_size=3)[0], atol=1e-5, rtol=1e-3)
    assert not torch.allclose(one, weights_after(batch_size=16, seed=1)[0], atol=1e-4)


def test_the_best_epoch_is_kept():
    policy, pairs = make_policy(seed=1, spread=0.1), noisy_pairs(60, seed=2)
    rows, seen = [], []

    def watch(row):
        rows.append(row)
        seen.append(copy.deepcopy(policy.state_dict()))

    found = train(
        policy, pairs[:30], pairs[30:], PreferenceConfig(epochs=6, learning_rate=0.02, batch_size=8), on_epoch=watch
    )
    best = min(range(6), key=lambda epoch: rows[epoch]["log_loss"])
    assert found.epoch == best + 1 < 6, "the last epoch is overfitted here"
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, seen[best][name])


def test_dpo_starts_at_margins_of_zero_and_keeps_its_reference():
    policy = make_policy(seed=1, spread=0.1)
    start = copy.deepcopy(policy.state_dict())
    pairs = noisy_pairs(40, seed=2)
    found = train(policy, pairs[:30], pairs[30:], PreferenceConfig(method="dpo", epochs=1, learning_rate=1e-12))
    assert found.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert np.abs(margins(policy, pairs, found)).max() < 1e-4
    assert all(torch.equal(start[name], tensor) for name, tensor in found.reference.state_dict().items())


@pytest.mark.parametrize("name", ["tiny", None])
def test_dpo_of_adapters_is_scored_against_the_model_under_them(tmp_path, name):
    pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[agents,lora]'")
    policy = make_policy(seed=1, spread=0.1) if name is None else Policy.from_pretrained(name, device="cpu")
    pairs = noisy_pairs(20, seed=2)
    config = PreferenceConfig(method="dpo", epochs=1, learning_rate=0.01, batch_size=8)
    found = train(policy.adapt(lora=4), pairs[:16], pairs[16:], config)
    reward = make_reward({"dpo": {"model": str(save(tmp_path, policy, found)), "device": "cpu"}})
    expected = margins(policy, pairs[:4], found)
    assert np.abs(expected).max() > 0.01
    for pair, margin in zip(pairs, expected, strict=False):
        example = Example(pair.prompt)
        gap = reward.score(example, pair.chosen) - reward.score(example, pair.rejected)
        assert gap * found.temperature == pytest.approx(margin, abs=1e-3)


def test_a_value_head_that_a_critic_left_is_not_a_start():
    policy = make_policy(seed=1, spread=0.1)
    torch.nn.init.constant_(policy.value_head.bias, 7.0)
    pairs = noisy_pairs(20)
    found = train(policy, pairs[:10], pairs[10:], PreferenceConfig(epochs=1, learning_rate=1e-12))
    assert found.history[0]["log_loss"] == pytest.approx(math.log(2), abs=1e-4)


# Numbers by hand ------------------------------------------------------------------------------------------------------


def test_preference_loss_by_hand():
    """sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4."""
    given = torch.tensor([math.log(3), -math.log(3)], dtype=torch.float64, requires_grad=True)
    loss = preference_loss(given)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-12)
    loss.backward()
    assert given.grad.tolist() == pytest.approx([-1 / 8, -3 / 8], rel=1e-12)  # -(1 - sigmoid(margin)) / pairs
    assert preference_loss(given, normalizer=8).item() == pytest.approx(loss.item() / 4, rel=1e-12)
    assert float(preference_loss(torch.tensor([1e4, -1e4]))) == pytest.approx(5e3)
    with pytest.raises(ValueError, match=r"Expected margins \(pairs,\)"):
        preference_loss(torch.zeros(2, 2))


def test_evaluation_by_hand():
    """Four pairs of confidence 3/4, three of them right, one at 1/2 that is a tie."""
    log3 = math.log(3)
    found = evaluate_margins(np.array([log3, log3, log3, -log3, 0.0]), temperature=2.0)
    assert found.pairs == 5
    assert found.accuracy == pytest.approx(0.7)
    assert found.log_loss == pytest.approx((3 * math.log(4 / 3) + math.log(4) + math.log(2)) / 5)
    assert found.ece == pytest.approx(0.0, abs=1e-12)
    halved = 1 / (1 + 3**-0.5)  # sigmoid(ln 3 / 2)
    assert found.calibrated_ece == pytest.approx(4 / 5 * abs(0.75 - halved))
    assert found.calibrated_log_loss == pytest.approx((3 * -math.log(halved) - math.log(1 - halved) + math.log(2)) / 5)
    assert evaluate_margins(np.array([-1.0])).accuracy == 0.0


def test_the_interval_is_wilsons():
    """8 of 10: Wilson's 95 % interval is 0.490 to 0.943 (Brown, Cai & DasGupta 2001, equation 4)."""
    found = evaluate_margins(np.array([1.0] * 8 + [-1.0] * 2))
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx((0.4902, 0.9433), abs=5e-5)


def test_the_temperature_by_hand():
    """Three quarters right at margins of +-m: sigmoid(m / T) = 3/4, so T = m / ln 3."""
    margin = 5.0
    given = np.array([margin, margin, margin, -margin])
    assert fit_temperature(given) == pytest.approx(margin / math.log(3), rel=1e-9)
    assert fit_temperature(np.array([1.0, 2.0])) == pytest.approx(1e-3, rel=1e-6)  # all right: no least loss
    assert fit_temperature(np.array([-1.0, -2.0])) == pytest.approx(1e3, rel=1e-6)  # all wrong: no use


def test_the_temperature_undoes_a_scale():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, 20_000)
    right = np.where(rng.random(20_000) < 1 / (1 + np.exp(-true)), true, -true)
    assert fit_temperature(3.0 * right) == pytest.approx(3.0, rel=0.05)


# Pairs ----------------------------------------------------------------------------------------------------------------


def test_pairs_of_a_file(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "p", "chosen": " c", "rejected": " r"}\n\n{"p": "", "w": "1", "l": "2"}\n')
    with pytest.raises(ValueError, match=r"string in field 'prompt' of line 3 of .*its fields are \['p', 'w', 'l'\]"):
        load_pairs(file)
    file.write_text(file.read_text().splitlines()[2])
    assert load_pairs(file, prompt="p", chosen="w", rejected="l") == [Pair("", "1", "2")]


HUMAN = "\n\nHuman: Name a river.\n\nAssistant:"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]


def said(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        (
            {"chosen": f"{HUMAN} The Nile.", "rejected": f"{HUMAN} The Thames."},
            Pair(HUMAN, " The Nile.", " The Thames."),
        ),
        ({"chosen": "One day she left", "rejected": "One day she left us"}, Pair("One day she", " left", " left us")),
        ({"chosen": "yes", "rejected": "yesterday"}, Pair("", "yes", "yesterday")),
        (
            {"chosen": [*ASKED, said("The Nile.")], "rejected": [*ASKED, said("No.")]},
            Pair("System: Be brief.\nUser: Name a river.\nAssistant:", "The Nile.", "No."),
        ),
        (
            {"prompt": ASKED[1:], "chosen": [said("The Nile.")], "rejected": [said("No.")]},
            Pair("Name a river.", "The Nile.", "No."),
        ),
        ({"prompt": "Name a river.", "chosen": " The Nile.", "rejected": ""}, Pair("Name a river.", " The Nile.", "")),
    ],
)
def test_pairs_as_people_have_them(tmp_path, row, pair):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row))
    assert load_pairs(file) == [pair]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "the same", "rejected": "the same"}, "two responses that differ in fields"),
        ({"chosen": f"{HUMAN} The Nile.", "rejected": HUMAN}, "two responses that differ in fields"),
        ({"chosen": "cut \ud83d", "rejected": "no"}, "half of a surrogate pair"),
        (
            {"chosen": [*ASKED, said("Yes")], "rejected": [said("No")]},
            "that differ in their last message",
        ),
        (
            {"chosen": ASKED, "rejected": [*ASKED[:1], said("No")]},
            "message at the end of field 'chosen'",
        ),
        ({"prompt": "p", "chosen": ASKED, "rejected": [said("No")]}, "a single message of the assistant"),
        ({"prompt": "p", "chosen": None, "rejected": "no"}, "a string in field 'chosen'"),
        ({"chosen": "only"}, "a string in field 'rejected'"),
    ],
)
def test_a_row_that_is_no_pair(tmp_path, row, message):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=rf"{message}.*"):
        load_pairs(file)


def test_the_first_row_says_if_there_is_a_field_of_prompts(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n{"chosen": "a b", "rejected": "a c"}\n')
    with pytest.raises(ValueError, match=r"string in field 'prompt' of line 2 of .*, got none"):
        load_pairs(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one pair"),
        (b"[1]\n", "line 1 of .* to be a JSON object, got list"),
        (b"{", "could not be read"),
        (b"\xff\n", "to be UTF-8"),
        (None, "that can be read"),
    ],
)
def test_a_bad_file_of_pairs_says_where(tmp_path, content, message):
    file = tmp_path / "pairs.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_pairs(file)


def test_no_prompt_is_in_two_splits():
    pairs = [Pair(f"prompt {number % 300}", f"one {number}", f"two {number}") for number in range(3000)]
    splits = split_pairs(pairs)
    assert sorted(pair.chosen for part in splits.values() for pair in part) == sorted(pair.chosen for pair in pairs)
    prompts = [{pair.prompt for pair in part} for part in splits.values()]
    assert sum(map(len, prompts)) == 300
    shares = [len(part) / 3000 for part in splits.values()]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)
    alone = split_pairs([Pair("", f"one {number}", f"two {number}") for number in range(1000)])
    assert all(len(part) > 50 for part in alone.values()), "one prompt for all: divided by the responses"
    swapped = split_pairs([Pair("", f"two {number}", f"one {number}") for number in range(1000)])
    assert [len(part) for part in alone.values()] == [len(part) for part in swapped.values()]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "ppo"}, ValueError, "method to be 'bradley_terry' or 'dpo', got 'ppo'"),
        ({"epochs": 0}, ValueError, "epochs to be at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size to be a whole number of at least 1, got 1.5"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate in \(0, inf\), got 0.0"),
        ({"beta": math.inf}, ValueError, r"beta in \(0, inf\), got inf"),
        ({"weight_decay": -1.0}, ValueError, r"weight_decay in \[0, inf\), got -1.0"),
        ({"chat_template": "yes"}, TypeError, "chat_template to be true or false, got 'yes'"),
        ({"seed": -1}, ValueError, "seed to be at least 0, got -1"),
    ],
    ids=str,
)
def test_bad_settings_say_what_was_expected(settings, error, message):
    with pytest.raises(error, match=message):
        PreferenceConfig(**settings)


def test_training_needs_pairs_to_validate_with():
    with pytest.raises(ValueError, match="one to validate with, got 2 and 0"):
        train(make_policy(), noisy_pairs(2), [], PreferenceConfig())


# Command line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "name"), [("bradley_terry", "preference"), ("dpo", "dpo")])
def test_the_command_writes_a_folder_that_is_a_reward(tmp_path, capsys, method, name):
    file = write(tmp_path / "pairs.jsonl", noisy_pairs(60))
    folder = tmp_path / "model"
    words = ["--pairs", str(file), "--output", str(folder), "--method", method, "--epochs", "1", "--device", "cpu"]
    main(["reward-model", *words])
    printed = capsys.readouterr().out
    assert "epoch 1: loss" in printed
    assert "test: accuracy" in printed
    record = json.loads((folder / RECORD).read_text())
    assert (record["method"], record["config"]["epochs"]) == (method, 1)
    assert set(record["test"]) >= {"accuracy", "log_loss", "ece", "calibrated_log_loss", "calibrated_ece"}
    spec = printed.split("--reward '")[1].split("'")[0]
    reward = make_reward(json.loads(spec))
    assert reward.name == name
    assert math.isfinite(reward.score(Example(" a"), " good"))
    assert isinstance(Policy.from_pretrained(folder, device="cpu"), Policy)
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))
    with pytest.raises(SystemExit):
        main(["reward-model", *words])
    assert "which holds another" in capsys.readouterr().err


def test_the_command_prints_json(tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", noisy_pairs(60))
    words = ["--pairs", str(file), "--output", str(tmp_path / "model"), "--epochs", "1", "--device", "cpu", "--json"]
    main(["reward-model", *words])
    assert json.loads(capsys.readouterr().out)["format"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "nowhere.jsonl"], "Expected a file of pairs that can be read"),
        (["--pairs", "nowhere.jsonl", "--epochs", "0"], "Expected epochs to be at least 1, got 0"),
        (["--pairs", "PAIRS", "--model", "nowhere/at/all"], "Expected a bundled model"),
        (["--pairs", "PAIRS", "--prompt-field", "question"], "Expected a string in field 'question' of line 1"),
    ],
)
def test_bad_words_say_what_was_expected(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "pairs.jsonl", noisy_pairs(5))
    with pytest.raises(SystemExit) as stopped:
        main(["reward-model", *(str(file) if word == "PAIRS" else word for word in words)])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert not (tmp_path / "reward-model").exists()


def test_the_command_says_before_training_what_cannot_be_read_back(tmp_path, capsys, monkeypatch):
    file = write(tmp_path / "pairs.jsonl", noisy_pairs(40))

    def fails(*args):
        raise ValueError("it is not read back as it was")

    monkeypatch.setattr(reward_model, "train", lambda *args, **kwargs: pytest.fail("it trained"))
    monkeypatch.setattr(Policy, "save_pretrained", fails)
    with pytest.raises(SystemExit):
        main(["reward-model", "--pairs", str(file), "--model", "tiny", "--output", str(tmp_path / "judge"),
              "--device", "cpu"])  # fmt: skip
    assert "not read back as it was" in capsys.readouterr().err
