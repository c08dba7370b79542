"""The trunk: a language model without its head. One class for each type of model, all with the interface of `Trunk`.

    decoder_only.py       causal Transformers, over a KV cache by lane
    encoder_decoder.py    T5, BART and the like
    lstm.py               LSTMs

`agents.policy.trunk_types` chooses among them, and nothing else asks what type a model is of.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from agents.policy.context import Context
from agents.policy.decode_graph import Decoding
from agents.policy.forward_mode import Mode
from agents.policy.head import headless

FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError)
"""The errors of models that cannot do what is tried with them: on a cache, or on packed rows."""

_COLUMNS_BY = 16  # a decode step looks at a multiple of this many positions, so that its shapes change seldom


class Trunk(ABC):
    """The trunk of a type of model: reads whole rows in one pass, and makes the context in which lanes grow.

    Args:
        model: The model.
        mode: What forward passes run in.

    Attributes:
        model: The model.
        module: The module that is run: the model's own trunk, or a critic's (see `over`).
        mode: As above.
        longest_text: Tokens of the longest text whose states do not depend on what comes behind them (see
            `agents.policy.checks.length_limit`); a longer one is refused.
    """

    def __init__(self, model: PreTrainedModel, mode: Mode = nullcontext) -> None:
        self.longest_text = float("inf")
        self.model = model
        self.module: Any = headless(model)
        self.mode = mode

    @abstractmethod
    def make_context(self, num_lanes: int, max_length: int | None = None, decoding: Decoding | None = None) -> Context:
        """Returns a context in which a step costs no more than the tokens that are new.

        Args:
            num_lanes: How many texts grow side by side.
            max_length: The longest that a text may get; None: as long as the model has positions for.
            decoding: How steps of one token in every lane become graphs. Types of models without graphs ignore it.
        """

    @abstractmethod
    def _read_rows(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        """Returns the states of `row_states`, from rows that are already cut."""

    def row_states(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        """Computes the last hidden states over whole rows, in one pass.

        Rows are right-padded, so the causal mask alone keeps padding out of sight.

        Args:
            input_ids: `(batch, length)` int64.
            prompts: `(batch,)` int64, how many tokens of each row the encoder of an encoder-decoder reads. Other trunks
                ignore it.
            ends: `(batch,)` int64, how many tokens of each row are looked at.

        Returns:
            `(batch, max(ends), hidden)`. State t has read the row up to and with its token t. Before the last token of
            its prompt an encoder-decoder has none, and the numbers there have no meaning.
        """
        length = max(int(ends.max()), 1)
        self._check_states(length)
        with self.mode():
            return self._read_rows(input_ids[:, :length], prompts, ends)

    def action_states(
        self, input_ids: Tensor, prompts: Tensor, ends: Tensor, rows: Tensor, positions: Tensor
    ) -> Tensor:
        """Computes the states before some actions, in one pass over their episodes.

        Args:
            input_ids: `(batch, length)` int64, whole episodes, right-padded.
            prompts: `(batch,)` int64, tokens of each prompt.
            ends: `(batch,)` int64, the position of each row's last action.
            rows: `(n,)` int64, the row of each action.
            positions: `(n,)` int64, its place in that row, at least 1.

        Returns:
            `(n, hidden)`.
        """
        return self.row_states(input_ids, prompts, ends)[rows, positions - 1]

    def over(self, module: nn.Module) -> Self:
        """Returns the same trunk over another module of the same type: a critic."""
        other = copy.copy(self)
        other.module = module
        return other

    @property
    def most_tokens(self) -> float:
        """The number of tokens of the longest prompt and response that the model can read, which may be infinity."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min(float("inf") if limit is None else limit, self.longest_text)

    def check_length(self, max_length: int) -> None:
        """Checks that a text of `max_length` tokens has a position for each.

        Raises:
            ValueError: If it has not.
        """
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and max_length > limit:
            raise ValueError(
                f"Expected prompt and response to fit into the model's context of {limit} tokens, got {max_length}: "
                "lower max_new_tokens or max_prompt_length"
            )
        self._check_states(max_length)

    def _check_states(self, length: int) -> None:
        """Raises a ValueError if the states of a text of that length are others than while it was written."""
        if length > self.longest_text:
            raise ValueError(
                f"Expected prompt and response to have at most {self.longest_text:.0f} tokens, got {length}: in longer "
                f"texts {self.name} rotates all positions otherwise (rope_parameters in its config.json), so that "
                "log-probs of a rollout would not be those of the whole text. Lower max_new_tokens or max_prompt_length"
            )

    def caches(self, max_length: int) -> bool:
        """Returns True if `make_context` serves texts of that length: no layer looks back less far."""
        # Not the text alone: GPT-Neo counts from the last position that it is shown, empty ones among them.
        return attention_window(self.model.config) >= columns_of(max_length)

    def first_logits(self, tokens: Tensor) -> Tensor:
        """Computes the logits behind a text of one token, by the model as Transformers has it.

        Args:
            tokens: `(1, 1)` int64.

        Returns:
            `(1, logits)`.
        """
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits[:, 0]
        return logits

    def stacks(self) -> list[Any]:
        """Returns the modules that each hold embeddings and layers, one behind the other."""
        return [self.module]

    @property
    def name(self) -> str:
        """The model's class, for messages."""
        return type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device


def attention_window(config: Any) -> float:
    """Returns how many tokens a model looks back at, in the layer that looks back least; infinity where all see all.

    Args:
        config: The model's: a sliding window, GPT-Neo's local one, or Llama 4's chunks.
    """
    text = config.get_text_config()
    windows = [getattr(text, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size")]
    return min((float(window) for window in windows if window), default=float("inf"))  # 0: Qwen2-MoE, for none


def columns_of(length: int) -> int:
    """Returns how many positions of its cache a decode step looks at, whose longest text has `length` tokens."""
    return -(-length // _COLUMNS_BY) * _COLUMNS_BY


def checkpointed_layers(module: nn.Module) -> list[Any]:
    """Returns the layers of a module that gradient checkpointing applies to."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextmanager
def checkpointing(module: nn.Module, on: bool) -> Iterator[None]:
    """Makes layers keep nothing but their input, where gradients are wanted.

    Transformers' layers do so in training mode alone, which would also switch dropout on. So each is in training mode
    for as long as it takes to see that, and back in evaluation mode when it computes.

    Args:
        module: A trunk's module.
        on: False changes nothing.
    """
    if not (on and torch.is_grad_enabled()):
        yield
        return
    layers = checkpointed_layers(module)
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(_run_checkpointed, layer)
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
            del layer._gradient_checkpointing_func


def _run_checkpointed(layer: nn.Module, function: Any, *args: Any) -> Any:
    """Runs a layer's forward pass, now and again for the gradient, and in evaluation mode both times."""

    def run(*inputs: Any) -> Any:
        before, layer.training = layer.training, False
        try:
            return function(*inputs)
        finally:
            layer.training = before

    return checkpoint(run, *args, use_reentrant=False)
