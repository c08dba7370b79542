"""Comparing models: what the cumulative advantage is, and that a comparison says what its episodes say."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from agents import Policy, collect
from agents.__main__ import main
from agents.advantages import cumulative_advantage, gae
from agents.cli.sources import named_sources
from agents.collector import make_env
from agents.evaluation import comparison_page
from agents.evaluation.comparison import compare, normalised_score
from agents.evaluation.comparison_page import as_text, chosen_episodes, write
from agents.evaluation.fitted_values import ReferenceValues, ridge
from agents.evaluation.labels import Labels, label_scores
from agents.evaluation.paired_prompts import play_pairs, score_gap
from tests.agents.helpers import count_good, lanes, make_policy
from textenvs import Example, Task, register_task
from textenvs.tokenizer import decode

EOS, BUDGET = 0, 3
THIRDS = [place % 3 for place in range(len(lanes(1).setting.pool))]
"""The fold of each example."""


def random_episodes(seed=0, batch=6, time=5):
    """Rewards, any values, ends and a mask of rows of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, batch, time, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, time + 1, (batch,), generator=generator)
    mask = torch.arange(time) < lengths[:, None]
    truncated = torch.arange(batch) % 2 == 0
    last = torch.randn(batch, generator=generator, dtype=torch.float64)
    return rewards, values, ~truncated, truncated, mask, last


# The cumulative advantage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_at_lambda_0_it_is_the_return_minus_the_first_value_whatever_the_values(gamma):
    rewards, values, terminated, truncated, mask, last = random_episodes()
    totals, shares = cumulative_advantage(rewards, values, terminated, truncated, mask, gamma=gamma, last_values=last)
    for row in range(len(rewards)):
        length = int(mask[row].sum())
        wanted = sum(gamma**t * float(rewards[row, t]) for t in range(length)) - float(values[row, 0])
        if truncated[row]:
            wanted += gamma**length * float(last[row])
        assert float(totals[row]) == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(shares.sum(dim=1), totals)
    assert (shares[~mask] == 0).all()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_it_is_the_discounted_sum_of_gaes_advantages_and_weights_td_errors_by_the_geometric_sum(gae_lambda):
    rewards, values, terminated, truncated, mask, last = random_episodes(1)
    settings = {"gamma": 0.9, "last_values": last}
    totals, shares = cumulative_advantage(
        rewards, values, terminated, truncated, mask, gae_lambda=gae_lambda, **settings
    )
    advantages, _ = gae(rewards, values, terminated, truncated, mask, gae_lambda=gae_lambda, **settings)
    discounts = 0.9 ** torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(totals, (advantages * discounts).sum(dim=1))
    errors, _ = gae(rewards, values, terminated, truncated, mask, gae_lambda=0.0, **settings)
    for k in range(5):
        times = k + 1 if gae_lambda == 1 else (1 - gae_lambda ** (k + 1)) / (1 - gae_lambda)
        torch.testing.assert_close(shares[:, k], discounts[k] * times * errors[:, k])


def enumerate_episodes(policy, env):
    """Every episode about the pool's first example: ids, probability under a policy, score, and its states' ids."""
    pool = env.setting.pool
    prompt = pool.prompts[0, : pool.lengths[0]].tolist()
    size = policy.tokenizer.vocab_size
    logs: dict[tuple[int, ...], torch.Tensor] = {}
    prefixes = [
        prefix
        for length in range(BUDGET)
        for prefix in itertools.product(range(size), repeat=length)
        if EOS not in prefix
    ]
    for length in range(BUDGET):
        some = [prefix for prefix in prefixes if len(prefix) == length]
        rows = torch.tensor([prompt + list(prefix) for prefix in some])
        with torch.no_grad():
            found = policy.model(rows).logits[:, -1, :size].double().log_softmax(-1)
        logs.update(zip(some, found, strict=True))
    episodes = []
    for prefix in prefixes:
        for token in range(size):
            whole = (*prefix, token)
            if token == EOS or len(whole) == BUDGET:
                chance = float(sum(logs[whole[:place]][one] for place, one in enumerate(whole)).exp())
                text = decode(policy.tokenizer, list(whole))
                episodes.append((whole, chance, count_good(pool.examples[0], text)))
    return episodes


