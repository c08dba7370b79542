"""Rewards made of rewards: formulas by hand, one grammar, and coefficients that change between episodes alone."""

import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs import Example, RewardError, TextGenVectorEnv, make_reward, make_tokenizer, register_reward
from textenvs.rewards import (
    COMBINATORS,
    Clip,
    Constraint,
    FunctionReward,
    Gate,
    Length,
    MeanMinusStd,
    Minimum,
    Normalised,
    Product,
    Reward,
    Scale,
    Schedule,
    Scorer,
    WeightedSum,
    guard,
    list_rewards,
    minimum,
    register_combinator,
    registry,
)
from textenvs.tasks import Levels
from textenvs.tasks.levels import ByLevel
from textenvs.testing import PAYOUTS, check_reward
from textenvs.tokenizer import Tokenizer

EXAMPLE = Example("A happy story.", ("The end.",))


def reward(value: Callable[[str], float] | float, name: str, low: float = -math.inf, high: float = math.inf) -> Reward:
    """A constant, or a function of the text."""

    def function(example: Example, response: str) -> float:
        return value(response) if callable(value) else value

    return FunctionReward(function, name, low, high)


def words(text: str) -> float:
    return float(len(text.split()))


A, B, C = reward(0.5, "a", 0, 1), reward(-2.0, "b", -4, 3), reward(0.25, "c", -1, 0.5)
COUNT = reward(words, "words", 0)


@pytest.mark.parametrize(
    ("made", "score", "low", "high"),
    [
        (Product([A, B]), -1.0, -4, 3),
        (Product([B, B]), 4.0, -12, 16),
        (Product([A, COUNT]), 1.0, 0, math.inf),
        (Minimum([A, B, C]), -2.0, -4, 0.5),
        (MeanMinusStd([A, C], k=2), 0.375 - 2 * 0.125, -0.5 - 2 * 1, 0.75),  # half a range of 2 is the largest std
        (MeanMinusStd([A, C], k=0), 0.375, -0.5, 0.75),
        (Gate(A, COUNT, at_least=2), 0.5, 0, 1),
        (Gate(A, COUNT, at_least=3), 0.0, 0, 1),
        (Gate(A, COUNT, at_most=2), 0.5, 0, 1),
        (Gate(A, COUNT, at_most=1, otherwise=-3), -3.0, -3, 1),
        (Gate(A, COUNT, at_least=3, at_most=4, otherwise=7), 7.0, 0, 7),
        (Clip(B, low=-1), -1.0, -1, 3),
        (Clip(B, high=-2.5), -2.5, -4, -2.5),
        (Clip(COUNT, low=0.5, high=1.5), 1.5, 0.5, 1.5),
        (Scale(B, -0.5, 1), 2.0, -0.5, 3),
        (Scale(COUNT, 0.0, 1), 1.0, 1, 1),
        (Normalised(B), -2.0, -math.inf, math.inf),
        (WeightedSum({"a": (2, A), "b": ({"linear": [0, 3]}, B)}), 1.0, -12, 11),
        (WeightedSum({"a": ({"constraint": {"at_most": 0.1, "start": 2, "most": 4}}, A)}), -1.0, -4, 0),
    ],
    ids=lambda value: value.name if isinstance(value, Reward) else "",
)
def test_formulas_by_hand(made: Reward, score: float, low: float, high: float) -> None:
    assert made.score(EXAMPLE, "two words") == pytest.approx(score, abs=1e-12)
    assert (made.low, made.high) == pytest.approx((low, high))


