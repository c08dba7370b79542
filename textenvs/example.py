"""The subject of an episode: `Example`.

It has a file of its own, since tasks make examples and rewards read them. Tasks build on rewards, never the other way
round: a reward imports this file, and no task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