def test_its_mean_under_the_exact_values_is_the_difference_of_the_two_policies():
    """Kakade & Langford (2002), lemma 6.1, over all 10 + 9 * 10 + 81 * 10 episodes of two random networks."""
    env = lanes(1, max_new_tokens=BUDGET)
    mu, pi = (enumerate_episodes(make_policy(seed=seed), env) for seed in (1, 2))
    for episodes in (mu, pi):
        assert sum(chance for _, chance, _ in episodes) == pytest.approx(1, abs=1e-9)
    expected: dict[tuple[int, ...], list[float]] = {}  # prefix to the mass that passes it, and its mean score
    for whole, chance, score in mu:
        for length in range(len(whole)):
            sums = expected.setdefault(whole[:length], [0.0, 0.0])
            sums[0] += chance
            sums[1] += chance * score
    value = {prefix: total / mass for prefix, (mass, total) in expected.items()}

    steps = torch.arange(BUDGET)
    lengths = torch.tensor([len(whole) for whole, _, _ in pi])
    mask = steps < lengths[:, None]
    phi = {(): 0.0}  # what is paid at once is what the score has risen by
    rewards = torch.zeros(len(pi), BUDGET, dtype=torch.float64)
    values = torch.zeros(len(pi), BUDGET, dtype=torch.float64)
    example = env.setting.pool.examples[0]
    tokenizer = make_policy().tokenizer
    for row, (whole, _, _) in enumerate(pi):
        for t in range(len(whole)):
            now = whole[: t + 1]
            phi[now] = phi.get(now, count_good(example, decode(tokenizer, list(now))))
            rewards[row, t] = phi[now] - phi[whole[:t]]
            values[row, t] = value[whole[:t]] - phi[whole[:t]]  # what is still to come
    yes = torch.ones(len(pi), dtype=torch.bool)
    totals, _ = cumulative_advantage(rewards, values, yes, ~yes, mask)
    mean = sum(chance * float(total) for (_, chance, _), total in zip(pi, totals, strict=True))
    gain = sum(c * s for _, c, s in pi) - sum(c * s for _, c, s in mu)
    assert abs(gain) > 0.01
    assert mean == pytest.approx(gain, abs=1e-9)

    late, _ = cumulative_advantage(rewards, values, yes, ~yes, mask, gae_lambda=0.9)
    other = sum(chance * float(total) for (_, chance, _), total in zip(pi, late, strict=True))
    assert abs(other - gain) > 1e-3, "with lambda above 0 it is another number"


# The value function ---------------------------------------------------------------------------------------------------


def test_ridge_finds_a_linear_function_and_shrinks_with_its_penalty():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1, 50, 0])
    y = 2 * x[:, 0] - 0.1 * x[:, 1] + 7
    found, shrunk = ridge(x, y, (1e-9, 1e9))
    torch.testing.assert_close(found, torch.tensor([2, -0.1, 0, 7], dtype=torch.float64), atol=1e-6, rtol=0)
    assert shrunk[:3].abs().max() < 1e-3
    assert float(shrunk[3]) == pytest.approx(float(y.mean()), abs=0.01)
    standard = (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=1e-8)  # the normal equations, written out
    wanted = torch.linalg.solve(standard.T @ standard + 5 * torch.eye(3), standard.T @ (y - y.mean()))
    torch.testing.assert_close(ridge(x, y, (5.0,))[0, :2], wanted[:2] / x[:, :2].std(0, unbiased=False))