SPECS: list[Any] = [
    {"sentiment": 0.7, "length": -0.3},
    {"product": ["sentiment", {"length": {"target": 4}}]},
    {"min": ["sentiment", "vader", "length"]},
    {"mean_minus_std": {"of": ["sentiment", "vader"], "k": 0.5}},
    {"gate": {"reward": "sentiment", "by": {"length": {"target": 3}}, "at_least": 0.3, "otherwise": -1}},
    {"guard": {"reward": "sentiment", "at_least": {"length": 0.05}, "at_most": {"vader": 0.9}}},
    {"clip": {"reward": {"length": 3}, "low": 0.2, "high": 1}},
    {"scale": {"reward": "sentiment", "factor": -2, "offset": 0.5}},
    {"normalised": "sentiment"},
    {
        "sum": [
            "length",
            {"length": {"target": 3, "weight": -0.5}},
            {"min": {"of": ["sentiment", "vader"], "weight": 2}},
        ]
    },
    {"sentiment": 1, "length": {"target": 5, "weight": {"piecewise": [[0, 0.5], [0.5, 2]]}}},
    {"sentiment": {"weight": {"cosine": [1, 0]}}, "length": {"weight": {"constraint": {"at_least": 0.5, "start": 1}}}},
    {"clip": {"reward": {"normalised": {"reward": {"product": ["sentiment", "vader"]}, "centre": False}}, "high": 2}},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: json.dumps(spec)[:60])
def test_every_combinator_keeps_the_contract_of_a_reward(spec: Any) -> None:
    check_reward(json.loads(json.dumps(spec)), max_examples=20)


def test_the_contract_holds_after_an_update_too() -> None:
    inner = {"length": {"target": 3}, "sentiment": {"weight": {"linear": [1, -1]}}}
    made = make_reward({"normalised": {"reward": inner}})
    made.update(progress=0.8, scores={"sum": np.array([0.5, 0.1, 0.9])})
    check_reward(made, max_examples=20)


def test_combinators_of_hand_made_rewards_keep_the_contract() -> None:
    letters = FunctionReward(lambda example, response: float(len(response)), "letters", low=0)
    vowels = FunctionReward(lambda example, response: float(sum(map(response.count, "aeiou"))), "vowels", low=0)
    check_reward(Gate(letters, vowels, at_most=3) * 0.5 - minimum(letters, vowels), max_examples=20)
    check_reward(MeanMinusStd([letters, vowels, Length()], k=1.5), max_examples=20)


def test_one_grammar() -> None:
    made = make_reward(
        {"min": ["sentiment", {"gate": {"reward": {"length": {"target": 4}}, "by": COUNT, "at_least": 2}}]}
    )
    assert list(made.parts) == ["sentiment", "gate", "gate/length", "gate/words"]
    assert made.name == "min(sentiment, gate)"
    assert made.parts["gate"].name == "length where 2 <= words"
    assert made.score(EXAMPLE, "happy") == 0.0
    summed = make_reward({"sum": ["length", {"length": {"target": 3, "weight": 2}}, lambda example, response: 1.0]})
    assert list(summed.parts) == ["length", "length_2", "<lambda>"]
    assert summed.score(EXAMPLE, "one two three") == pytest.approx(3 / 20 + 2 + 1)
    weighted = make_reward({"length": 0.5, "min": {"of": [A, B], "weight": -2}})
    assert weighted.score(EXAMPLE, "") == 4.0
    assert weighted.name == "0.5 length + -2 min"
    assert isinstance(make_reward({"normalised": lambda example, response: 1.0}), Normalised)
    assert isinstance(make_reward({"clip": {"reward": A, "low": 0, "weight": 1}}), Clip)
    assert make_reward({"gate": {"reward": A, "by": B, "at_most": 3}}).name == "a where b <= 3"


