"""One decode step as a graph: a token in every lane through the trunk, without the Python between its operations.

A small model's layer is over sooner than Python has called it: of a step of a Llama of width 64, Transformers' Python
takes more than half. So once a policy has taken enough steps to be worth it, one step is traced. The graph runs the
very same operations on the very same weights, so it gives the same bits; that is checked, on other numbers of lanes and
positions than it was traced with, before it is used. A model that it cannot be traced for, or where the bits differ,
goes on as before, and the log says so.

PyTorch calls `torch.jit.trace` deprecated. Its successor, torch.compile, gave nothing here that the trace does not: at
width 256 it was slower, at width 64 a sixth faster, after half a minute of compiling (docs/log.md). When the trace
goes, so does this file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.utils import logging as transformers_logging

WORTH_IT = 200
"""Steps that a policy takes before one is traced, which costs about as much."""

_KNOWN = ("torch/nn/functional.py", "transformers/integrations/", "agents/decode.py")
"""Whose decisions while tracing are known to depend on nothing but there being one token a lane."""

Step = Callable[..., Tensor]


class _GraphLayer(CacheLayerMixin):
    """Keys and values `(lanes, heads, visible, head_dim)` that are written in place at each lane's own position."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, lanes: Tensor, positions: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys: Tensor = keys
        self.values: Tensor = values
        self._lanes, self._positions = lanes, positions
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys[self._lanes, :, self._positions] = key_states[:, :, 0]
        self.values[self._lanes, :, self._positions] = value_states[:, :, 0]
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) - 1

    def get_max_length(self) -> int:
        return -1


class DecodeStep(nn.Module):
    """One token in every lane, as a function of tensors alone.

    Args:
        model: A Transformers causal model.
        last_position: The last one that it has an embedding for.
    """

    def __init__(self, model: PreTrainedModel, last_position: int) -> None:
        super().__init__()
        self.trunk: Any = model.base_model
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self.last_position = last_position

    def forward(self, tokens: Tensor, positions: Tensor, *keys_and_values: Tensor) -> Tensor:
        """Write a token, and give the state that it leaves.

        Args:
            tokens: `(lanes,)` int64.
            positions: `(lanes,)` int64, where in its row each stands.
            *keys_and_values: `(lanes, heads, visible, head_dim)`, keys of every layer, then values of every layer.
                Changed in place.

        Returns:
            `(lanes, hidden)`.
        """
        keys, values = keys_and_values[: self.layers], keys_and_values[self.layers :]
        lanes = torch.arange(tokens.shape[0], device=tokens.device)
        hides = torch.arange(keys[0].shape[2], device=tokens.device) > positions[:, None, None, None]
        dtype = keys[0].dtype
        mask = torch.zeros_like(hides, dtype=dtype).masked_fill_(hides, torch.finfo(dtype).min)
        layers: list[Any] = [_GraphLayer(key, value, lanes, positions) for key, value in zip(keys, values, strict=True)]
        output = self.trunk(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions.clamp(max=self.last_position)[:, None],
            past_key_values=Cache(layers=layers),
            use_cache=True,
        )
        state: Tensor = output.last_hidden_state[:, 0]
        return state


class StepGraph:
    """The graph of one policy's decode step, made when it is worth it and again when weights have moved elsewhere.

    A copy of it, as of a policy, starts with none.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._graph: Step | None = None
        self._weights: tuple[int, ...] = ()
        self._refused = False

    def __reduce__(self) -> tuple[type[StepGraph], tuple[()]]:
        """A graph belongs to the weights that it was made for: a copy is a fresh one."""
        return StepGraph, ()

    def begin(self, step: DecodeStep) -> None:
        """Look whether the weights are still where the graph reads them. Before the steps of a rollout.

        Args:
            step: What the graph is of.
        """
        weights = tuple(one.data_ptr() for one in (*step.parameters(), *step.buffers()))
        if weights != self._weights:
            self._weights, self._graph, self._refused = weights, None, False

    def take(self, step: DecodeStep, tokens: Tensor, positions: Tensor, keys_and_values: list[Tensor]) -> Tensor | None:
        """One step, if there is a graph or now is the time to make one.

        Args:
            step: See `begin`.
            tokens: See `DecodeStep.forward`.
            positions: Likewise.
            keys_and_values: Likewise.

        Returns:
            `(lanes, hidden)`, or None: nothing was done.
        """
        self._steps += 1
        if self._refused or (self._graph is None and self._steps < WORTH_IT):
            return None
        if self._graph is None:
            self._graph = _traced(step, keys_and_values)
            self._refused = self._graph is None
            if self._graph is None:
                return None
        with torch.inference_mode():  # spares the graph what autograd would keep an eye on
            state = self._graph(tokens, positions, *keys_and_values)
        return state.clone()  # an ordinary tensor again


@torch.no_grad()
def _traced(step: DecodeStep, like: list[Tensor]) -> Step | None:
    """The graph of a step; None where there is none that gives the same bits."""
    rows = step.trunk.get_input_embeddings().num_embeddings

    def example(lanes: int, visible: int) -> tuple[Tensor, ...]:
        places = torch.arange(lanes, device=like[0].device)
        caches = [one.new_zeros(lanes, one.shape[1], visible, one.shape[3]).normal_(generator=noise) for one in like]
        return (places * 7 + 1) % rows, (places * 5 + visible // 2) % visible, *caches

    noise = torch.Generator(like[0].device).manual_seed(0)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            graph: Any = torch.jit.trace(step, example(3, 12), check_trace=False)
        for warning in seen:
            decides = issubclass(warning.category, torch.jit.TracerWarning)  # type: ignore[attr-defined]
            if decides and not any(known in warning.filename for known in _KNOWN):
                raise ValueError(f"{warning.filename}:{warning.lineno} decides in Python: {warning.message}")
        for lanes, visible in ((3, 12), (2, 30), (5, 7), (5, 7)):
            inputs = example(lanes, visible)
            copies = tuple(one.clone() for one in inputs)
            if not torch.equal(graph(*inputs), step(*copies)):
                raise ValueError("its numbers differ from the model's own")
            if not all(torch.equal(one, other) for one, other in zip(inputs, copies, strict=True)):
                raise ValueError("what it writes differs from what the model writes")
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError) as error:
        transformers_logging.get_logger("agents").warning(
            f"{type(step.trunk).__name__} takes its decode steps without a graph ({str(error).splitlines()[0]}), "
            "which is right, and for a small model slower."
        )
        return None
    made: Step = graph
    return made