def test_the_fitted_values_explain_returns_that_depend_on_the_prompt():
    policy = make_policy(seed=1)
    rollout = collect(
        lanes(8), policy, 60, seed=0, generator=torch.Generator().manual_seed(0), examples=[*range(6)] * 10
    )
    last = torch.zeros_like(rollout.rewards)
    last[:, 0] = (rollout.input_ids == 3).sum(dim=1).float()  # how often the text says " a"
    easy = dataclasses.replace(rollout, rewards=torch.where(rollout.response_mask, last, 0.0))
    found = ReferenceValues.of(policy, easy, "fitted", THIRDS, 1.0)
    noise = dataclasses.replace(rollout, rewards=torch.randn(last.shape, generator=torch.Generator().manual_seed(0)))
    assert found.explained_variance > 0.1
    assert found.explained_variance > ReferenceValues.of(policy, noise, "fitted", THIRDS, 1.0).explained_variance


# Comparisons ----------------------------------------------------------------------------------------------------------


class Pairs(Task):
    """Ten prompts in pairs that differ in one word."""

    name = "pairs"
    default_reward = "length"

    def num_examples(self, split):
        return 10

    def example(self, split, index):
        word = " a" if index % 2 else " b"
        label = "good" if index % 3 else "bad"
        return Example(word + " c" * (index // 2), (label,), {"label": label})

    def counterpart(self, example):
        first, *rest = example.prompt.split()
        return Example(" " + " ".join([{"a": "b", "b": "a"}[first], *rest]), example.references, example.metadata)


register_task("pairs_for_comparison", Pairs)
SETTINGS = {"task": "pairs_for_comparison", "reward": count_good, "max_new_tokens": 6}


def small_comparison(names=("mu",), **changes):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install textenvs[benchmarks]")
    models = {name: make_policy(seed=2 if name == "pi" else 1) for name in names}
    settings = {"num_episodes": 40, "env_kwargs": SETTINGS, "folds": 5, **changes}
    return compare(models, "TextGen-v0", **settings)


@pytest.fixture(scope="module")
def comparison():
    return small_comparison(("mu", "pi", "mu again"))


def test_a_model_equals_itself_and_differences_are_those_of_the_scores(comparison):
    mu, pi, again = comparison.models
    assert mu.difference is None
    assert (again.difference.mean, again.difference.ties, again.difference.wins) == (0, 1, 0)
    assert again.evaluation.responses == mu.evaluation.responses
    gaps = np.subtract(pi.evaluation.scores, mu.evaluation.scores)
    by_prompt = gaps.reshape(4, 10).mean(axis=0)  # ten prompts, four times
    np.testing.assert_allclose(pi.difference.by_prompt, by_prompt, atol=1e-12)
    assert pi.difference.mean == pytest.approx(gaps.mean())
    assert pi.difference.low < pi.difference.mean < pi.difference.high
    folds = np.reshape(pi.evaluation.scores, (4, 2, 5)).mean(axis=(0, 1))  # prompt p is in fold p % 5
    np.testing.assert_allclose(pi.folds, folds, atol=1e-12)


def test_cumulative_advantages_add_up_by_token_and_differ_from_returns_by_the_prompts_value_alone(comparison):
    firsts = []
    for model in comparison.models:
        sums = [sum(row) for row in model.token_advantages]
        np.testing.assert_allclose(sums, model.advantages, atol=1e-9)
        assert [len(row) for row in model.token_advantages] == [len(row) for row in model.evaluation.token_rewards]
        firsts.append(np.subtract(model.returns, model.advantages))
    np.testing.assert_allclose(firsts[0], firsts[1], atol=1e-5)
    np.testing.assert_allclose(np.reshape(firsts[0], (4, 10)), np.tile(firsts[0][:10], (4, 1)), atol=1e-5)
    assert np.ptp(firsts[0]) > 1e-3, "prompts have different values"
    mu = comparison.models[0]
    assert abs(np.mean(mu.advantages)) < 0.3 * np.std(mu.returns), "the reference is about as good as itself"
    assert comparison.explained_variance < 1


def test_values_of_a_prompt_do_not_depend_on_its_own_episodes():
    """At one penalty: the best of several is chosen over all prompts."""
    policy = make_policy(seed=1)
    env = lanes(4)
    rollout = collect(env, policy, 24, seed=0, generator=torch.Generator().manual_seed(0), examples=[*range(6)] * 4)
    changed = rollout.rewards.clone()
    own = rollout.examples % 3 == 1
    changed[own] += 5.0
    before, after = (
        ReferenceValues.of(policy, episodes, "fitted", THIRDS, 1.0, penalties=(1.0,)).values(rollout)
        for episodes in (rollout, dataclasses.replace(rollout, rewards=changed))
    )
    torch.testing.assert_close(before[own], after[own])
    assert (before[~own] - after[~own]).abs().max() > 0.1


@pytest.mark.parametrize("source", ["fitted", "head"])
def test_what_the_step_alone_says_is_in_the_values(source):
    """Every token pays 1: how many are left, no function of the state has to tell."""
    policy = make_policy(seed=1)
    torch.nn.init.zeros_(policy.value_head.weight)
    rollout = collect(lanes(4), policy, 8, seed=0, generator=torch.Generator().manual_seed(0), examples=[*range(4)] * 2)
    steps = 3
    mask = torch.ones(8, steps, dtype=torch.bool)
    pays = dataclasses.replace(
        rollout,
        input_ids=rollout.input_ids[:, :1].expand(-1, 8),
        positions=torch.arange(1, steps + 1).expand(8, -1),
        response_mask=mask,
        rewards=torch.ones(8, steps),
    )
    found = ReferenceValues.of(policy, pays, source, [0, 1, 0, 1], 1.0)
    assert found.values(pays).round(decimals=5).tolist() == [[3.0, 2.0, 1.0]] * 8
    assert found.explained_variance == pytest.approx(1)
    five = torch.ones(8, 5, dtype=torch.bool)
    longer = dataclasses.replace(pays, positions=torch.arange(1, 6).expand(8, -1), response_mask=five)
    assert found.values(longer)[0, 2:].round(decimals=5).tolist() == [1.0] * 3, "where the reference never got to"


def test_the_value_head_may_be_the_value_function():
    found = small_comparison(value_function="head")
    policy = make_policy(seed=1)
    assert policy.value_head.weight.abs().max() > 0.1
    mu = found.models[0]
    first = np.subtract(mu.returns, mu.advantages)
    assert np.ptp(first) > 1e-3
    assert found.value_function == "head"


def test_another_tokenizer_has_the_prompts_values_and_no_heat_map(tmp_path):
    models = {"tiny": Policy.from_pretrained("tiny", device="cpu"), "random": make_policy(seed=1)}
    found = compare(models, "TextGen-v0", num_episodes=12, folds=3, env_kwargs={"max_new_tokens": 4})
    tiny, other = found.models
    assert tiny.token_advantages is not None
    assert other.token_advantages is None
    np.testing.assert_allclose(
        np.subtract(other.returns, other.advantages), np.subtract(tiny.returns, tiny.advantages), atol=1e-6
    )
    with pytest.raises(ValueError, match="reference's tokenizer"):
        other.segments(0)
    assert tiny.normalised is None, "the budget is not the task's own"
    assert "another tokenizer" in write(found, tmp_path).read_text(encoding="utf-8")


def test_the_scale_is_that_of_the_tasks_own_settings():
    import gymnasium as gym

    env = gym.make_vec("TextGen/Copy-v0", num_envs=1, split="test")
    scores = env.task.reference_scores("test")
    assert normalised_score(env, scores.top, {"payout": "sparse"}) == pytest.approx(1)
    assert normalised_score(env, scores.random) == pytest.approx(0)
    assert normalised_score(env, scores.top, {"reward": "length"}) is None
    assert normalised_score(env, scores.top, {"max_new_tokens": 3}) is None


def test_labels_are_scored_as_by_hand():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install textenvs[benchmarks]")
    examples = [Example("x", (f" {label}",), {"label": label}) for label in ("a", "a", "b", "b", "c")]
    found = label_scores(examples, [" a", "b", " more\n b ", "nonsense", "c"])
    # a: precision 1/1, recall 1/2; b: 1/2 and 1/2; c: 1 and 1.
    assert found == Labels(
        accuracy=pytest.approx(3 / 5),
        precision=pytest.approx((1 + 1 / 2 + 1) / 3),
        recall=pytest.approx((1 / 2 + 1 / 2 + 1) / 3),
        f1=pytest.approx((2 / 3 + 1 / 2 + 1) / 3),
        invalid=pytest.approx(1 / 5),
    )
    assert label_scores([Example("x", (" a",), {})], ["a"]) is None
    assert label_scores([Example("x", (" long text",), {"label": "happy"})], ["a"]) is None


def test_the_gap_is_that_of_greedy_scores_and_0_for_who_does_not_look(comparison):
    from tests.agents.helpers import biased_head

    gap = comparison.models[0].gap
    assert gap.pairs == 10
    assert set(gap.by_word) == {"a", "b"}
    assert gap.by_word["a"] == pytest.approx(-gap.by_word["b"])
    policy = make_policy(seed=1)
    alone = {}
    for word in (" a", " b"):
        env = lanes(1, task=One(word), max_new_tokens=6)
        alone[word] = float(collect(env, policy, 1, deterministic=True).scores[0])
    first = small_comparison(num_episodes=2, folds=2).models[0].gap
    assert first.mean == pytest.approx(abs(alone[" a"] - alone[" b"]), abs=1e-6)

    blind = make_policy(seed=3)
    blind.model.lm_head = biased_head(blind, {6: 1000.0})
    found = compare({"blind": blind}, "TextGen-v0", num_episodes=10, env_kwargs=SETTINGS)
    assert (found.models[0].gap.mean, found.models[0].gap.changed) == (0, 0)


def gap_and_its_episodes(policy, env_id, *, num_episodes, env_kwargs, split="test"):
    """The gap of a comparison, and the episodes of paired prompts that it was found in."""
    compared = compare(
        {"model": policy}, env_id, num_episodes=num_episodes, folds=2, env_kwargs=env_kwargs, split=split
    )
    gap = compared.models[0].gap
    env = make_env(env_id, policy, split=split, **env_kwargs)
    examples = env.setting.pool.examples[:num_episodes]
    assert score_gap(policy, env, examples) == gap
    pairs = [(example, other) for example in examples if (other := env.task.counterpart(example)) is not None]
    return gap, play_pairs(policy, env, pairs)


def test_the_gap_is_played_under_the_environments_masks():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install textenvs[benchmarks]")
    policy = Policy.from_pretrained("tiny", device="cpu")
    gap, rollout = gap_and_its_episodes(
        policy, "TextGen/Classify-v0", num_episodes=6, env_kwargs={"action_mask": "task"}
    )
    assert len(rollout) == 2 * gap.pairs > 0
    assert rollout.action_masks is not None
    env = make_env("TextGen/Classify-v0", policy, split="test")
    labels = {example.references[0].strip() for example in env.setting.pool.examples}
    assert {response.strip() for response in rollout.responses(policy)} <= labels


def test_the_gap_ends_and_cuts_as_the_environment_does():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install textenvs[benchmarks]")
    policy = make_policy(seed=1)
    cut = {"max_prompt_length": 2, "truncation_side": "right"}
    for settings in (cut, {"stop": " good", **cut}, {"min_new_tokens": 6}):
        kwargs = {**SETTINGS, **settings}
        _, rollout = gap_and_its_episodes(policy, "TextGen-v0", num_episodes=10, env_kwargs=kwargs, split="train")
        env = make_env("TextGen-v0", policy, split="train", **kwargs)
        alone = collect(env, policy, 10, deterministic=True, examples=range(10))
        assert rollout.responses(policy)[::2] == alone.responses(policy)
        assert rollout.scores[::2].tolist() == alone.scores.tolist()


def test_examples_with_one_prompt_are_one_prompt():
    models = {name: make_policy(seed=2 if name == "pi" else 1) for name in ("mu", "pi")}
    kwargs = {**SETTINGS, "task": "twins_for_comparison"}
    with pytest.raises(ValueError, match=r"folds in \[2, 3\], as many as there are different prompts, got 4"):
        compare(models, "TextGen-v0", num_episodes=12, env_kwargs=kwargs, folds=4)
    mu, pi = compare(models, "TextGen-v0", num_episodes=12, env_kwargs=kwargs, folds=3).models
    gaps = np.subtract(pi.evaluation.scores, mu.evaluation.scores).reshape(2, 2, 3)  # the six examples are played twice
    np.testing.assert_allclose(pi.difference.by_prompt, gaps.mean(axis=(0, 1)), atol=1e-12)
    np.testing.assert_allclose(mu.folds, np.reshape(mu.evaluation.scores, (4, 3)).mean(axis=0), atol=1e-12)
    firsts = np.subtract(mu.returns, mu.advantages).reshape(4, 3)
    np.testing.assert_allclose(firsts, np.tile(firsts[0], (4, 1)), atol=1e-5)  # one prompt, one value
    two = compare(models, "TextGen-v0", num_episodes=12, env_kwargs=kwargs, folds=2).models[0]
    scores = np.reshape(two.evaluation.scores, (4, 3))
    np.testing.assert_allclose(two.folds, [scores[:, [0, 2]].mean(), scores[:, 1].mean()], atol=1e-12)


class Twins(Task):
    """Three prompts, of which each is that of two examples."""

    name = "twins"
    default_reward = "length"

    def num_examples(self, split):
        return 6

    def example(self, split, index):
        return Example(" a" + " c" * (index % 3))


register_task("twins_for_comparison", Twins)


class One(Task):
    """One prompt."""

    name = "one"
    default_reward = "length"

    def __init__(self, prompt):
        self._prompt = prompt

    def num_examples(self, split):
        return 1

    def example(self, split, index):
        return Example(self._prompt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "nobody"}, "one of"),
        ({"folds": 1}, "folds"),
        ({"folds": 11}, "folds"),
        ({"value_function": "none"}, "value_function"),
        ({"num_episodes": 1}, "num_episodes"),
    ],
)
def test_what_cannot_be_compared(changes, message):
    with pytest.raises(ValueError, match=message):
        small_comparison(**changes)


