"""The policy: a language model, its tokenizer, and a value head on the shared trunk.

    policy = Policy.from_pretrained("gpt2")          # or "tiny", the bundled model, or any local folder
    policy = Policy.from_config({"model_type": "t5", "d_model": 64}, "stories")     # or a new one: random weights
    policy.adapt(lora=8, precision="bfloat16")       # how it is trained: adapters, what is frozen, precision, memory
    policy.act(...)                                   # one step in every lane, while collecting
    policy.evaluate(...)                              # the same numbers again, with gradients, while updating

It is composed of a trunk (`trunk.py`, with a class for each type of model), a head (`head.py`), and, for the time of a
rollout, a context (`context.py`), whose steps run as graphs (`decode_graph.py`).

Acting and learning divide the logits by the same temperature and forbid the same tokens, so the log-probs of a rollout
are those of the distribution that its actions came from. Dropout is off in both: the ratio of the first update is
exactly 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from agents.policy import lora as adapters
from agents.policy import pretrained
from agents.policy.checks import cache_is_exact, check_head, check_states, length_limit, supported
from agents.policy.context import Context, FullContext
from agents.policy.cuda import lookahead
from agents.policy.decode_graph import DecodeGraphs, DecodeMode, Decoding
from agents.policy.decoder_only import can_act
from agents.policy.forward_mode import ForwardMode, Precision
from agents.policy.freeze import freeze as freeze_parameters
from agents.policy.generation_config import warn_of_unfollowed, with_turn_ends
from agents.policy.head import ActionEvaluation, Head, LossOfActions, Places, linear_head
from agents.policy.reload import check_reload
from agents.policy.sampling import PolicyStep, Truncation, check_masks, choose_actions
from agents.policy.trunk import Trunk, checkpointed_layers, checkpointing
from agents.policy.trunk_types import trunk_of
from textenvs import Tokenizer, make_tokenizer
from textenvs.arguments import check_count, check_path

__all__ = ["ActionEvaluation", "LossOfActions", "Places", "Policy"]


class Policy(nn.Module):
    """A language model that acts, and a value head that predicts what it will get.

    Args:
        model: Any Transformers causal model or encoder-decoder, or an LSTM of `agents.policy.lstm`.
        tokenizer: Its tokenizer, as `textenvs.make_tokenizer` takes it.

    Raises:
        ValueError: If the tokenizer has ids that the model has no logit for, or the model is of a kind that is not
            supported.
        TypeError: If the model is none.

    Attributes:
        model: The Transformers model; `policy.model.generate` and everything else works as ever.
        tokenizer: A `textenvs.Tokenizer`. Its `end_token_ids` are EOS and the ends of turns that the model's
            generation config lists: any of them ends an episode.
        tokenizer_source: The tokenizer as it was given.
        value_head: Linear, from the trunk's last hidden state to one number. Starts at 0.
        critic: The module that values are read off; None: the model's own trunk.
        trunk: The model without its head.
        head: The model's head and the value head.
        graphs: The graphs of its decode steps.
        uses_cache: True if a rollout reads each token once; False if every step reads the whole text again.
        longest_text: Tokens of the longest text whose states do not depend on what comes behind them; infinity: any.
        pretrained: True if the model's weights were trained before, rather than drawn at random. Saved with it.
        source: The name or folder that `from_pretrained` loaded, so that adapters can be saved without the rest.
        gradient_checkpointing: True if updates trade time for memory, see `adapt`.
        compiled: True if the steps of a rollout are compiled, see `adapt`.
        has_adapters: True if LoRA adapters are what is trained, see `adapt`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        super().__init__()
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"Expected a model of Transformers, got {type(model).__name__}: see Policy.from_pretrained")
        self.critic: nn.Module | None = None
        self.pretrained = bool(model.name_or_path)  # Transformers notes there where it loaded weights from
        self.gradient_checkpointing = False
        self.compiled = False
        self.has_adapters = False
        self.source: str | None = None
        self.tokenizer: Tokenizer = with_turn_ends(make_tokenizer(tokenizer), model)
        warn_of_unfollowed(model)
        self.tokenizer_source = tokenizer
        self.model = model
        self.graphs = DecodeGraphs()
        self.longest_text: float = float("inf")
        with supported(type(model).__name__):
            width = linear_head(model, self.tokenizer.vocab_size).in_features
            # Not initialised, so that nothing is drawn from the global generator.
            self.value_head = nn.utils.skip_init(nn.Linear, width, 1, device=model.device, dtype=torch.float32)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            self._compose(ForwardMode(model))
            self.eval()
            check_states(self.trunk, self.tokenizer.vocab_size)
            check_head(self.trunk, self.head)
            self.longest_text = self.trunk.longest_text = length_limit(self.trunk, self.tokenizer.vocab_size)
        self.uses_cache = cache_is_exact(self.trunk, self._cached_context, self.tokenizer.vocab_size)

    def _compose(self, mode: ForwardMode) -> None:
        """Makes trunk and head over the policy's modules."""
        self._mode = mode
        self.trunk = trunk_of(self.model, mode)
        self.trunk.longest_text = self.longest_text
        self.head = Head(self.model, self.value_head, self.tokenizer.vocab_size, mode)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path = "tiny", *, device: str | torch.device | None = None
    ) -> Policy:
        """Loads a policy from a name, a local folder or file, or a hub id. No pickle, and never remote code.

        Args:
            name_or_folder: "tiny"; "smollm2" (SmolLM2-135M-Instruct, its 4-bit weights dequantised: an extra); a folder
                that `save_pretrained` wrote; a `.gguf` file; or an id on the Hugging Face hub. What is in GGUF files is
                dequantised and kept in a cache, see `agents.policy.gguf`.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy, its weights in float32. A folder that `Policy.save_pretrained` wrote brings along its value
            head, critic and adapters, what is frozen, and how it computes.

        Raises:
            ValueError: If there is no such model, or it cannot be loaded safely.
            ImportError: If it needs an extra that is not installed.
            TypeError: If it is no name at all.
        """
        return pretrained.load(cls, name_or_folder, device=device)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | PretrainedConfig,
        tokenizer: Any,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> Policy:
        """Makes a policy with random weights.

        Args:
            config: A Transformers config, or a dict of one: "model_type" ("llama", "gpt2", "t5", "lstm_lm", ...) and
                any of its settings. A dict takes vocabulary and special tokens from the tokenizer, where it names none.
            tokenizer: The tokenizer, as `textenvs.make_tokenizer` takes it.
            seed: Seeds the weights.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy.

        Raises:
            ValueError: If there is no such model type, or the model has no logits for some tokens.
            TypeError: If there is no such setting; says which is closest.
        """
        return cls(pretrained.new_model(config, make_tokenizer(tokenizer), seed=seed, device=device), tokenizer)

    @classmethod
    def fresh(cls, tokenizer: Any, *, seed: int = 0, device: str | torch.device | None = None) -> Policy:
        """Makes a small GPT-2 with random weights over any tokenizer, for tasks that need no language.

        Args:
            tokenizer: The tokenizer, as `textenvs.make_tokenizer` takes it.
            seed: Seeds the weights.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy, two layers of width 64, with room for 1024 tokens.
        """
        return cls.from_config(pretrained.FRESH, tokenizer, seed=seed, device=device)

    # How it is trained -----------------------------------------------------------------------------------------------

    def adapt(
        self,
        *,
        lora: int | Mapping[str, Any] | None = None,
        freeze: int | str | Sequence[str] | None = None,
        precision: Precision | None = None,
        gradient_checkpointing: bool | None = None,
        compile: bool | None = None,
        seed: int = 0,
    ) -> Policy:
        """Says what of the policy is trained, and how it computes. Before it gets an optimiser; saved with it.

        Args:
            lora: Trains adapters of this rank beside every linear layer of the trunk, in place of the model itself
                (Hu et al. 2021, arXiv:2106.09685), or a dict of settings of `peft.LoraConfig`. The model as it is now
                becomes the reference, without a copy of it.
            freeze: Leaves untrained the embeddings and this many first layers (of encoder and decoder both), or every
                parameter whose name fits one of these patterns ("model.*.mlp.*"). Tied to the head, embeddings take it
                with them.
            precision: "bfloat16" computes in it (autocast), with weights and their updates in float32. A rollout's
                log-probs then differ from those of `evaluate` by rounding, so the first ratio is only about 1.
            gradient_checkpointing: Keeps the input of each layer alone and computes the rest again for the gradient:
                about a third more time, and much less memory. The numbers stay the same.
            compile: Compiles the step of a rollout before the first, in ten seconds or more, on a CPU with a C++
                compiler. Numbers differ by rounding. On CUDA the step is recorded as CUDA graphs and launched ahead of
                its observation, and keys and values keep their memory between rollouts; this has not run on a GPU yet.
                What cannot be compiled runs as it does without: see `agents/policy/decode_graph.py`. Updates are not
                compiled.
            seed: Seeds the adapters' weights.

        Returns:
            The policy itself.

        Raises:
            ImportError: If peft, which LoRA needs, is not installed.
            ValueError: If there is nothing to freeze, too much, or adapters there are already.
            TypeError: If the seed or the adapters' rank is not a whole number.
        """
        if precision is not None:
            if precision not in ("float32", "bfloat16"):
                raise ValueError(f"Expected precision 'float32' or 'bfloat16', got {precision!r}")
            self.precision = precision
            self.graphs.clear()
        if gradient_checkpointing is not None:
            if gradient_checkpointing and not checkpointed_layers(self.trunk.module):
                raise ValueError(
                    f"Expected a model with layers that can be checkpointed, got {type(self.model).__name__}"
                )
            self.gradient_checkpointing = bool(gradient_checkpointing)
        check_count("seed", seed, least=0, most=2**63 - 1)
        if compile is not None:
            self.compiled = bool(compile)
        if lora is not None:
            if self.has_adapters:
                raise ValueError("Expected a policy without adapters to add some to, got one that has them")
            adapters.add(self.model, lora, seed=seed)
            self.has_adapters = True
        if freeze is not None:
            freeze_parameters(self, self.trunk, freeze)
        return self

    def save_pretrained(self, folder: str | Path, *, merge: bool = False) -> None:
        """Writes a folder that plain Transformers loads, with the value head and the rest of the policy beside it.

        A policy with adapters is the exception. Its folder holds the adapters, as peft writes them, and the name of the
        model under them (or that model, where it has no name); `merge` makes a plain model of the two. The reference of
        such a policy is the plain model without them. What was written is read again, and compared.

        Args:
            folder: Made if it does not exist.
            merge: Adds the adapters to the weights, for good, in what is written: the model's, and the critic's.

        Raises:
            ValueError: If the policy cannot be written (its tokenizer, say), or is not read back as the same one.
        """
        folder = check_path("folder", folder)
        weights = pretrained.save(self, folder, merge=merge)
        check_reload(self, folder, weights, merged=self.has_adapters and (merge or self.is_adapters_off))

    def separate_critic(self) -> nn.Module:
        """Gives values a trunk of their own, a copy of the model's as it is now, unless they have one already.

        Returns:
            The critic.
        """
        if self.critic is None:
            self.critic = copy.deepcopy(self.trunk.module)
        return self.critic

    def with_critic(self, critic: Literal["shared", "separate"]) -> Policy:
        """Returns a policy over the same weights whose values are read off another trunk.

        Args:
            critic: "shared": the model's own trunk. "separate": a trunk of their own, a copy of the model's as it is
                now, unless there is one already.

        Returns:
            This policy, where its values are read like that. Otherwise a second one that shares its modules: what is
            trained in one is trained in the other, and the critic is added to or left out of the second alone.
        """
        if (self.critic is not None) == (critic == "separate"):
            return self
        other = self._without_critic()
        if critic == "separate":
            other.separate_critic()
        return other

    def frozen_copy(self) -> Policy:
        """Returns this policy as it is now, for good: the reference that KL is measured against. It has no critic.

        Under adapters it is the same model with the adapters off, and not a copy of it. Where they are already trained,
        it is thus not this policy as it is now, but the one that they were put on.
        """
        if self.has_adapters:
            base = self._without_critic()
            base._compose(replace(self._mode, adapters_off=True))
            return base
        critic, self.critic = self.critic, None
        try:
            frozen = copy.deepcopy(self)
        finally:
            self.critic = critic
        frozen.requires_grad_(False)
        return frozen

    def _without_critic(self) -> Policy:
        """Returns a second policy over the same modules, but for the critic."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # the same modules, in a dict of its own
        other.graphs = DecodeGraphs()  # a graph belongs to one policy
        other.critic = None
        return other

    @property
    def precision(self) -> Precision:
        """The precision that forward passes compute in, see `adapt`."""
        return self._mode.precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        self._mode.precision = precision

    @property
    def is_adapters_off(self) -> bool:
        """True in the reference of a policy with adapters, which lives in that policy's model."""
        return self._mode.adapters_off

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self.value_head.weight.device  # Transformers looks through all of the model for its own
        return device

    def train(self, mode: bool = True) -> Policy:
        """Stays in evaluation mode: dropout would make recorded and re-evaluated log-probs differ."""
        return super().train(False)

    # Acting ----------------------------------------------------------------------------------------------------------

    def context(self, num_lanes: int, max_length: int) -> Context:
        """Makes an empty context for `num_lanes` texts of up to `max_length` tokens.

        Args:
            num_lanes: How many texts grow side by side.
            max_length: The longest that one may get.

        Returns:
            A KV cache by lane, an LSTM's state by lane, or, for models without one that fits, full forward passes.

        Raises:
            ValueError: If the model has no positions for a text that long.
        """
        self.trunk.check_length(max_length)
        if self.uses_cache and self.trunk.caches(max_length):
            return self._cached_context(num_lanes, max_length)
        return FullContext(self.trunk, num_lanes)

    def _cached_context(self, num_lanes: int, max_length: int) -> Context:
        decode_mode = self._decode_mode()
        if decode_mode is None:
            return self.trunk.make_context(num_lanes, max_length)
        head = self.head
        decoding = Decoding(self.graphs, decode_mode, head.linear_layers, head.choose, head.vocab_size)
        return self.trunk.make_context(num_lanes, max_length, decoding)

    def _decode_mode(self) -> DecodeMode | None:
        """Returns how graphs of the decode steps are made; None: there are none."""
        if self.captures_decoding():
            return "captured"
        if self.has_adapters:
            return None
        if self.precision == "float32" and self.device.type == "cpu":
            return "compiled" if self.compiled else "traced"
        return None

    def captures_decoding(self) -> bool:
        """Returns True if decode steps are recorded as CUDA graphs: in a compiled policy on CUDA, without adapters.

        The one door to `agents.policy.cuda`, which needs a GPU to prove it.
        """
        return self.compiled and self.device.type == "cuda" and not self.has_adapters

    def launches_ahead(self) -> bool:
        """Returns True if a step is launched before the observation it is for: where steps are recorded."""
        return self.captures_decoding()

    def step(
        self,
        context: Context,
        input_ids: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        *,
        temperature: float = 1.0,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        allowed: NDArray[np.bool_] | None = None,
        truncation: Truncation | None = None,
    ) -> PolicyStep:
        """Reads what is new in each lane, and takes one action in each: `Context.extend` and `act`, as one step.

        Args:
            context: The lanes' texts so far, from `context`.
            input_ids: `(lanes, max_length)` whole rows.
            lengths: `(lanes,)` tokens in each row so far.
            temperature: What the logits are divided by.
            deterministic: If True, the likeliest token instead of a sample.
            generator: Source of randomness, on the policy's device. None draws from torch's default generator.
            allowed: `(lanes, vocab_size)`, True where a token may be taken; None: everywhere.
            truncation: Leaves unlikely tokens out. For evaluation only: see `agents.policy.sampling`.

        Returns:
            Actions, log-probs and values, as `act` returns them.

        Raises:
            ValueError: If a lane may take no token at all.
        """
        if deterministic or truncation is not None or not can_act(context):
            return self.act(
                context.extend(input_ids, lengths),
                temperature=temperature,
                deterministic=deterministic,
                generator=generator,
                allowed=allowed,
                truncation=truncation,
            )
        # The step after this one is launched too, but not under action masks, which the environment has to say first,
        # and not without a generator: PyTorch's own is anybody's.
        ahead = generator if allowed is None and self.launches_ahead() else None
        if context.launched is not None and (ahead is None or not context.launched.suits(temperature, ahead)):
            context.launched = None
        uniforms = torch.rand(len(lengths), 1, generator=generator, device=self.device)
        masks = check_masks(allowed, self.device)
        step = PolicyStep(*context.act(input_ids, lengths, uniforms, temperature, masks))
        if ahead is None:
            return step
        arriving = lookahead.Arriving(step.actions)
        context.launch(step.actions, arriving, lookahead.Foreseen(len(lengths), ahead), temperature)
        return replace(step, arriving=arriving)

    @torch.no_grad()
    def act(
        self,
        hidden: Tensor,
        *,
        temperature: float = 1.0,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        allowed: NDArray[np.bool_] | None = None,
        truncation: Truncation | None = None,
    ) -> PolicyStep:
        """Takes one action in each lane.

        Args:
            hidden: `(lanes, hidden)` from `Context.extend`.
            temperature: What the logits are divided by.
            deterministic: If True, the likeliest token instead of a sample.
            generator: Source of randomness, on the policy's device. None draws from torch's default generator.
            allowed: `(lanes, vocab_size)`, True where a token may be taken; None: everywhere.
            truncation: Leaves unlikely tokens out. For evaluation only: see `agents.policy.sampling`.

        Returns:
            Actions, their log-probs under exactly the distribution that was sampled (0 where none was), and values.

        Raises:
            ValueError: If a lane may take no token at all.
        """
        divisor = torch.full((), temperature, dtype=torch.float32, device=hidden.device)
        actions, log_probs = choose_actions(
            self.head.token_logits(hidden, divisor),
            deterministic=deterministic,
            generator=generator,
            allowed=check_masks(allowed, self.device),
            truncation=truncation,
        )
        return PolicyStep(actions, log_probs, self.head.values(hidden))

    def predict(
        self,
        observation: Mapping[str, NDArray[Any]],
        *,
        temperature: float = 1.0,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        action_masks: NDArray[Any] | None = None,
    ) -> NDArray[np.int64]:
        """Takes actions for a batch of observations, without a context of earlier ones.

        Args:
            observation: Arrays `(lanes, max_length)`, as the vector environment gives them.
            temperature: What the logits are divided by.
            deterministic: If True, the likeliest token instead of a sample.
            generator: Source of randomness.
            action_masks: `(lanes, vocab_size)`, nonzero where a token may be taken; None: everywhere.

        Returns:
            `(lanes,)` token ids.
        """
        tensors = {name: torch.from_numpy(np.asarray(array)).to(self.device) for name, array in observation.items()}
        with torch.no_grad():
            hidden = self.last_states(tensors)
        allowed = None if action_masks is None else np.asarray(action_masks) != 0
        step = self.act(
            hidden, temperature=temperature, deterministic=deterministic, generator=generator, allowed=allowed
        )
        actions: NDArray[np.int64] = step.actions.cpu().numpy()
        return actions

    # Reading ---------------------------------------------------------------------------------------------------------

    def last_states(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Computes the trunk's state at the last token of each row, in one pass over whole rows, with gradients.

        Args:
            observation: `(lanes, max_length)` each, of any dtype: `input_ids`, `attention_mask` and `response_mask`.

        Returns:
            `(lanes, hidden)`.

        Raises:
            ValueError: If a row is padded on the left, or empty.
        """
        mask = observation["attention_mask"] != 0
        if not bool((mask[:, 0] & (mask[:, :-1] >= mask[:, 1:]).all(dim=1)).all()):
            raise ValueError(
                "Expected right-padded observations, each with a token first and an attention_mask of ones and then "
                "zeros, got one with padding in front of or between its tokens"
            )
        lengths = mask.sum(dim=1)
        written = observation["response_mask"].long()
        prompts = torch.where(written.any(dim=1), written.argmax(dim=1), lengths)
        states = self.trunk.row_states(observation["input_ids"].long(), prompts, lengths)
        return states[torch.arange(len(lengths), device=lengths.device), lengths - 1]

    def row_states(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        """Computes the trunk's states over whole rows, with gradients.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            prompts: `(batch,)` int64, tokens of each prompt.
            ends: `(batch,)` int64, tokens of each row that are looked at.

        Returns:
            `(batch, max(ends), hidden)`, as `Trunk.row_states` returns them.
        """
        with checkpointing(self.trunk.module, self.gradient_checkpointing):
            return self.trunk.row_states(input_ids, prompts, ends)

    def logits(self, hidden: Tensor) -> Tensor:
        """Computes the logits of the next token, with gradients.

        Args:
            hidden: `(lanes, hidden)`.

        Returns:
            `(lanes, logits)` float32, before any temperature. A model may have more logits than tokens.
        """
        return self.head.logits(hidden)

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
        """Computes log-probs, entropies and values of the actions in whole episodes, in one pass, with gradients.

        Rows are right-padded, so the causal mask alone keeps padding out of sight. Only the states before counted
        actions reach the head.

        Args:
            input_ids: `(batch, length)` int64, whole episodes.
            positions: `(batch, time)` int64, where in its row each action stands (at least 1). The first of a row says
                where its prompt ends, which an encoder-decoder has to know, whether it counts or not.
            mask: `(batch, time)` bool, True where an action counts.
            temperature: What the logits are divided by, as in `act`.
            entropy: False leaves the entropies out.
            allowed: `(batch, time, ceil(vocab_size / 8))` uint8, `Rollout.action_masks`; None: all tokens.

        Returns:
            The evaluation.
        """
        places, hidden, tokens, values = self._states_before(input_ids, positions, mask)
        masks = None if allowed is None else allowed[places]
        log_probs, entropies = self.head.log_probs(
            hidden, tokens, temperature=temperature, entropy=entropy, masks=masks
        )

        def on_grid(flat: Tensor) -> Tensor:
            return flat.new_zeros(mask.shape).index_put(places, flat)

        return ActionEvaluation(on_grid(log_probs), on_grid(entropies), on_grid(values))

    def loss(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        loss_of: LossOfActions,
        *,
        temperature: float = 1.0,
        entropy: bool = True,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Computes a loss that is a sum over actions, with its gradient: less work than to take that of `evaluate`.

        The head's gradient is computed in the forward pass (`agents.policy.chunked_log_probs.linear_loss`), so each
        logit is computed once. A second backward pass has no gradients left.

        Args:
            input_ids: `(batch, length)` int64, whole episodes, as in `evaluate`.
            positions: `(batch, time)` int64, as there.
            mask: `(batch, time)` bool, as there.
            loss_of: Called for one chunk of counted actions after another. Arrays of the batch have theirs at the
                places it gets: `advantages[places]` are `(k,)`.
            temperature: What the logits are divided by, as in `act`.
            entropy: False: `loss_of` does not read entropies, which are NaN.
            allowed: `(batch, time, ceil(vocab_size / 8))` uint8, as in `evaluate`.

        Returns:
            The sum of what `loss_of` returns, ().
        """
        places, hidden, tokens, values = self._states_before(input_ids, positions, mask)
        masks = None if allowed is None else allowed[places]
        return self.head.loss(
            hidden, tokens, values, loss_of, places, temperature=temperature, entropy=entropy, masks=masks
        )

    def _states_before(
        self, input_ids: Tensor, positions: Tensor, mask: Tensor
    ) -> tuple[Places, Tensor, Tensor, Tensor]:
        """Returns places of the counted actions, the states before them `(n, hidden)`, tokens and values `(n,)`."""
        rows, steps = mask.nonzero(as_tuple=True)
        in_row = positions[rows, steps]
        prompts, ends = positions[:, 0], (positions * mask).amax(dim=1)

        def states_of(trunk: Trunk) -> Tensor:
            with checkpointing(trunk.module, self.gradient_checkpointing):
                return trunk.action_states(input_ids, prompts, ends, rows, in_row)

        hidden = states_of(self.trunk)
        values = self.head.values(hidden if self.critic is None else states_of(self.trunk.over(self.critic)))
        return (rows, steps), hidden, input_ids[rows, in_row], values

    @torch.no_grad()
    def state_values(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        *,
        prompts: Tensor | None = None,
        micro_batch_size: int = 64,
    ) -> Tensor:
        """Computes V of the states before some positions, without gradients.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            positions: `(batch, time)` int64, where in its row each action stands, or would stand.
            mask: `(batch, time)` bool, True where a position counts.
            prompts: `(batch,)` int64, tokens of each row's prompt; None: as many as stand before its first position.
            micro_batch_size: Rows per forward pass.

        Returns:
            `(batch, time)` float32, zeros where the mask is False.
        """
        trunk = self.trunk if self.critic is None else self.trunk.over(self.critic)
        prompts = positions[:, 0] if prompts is None else prompts
        values = torch.zeros(mask.shape, device=input_ids.device)
        for rows in torch.arange(len(input_ids), device=input_ids.device).split(micro_batch_size):
            states = trunk.row_states(input_ids[rows], prompts[rows], (positions[rows] * mask[rows]).amax(dim=1))
            before = (positions[rows] - 1).clamp(max=states.shape[1] - 1)
            hidden = states.gather(1, before[..., None].expand(-1, -1, states.shape[-1]))
            values[rows] = torch.where(mask[rows], self.head.values(hidden), 0.0)
        return values
