"""Checks of what a user passes as an argument: each says what was expected, what came, and what was probably meant."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, ParamSpec, overload

import numpy as np

_Arguments = ParamSpec("_Arguments")


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Returns a hint for the end of an error.

    Args:
        name: The name that a user wrote.
        known: The names that there are.

    Returns:
        " Did you mean ...?" with the nearest name, or "" where none is close.
    """
    close = get_close_matches(str(name), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def names_arguments(init: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Makes an `__init__` name its arguments where it is given one that it does not have.

    Args:
        init: The `__init__`.

    Returns:
        The same, but an unknown argument raises a TypeError with the arguments that there are, and the nearest. Its
        message begins with Python's own words, by which libraries such as TorchRL find out what a class does not take.
    """
    known = list(signature(init).parameters)[1:]  # without self

    @wraps(init)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        for name in kwargs:
            if name not in known:
                python = f"{init.__qualname__}() got an unexpected keyword argument {name!r}"
                raise TypeError(f"{python}. Expected arguments from {known}.{did_you_mean(name, known)}")
        init(*args, **kwargs)

    return checked


def check_arguments(product: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Checks that a factory can be called with these arguments.

    Args:
        product: The thing to be made, for the error: "task 'copy'".
        factory: The class or function that makes it.
        arguments: Argument values by name.

    Raises:
        TypeError: If the factory has no argument of a given name, or needs one that is missing.
    """
    parameters, takes_any = _parameters(factory)
    unknown = None if takes_any else next((name for name in arguments if name not in parameters), None)
    if unknown is not None:
        hint = did_you_mean(unknown, parameters)
        raise TypeError(f"Expected {product} with arguments from {list(parameters)}, got {unknown!r}.{hint}")
    missing = [
        name for name, parameter in parameters.items() if parameter.default is Parameter.empty and name not in arguments
    ]
    if missing:
        raise TypeError(f"Expected {product} with the arguments {missing}, got {list(arguments)}")


def takes_argument(factory: Callable[..., Any], name: str) -> bool:
    """Returns True if a class or function has a parameter of a name.

    Args:
        factory: The class or function.
        name: The parameter's name.

    Returns:
        False also if it takes any argument, and does not name this one.
    """
    return name in _parameters(factory)[0]


def _parameters(factory: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """Returns the parameters that can be given by name, and True if the factory takes others, too."""
    parameters: dict[str, Parameter] = {}
    is_class = isinstance(factory, type)
    functions: list[Callable[..., Any]] = [factory]
    if isinstance(factory, type):
        functions = [vars(base)["__init__"] for base in factory.__mro__[:-1] if "__init__" in vars(base)]
    for function in functions:
        try:
            listed = list(signature(function).parameters.values())
        except (TypeError, ValueError):  # some built-in functions have no signature
            break
        for parameter in listed[is_class:]:  # without self
            if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                parameters.setdefault(parameter.name, parameter)
        # An __init__ with **kwargs hands them on to its base class, whose parameters count as well.
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in listed):
            return parameters, False
    return parameters, True


@overload
def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int: ...


@overload
def check_count(
    name: str, value: Any, least: int = 1, most: int | None = None, *, optional: Literal[True]
) -> int | None: ...


def check_count(
    name: str, value: Any, least: int = 1, most: int | None = None, *, optional: bool = False
) -> int | None:
    """Checks a whole number.

    Args:
        name: The argument's name, for the error.
        value: The value that the user gave: a whole number of Python's or NumPy's. True and False are none.
        least: The smallest number allowed.
        most: The largest number allowed; None is no limit.
        optional: If True, None is allowed too.

    Returns:
        The number as a Python int, or None.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is out of range.

    Example:
        >>> import numpy as np
        >>> check_count("seed", np.int64(3), least=0)
        3
    """
    if optional and value is None:
        return None
    bounds = f"at least {least}" if most is None else f"from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        of = "of " if most is None else ""
        raise TypeError(f"Expected {name} to be a whole number {of}{bounds}, got {value!r:.200}")
    count = int(value)
    if count < least or (most is not None and count > most):
        raise ValueError(f"Expected {name} to be {bounds}, got {count}")
    return count


@overload
def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float: ...


@overload
def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: Literal[True],
) -> float | None: ...


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
) -> float | None:
    """Checks a finite number.

    Args:
        name: The argument's name, for the error.
        value: The value that the user gave: a number of Python's or NumPy's. True and False are none.
        low: The smallest number allowed.
        high: The largest number allowed.
        open_low: If True, the number must be above `low`.
        open_high: If True, the number must be below `high`.
        optional: If True, None is allowed too.

    Returns:
        The number as a Python float, or None.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range, infinite or NaN.

    Example:
        >>> check_number("gamma", 1, low=0, high=1)
        1.0
        >>> check_number("gamma", 1.3, low=0, high=1)
        Traceback (most recent call last):
        ValueError: Expected gamma in [0, 1], got 1.3
    """
    if optional and value is None:
        return None
    bounded = low > -math.inf or high < math.inf
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Expected {name} to be a {'' if bounded else 'finite '}number, got {value!r:.200}")
    try:
        number = float(value)
    except OverflowError:  # a whole number that is too large for a float
        number = math.inf
    above = low < number if open_low else low <= number
    below = number < high if open_high else number <= high
    if not (math.isfinite(number) and above and below):
        opening = "(" if open_low or low == -math.inf else "["
        closing = ")" if open_high or high == math.inf else "]"
        allowed = f"in {opening}{low:g}, {high:g}{closing}" if bounded else "to be a finite number"
        raise ValueError(f"Expected {name} {allowed}, got {value}")
    return number


def check_choice(name: str, value: Any, choices: Iterable[Any], *, optional: bool = False) -> Any:
    """Checks that an argument is one of the values that there are.

    Args:
        name: The argument's name, for the error.
        value: The value that the user gave.
        choices: The values allowed.
        optional: If True, None is allowed too.

    Returns:
        The value.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> check_choice("unit", "letter", ("word", "sentence"))
        Traceback (most recent call last):
        ValueError: Expected unit to be 'word' or 'sentence', got 'letter'
    """
    allowed = [*choices, None] if optional else list(choices)
    if value not in allowed:
        *others, last = map(repr, allowed)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"Expected {name} to be {expected}, got {value!r:.200}")
    return value


def check_path(name: str, value: Any) -> Path:
    """Checks that an argument is the path of a file or folder. An empty text would be the working directory.

    Args:
        name: The argument's name, for the error.
        value: The value that the user gave.

    Returns:
        The path.

    Raises:
        ValueError: If it is an empty text.
        TypeError: If it is neither a text nor a path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"Expected {name} to be a path, got {value!r:.200}")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"Expected {name} to be a path, got {value!r}: '.' is the working directory")
    return Path(value)


def with_plain_numbers(value: Any) -> Any:
    """Returns an argument with numbers and truth values of Python's in place of NumPy's, in dicts and lists too.

    Args:
        value: The value that the user gave. What is under a key "data" is left as it is: rows may be many.

    Returns:
        The value, or a copy of its dicts, lists and tuples.

    Example:
        >>> import numpy as np
        >>> with_plain_numbers({"every": np.int64(4)})
        {'every': 4}
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: inner if key == "data" else with_plain_numbers(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(with_plain_numbers(inner) for inner in value)
    return value


def check_flag(name: str, value: Any) -> bool:
    """Checks that an argument is True or False.

    Args:
        name: The argument's name, for the error.
        value: The value that the user gave: a truth value of Python's or NumPy's.

    Returns:
        The value as a Python bool.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"Expected {name} to be true or false, got {value!r:.200}")
    return bool(value)