def test_no_models():
    with pytest.raises(ValueError, match="at least one"):
        compare({}, "TextGen-v0")


# Pages and the command line -------------------------------------------------------------------------------------------


def test_the_page_has_every_table_and_the_tokens_in_colour(comparison, tmp_path):
    page = write(comparison, tmp_path, command="a <command>", examples=3).read_text(encoding="utf-8")
    for title in ("Scores", "Distribution", "Minus mu", "folds", "Labels", "Paired prompts", "Which tokens"):
        assert title in page
        if title != "Which tokens":
            assert title in as_text(comparison)
    assert "a &lt;command&gt;" in page
    assert page.count('<pre class="episode"') == 9
    assert 'title="+' in page
    assert 'title="-' in page
    kept = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert kept["models"][1]["score"] == comparison.models[1].evaluation.score
    from PIL import Image

    with Image.open(tmp_path / "heat_map.png") as picture:
        assert picture.size == (900, 190 * 9)
    with Image.open(tmp_path / "distributions.png") as picture:
        assert picture.width > 500
    scores = np.array([model.evaluation.scores for model in comparison.models])
    assert chosen_episodes(comparison, 3)[0] == np.ptp(scores, axis=0).argmax()


def test_names_are_shown_as_they_are_and_obeyed_by_nothing(comparison, tmp_path, monkeypatch):
    """Matplotlib would read "$" as a formula and leave out names with "_", and a terminal would obey the escapes."""
    names = [r"$\frac{", "_hidden", "a\x1b[2J\u202e|<b>\nb"]
    models = [dataclasses.replace(model, name=name) for model, name in zip(comparison.models, names, strict=True)]
    found = dataclasses.replace(comparison, models=models, reference=names[0])
    legends = []
    monkeypatch.setattr(comparison_page, "_write_legend", spied(comparison_page._write_legend, legends))
    page = write(found, tmp_path, command="compare \x1b[2J").read_text(encoding="utf-8")
    text = as_text(found)
    for shown in (page, text):
        assert not any(character in shown for character in "\x1b\u202e")
        assert "_hidden" in shown
    assert r"a\x1b[2J\u202e|<b>\nb" in text
    assert r"a\x1b[2J\u202e|&lt;b&gt;\nb" in page
    written = [text.get_text() for axis in legends for text in axis.get_legend().get_texts()]
    assert any(label.startswith(r"$\frac{") for label in written)
    assert any(label.startswith("_hidden") for label in written)


