"""What an episode is about. In a file of its own, since tasks make examples and rewards read them.

Tasks build on rewards, never the other way round: a reward imports this file, and no task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to write about: where every episode starts.

    Attributes:
        prompt: The text that the policy continues. May be empty: the environment then starts from BOS.
        references: Texts that a good response resembles. Several are allowed, none is too.
        metadata: Whatever a reward needs to know beyond the texts (the wanted mood, a label, a budget). JSON values.
    """

    prompt: str
    references: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