def test_the_callers_dict_is_left_as_it_is() -> None:
    spec = {"min": {"of": ["length", {"clip": {"reward": "vader", "low": 0, "weight": 2}}], "weight": 0.5}}
    before = json.dumps(spec)
    make_reward(spec)
    assert json.dumps(spec) == before


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"clip": {"reward": "length", "hgih": 1}}, ValueError, r"'clip' with keys from \['reward', 'low', 'high', "
         r"'weight'\], got 'hgih'\. Did you mean 'high'\?"),
        ({"clip": {"low": 1}}, ValueError, r"'clip' with the keys \['reward'\], got \['low'\]"),
        ({"clip": "length"}, ValueError, "low or high"),
        ({"clip": {"reward": "length", "low": 2, "high": 1}}, ValueError, "low <= high of 'clip', got 2 and 1"),
        ({"clip": {"reward": "length", "low": "0"}}, TypeError, "low of 'clip' to be a finite number, got '0'"),
        ({"min": 0.5}, TypeError, r"'min' with a dict from \['of', 'weight'\], got 0\.5"),
        ({"min": []}, ValueError, "at least one reward in a 'min' combination, got none"),
        ({"min": {"of": "length"}}, TypeError, "'min' with a list of rewards, got 'length'"),
        ({"min": ["lenght"]}, ValueError, "Did you mean 'length'"),
        ({"min": ["length"], "lenght": 1}, ValueError, "Did you mean 'length'"),
        ({"min": {"of": ["length"], "weight": "1"}}, ValueError, "weight of reward 'min' to be a finite number"),
        ({"normalised": {"length": 1}}, ValueError, "got 'length'"),
        ({"normalised": {"reward": "length", "centre": 1}}, TypeError, "centre of 'normalised' to be true or false"),
        ({"normalised": {"reward": "length", "least_std": 0}}, ValueError, r"'normalised' in \(0, inf\), got 0"),
        ({"gate": {"reward": "length", "at_least": 1}}, ValueError, r"with the keys \['by'\]"),
        ({"gate": {"reward": "length", "by": "vader"}}, ValueError, "at_least or at_most"),
        ({"gate": {"reward": "length", "by": "vader", "at_least": 1, "at_most": 0}}, ValueError, "at_least <= at_most"),
        ({"guard": {"reward": "length"}}, ValueError, "at_most or at_least"),
        ({"guard": {"reward": {"normalised": "length"}, "at_most": {"vader": 0}}}, ValueError, "otherwise="),
        ({"mean_minus_std": {"of": ["length"], "k": -1}}, ValueError, r"k of 'mean_minus_std' in \[0, inf\), got -1"),
        ({"length": {"weight": {"linear": [0]}}}, ValueError, r"weight of reward 'length' as a number or .*linear"),
        ({"length": {"weight": {"cubic": [0, 1]}}}, ValueError, "piecewise"),
        ({"length": {"weight": {"piecewise": [[0.5, 1], [0.2, 0]]}}}, ValueError, "to rise, from 0 to 1"),
        ({"length": {"weight": {"piecewise": []}}}, ValueError, r"as \[\[progress, weight\], \.\.\.\], got \[\]"),
        ({"length": {"weight": {"constraint": {}}}}, ValueError, "one of at_least and at_most"),
        ({"length": {"weight": {"constraint": {"at_least": 1, "at_most": 2}}}}, ValueError, "one of at_least"),
        ({"length": {"weight": {"constraint": {"at_least": 1, "rate": 0}}}}, ValueError, "rate of a constraint"),
        ({"length": {"weight": {"constraint": {"at_lest": 1}}}}, ValueError, "at_lest"),
        ({"length": {"weight": {"constraint": {"at_least": 1, "part": "x"}}}}, ValueError, r"parts \['length'\], "),
    ],
)  # fmt: skip
def test_errors_of_the_grammar(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_reward(spec)


def test_a_combinator_and_a_reward_never_share_a_name() -> None:
    assert not set(COMBINATORS) & set(list_rewards())
    for name in COMBINATORS:
        with pytest.raises(ValueError, match=f"Expected a new reward name, got '{name}', which combines rewards"):
            register_reward(name, Length)
    for name in ("min", "length"):
        with pytest.raises(ValueError, match=f"Expected a new key for a combinator, got '{name}', which is taken"):
            register_combinator(name, Minimum)
    with pytest.raises(ValueError, match="Expected a key for the combinator, got ''"):
        register_combinator("", Minimum)
    with pytest.raises(TypeError, match="Expected a Combination class or a function that returns a Reward, got 3"):
        register_combinator("three", 3)  # type: ignore[arg-type]


def test_operators() -> None:
    text = "two words"
    cases: dict[str, tuple[Reward, float]] = {
        "weights": (0.7 * A + 0.3 * B, 0.35 - 0.6),
        "product": (A * B, -1.0),
        "nested": (A * (B + 1) - C, -0.75),
        "negative": (-A, -0.5),
        "minus a number": (A - 1, -0.5),
        "from a number": (1 - A, 0.5),
        "sum": (sum([A, B, C], start=0), -1.25),  # type: ignore[arg-type]
        "twice": (A + A, 1.0),
        "minimum": (minimum(A, B, "length"), -2.0),
        "right": (B * 2, -4.0),
    }
    for name, (made, score) in cases.items():
        assert made.score(EXAMPLE, text) == pytest.approx(score), name
    both = 0.7 * A + 0.3 * B + 2 * A
    assert isinstance(both, WeightedSum)
    assert {name: weight for name, (weight, _) in both.terms.items()} == {"a": 0.7, "b": 0.3, "a_2": 2.0}
    assert both.name == "0.7 a + 0.3 b + 2 a_2"
    for wrong in (lambda: A + "b", lambda: A * None, lambda: "b" - A, lambda: min(A, B), lambda: A - "b"):
        with pytest.raises(TypeError):
            wrong()


def test_a_constraint_follows_its_part_into_a_sum() -> None:
    """The second `length` is called `length_2` in the sum, also by the constraint that watches it."""
    watched = {"length": {"target": 3, "weight": 1}}
    cap = {"weight": {"constraint": {"at_most": 0.5, "rate": 1.0, "part": "length"}}}
    deep = {"weight": {"constraint": {"at_most": 0.5, "rate": 1.0, "part": "min/vader"}}}
    alone = make_reward({**watched, "sentiment": cap, "distinct": deep, "min": ["vader"]})
    made = make_reward({"length": 1, "min": ["length"]}) + alone
    assert {"length_2", "min_2/vader"} <= set(made.parts)
    scores = {name: np.zeros(1) for name in made.parts} | {"length_2": np.ones(1), "min_2/vader": np.full(1, 0.75)}
    made.update(scores=scores)
    assert made.changing == pytest.approx({"sentiment/weight": -0.5, "distinct/weight": -0.25})
    alone.update(scores={name: np.ones(1) for name in alone.parts})
    assert alone.changing == pytest.approx({"sentiment/weight": -0.5, "distinct/weight": -0.5})


def test_lanes_equal_one_text_in_every_bit() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 9, 17, 40):
        scores = rng.normal(size=(count, 64))
        for made in (MeanMinusStd([A] * count), Product([A] * count), Minimum([A] * count)):
            none = np.zeros((0, 64))
            alone = [made.combine(scores[:, [lane]], none[:, [lane]])[0] for lane in range(64)]
            assert made.combine(scores, none).tolist() == alone
        mean_less_std = scores.mean(axis=0) - scores.std(axis=0)
        assert MeanMinusStd([A] * count).combine(scores, none) == pytest.approx(mean_less_std, abs=1e-12)