def spied(function, calls):
    """The function, which notes its first argument."""

    def spy(first, *others):
        calls.append(first)
        return function(first, *others)

    return spy


def test_lambda_above_0_is_labelled(tmp_path):
    found = small_comparison(gae_lambda=0.9, num_episodes=10)
    assert "cumulative advantage, lambda 0.9" in as_text(found)
    assert "It is not the return minus V" in write(found, tmp_path).read_text(encoding="utf-8")


def test_the_command_compares_a_run_with_its_start(tmp_path, capsys):
    from agents import PPO

    agent = PPO("tiny", "TextGen-v0", seed=0, num_envs=8, episodes_per_update=8, device="cpu")
    agent.save(tmp_path / "run")
    words = ["compare", "--models", "start=tiny", str(tmp_path / "run"), "--episodes", "5", "--device", "cpu",
             "--max-new-tokens", "4"]  # fmt: skip
    main([*words, "--output", str(tmp_path / "page")])
    shown = capsys.readouterr().out
    assert "Minus start, on the same prompts" in shown
    assert (tmp_path / "page" / "comparison.html").is_file()
    (tmp_path / "page" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main([*words, "--output", str(tmp_path / "page")])
    assert "which holds 'notes.txt': choose another" in capsys.readouterr().err
    (tmp_path / "page" / "notes.txt").unlink()
    main([*words, "--output", str(tmp_path / "page")])  # a comparison may be made again
    capsys.readouterr()
    kept = json.loads((tmp_path / "page" / "comparison.json").read_text(encoding="utf-8"))
    main(["compare", "--models", "tiny", "again=tiny", *words[4:], "--output", str(tmp_path / "other"), "--json"])
    tiny, again = json.loads(capsys.readouterr().out)["models"]
    assert {**tiny, "name": "start"} == kept["models"][0]
    assert again["difference"]["mean"] == 0


def test_names_of_models():
    assert named_sources(["tiny", "runs/a/checkpoints/00007/policy", "b=runs/x", "./c"]) == {
        "tiny": "tiny", "a": "runs/a/checkpoints/00007/policy", "b": "runs/x", "c": "./c",
    }  # fmt: skip
    with pytest.raises(ValueError, match="twice"):
        named_sources(["runs/a", "other/a"])
    with pytest.raises(ValueError, match=r"at least two models to compare, got \['tiny'\]"):
        named_sources(["tiny"])
