"""The policy: a Transformers causal model, its tokenizer, and a value head on the shared trunk.

    policy = Policy.from_pretrained("gpt2")          # or "tiny", the bundled model, or any local folder
    policy.act(...)                                   # one step in every lane, while collecting
    policy.evaluate(...)                              # the same numbers again, with gradients, while updating

Both divide the logits by the same temperature and forbid the same tokens, so the log-probs of a rollout are those of
the distribution that its actions came from. Dropout is off in both: the ratio of the first update is exactly 1.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from agents.lane_cache import CachedContext, Context, FullContext
from agents.linear_log_probs import linear_log_probs
from textenvs import Tokenizer, make_tokenizer
from textenvs.tokenizer import SubwordTokenizer

BUNDLED_MODELS = {"tiny": Path(__file__).parent / "data" / "tiny"}
"""Name to folder, for the models that come with the package."""

_VALUE_HEAD_FILE = "value_head.safetensors"
_CRITIC_FILE = "critic.safetensors"


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device to use: the one named, else CUDA, else Apple's MPS, else the CPU.

    Args:
        device: What the user asked for, or None.

    Returns:
        The device.

    Raises:
        ValueError: If torch knows no such device, or there is none on this machine.
    """
    if device is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected a device that this machine has (cpu, cuda, mps), got {device!r}: {error}"
        ) from error
    return chosen


@dataclass(frozen=True)
class Step:
    """What a policy did in one step of every lane.

    Attributes:
        actions: `(lanes,)` int64.
        log_probs: `(lanes,)` float32, of those actions.
        values: `(lanes,)` float32, of the states they were taken in.
    """

    actions: Tensor
    log_probs: Tensor
    values: Tensor


@dataclass(frozen=True)
class ActionEvaluation:
    """What a policy thinks of recorded actions, with gradients. Zeros where the mask is False.

    Attributes:
        log_probs: `(batch, time)` float32.
        entropies: `(batch, time)` float32, nats.
        values: `(batch, time)` float32, of the states before the actions.
    """

    log_probs: Tensor
    entropies: Tensor
    values: Tensor