def test_nothing_is_paid_as_minus_zero() -> None:
    sad = Example("", (), {"mood": "sad", "formality": "informal"})
    for made in ("sentiment", "vader", "formality", reward(-1, "minus") * reward(0, "nothing")):
        assert math.copysign(1, make_reward(made).score(sad, "")) == 1


def test_a_guard_never_pays_for_breaking_it() -> None:
    """A sentiment from -1: behind a plain gate, a text that breaks the cap would get 0, more than a sad one."""
    mood = reward(lambda text: -0.5 if "sad" in text else 0.5, "mood", -1, 1)
    repeats = reward(lambda text: 1 - len(set(text.split())) / max(1, len(text.split())), "repeats", 0, 1)
    registry.REWARDS["test_repeats"] = lambda: repeats
    try:
        made = make_reward({"guard": {"reward": mood, "at_most": {"test_repeats": 0.4}}})
    finally:
        del registry.REWARDS["test_repeats"]
    assert made.score(EXAMPLE, "a sad day") == -0.5
    assert made.score(EXAMPLE, "so so good") == 0.5
    assert made.score(EXAMPLE, "good good good") == made.low == -1
    other = guard(mood, at_least={"length": 0.2}, at_most={"vader": 0.5}, otherwise=-7)
    assert other.score(EXAMPLE, "one two") == -7
    assert set(other.parts) == {"gate", "gate/mood", "gate/vader", "length"}


# What changes between episodes


