"""The subject of an episode: `Example`.

It has a file of its own, since tasks make examples and rewards read them. Tasks build on rewards, never the other way
round: a reward imports this file, and no task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class Example:
    """A thing to write about. Every episode starts from one.

    Attributes:
        prompt: The text that the policy continues. It may be empty: the environment then starts from BOS.
        references: Texts that a good response resembles: any number of them, or none.
        metadata: All else that a reward needs to know (the wanted mood, a label, a budget), in JSON values.
    """

    prompt: str
    references: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def frozen(example: Example) -> Example:
    """Returns an example that cannot be changed: environments and lanes share it, and rewards and tasks get to see it.

    Args:
        example: An example, its metadata JSON values.

    Returns:
        An equal one. Its metadata is a dict whose lists and dicts raise a TypeError where something would change them;
        a copy of it (`dict(example.metadata)`, `copy.deepcopy`) is a plain one.
    """
    return replace(example, references=tuple(example.references), metadata=_frozen(example.metadata))


def editable(example: Example) -> Example:
    """Returns a copy of an example that may be changed, for functions that people wrote.

    Args:
        example: An example, frozen or not.

    Returns:
        An equal one, its metadata plain dicts and lists.
    """
    return replace(example, references=tuple(example.references), metadata=_plain(example.metadata))


class _Frozen:
    """The part of a frozen dict and a frozen list that refuses changes. Copies and pickles are plain."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "Expected nobody to change an example's metadata, which all episodes share: change a copy of it, "
            "copy.deepcopy(example.metadata)"
        )

    __setitem__ = __delitem__ = __ior__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = reverse = sort = pop = popitem = clear = update = setdefault = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _plain(self)

    def __copy__(self) -> Any:
        return _plain(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(_plain(self)), (_plain(self),)


class _FrozenDict(_Frozen, dict[str, Any]):
    copy = _Frozen.__copy__


class _FrozenList(_Frozen, list[Any]):
    copy = _Frozen.__copy__


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _FrozenDict({key: _frozen(entry) for key, entry in value.items()})
    return _FrozenList(map(_frozen, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
