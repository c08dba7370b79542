"""The registry of rewards: makes a `Reward` of a name, a dict, a function or a `Reward`.

It knows no reward by name itself: `textenvs.rewards` registers the built-in ones, and `agents` those that need a
network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any, TypeAlias

from textenvs.arguments import check_arguments, did_you_mean
from textenvs.rewards.arithmetic import WeightedSum
from textenvs.rewards.base import FunctionReward, Reward

Factory: TypeAlias = Callable[..., Reward] | Callable[..., float]

REWARDS: dict[str, Factory | str] = {}
"""Name to a registered factory, or to its entry point "module:attribute". Add to it with `register_reward`."""

COMBINATORS: dict[str, Callable[..., Reward]] = {}
"""Key of a dict to what `make_reward` makes of the rewards in it. Add to it with `register_combinator`."""

_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def register_reward(name: str, factory: Factory | str) -> None:
    """Gives a reward a name, so that `gym.make(..., reward=name)` finds it.

    Args:
        name: A name that is not taken yet.
        factory: A `Reward` class, a function that returns a `Reward`, or a plain function
            `f(example, response) -> float`: a function that needs two more arguments than it is given is taken for one.
            Keyword arguments of any of them may come from a dict: `{name: {"argument": 1}}`. Or an entry point to any
            of them, "module:attribute", which is imported when a reward of this name is first made.

    Raises:
        ValueError: If the name is empty or taken, or a string is not an entry point.
        TypeError: If the factory is neither a string nor callable.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"Expected a name for the reward, got {name!r}")
    if name in REWARDS:
        raise ValueError(f"Expected a new reward name, got {name!r}, which is taken by {REWARDS[name]!r}")
    if name in COMBINATORS:
        raise ValueError(f"Expected a new reward name, got {name!r}, which combines rewards in make_reward")
    if isinstance(factory, str):
        if not _ENTRY_POINT.fullmatch(factory):
            raise ValueError(f"Expected the entry point of reward {name!r} as 'module:attribute', got {factory!r}")
    elif not callable(factory):
        raise TypeError(
            "Expected a Reward class, a function that returns a Reward or one f(example, response) -> float, or an "
            f"entry point 'module:attribute', got {factory!r}"
        )
    REWARDS[name] = factory


def register_combinator(key: str, factory: Callable[..., Reward]) -> None:
    """Gives a combination of rewards a key, so that `make_reward({key: arguments})` finds it.

    Args:
        key: A key that neither a combinator nor a reward has.
        factory: Makes the combination. `make_reward` makes rewards of its arguments `of`, `reward` and `by` first.

    Raises:
        ValueError: If the key is empty or taken.
        TypeError: If the factory is not callable.
    """
    if not isinstance(key, str) or not key:
        raise ValueError(f"Expected a key for the combinator, got {key!r}")
    if key in COMBINATORS or key in REWARDS:
        raise ValueError(f"Expected a new key for a combinator, got {key!r}, which is taken")
    if not callable(factory):
        raise TypeError(f"Expected a Combination class or a function that returns a Reward, got {factory!r}")
    COMBINATORS[key] = factory


def list_rewards() -> list[str]:
    """Returns the names that `make_reward` knows, sorted."""
    return sorted(REWARDS)


def make_reward(reward: Any) -> Reward:
    """Makes a `Reward` of any form in which a user may write one.

    A **name** is a registered reward, or the place of yours, "my_module:function", which is imported. A **dict** is a
    sum, and each of its keys a term:

    - `{"sentiment": 0.7, "length": 0.3}`: the name of a reward, and its weight;
    - `{"length": {"target": 12, "weight": 0.3}}`: or its arguments, of which `weight` is one;
    - `{"sentiment": 1, "repetition": {"weight": {"linear": [0, -1]}}}`: a weight may change over a training run (see
      `textenvs.rewards.schedules.make_weight` for its forms);
    - `{"min": ["rm_a", "rm_b"]}`: a combinator from `COMBINATORS`, and the rewards that it combines, each in any of
      these forms again; or its arguments, of which `weight` is one, too: `{"min": {"of": [...], "weight": 0.5}}`.

    | combinator | arguments | score |
    |---|---|---|
    | `sum`, `product`, `min` | `of`: a list of rewards | their sum, product, minimum |
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
        ImportError: If the entry point of a registered reward cannot be imported.

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
        return _make_registered(reward)
    if isinstance(reward, Mapping):
        terms: dict[str, tuple[Any, Reward]] = {}
        for name, setting in reward.items():
            if name in COMBINATORS:
                terms[name] = _make_combination(name, setting)
                continue
            arguments = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
            weight = arguments.pop("weight", 1.0)
            terms[name] = (weight, _make_registered(name, arguments))
        total = WeightedSum(terms)
        weight, first = next(iter(total.terms.values()))
        return first if len(terms) == 1 and weight == 1 else total
    if callable(reward) and not isinstance(reward, type):
        return FunctionReward(reward)
    raise TypeError(
        "Expected a reward's name, a dict of names to weights, a function f(example, response) -> float or a Reward, "
        f"got {reward!r} of type {type(reward).__name__}"
    )


def _make_combination(name: str, setting: Any) -> tuple[Any, Reward]:
    """Makes a combination of one entry of a dict, and returns its weight and it."""
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
        arguments["of"] = [make_reward(part) for part in arguments["of"]]
    return weight, factory(**arguments)


def _make_registered(name: Any, arguments: dict[str, Any] | None = None) -> Reward:
    arguments = arguments or {}
    if name not in REWARDS and isinstance(name, str) and _ENTRY_POINT.fullmatch(name):
        factory = _imported(name, name)
        # Names also come out of files, so that nothing is called here but a score: not "os:system", say.
        is_reward = isinstance(factory, type) and issubclass(factory, Reward)
        if not is_reward and not _is_score_function(factory, arguments):
            raise TypeError(f"Expected a Reward class or a function f(example, response) at {name!r}, got {factory!r}")
    elif name not in REWARDS:
        raise ValueError(f"Expected a reward from {list_rewards()}, got {name!r}.{did_you_mean(name, REWARDS)}")
    else:
        factory = _factory(name)
    if _is_score_function(factory, arguments):
        shown = name.rpartition(":")[2]
        return FunctionReward(partial(factory, **arguments) if arguments else factory, shown)
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


def _factory(name: str) -> Callable[..., Any]:
    """Returns the factory of a registered reward, imported if only its entry point is known so far."""
    registered = REWARDS[name]
    if not isinstance(registered, str):
        return registered
    REWARDS[name] = factory = _imported(name, registered)
    return factory


def _imported(name: str, entry_point: str) -> Callable[..., Any]:
    """Imports what an entry point names, "module:attribute"."""
    module, attribute = entry_point.split(":")
    try:
        factory: Callable[..., Any] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"Reward {name!r} could not be imported from {entry_point!r}: {error}") from error
    if not callable(factory):
        raise TypeError(f"Expected a Reward class or a function at {entry_point!r}, got {factory!r}")
    return factory


def _is_score_function(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Tests if a function is itself the score: callable with an example and a response, and not without them."""
    if isinstance(function, type):
        return False
    try:
        function_signature = signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False

    def accepts(*positional: None) -> bool:
        try:
            function_signature.bind(*positional, **arguments)
        except TypeError:
            return False
        return True

    return accepts(None, None) and not accepts()
