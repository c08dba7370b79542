"""The verdict on a run, the warning before it, and the lines that a learning curve is read against."""

import logging
from dataclasses import replace

import pytest

from agents import PPO
from agents.evaluation.evaluation import Evaluation, EvaluationPlan, demonstration_score
from agents.evaluation.verdict import too_equal, verdict, yardsticks
from tests.agents.helpers import lanes
from textenvs import TextGenVectorEnv, make_task

BEFORE = Evaluation(
    episodes=2,
    score=0.009,
    score_low=0.004,
    score_high=0.014,
    held_out=0.163,
    held_out_low=0.1,
    held_out_high=0.2,
    kl=0.0,
    distinct_2=0.41,
    response_length=3.0,
    held_out_name="vader",
    demonstration=0.0953,
    prompts=("a", "b"),
    responses=("c", "d"),
    scores=(0.0, 0.018),
    held_outs=(0.1, 0.2),
    token_texts=(("c",), ("d",)),
    token_rewards=((0.0,), (0.018,)),
)
AFTER = replace(BEFORE, score=0.091, score_low=0.087, score_high=0.095, held_out=0.908, kl=3.52, distinct_2=0.281)


def test_a_verdict_names_score_share_and_what_it_cost() -> None:
    assert verdict(BEFORE, AFTER) == (
        "Test score 0.009 -> 0.091: from 9% to 95% of the demonstrations' "
        "(vader 0.163 -> 0.908; KL 3.5 nats; diversity 0.41 -> 0.28)."
    )


def test_a_verdict_leaves_out_what_is_unknown() -> None:
    unknown = {"demonstration": None, "held_out": None, "kl": None}
    sentence = verdict(replace(BEFORE, **unknown), replace(AFTER, **unknown), "validation")
    assert sentence == "Validation score 0.009 -> 0.091 (diversity 0.41 -> 0.28)."


def test_a_verdict_says_where_the_intervals_overlap() -> None:
    assert "intervals of the two scores overlap" in verdict(BEFORE, replace(AFTER, score_low=0.013))
    assert "overlap" not in verdict(BEFORE, replace(AFTER, score_low=0.0141))


def test_demonstrations_at_or_below_zero_are_no_scale() -> None:
    assert replace(BEFORE, demonstration=0.0).share is None
    assert replace(BEFORE, demonstration=-1.0).share is None
    assert replace(BEFORE, score=0.0953 / 2).share == pytest.approx(0.5)


def test_a_warning_names_share_spread_samples_and_a_way_out() -> None:
    # 12 of 16 scores are 0, the others 1: mean 0.25, variance 16 / 15 * 0.1875 = 0.2.
    scores, responses = [0.0, 0.0, 1.0, 0.0] * 4, ["one", "two", "three", "four"] * 4
    warning = too_equal(scores, responses, 0.8)
    assert warning is not None
    assert warning.startswith("75% of the start model's 16 scores are 0.000 (mean 0.250, standard deviation 0.447")
    assert "demonstrations score 0.800): learning will be slow" in warning
    assert "+0.000 'one'" in warning
    assert "+1.000 'three'" in warning
    assert "'four'" not in warning
    assert "python -m agents sft" in warning
    assert "sft" not in str(too_equal(scores, responses, None))
    assert "hardly anything to learn from" in str(too_equal([0.0] * 19 + [1.0], ["a"] * 20, None))


def test_there_is_no_warning_where_scores_differ_or_are_few() -> None:
    assert too_equal([0.0, 0.0, 1.0, 0.5] * 4, ["a", "b", "c", "d"] * 4, None) is None
    assert too_equal([0.0] * 15, ["a"] * 15, None) is None


@pytest.mark.parametrize("plan", [None, EvaluationPlan(episodes=16, during=0)], ids=["no plan", "a plan"])
@pytest.mark.parametrize("constant", [True, False])
def test_learn_looks_at_the_first_scores(plan, constant, caplog) -> None:
    reward = (
        (lambda example, response: 0.25) if constant else (lambda example, response: float(sum(map(ord, response))))
    )
    agent = PPO("tiny", "TextGen/Copy-v0", env_kwargs={"reward": reward}, episodes_per_update=16, num_envs=4)
    with caplog.at_level(logging.WARNING):
        agent.learn(60, evaluation=plan)
    warnings = [record.message for record in caplog.records if "hardly anything to learn from" in record.message]
    assert len(warnings) == constant
    if constant:
        assert "100% of the start model's" in warnings[0]
        assert "0.250" in warnings[0]


def test_an_evaluation_scores_the_demonstrations_of_its_own_prompts() -> None:
    agent = PPO("tiny", "TextGen/Copy-v0", seed=0)
    assert agent.evaluate(8).demonstration == 1.0
    agent = PPO("tiny", "TextGen/Copy-v0", seed=0, env_kwargs={"reward": lambda example, response: len(response)})
    env = agent.make_env(1, split="validation")
    lengths = [len(env.task.demonstration(example)) for example in env.setting.pool.examples[:8]]
    assert agent.evaluate(8).demonstration == pytest.approx(sum(lengths) / 8)


def test_a_task_without_demonstrations_has_no_scale() -> None:
    env = lanes()
    assert demonstration_score(env, [0, 1], env.tokenizer) is None


def test_yardsticks_hold_for_the_default_reward_tokenizer_and_budget_alone() -> None:
    def env(**settings):
        return TextGenVectorEnv(2, "copy", autoreset_mode="Disabled", **settings)

    scores = make_task("copy").reference_scores("test")
    assert scores is not None
    assert yardsticks(env(), "test")["random"] == scores.random
    assert yardsticks(env(reward="length"), "test") == {}
    assert yardsticks(env(max_new_tokens=3), "test") == {}
    assert yardsticks(lanes(), "test") == {}
