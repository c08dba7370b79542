"""The registry of rewards: from a name, a dict, a function or a `Reward` to a `Reward`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from textenvs.arguments import check_arguments, did_you_mean
from textenvs.rewards.base import FunctionReward, Reward, WeightedSum

_REWARDS: dict[str, Callable[..., Any]] = {}

COMBINATORS: dict[str, Callable[..., Reward]] = {}
"""What `make_reward` makes of rewards, by the key that it reads. No reward can be registered under these names."""


def register_reward(name: str, factory: Callable[..., Reward] | Callable[..., float]) -> None:
    """Give a reward a name, so that `gym.make(..., reward=name)` finds it.

    Args:
        name: What it will be called; not taken yet.
        factory: A `Reward` class, a function that returns a `Reward`, or a plain function
            `f(example, response) -> float`: what has to be given two arguments, and no more, is taken for one. Keyword
            arguments of any of them may come from a dict: `{name: {"argument": 1}}`.

    Raises:
        ValueError: If the name is taken or empty.
        TypeError: If the factory cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"Expected a name for the reward, got {name!r}")
    if name in _REWARDS:
        raise ValueError(f"Expected a new reward name, got {name!r}, which is taken by {_REWARDS[name]!r}")
    if name in COMBINATORS:
        raise ValueError(f"Expected a new reward name, got {name!r}, which combines rewards in make_reward")
    if not callable(factory):
        raise TypeError(
            "Expected a Reward class, a function that returns a Reward or one f(example, response) -> float, got "
            f"{factory!r}"
        )
    _REWARDS[name] = factory


def list_rewards() -> list[str]:
    """The names that `make_reward` knows, sorted."""
    return sorted(_REWARDS)


def make_reward(reward: Any) -> Reward:
    """A `Reward` from whatever a user writes.

    A **name** is a registered reward. A **dict** is a sum, and each of its keys a term:

    - `{"sentiment": 0.7, "length": 0.3}`: the name of a reward, and its weight;
    - `{"length": {"target": 12, "weight": 0.3}}`: or its arguments, of which `weight` is one;
    - `{"sentiment": 1, "repetition": {"weight": {"linear": [0, -1]}}}`: a weight may change over a training run (see
      `textenvs.rewards.schedules.make_weight` for its forms);
    - `{"min": ["rm_a", "rm_b"]}`: a combinator from `COMBINATORS`, and what it combines, each written in any of these
      forms again; or its arguments, of which `weight` is one, too: `{"min": {"of": [...], "weight": 0.5}}`.

    | combinator | arguments | score |
    |---|---|---|
    | `sum`, `product`, `min` | `of`: a list of rewards | their sum, product, least |
    | `mean_minus_std` | `of`, `k` (1) | mean less k standard deviations |
    | `gate` | `reward`, `by`: a reward, `at_least`, `at_most`, `otherwise` (0) | `reward` where `by` is in range |
    | `guard` | `reward`, `at_most`: `{name: cap}`, `at_least`: `{name: floor}`, `otherwise` | gates, one in another |
    | `clip` | `reward`, `low`, `high` | `reward` within bounds |
    | `scale` | `reward`, `factor` (1), `offset` (0) | `factor * reward + offset` |
    | `normalised` | `reward`, `centre` (true), `least_std` (0.001) | (`reward` - mean) / std of final scores |

    A list in place of arguments is `of`; a name, function or `Reward` there is `reward`: `{"normalised": "length"}`.

    Args:
        reward: A name, a dict, a function `f(example, response) -> float`, or a `Reward`.

    Returns:
        The reward.

    Raises:
        ValueError: If a name or key is unknown, a dict is empty or a number is out of range.
        TypeError: If it is none of these, or a reward does not take an argument.

    Example:
        >>> from textenvs.tasks import Example
        >>> five = "one two three four five"
        >>> round(make_reward("length").score(Example("Say ten words:"), five), 2)
        0.25
        >>> round(make_reward({"clip": {"reward": "length", "high": 0.1}}).score(Example("Say ten words:"), five), 2)
        0.1
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, str):
        return _by_name(reward)
    if isinstance(reward, Mapping):
        terms: dict[str, tuple[Any, Reward]] = {}
        for name, setting in reward.items():
            if name in COMBINATORS:
                terms[name] = _combined(name, setting)
                continue
            arguments = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
            weight = arguments.pop("weight", 1.0)
            terms[name] = (weight, _by_name(name, arguments))
        total = WeightedSum(terms)
        weight, first = next(iter(total.terms.values()))
        return first if len(terms) == 1 and weight == 1 else total
    if callable(reward) and not isinstance(reward, type):
        return FunctionReward(reward)
    raise TypeError(
        "Expected a reward's name, a dict of names to weights, a function f(example, response) -> float or a Reward, "
        f"got {reward!r} of type {type(reward).__name__}"
    )


def _combined(name: str, setting: Any) -> tuple[Any, Reward]:
    """One combinator of a dict, and its weight."""
    factory = COMBINATORS[name]
    known = [*signature(factory).parameters, "weight"]
    if isinstance(setting, (list, tuple)):
        arguments: dict[str, Any] = {"of": list(setting)}
    elif isinstance(setting, Mapping):
        arguments = dict(setting)
    elif isinstance(setting, (str, Reward)) or callable(setting):
        arguments = {"reward": setting}
    else:
        raise TypeError(f"Expected combinator {name!r} with a dict from {known}, got {setting!r}")
    for key in arguments:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"Expected combinator {name!r} with keys from {known}, got {key!r}.{hint}")
    missing = [key for key in ("of", "reward", "by") if key in known and key not in arguments]
    if missing:
        raise ValueError(f"Expected combinator {name!r} with the keys {missing}, got {list(arguments)}")
    weight = arguments.pop("weight", 1.0)
    for key in ("reward", "by"):
        if key in arguments:
            arguments[key] = make_reward(arguments[key])
    if "of" in arguments:
        if not isinstance(arguments["of"], (list, tuple)):
            raise TypeError(f"Expected combinator {name!r} with a list of rewards, got {arguments['of']!r}")
        arguments["of"] = [make_reward(one) for one in arguments["of"]]
    return weight, factory(**arguments)


def _by_name(name: Any, arguments: dict[str, Any] | None = None) -> Reward:
    if name not in _REWARDS:
        raise ValueError(f"Expected a reward from {list_rewards()}, got {name!r}.{did_you_mean(name, _REWARDS)}")
    factory, arguments = _REWARDS[name], arguments or {}
    if _scores(factory, arguments):
        return FunctionReward(partial(factory, **arguments) if arguments else factory, name)
    check_arguments(f"reward {name!r}", factory, arguments)
    try:
        made = factory(**arguments)
    except TypeError as error:
        raise TypeError(f"Reward {name!r} could not be made with arguments {arguments}: {error}") from error
    if not isinstance(made, Reward):
        raise TypeError(
            f"Expected the factory of reward {name!r} to return a Reward, or to be a function f(example, response) -> "
            f"float, got {type(made).__name__} without an example and a response"
        )
    return made


def _scores(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether these arguments are not enough for a call, but with an example and a response before them they are."""
    if isinstance(function, type):
        return False
    try:
        takes = signature(function)
    except (TypeError, ValueError):  # of some built-in functions nobody knows
        return False

    def binds(*before: None) -> bool:
        try:
            takes.bind(*before, **arguments)
        except TypeError:
            return False
        return True

    return binds(None, None) and not binds()