def test_schedules_by_hand() -> None:
    linear, cosine = Schedule([(0, 1), (1, 3)]), Schedule([(0, 1), (1, 3)], "cosine")
    steps = Schedule([(0.2, 0), (0.4, 1), (0.8, -1)])
    expected = {
        0.0: (1, 1, 0),
        0.2: (1.4, 2 - math.cos(0.2 * math.pi), 0),
        0.3: (1.6, 2 - math.cos(0.3 * math.pi), 0.5),
        0.4: (1.8, 2 - math.cos(0.4 * math.pi), 1),
        0.5: (2, 2, 0.5),
        0.7: (2.4, 2 - math.cos(0.7 * math.pi), -0.5),
        1.0: (3, 3, -1),
    }
    for progress, values in list(expected.items()) + list(expected.items())[::-1]:
        for schedule in (linear, cosine, steps):
            schedule.update(progress)
        assert (linear.value, cosine.value, steps.value) == pytest.approx(values), progress
    assert (steps.span, cosine.span) == ((-1, 1), (1, 3))
    with pytest.raises(ValueError, match=r"progress of training from 0 to 1, got 1\.5"):
        linear.update(1.5)


def test_a_constraint_by_hand() -> None:
    cap = Constraint(at_most=0.2, rate=0.5, most=1.0)
    for mean, weight in ((0.6, -0.2), (0.6, -0.4), (3.0, -1.0), (0.0, -0.9), (-9.0, 0.0), (0.2, 0.0)):
        cap.update(np.array([mean - 0.1, mean + 0.1]))
        assert cap.value == pytest.approx(weight)
    floor = Constraint(at_least=0.5, rate=1.0, start=0.25)
    for mean, weight in ((0.25, 0.5), (0.75, 0.25), (2.0, 0.0), (0.0, 0.5)):
        floor.update(np.array([mean]))
        assert floor.value == pytest.approx(weight)
    floor.update(np.array([]))
    assert floor.value == pytest.approx(0.5)


def test_a_constraint_watches_its_term_or_another_part() -> None:
    made = make_reward(
        {
            "sentiment": {"weight": {"constraint": {"at_least": 0.5, "rate": 1.0}}},
            "length": {"weight": {"constraint": {"at_most": 0.0, "rate": 1.0, "part": "min/vader"}}},
            "min": ["vader"],
        }
    )
    made.update(
        scores={"sentiment": np.array([0.1]), "length": np.zeros(1), "min": np.ones(1), "min/vader": np.ones(1)}
    )
    assert made.changing == pytest.approx({"sentiment/weight": 0.4, "length/weight": -1.0})
    with pytest.raises(ValueError, match=r"final scores of part 'sentiment', got those of \['length'\]"):
        made.update(scores={"length": np.zeros(1)})
    with pytest.raises(ValueError, match="one finite number an episode"):
        made.update(scores={"sentiment": np.array([math.nan])})


@given(st.lists(st.lists(st.floats(-100, 100), max_size=6), min_size=1, max_size=5))
def test_a_normaliser_knows_mean_and_deviation_of_all_it_was_told(batches: list[list[float]]) -> None:
    made = Normalised(COUNT, least_std=0.5)
    for batch in batches:
        made.update(scores={"words": np.array(batch, dtype=np.float64)})
    told = np.concatenate(batches)
    mean, std = (told.mean(), told.std()) if len(told) else (0.0, 1.0)
    assert made.score(EXAMPLE, "a b c") == pytest.approx((3 - mean) / max(std, 0.5), abs=1e-9)
    uncentred = Normalised(COUNT, centre=False, least_std=0.5)
    uncentred.load_state_dict(made.state_dict())
    assert uncentred.score(EXAMPLE, "a b c") == pytest.approx(3 / max(std, 0.5), abs=1e-9)


CHANGING = {
    "sum": [
        {"normalised": {"reward": {"length": {"target": 3}}}},
        {"sentiment": {"weight": {"linear": [1, -3]}}},
        {"vader": {"weight": {"constraint": {"at_most": -0.5, "rate": 2.0}}}},
    ]
}


def changed(made: Reward) -> None:
    parts = ("normalised", "normalised/length", "sentiment", "vader")
    made.update(progress=0.75, scores={name: np.array([0.25, 0.75, 0.2]) for name in parts})


