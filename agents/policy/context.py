"""Contexts: all that a policy keeps of each lane's text between two steps."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.devices import on_device


class Context(Protocol):
    """A policy's reading of the texts that its lanes write, as far as it has come."""

    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Reads what is new in each lane, and returns the trunk's state at each lane's last token.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lengths: `(lanes,)` tokens in each row so far. A lane with nothing new keeps its place, and its output has
                no meaning.

        Returns:
            `(lanes, hidden)` the last hidden state of each lane.
        """

    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Reads some lanes from a position on, and returns the trunk's state at every token read.

        Tokens before a lane's start stay read, and those behind it are forgotten: this is how the last tokens of a text
        are taken back and others put in their place.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lanes: `(k,)` the lanes to read, rising.
            starts: `(k,)` the first token to read in each; at most as many as the lane has read.
            lengths: `(k,)` tokens in each row so far, more than its start.

        Returns:
            `(k, width, hidden)` the states of tokens starts, starts + 1, ..., and past `lengths` numbers without
            meaning; width is the largest `lengths - starts`.
        """

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forgets these lanes: their next rows are read from the start."""

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drops all lanes but these, which are renumbered 0, 1, 2, ... in the order given."""


class RowReader(Protocol):
    """Reads whole rows: every trunk does."""

    @property
    def device(self) -> torch.device:
        """The device of the model."""

    def row_states(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        """Returns `(batch, max(ends), hidden)` states, as `Trunk.row_states` does."""


class FullContext:
    """A `Context` that reads every row again from its start at every step: right for any model, and slow.

    It serves models whose state is not keys and values by position, and the other contexts are tested against it.

    Args:
        trunk: The trunk that reads.
        num_lanes: How many texts grow side by side.
    """

    def __init__(self, trunk: RowReader, num_lanes: int) -> None:
        self._trunk = trunk
        self._device = trunk.device
        self._prompts = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane's prompt; 0: not read yet

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forgets these lanes."""
        self._prompts[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drops all lanes but these."""
        self._prompts = self._prompts[lanes]

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Reads all rows, and returns the state at each lane's last token; see `Context.extend`."""
        # The first row that a lane shows is its prompt: all that follows was written behind it.
        self._prompts = np.where(self._prompts == 0, lengths, self._prompts)
        tokens = on_device(input_ids[:, : int(lengths.max())].astype(np.int64), self._device)
        ends = on_device(lengths.astype(np.int64), self._device)
        states = self._trunk.row_states(tokens, on_device(self._prompts, self._device), ends)
        return states[torch.arange(len(ends), device=self._device), ends.clamp(min=1) - 1]

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Reads some rows, and returns the states from a position on; see `Context.states`."""
        self._prompts[lanes] = np.where(self._prompts[lanes] == 0, lengths, self._prompts[lanes])
        rows = on_device(input_ids[lanes, : int(lengths.max())].astype(np.int64), self._device)
        ends = on_device(lengths.astype(np.int64), self._device)
        states = self._trunk.row_states(rows, on_device(self._prompts[lanes], self._device), ends)
        positions = starts[:, None] + np.arange(int((lengths - starts).max()))
        in_row = on_device(np.minimum(positions, rows.shape[1] - 1), self._device)
        return states[torch.arange(len(lanes), device=self._device)[:, None], in_row]
