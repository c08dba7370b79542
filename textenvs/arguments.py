"""Names and arguments that a user got wrong: which there are, and which was probably meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from numbers import Real
from typing import Any, ParamSpec

import numpy as np

_Arguments = ParamSpec("_Arguments")


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """A hint for the end of an error.

    Args:
        name: What a user wrote.
        known: What there is.

    Returns:
        " Did you mean ...?", or nothing where none of them is close.
    """
    close = get_close_matches(str(name), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def names_arguments(init: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Let an `__init__` name its arguments where it is given one that it does not have.

    Args:
        init: The `__init__`.

    Returns:
        The same, but it raises a TypeError with the arguments that there are, and the nearest.
    """
    known = list(signature(init).parameters)[1:]  # without self

    @wraps(init)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"Expected arguments from {known}, got {name!r}.{did_you_mean(name, known)}")
        init(*args, **kwargs)

    return checked


def check_arguments(what: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise a clear error where something cannot be made with these arguments.

    Args:
        what: What is made, for the error: "task 'copy'".
        factory: What makes it.
        arguments: By name.

    Raises:
        TypeError: If it takes no argument of that name, or one that it must have is missing.
    """
    found, takes_any = _parameters(factory)
    unknown = None if takes_any else next((name for name in arguments if name not in found), None)
    if unknown is not None:
        hint = did_you_mean(unknown, found)
        raise TypeError(f"Expected {what} with arguments from {list(found)}, got {unknown!r}.{hint}")
    missing = [name for name, one in found.items() if one.default is Parameter.empty and name not in arguments]
    if missing:
        raise TypeError(f"Expected {what} with the arguments {missing}, got {list(arguments)}")


def _parameters(factory: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """What can be given by name, and whether there may be more: a class may hand `**rest` on to the class above it."""
    found: dict[str, Parameter] = {}
    makers: list[Callable[..., Any]] = [factory]
    if isinstance(factory, type):
        makers = [vars(one)["__init__"] for one in factory.__mro__[:-1] if "__init__" in vars(one)]
    for maker in makers:
        try:
            parameters = list(signature(maker).parameters.values())
        except (TypeError, ValueError):  # of some built-in functions nobody knows
            break
        for one in parameters[isinstance(factory, type) :]:  # without self
            if one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                found.setdefault(one.name, one)
        if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
            return found, False
    return found, True


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough, or a clear error.

    Args:
        name: What to call it in the error.
        value: The number.
        least: The smallest that will do.

    Returns:
        The value as an int.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"Expected {name} to be a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"Expected {name} to be at least {least}, got {value}")
    return int(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Return `value`, or raise `ValueError` unless it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected {name} from {list(choices)}, got {value!r}")
    return value


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """Return `value`, or raise `ValueError` unless it is a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected {name} to be a whole number from {least}, got {value!r}")
    return value


def check_number(name: str, value: Any, least: float = 0.0) -> float:
    """Return `value` as a float, or raise `ValueError` unless it is a finite number from `least`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) < math.inf:
        raise ValueError(f"Expected {name} to be a finite number from {least:g}, got {value!r}")
    return float(value)