class Policy(nn.Module):
    """A causal language model that acts, and a value head that says what it expects to get.

    Args:
        model: Any Transformers causal model.
        tokenizer: Its tokenizer, as `textenvs.make_tokenizer` takes it.

    Raises:
        ValueError: If the tokenizer has ids that the model has no logit for.

    Attributes:
        model: The Transformers model; `policy.model.generate` and everything else works as ever.
        tokenizer: A `textenvs.Tokenizer`.
        value_head: Linear, from the trunk's last hidden state to one number. Starts at 0.
        critic: The trunk that values are read off; None: the model's own.
        pretrained: Whether the model's weights were loaded from somewhere, rather than drawn at random.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        super().__init__()
        self.critic: nn.Module | None = None
        self.pretrained = bool(model.name_or_path)  # Transformers notes there where it loaded weights from
        self.tokenizer: Tokenizer = make_tokenizer(tokenizer)
        self._tokenizer_source = tokenizer
        self.model = model
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"Expected a causal language model with a linear head, got {type(model).__name__}, whose output "
                f"embeddings are {type(head).__name__}"
            )
        vocab_size = self.tokenizer.vocab_size
        if vocab_size > head.out_features:
            raise ValueError(
                f"Expected a model with a logit for each of its tokenizer's {vocab_size} tokens, "
                f"got one with {head.out_features}"
            )
        # Not initialised, so that nothing is drawn from the global generator.
        self.value_head = nn.utils.skip_init(nn.Linear, head.in_features, 1, device=model.device, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        allowed = torch.arange(head.out_features, device=model.device) < vocab_size
        # None where every logit belongs to a token.
        self._allowed: Tensor | None = None if vocab_size == head.out_features else allowed
        self.eval()
        self._check_head()
        self._cacheable = self._check_cache()

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path = "tiny", *, device: str | torch.device | None = None
    ) -> Policy:
        """A policy from a bundled name, a local folder or a hub id. Safetensors only, and never remote code.

        Args:
            name_or_folder: "tiny", a folder that `save_pretrained` wrote, or an id on the Hugging Face hub.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy, in float32. A folder that `Policy.save_pretrained` wrote brings its value head along.

        Raises:
            ValueError: If there is no such model, or it cannot be loaded safely.
        """
        source = str(BUNDLED_MODELS.get(str(name_or_folder), name_or_folder))
        chosen = choose_device(device)
        local = os.path.isdir(source)
        if not local and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source):
            raise ValueError(
                f"Expected a bundled model {list(BUNDLED_MODELS)}, a folder or a hub id, got {source!r}: no such folder"
            )
        if local and not (Path(source) / "config.json").is_file():
            raise ValueError(f"Expected a model folder with a config.json, got {source!r}, which has none")
        try:
            with quiet_loading():
                model = AutoModelForCausalLM.from_pretrained(
                    source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            kind = "the folder" if local else f"no such folder or bundled model {list(BUNDLED_MODELS)}, so the hub id"
            raise ValueError(
                f"Expected a causal language model that loads from safetensors, got {kind} {source!r}: {error}"
            ) from error
        nn.Module.to(model, chosen)
        policy = cls(model, tokenizer)
        value_head = Path(source) / _VALUE_HEAD_FILE
        if value_head.is_file():
            policy.value_head.load_state_dict(load_file(value_head, device=str(chosen)))
        critic = Path(source) / _CRITIC_FILE
        if critic.is_file():
            policy.separate_critic().load_state_dict(load_file(critic, device=str(chosen)))
        return policy

    @classmethod
    def fresh(cls, tokenizer: Any, *, seed: int = 0, device: str | torch.device | None = None) -> Policy:
        """A small Llama with random weights over any tokenizer, for tasks that need no language.

        Args:
            tokenizer: As `textenvs.make_tokenizer` takes it.
            seed: Of the weights.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy, two layers of width 64, with room for 1024 tokens.
        """
        made = make_tokenizer(tokenizer)
        config = LlamaConfig(
            vocab_size=made.vocab_size,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            bos_token_id=made.bos_token_id,
            eos_token_id=made.eos_token_id,
            pad_token_id=made.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):  # Transformers draws from the global generator, which stays as it was
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        nn.Module.to(model, choose_device(device))
        return cls(model, tokenizer)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that plain Transformers loads, with the value head in a file beside it.

        Args:
            folder: Made if it does not exist.

        Raises:
            ValueError: If the tokenizer is an object that cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_loading():
            self.model.save_pretrained(folder, safe_serialization=True)
        if hasattr(self._tokenizer_source, "save_pretrained"):
            self._tokenizer_source.save_pretrained(folder)
        elif isinstance(self.tokenizer, SubwordTokenizer):
            backend = self.tokenizer.backend
            names = {
                "eos_token": backend.id_to_token(self.tokenizer.eos_token_id),
                "bos_token": backend.id_to_token(self.tokenizer.bos_token_id),
                "pad_token": backend.id_to_token(self.tokenizer.pad_token_id),
            }
            PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
        else:
            raise ValueError(
                "Expected a policy whose tokenizer comes from Transformers or the tokenizers library, since no other "
                f"can be written beside the model, got {type(self.tokenizer).__name__}"
            )
        save_file(
            {name: tensor.contiguous() for name, tensor in self.value_head.state_dict().items()},
            folder / _VALUE_HEAD_FILE,
        )
        if self.critic is not None:
            save_file(
                {name: tensor.contiguous() for name, tensor in self.critic.state_dict().items()}, folder / _CRITIC_FILE
            )

    def separate_critic(self) -> nn.Module:
        """Give values a trunk of their own, a copy of the model's as it is now, unless they have one already.

        Returns:
            The critic's trunk.
        """
        if self.critic is None:
            self.critic = copy.deepcopy(self.model.base_model)
        return self.critic

    def frozen_copy(self) -> Policy:
        """This policy as it is now, for good: the reference that KL is measured against. It has no critic."""
        critic, self.critic = self.critic, None
        try:
            frozen = copy.deepcopy(self)
        finally:
            self.critic = critic
        frozen.requires_grad_(False)
        return frozen

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def train(self, mode: bool = True) -> Policy:
        """Stays in evaluation mode: dropout would make recorded and re-evaluated log-probs differ."""
        return super().train(False)

    # Acting ----------------------------------------------------------------------------------------------------------

    def context(self, num_lanes: int, max_length: int) -> Context:
        """A fresh memory for `num_lanes` texts of up to `max_length` tokens.

        Args:
            num_lanes: How many texts grow side by side.
            max_length: The longest that one may get.

        Returns:
            A KV cache by lane, or, for models without one that fits, full forward passes.

        Raises:
            ValueError: If the model has no positions for a text that long.
        """
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and max_length > limit:
            raise ValueError(
                f"Expected prompt and response to fit into the model's context of {limit} tokens, got {max_length}: "
                "lower max_new_tokens or max_prompt_length"
            )
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if self._cacheable and (window is None or window >= max_length):
            return CachedContext(self.model, num_lanes)
        return FullContext(self.model, num_lanes)

    @torch.no_grad()
    def act(
        self,
        hidden: Tensor,
        *,
        temperature: float = 1.0,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Step:
        """One action for each lane.

        Args:
            hidden: `(lanes, hidden)` from `Context.extend`.
            temperature: What the logits are divided by.
            deterministic: The likeliest token instead of a sample.
            generator: Source of randomness, on the policy's device. None draws from torch's default generator.
            allowed: `(lanes, vocab_size)`, True where a token may be taken; None: everywhere.

        Returns:
            Actions, their log-probs under exactly the distribution that was sampled, and values.

        Raises:
            ValueError: If a lane may take no token at all.
        """
        head = self.model.get_output_embeddings()
        logits = head(hidden).float() / temperature
        if self._allowed is not None:
            logits = logits.masked_fill(~self._allowed, -torch.inf)
        if allowed is not None:
            if not allowed.any(axis=1).all():
                lanes = np.flatnonzero(~allowed.any(axis=1)).tolist()
                raise ValueError(f"Expected an action mask that allows some token in every lane, got none in {lanes}")
            logits[:, : allowed.shape[1]].masked_fill_(~torch.from_numpy(allowed).to(logits.device), -torch.inf)
        log_probs = torch.log_softmax(logits, dim=-1)
        if deterministic:
            actions = logits.argmax(dim=-1)
        else:
            # Inverse CDF: ten times cheaper than torch.multinomial. The draw is scaled by the last sum, which rounding
            # leaves a little off 1, and lies below it, so no token of probability 0 is ever taken.
            cdf = log_probs.exp().cumsum(dim=-1)
            draw = torch.rand(len(cdf), 1, generator=generator, device=cdf.device) * cdf[:, -1:]
            actions = torch.searchsorted(cdf, draw, right=True)[:, 0].clamp_(max=self.tokenizer.vocab_size - 1)
        return Step(
            actions=actions,
            log_probs=log_probs.gather(1, actions[:, None])[:, 0],
            values=self.value_head(hidden.float())[:, 0],
        )

    def predict(
        self,
        observation: Mapping[str, NDArray[Any]],
        *,
        temperature: float = 1.0,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        action_masks: NDArray[Any] | None = None,
    ) -> NDArray[np.int64]:
        """Actions for a batch of observations, with no memory of earlier ones.

        Args:
            observation: Arrays `(lanes, max_length)`, as the vector environment gives them.
            temperature: What the logits are divided by.
            deterministic: The likeliest token instead of a sample.
            generator: Source of randomness.
            action_masks: `(lanes, vocab_size)`, nonzero where a token may be taken; None: everywhere.

        Returns:
            `(lanes,)` token ids.
        """
        lengths = observation["attention_mask"].sum(axis=1, dtype=np.int64)
        hidden = FullContext(self.model, len(lengths)).extend(observation["input_ids"], lengths)
        allowed = None if action_masks is None else np.asarray(action_masks) != 0
        step = self.act(
            hidden, temperature=temperature, deterministic=deterministic, generator=generator, allowed=allowed
        )
        actions: NDArray[np.int64] = step.actions.cpu().numpy()
        return actions

    # Learning --------------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = True,
        allowed: Tensor | None = None,
    ) -> ActionEvaluation:
        """Log-probs, entropies and values of the actions in whole episodes, in one forward pass, with gradients.

        Rows are right-padded, so the causal mask alone keeps padding out of sight. Only the states before counted
        actions reach the head.

        Args:
            input_ids: `(batch, length)` int64, whole episodes.
            positions: `(batch, time)` int64, where in its row each action stands (at least 1).
            mask: `(batch, time)` bool, which actions count.
            temperature: What the logits are divided by, as in `act`.
            entropy: Whether to compute entropies.
            allowed: `(batch, time, ceil(vocab_size / 8))` uint8, `Rollout.action_masks`; None: all tokens.

        Returns:
            The evaluation.
        """
        states = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        rows, steps = mask.nonzero(as_tuple=True)
        places = positions[rows, steps]
        hidden = states[rows, places - 1]
        head = self.model.get_output_embeddings()
        may = self._allowed
        if allowed is not None:
            may = unpack_masks(allowed[rows, steps], self.tokenizer.vocab_size)
            may = nn.functional.pad(may, (0, head.out_features - may.shape[1]))
        log_probs, entropies = linear_log_probs(
            hidden,
            head.weight,
            head.bias,
            input_ids[rows, places],
            temperature=temperature,
            allowed=may,
            entropy=entropy,
        )
        if self.critic is not None:
            hidden = self.critic(input_ids=input_ids, use_cache=False).last_hidden_state[rows, places - 1]
        values = self.value_head(hidden.float())[:, 0]

        def on_grid(flat: Tensor) -> Tensor:
            return flat.new_zeros(mask.shape).index_put((rows, steps), flat)

        return ActionEvaluation(on_grid(log_probs.float()), on_grid(entropies.float()), on_grid(values))

    @torch.no_grad()
    def state_values(self, input_ids: Tensor, positions: Tensor, mask: Tensor, *, micro_batch_size: int = 64) -> Tensor:
        """V of the states before some positions, without gradients.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            positions: `(batch, time)` int64, where in its row each action stands, or would stand.
            mask: `(batch, time)` bool, which of them count.
            micro_batch_size: Rows per forward pass.

        Returns:
            `(batch, time)` float32, zeros where the mask is False.
        """
        trunk = self.model.base_model if self.critic is None else self.critic
        values = torch.zeros(mask.shape, device=input_ids.device)
        for rows in torch.arange(len(input_ids), device=input_ids.device).split(micro_batch_size):
            length = int((positions[rows] * mask[rows]).max().clamp(min=1))
            states = trunk(input_ids=input_ids[rows, :length], use_cache=False).last_hidden_state
            before = (positions[rows] - 1).clamp(max=length - 1)
            hidden = states.gather(1, before[..., None].expand(-1, -1, states.shape[-1]))
            values[rows] = torch.where(mask[rows], self.value_head(hidden.float())[..., 0], 0.0)
        return values

    # Checks ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _check_head(self) -> None:
        """The head must be all there is between the trunk and the logits (no scaling, no soft cap)."""
        tokens = torch.arange(min(4, self.tokenizer.vocab_size), device=self.device)[None]
        states = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        apart = self.model.get_output_embeddings()(states)
        whole = self.model(input_ids=tokens, use_cache=False).logits
        if not torch.allclose(apart.float(), whole.float(), atol=1e-3, rtol=1e-3):
            raise ValueError(
                f"Expected logits that are a linear function of the trunk's last hidden state, got "
                f"{type(self.model).__name__}, which changes them afterwards (a scale or a soft cap): not supported"
            )

    @torch.no_grad()
    def _check_cache(self) -> bool:
        """Whether the lane cache gives this model's own states, on three lanes of different lengths."""
        size = self.tokenizer.vocab_size
        rows = np.array([[i * 7 % size, i * 5 % size, i * 3 % size, i % size] for i in range(1, 4)])
        try:
            cached, full = CachedContext(self.model, 3), FullContext(self.model, 3)
            for lengths in (np.array([1, 2, 3]), np.array([2, 3, 4]), np.array([3, 4, 4])):
                expected, got = full.extend(rows, lengths), cached.extend(rows, lengths)
                moved = slice(0, 3 if lengths[0] < 3 else 2)
                if not torch.allclose(expected[moved].float(), got[moved].float(), atol=1e-3, rtol=1e-3):
                    raise ValueError("its cached states differ from a full forward pass")
        except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError) as error:
            transformers_logging.get_logger("agents").warning(
                f"{type(self.model).__name__} does not run on the lane cache ({error}): every step reads the whole "
                "text again, which is right, and slow."
            )
            return False
        return True


def unpack_masks(packed: Tensor, vocab_size: int) -> Tensor:
    """Action masks as booleans again.

    Args:
        packed: `(..., ceil(vocab_size / 8))` uint8, as a `Rollout` keeps them.
        vocab_size: Tokens of the tokenizer.

    Returns:
        `(..., vocab_size)` bool, True where a token was allowed.
    """
    bits = packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten(-2)[..., :vocab_size].bool()


class quiet_loading:
    """No progress bars from Transformers while a model loads or is saved."""

    def __enter__(self) -> None:
        self._was_on = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        if self._was_on:
            transformers_logging.enable_progress_bar()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, or an error that names the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected {str(file)!r} to hold JSON, but it could not be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {str(file)!r} to hold a JSON object, got {type(content).__name__}")
    return content
