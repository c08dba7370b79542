"""The head: from the trunk's last hidden states to logits, log-probs and values.

Every logit is divided by the same temperature, and the same tokens are forbidden, where a policy acts and where it
learns: the log-probs of a rollout are those of the distribution that its actions came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from agents.policy.chunked_log_probs import linear_log_probs, linear_loss
from agents.policy.forward_mode import Mode
from agents.policy.sampling import sample

Places = tuple[Tensor, Tensor]
"""Row and step of some actions in a `(batch, time)` grid, `(k,)` int64 each: the index of such an array."""


class ActionEvaluation(NamedTuple):  # a tuple, since that is what FSDP looks into for gradients
    """A policy's numbers for recorded actions, with gradients. Zeros where the mask is False.

    Attributes:
        log_probs: `(batch, time)` float32, or `(k,)` of some actions.
        entropies: Of the same shape, nats.
        values: Of the same shape, of the states before the actions.
    """

    log_probs: Tensor
    entropies: Tensor
    values: Tensor


LossOfActions = Callable[[ActionEvaluation, Places], Tensor]
"""From a policy's numbers for some actions, `(k,)` each, and their places to what they add to a loss, ()."""


class Head:
    """The head of a model, and the value head beside it.

    Args:
        model: The model.
        value_head: From a hidden state to one number.
        vocab_size: Number of the tokenizer's tokens; a model may have more logits, which are then never sampled.
        mode: What forward passes run in.

    Attributes:
        value_head: As above.
        vocab_size: As above.
    """

    def __init__(self, model: PreTrainedModel, value_head: nn.Linear, vocab_size: int, mode: Mode) -> None:
        self.value_head = value_head
        self.vocab_size = vocab_size
        self._model = model
        self._mode = mode
        self._scale, self._soft_cap = logit_scale_and_cap(model.config)
        logits = self.linear.out_features
        # None where every logit belongs to a token.
        allowed = torch.arange(logits, device=model.device) < vocab_size
        self._allowed: Tensor | None = None if vocab_size == logits else allowed

    @property
    def linear(self) -> nn.Linear:
        """The model's output embeddings. Transformers looks for them through the whole model: ask once."""
        linear = self._model.get_output_embeddings()
        assert isinstance(linear, nn.Linear)
        return linear

    @property
    def linear_layers(self) -> list[nn.Module]:
        """The modules whose weights `choose` reads."""
        return [self.linear, self.value_head]

    def logits(self, hidden: Tensor) -> Tensor:
        """Computes all logits of the model, before any temperature, with gradients.

        Args:
            hidden: `(n, hidden)` states.

        Returns:
            `(n, logits)` float32.
        """
        linear = self.linear
        with self._mode():
            hidden, bias = hidden.to(linear.weight.dtype), self._bias(linear)
            logits = linear(hidden) if bias is linear.bias else nn.functional.linear(hidden, linear.weight, bias)
        return self._shaped(logits.float())

    def token_logits(self, hidden: Tensor, temperature: Tensor) -> Tensor:
        """Computes the logits of all tokens, and of nothing else, divided by the temperature: `(n, vocab_size)`."""
        return self.logits(hidden)[:, : self.vocab_size] / temperature

    def values(self, hidden: Tensor) -> Tensor:
        """Computes the values of states `(..., hidden)`: `(...)` float32."""
        values: Tensor = self.value_head(hidden.float())[..., 0]
        return values

    def choose(
        self, hidden: Tensor, uniforms: Tensor, temperature: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples actions, as a function of tensors alone: the second half of `DecodeAction`.

        Args:
            hidden: `(lanes, hidden)` states.
            uniforms: `(lanes, 1)` float32 in [0, 1), which decide.
            temperature: `()` float32, what the logits are divided by.
            allowed: `(lanes, vocab_size)` bool, True where a token may be taken; None: everywhere.

        Returns:
            `(lanes,)` each: actions, log-probs and values.
        """
        logits = self.token_logits(hidden, temperature)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        actions, log_probs = sample(logits, uniforms)
        return actions, log_probs, self.values(hidden)

    def log_probs(
        self, hidden: Tensor, tokens: Tensor, *, temperature: float, entropy: bool, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Computes log-probs and entropies of actions, with gradients.

        Args:
            hidden: `(n, hidden)` the state before each action.
            tokens: `(n,)` int64, the actions.
            temperature: What the logits are divided by.
            entropy: False leaves the entropies out: they are NaN.
            masks: `(n, ceil(vocab_size / 8))` uint8, packed action masks; None: all tokens are allowed.

        Returns:
            `(n,)` float32 each.
        """
        linear = self.linear
        with self._mode():
            log_probs, entropies = linear_log_probs(
                hidden.to(linear.weight.dtype),  # an LSTM leaves bfloat16 under autocast
                linear.weight,
                self._bias(linear),
                tokens,
                entropy=entropy,
                allowed=self._unpacked(masks, linear),
                **self._distribution(temperature),
            )
        return log_probs.float(), entropies.float()

    def loss(
        self,
        hidden: Tensor,
        tokens: Tensor,
        values: Tensor,
        loss_of: LossOfActions,
        places: Places,
        *,
        temperature: float,
        entropy: bool,
        masks: Tensor | None,
    ) -> Tensor:
        """Computes a loss that is a sum over actions, and in the same pass its gradient.

        Args:
            hidden: `(n, hidden)` the state before each action.
            tokens: `(n,)` int64, the actions.
            values: `(n,)` float32, the values of those states.
            loss_of: Called for one chunk of actions after another.
            places: `(n,)` each, row and step of the actions in their batch.
            temperature: What the logits are divided by.
            entropy: False leaves the entropies out: they are NaN.
            masks: `(n, ceil(vocab_size / 8))` uint8, packed action masks; None: all tokens are allowed.

        Returns:
            The sum of what `loss_of` returns, ().
        """
        rows, steps = places

        def loss_of_chunk(log_probs: Tensor, entropies: Tensor, values: Tensor, chunk: slice) -> Tensor:
            now = ActionEvaluation(log_probs.float(), entropies.float(), values)
            return loss_of(now, (rows[chunk], steps[chunk]))

        linear = self.linear
        with self._mode():
            return linear_loss(
                hidden.to(linear.weight.dtype),  # an LSTM leaves bfloat16 under autocast
                linear.weight,
                self._bias(linear),
                tokens,
                values,
                loss_of_chunk,
                entropy=entropy,
                allowed=self._unpacked(masks, linear),
                **self._distribution(temperature),
            )

    def token_log_probs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Computes log-probs of tokens under all logits of the model, as Transformers does, with gradients.

        Args:
            hidden: `(n, hidden)` the state before each token.
            tokens: `(n,)` int64.

        Returns:
            `(n,)` nats, float32 (float64 where the model is).
        """
        linear = self.linear
        with self._mode():
            log_probs, _ = linear_log_probs(
                hidden.to(linear.weight.dtype),
                linear.weight,
                self._bias(linear),
                tokens,
                entropy=False,
                **self._distribution(1.0),
            )
        return log_probs

    def _bias(self, linear: nn.Linear) -> Tensor | None:
        """Returns what is added to the logits: the bias, or the constants that BART and Marian keep beside it."""
        beside = getattr(self._model, "final_logits_bias", None)
        return linear.bias if beside is None else beside[0]

    @property
    def is_plain(self) -> bool:
        """True if logits come out of the model's linear layer itself, and not of its weights and another bias."""
        linear = self.linear
        return self._bias(linear) is linear.bias

    def _shaped(self, logits: Tensor) -> Tensor:
        """Returns the model's logits, from those of its linear layer: scaled, and with a soft cap, as Gemma has it."""
        if self._scale != 1:
            logits = logits * self._scale
        if self._soft_cap:
            logits = self._soft_cap * torch.tanh(logits / self._soft_cap)
        return logits

    def _distribution(self, temperature: float) -> dict[str, Any]:
        """Returns what makes the model's distributions of its linear layer's logits, for `linear_log_probs`."""
        return {
            # Scaling logits is dividing by a temperature; only under a soft cap do the two not commute.
            "temperature": temperature if self._soft_cap else temperature / self._scale,
            "transform": self._shaped if self._soft_cap else None,
        }

    def _unpacked(self, masks: Tensor | None, linear: nn.Linear) -> Tensor | None:
        """Returns which logits are allowed: `(n, logits)` bool, `(logits,)` where that is the same in every row."""
        if masks is None:
            return self._allowed
        allowed = unpack_masks(masks, self.vocab_size)
        return nn.functional.pad(allowed, (0, linear.out_features - allowed.shape[1]))


def linear_head(model: PreTrainedModel, vocab_size: int) -> nn.Linear:
    """Returns the output embeddings of a model, checked.

    Args:
        model: The model.
        vocab_size: Number of its tokenizer's tokens.

    Raises:
        ValueError: If the head is not linear, or has no logit for some token.
    """
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise ValueError(
            f"Expected a language model with a linear head, got {type(model).__name__}, whose output "
            f"embeddings are {type(linear).__name__}"
        )
    if vocab_size > linear.out_features:
        raise ValueError(
            f"Expected a model with a logit for each of its tokenizer's {vocab_size} tokens, "
            f"got one with {linear.out_features}"
        )
    return linear


def headless(model: PreTrainedModel) -> nn.Module:
    """Returns the part of a model that has no head: its embeddings and layers.

    Args:
        model: The model.
    """
    base: nn.Module = model.base_model
    if base is not model:
        return base
    # The text models inside models of pictures (Llama 4, Mllama) name a base that only the whole model has.
    inner = [module for module in model.children() if isinstance(module, PreTrainedModel)]
    return inner[0] if len(inner) == 1 else base


_SCALED_WHERE_TIED = ("umt5", "switch_transformers")
"""Types of models like T5 whose configs do not say that they scale the logits of a tied head."""


_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configs call the soft cap of their logits: Gemma's, RecurrentGemma's and xLSTM's."""


def logit_scale_and_cap(config: PretrainedConfig) -> tuple[float, float | None]:
    """Returns what a model does to its head's logits: the factor, and the soft cap, None where there is none."""
    text = config.get_text_config()
    scale = 1.0
    scales_tied = config.model_type in _SCALED_WHERE_TIED and config.tie_word_embeddings
    if scales_tied or getattr(config, "scale_decoder_outputs", False):  # T5, with tied embeddings
        scale = float(config.d_model**-0.5)
    if getattr(text, "logit_scale", None):  # Cohere
        scale = float(text.logit_scale)
    if getattr(text, "logits_scaling", None):  # Granite
        scale = 1 / float(text.logits_scaling)
    if getattr(text, "logits_mup_width_multiplier", None):  # Inkling
        scale = 1 / float(text.logits_mup_width_multiplier)
    caps = (getattr(text, name, None) for name in _SOFT_CAPS)
    cap = next((cap for cap in caps if cap), None)
    return scale, float(cap) if cap else None


def unpack_masks(packed: Tensor, vocab_size: int) -> Tensor:
    """Unpacks action masks.

    Args:
        packed: `(..., ceil(vocab_size / 8))` uint8, as a `Rollout` keeps them.
        vocab_size: Number of the tokenizer's tokens.

    Returns:
        `(..., vocab_size)` bool, True where a token was allowed.
    """
    bits = packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten(-2)[..., :vocab_size].bool()