def test_state_comes_back_exactly_through_json() -> None:
    made, again = make_reward(CHANGING), make_reward(CHANGING)
    fresh = made.score(EXAMPLE, "a happy day")
    changed(made)
    changed(made)
    score = made.score(EXAMPLE, "a happy day")
    assert score != fresh == again.score(EXAMPLE, "a happy day")
    again.load_state_dict(json.loads(json.dumps(made.state_dict())))
    assert again.score(EXAMPLE, "a happy day") == score
    assert again.changing == made.changing
    assert set(made.changing) == {"sentiment/weight", "vader/weight", "normalised/mean", "normalised/std"}
    changed(made)
    changed(again)
    assert again.state_dict() == made.state_dict()
    for state in ({}, {"own": {}}, {"own": {"sentiment": 1.0}}, {**made.state_dict(), "more": 1}):
        with pytest.raises(ValueError, match="Expected the state of reward"):
            make_reward(CHANGING).load_state_dict(state)
    with pytest.raises(ValueError, match="Expected no state for reward 'length'"):
        make_reward("length").load_state_dict({"own": {}})
    for plain in ("length", {"length": 2, "vader": 1}, {"min": ["length"]}):
        assert make_reward(plain).state_dict() == {}
        make_reward(plain).load_state_dict({})


WRAPPED: dict[str, Callable[[], Reward]] = {
    "itself": lambda: make_reward(CHANGING),
    "in its last turn": lambda: make_reward({"last_turn": {"reward": CHANGING}}),
    "at its level": lambda: ByLevel({1: make_reward(CHANGING), 2: make_reward(CHANGING)}),
}


@pytest.mark.parametrize("payout", PAYOUTS, ids=str)
@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_an_episode_under_way_is_paid_by_the_formula_that_it_began_with(
    make: Callable[[], Reward], payout: Any
) -> None:
    """Lane 0 is in mid-episode when the coefficients change; lane 1 is reset behind the change."""
    gamma = payout["shaped"]["gamma"] if isinstance(payout, dict) and "shaped" in payout else 1.0
    task = Levels({"translate": {"train": 4, "validation": 4, "test": 4, "shifted": 4}}, highest=2)
    envs = TextGenVectorEnv(2, task, make(), payout, max_new_tokens=8, autoreset_mode="Disabled")
    old, new = make(), make()
    changed(new)
    envs.reset(seed=3)
    happy = {piece: token for token, piece in enumerate(envs.tokenizer.pieces)}[b" happy"]
    paid, step = np.zeros(2), np.zeros(2)
    for move in range(8):
        if move == 3:
            changed(envs.setting.reward)
            envs.reset(options={"reset_mask": np.array([False, True])})
            paid[1], step[1] = 0.0, 0
        before = envs.lanes.terminated.copy()
        _, rewards, _, _, infos = envs.step(np.array([happy, happy + move]))
        paid += np.where(before, 0.0, gamma**step * rewards)
        step += ~before
        if step[0] == 8:
            ended = infos
    while not envs.lanes.terminated.all():
        _, rewards, _, _, infos = envs.step(np.array([happy, happy + 11]))
        paid += gamma**step * rewards * ~before
        step += ~before
    examples = [envs.lanes.example(lane) for lane in range(2)]
    due = [old.score(examples[0], envs.responses[0]), new.score(examples[1], envs.responses[1])]
    assert abs(due[0] - new.score(examples[0], envs.responses[0])) > 0.5, "the change matters"
    assert ended["score"][0] == pytest.approx(due[0], abs=1e-9)
    assert infos["score"][1] == pytest.approx(due[1], abs=1e-9)
    assert paid == pytest.approx([gamma**7 * due[0], gamma**7 * due[1]], abs=1e-9)


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_what_changes_inside_a_wrapper_is_kept(make: Callable[[], Reward]) -> None:
    made, again, plain = make(), make(), make_reward(CHANGING)
    assert made.parts.keys() == plain.parts.keys()
    changed(made)
    changed(plain)
    again.load_state_dict(json.loads(json.dumps(made.state_dict())))
    example = Example("A happy story.", ("The end.",), {"level": 2})
    expected = plain.score(example, "a happy day")
    assert made.score(example, "a happy day") == again.score(example, "a happy day") == expected
    assert again.changing == made.changing
    assert set(made.changing.values()) == set(plain.changing.values())
    with pytest.raises(ValueError, match="Expected the state of reward"):
        made.load_state_dict({**made.state_dict(), "more": {}})


