"""What the tests of all packages share: how much of a test the core runs."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import settings


def examples(number: int) -> int:
    """Returns how many random examples a test draws: all of them with `--hypothesis-profile=all`, else a quarter.

    Args:
        number: All of them, for `@settings(max_examples=examples(400))`.
    """
    return max(1, number * settings().max_examples // 100)


def slow_but(core: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Returns parameters of which the core runs some: the others are marked as slow.

    Args:
        core: What the core runs.
        values: All of them, for `@pytest.mark.parametrize(name, slow_but({"bleu"}, REWARDS))`. Tuples are for several
            names.
    """
    slow = pytest.mark.slow
    return [
        value if value in core else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=slow)
        for value in values
    ]
