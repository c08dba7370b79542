"""Contexts: what a policy keeps of each lane's text between two steps."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from agents.devices import on_device
from agents.policy.trunk import Mode, trunk_states


class Context(Protocol):
    """What a policy remembers of the texts that its lanes are writing."""

    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Read what is new in each lane, and give the trunk's state at each lane's last token.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lengths: `(lanes,)` tokens in each row so far; lanes that have nothing new keep their place but their
                output means nothing.

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
        """Read some lanes from a place on, and give the trunk's state at every token read.

        What a lane has read before its start still counts, and what it had read behind is forgotten: this is how the
        last tokens of a text are taken back and others put in their place.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lanes: `(k,)` which lanes, rising.
            starts: `(k,)` the first token to read in each; at most what the lane has read.
            lengths: `(k,)` tokens in each row so far, more than its start.

        Returns:
            `(k, width, hidden)` the states of tokens starts, starts + 1, ..., and past `lengths` numbers without
            meaning; width is the largest `lengths - starts`.
        """

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forget these lanes: their next rows are read from the start."""

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drop all lanes but these, which are renumbered 0, 1, 2, ... in the order given."""


class FullContext:
    """A `Context` that reads every row again from its start at every step: right for any model, and slow.

    Args:
        model: A Transformers causal model or encoder-decoder.
        num_lanes: How many texts grow side by side.
        mode: What forward passes run in.
    """

    def __init__(self, model: PreTrainedModel, num_lanes: int, mode: Mode = nullcontext) -> None:
        self._trunk: Any = model.base_model
        self._device = model.device
        self._mode = mode
        self._prompts = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane's prompt; 0: not read yet

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.reset`."""
        self._prompts[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.keep`."""
        self._prompts = self._prompts[lanes]

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """See `Context.extend`."""
        self._prompts = np.where(self._prompts == 0, lengths, self._prompts)
        tokens = on_device(input_ids[:, : int(lengths.max())].astype(np.int64), self._device)
        ends = on_device(lengths.astype(np.int64), self._device)
        with self._mode():
            states = trunk_states(self._trunk, tokens, on_device(self._prompts, self._device), ends)
        return states[torch.arange(len(ends), device=self._device), ends.clamp(min=1) - 1]

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """See `Context.states`."""
        self._prompts[lanes] = np.where(self._prompts[lanes] == 0, lengths, self._prompts[lanes])
        rows = on_device(input_ids[lanes, : int(lengths.max())].astype(np.int64), self._device)
        ends = on_device(lengths.astype(np.int64), self._device)
        with self._mode():
            states = trunk_states(self._trunk, rows, on_device(self._prompts[lanes], self._device), ends)
        places = starts[:, None] + np.arange(int((lengths - starts).max()))
        inside = on_device(np.minimum(places, rows.shape[1] - 1), self._device)
        return states[torch.arange(len(lanes), device=self._device)[:, None], inside]