def test_the_parts_of_a_last_turn_are_those_of_its_reward() -> None:
    made = make_reward({"last_turn": {"reward": {"length": 1, "vader": -1}, "cost": 0.1}})
    assert made.parts["length"].score(EXAMPLE, "one two three\nfour five") == Length().score(EXAMPLE, "four five")
    check_reward(made, max_examples=20)


def test_levels_that_change_have_the_same_parts() -> None:
    plain = ByLevel({1: make_reward({"length": 1, "vader": 1}), 2: make_reward({"min": ["vader"]})})
    assert list(plain.parts) == ["vader"]
    with pytest.raises(ValueError, match=r"to have the same parts, since they change over a run, got .*'length'"):
        ByLevel({1: make_reward({"normalised": "length"}), 2: make_reward("length")})


def test_a_call_on_the_environment_moves_the_reward() -> None:
    env = gym.make("TextGen-v0", reward=CHANGING, max_new_tokens=2)
    _, info = env.reset(seed=0)
    names = {key.removeprefix("score/"): np.zeros(1) for key in info if key.startswith("score/")}
    assert set(names) == {"normalised", "normalised/length", "sentiment", "vader"}
    env.get_wrapper_attr("update_reward")(progress=0.5, scores=names)
    assert env.unwrapped.setting.reward.changing["sentiment/weight"] == -1.0
    envs = gym.make_vec("TextGen-v0", num_envs=2, reward=CHANGING, max_new_tokens=2)
    envs.unwrapped.update_reward(progress=0.25)
    assert envs.unwrapped.setting.reward.changing["sentiment/weight"] == 0.0


def test_a_spec_with_a_combined_reward_is_json() -> None:
    env = gym.make("TextGen-v0", reward=SPECS[4], max_new_tokens=2)
    assert json.loads(env.spec.to_json())["kwargs"]["reward"] == SPECS[4]
    assert pickle.loads(pickle.dumps(make_reward(CHANGING))).state_dict() == make_reward(CHANGING).state_dict()


# What goes wrong


class Broken(Reward):
    """A good definition with a scorer that is not."""

    name = "broken"

    def __init__(self, push: Callable[[np.ndarray], Any]) -> None:
        self._push = push

    def score(self, example: Example, response: str) -> float:
        return 0.5

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        outer = self

        class Pushes(Scorer):
            def reset(self, lanes: np.ndarray, examples: Any) -> None:
                pass

            def push(self, lanes: np.ndarray, tokens: np.ndarray) -> Any:
                return outer._push(lanes)

        return Pushes(self)


def test_a_part_with_a_wrong_shape_is_named() -> None:
    envs = TextGenVectorEnv(2, reward=Broken(lambda lanes: np.zeros((len(lanes), 1))) + Length(), max_new_tokens=4)
    envs.reset(seed=0)
    with pytest.raises(RewardError, match=r"part 'broken' to give \(2,\), one number a lane, got \(2, 1\)"):
        envs.step(np.array([300, 300]))


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
def test_a_closed_gate_hides_nothing(payout: str) -> None:
    wrong = Broken(lambda lanes: np.full(len(lanes), np.nan))
    wrong.score = lambda example, response: math.nan  # type: ignore[method-assign]
    tokenizer = make_tokenizer("stories")
    for made in (Gate(wrong, Length(), at_least=2), Minimum([Length(), wrong]), Product([wrong, Length()])):
        scorer = made.scorer(1, tokenizer)
        scorer.reset(np.array([0]), [EXAMPLE])
        assert np.isnan(scorer.push(np.array([0]), np.array([300]))).all()
        envs = TextGenVectorEnv(1, reward=made, payout=payout, max_new_tokens=1)
        envs.reset(seed=0)
        part = ", its part 'broken' nan" if payout == "immediate" else ""
        with pytest.raises(RewardError, match=f"gave nan{part}"):
            envs.step(np.array([300]))


def test_overflow_is_an_error_of_the_reward() -> None:
    huge = reward(1e300, "huge")
    envs = TextGenVectorEnv(1, reward=huge * huge, max_new_tokens=1)
    envs.reset(seed=0)
    with pytest.raises(RewardError, match=r"'huge \* huge_2' gave inf"):
        envs.step(np.array([300]))
