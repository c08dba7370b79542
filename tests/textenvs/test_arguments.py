"""Checks of arguments: what passes, what is refused, and in what words."""

import json
import math
import re
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    names_arguments,
    with_plain_numbers,
)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), (True, TypeError)])
def test_check_count(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="num_envs"):
        check_count("num_envs", value)
    assert check_count("num_envs", np.int64(3)) == 3


def test_whole_numbers() -> None:
    assert type(check_count("seed", np.uint8(3), least=0)) is int
    assert check_count("seed", 2**64, least=0) == 2**64
    assert check_count("bits", 30, most=30) == 30
    assert check_count("limit", None, optional=True) is None
    with pytest.raises(ValueError, match=r"^Expected bits to be from 1 to 30, got 31$"):
        check_count("bits", 31, most=30)
    with pytest.raises(ValueError, match=r"^Expected seed to be at least 0, got -1$"):
        check_count("seed", -1, least=0)
    with pytest.raises(TypeError, match=r"^Expected bits to be a whole number from 1 to 30, got 1\.0$"):
        check_count("bits", 1.0, most=30)
    for value in ("3", None, True, np.bool_(True), np.array([1, 2])):
        with pytest.raises(TypeError, match=r"^Expected seed to be a whole number of at least 0, got "):
            check_count("seed", value, least=0)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (1.3, {"low": 0, "high": 1}, "Expected gamma in [0, 1], got 1.3"),
        (0, {"low": 0, "high": 1, "open_low": True}, "Expected gamma in (0, 1], got 0"),
        (1, {"low": 0, "high": 1, "open_high": True}, "Expected gamma in [0, 1), got 1"),
        (-1, {"low": 0}, "Expected gamma in [0, inf), got -1"),
        (math.inf, {"low": 0}, "Expected gamma in [0, inf), got inf"),
        (math.nan, {"high": 1}, "Expected gamma in (-inf, 1], got nan"),
        (-math.inf, {}, "Expected gamma to be a finite number, got -inf"),
        (np.float32("nan"), {}, "Expected gamma to be a finite number, got nan"),
    ],
)
def test_numbers_out_of_range(value: float, bounds: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_number("gamma", value, **bounds)


def test_numbers() -> None:
    for value in (1, 1.0, np.float32(1), np.int8(1), Fraction(1)):
        number = check_number("gamma", value, low=0, high=1)
        assert number == 1
        assert type(number) is float
    assert check_number("gamma", None, optional=True) is None
    for value in ("1", None, False, np.bool_(True), 1j, [1]):
        with pytest.raises(TypeError, match=r"^Expected gamma to be a number, got "):
            check_number("gamma", value, low=0)
        with pytest.raises(TypeError, match=r"^Expected gamma to be a finite number, got "):
            check_number("gamma", value)
    with pytest.raises(ValueError, match=r"^Expected gamma to be a finite number, got 1000"):
        check_number("gamma", 10**400)


def test_choices_and_flags() -> None:
    assert check_choice("unit", "word", ("word", "sentence")) == "word"
    assert check_choice("unit", None, ("word",), optional=True) is None
    with pytest.raises(ValueError, match=r"^Expected unit to be 'word', 'line' or None, got 'letter'$"):
        check_choice("unit", "letter", ("word", "line"), optional=True)
    with pytest.raises(ValueError, match=r"^Expected unit to be 'word', got None$"):
        check_choice("unit", None, ["word"])
    assert check_flag("raw", np.bool_(True)) is True
    for value in (1, 0, None, "true"):
        with pytest.raises(TypeError, match=r"^Expected raw to be true or false, got "):
            check_flag("raw", value)


def test_an_unknown_argument_is_told_in_python_s_words_first() -> None:
    """Gymnasium and TorchRL look for these words to find out that a class has no such argument."""

    class Plain:
        def __init__(self, task: str, reward: float = 1.0) -> None: ...

    class Checked:
        @names_arguments
        def __init__(self, task: str, reward: float = 1.0) -> None: ...

    with pytest.raises(TypeError) as python:
        Plain("copy", rewad=2.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError) as ours:
        Checked("copy", rewad=2.0)  # type: ignore[call-arg]
    begin = (
        str(python.value).partition("Did you mean")[0].rstrip(". ").replace("Plain", "Checked")
    )  # a hint from 3.13 on
    assert str(ours.value) == f"{begin}. Expected arguments from ['task', 'reward']. Did you mean 'reward'?"


def test_numbers_of_numpy_are_numbers_wherever_they_stand() -> None:
    """In plain arguments, in dicts and in lists; the data's own rows are left alone."""
    made = gym.make_vec(
        "TextGen/Copy-v0", num_envs=np.int64(2), max_new_tokens=np.int16(5), min_new_tokens=np.uint8(1),
        curriculum=np.True_, chat_template=np.False_, success_at=np.float32(0.5), max_prompt_length=np.int32(9),
        payout={"every": np.int64(2)}, reward={"sum": [{"length": {"target": np.int64(3)}}, "bleu"]},
    )  # fmt: skip
    same = gym.make_vec(
        "TextGen/Copy-v0", num_envs=2, max_new_tokens=5, min_new_tokens=1, curriculum=True, chat_template=False,
        success_at=0.5, max_prompt_length=9, payout={"every": 2}, reward={"sum": [{"length": {"target": 3}}, "bleu"]},
    )  # fmt: skip
    for env in (made, same):
        env.reset(seed=0)
        env.action_space.seed(0)
    for _ in range(8):
        mine, theirs = (env.step(env.action_space.sample()) for env in (made, same))
        np.testing.assert_array_equal(mine[1], theirs[1])
        np.testing.assert_array_equal(mine[0]["input_ids"], theirs[0]["input_ids"])
    assert made.unwrapped.setting.curriculum is not None
    assert gym.make("TextGen/Copy-v0", curriculum=np.False_).unwrapped.setting.curriculum is None
    rows = [{"prompt": np.str_("a")}]
    assert with_plain_numbers({"dataset": {"data": rows, "n": np.int64(1)}})["dataset"]["data"] is rows
    assert json.loads(json.dumps(with_plain_numbers({"a": (np.float32(0.5), [np.True_])}))) == {"a": [0.5, [True]]}
