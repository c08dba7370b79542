"""The policy: a language model, its tokenizer, and a value head on the shared trunk.

    policy = Policy.from_pretrained("gpt2")          # or "tiny", the bundled model, or any local folder
    policy = Policy.from_config({"model_type": "t5", "d_model": 64}, "stories")     # or a new one: random weights
    policy.adapt(lora=8, precision="bfloat16")       # how it is trained: adapters, what is frozen, precision, memory
    policy.act(...)                                   # one step in every lane, while collecting
    policy.evaluate(...)                              # the same numbers again, with gradients, while updating

Both divide the logits by the same temperature and forbid the same tokens, so the log-probs of a rollout are those of
the distribution that its actions came from. Dropout is off in both: the ratio of the first update is exactly 1.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from agents.devices import choose_device, on_device
from agents.policy import lora as adapters
from agents.policy import pretrained
from agents.policy.chunked_log_probs import linear_log_probs, linear_loss
from agents.policy.context import Context, FullContext
from agents.policy.decode_graph import StepGraph, Steps, Way
from agents.policy.encoder_decoder import EncoderDecoderContext
from agents.policy.freeze import _first_layers
from agents.policy.head import Places, _logit_shape, unpack_masks
from agents.policy.kv_cache import CachedContext, LaneStore
from agents.policy.lookahead import Arriving, Foreseen
from agents.policy.lstm import LSTMForCausalLM, RecurrentContext
from agents.policy.sampling import Truncation, _sampled
from agents.policy.trunk import _checkpointed, attention_window, decoder_start, looked_at, packed_states, trunk_states
from textenvs import Tokenizer, make_tokenizer

# Learned positions, and weights five times as large as language models begin with: attention that finds a place by its
# number forms in a sixth of the tokens that a Llama of this size takes (docs/log.md).
_FRESH = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 1024,
    "activation_function": "gelu_pytorch_tanh",  # GPT-2's gelu_new, as one operation in place of eight
    "initializer_range": 0.1,
    "pad_token_id": None,  # often EOS, and then GPT-2 warns of rows that are padded, which a causal mask hides from it
}


Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Step:
    """What a policy did in one step of every lane.

    Attributes:
        actions: `(lanes,)` int64.
        log_probs: `(lanes,)` float32, of those actions.
        values: `(lanes,)` float32, of the states they were taken in.
        arriving: The actions on their way to the host, where they were sent ahead of the next step.
    """

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    arriving: Arriving | None = None

    def actions_on_host(self) -> NDArray[np.int64]:
        """The actions as an array, `(lanes,)`. Waits for them, and for nothing that was launched after them."""
        actions: NDArray[np.int64] = self.actions.cpu().numpy() if self.arriving is None else self.arriving.array()
        return actions


class ActionEvaluation(NamedTuple):  # a tuple, since that is what FSDP looks into for gradients
    """What a policy thinks of recorded actions, with gradients. Zeros where the mask is False.

    Attributes:
        log_probs: `(batch, time)` float32, or `(k,)` of some actions.
        entropies: Alike, nats.
        values: Alike, of the states before the actions.
    """

    log_probs: Tensor
    entropies: Tensor
    values: Tensor


LossOfActions = Callable[[ActionEvaluation, Places], Tensor]
"""From what a policy thinks of some actions, `(k,)` each, and their places to what they add to a loss, ()."""


class Policy(nn.Module):
    """A language model that acts, and a value head that says what it expects to get.

    Args:
        model: Any Transformers causal model or encoder-decoder, or an LSTM of `agents.policy.lstm`.
        tokenizer: Its tokenizer, as `textenvs.make_tokenizer` takes it.

    Raises:
        ValueError: If the tokenizer has ids that the model has no logit for.
        TypeError: If the model is none.

    Attributes:
        model: The Transformers model; `policy.model.generate` and everything else works as ever.
        tokenizer: A `textenvs.Tokenizer`.
        value_head: Linear, from the trunk's last hidden state to one number. Starts at 0.
        critic: The trunk that values are read off; None: the model's own.
        pretrained: Whether the model's weights were trained before, rather than drawn at random. Saved with it.
        precision: What forward passes compute in, see `adapt`.
        gradient_checkpointing: Whether `evaluate` trades time for memory, see `adapt`.
        compiled: True if the steps of a rollout are compiled, see `adapt`.
        has_adapters: Whether LoRA adapters are what is trained, see `adapt`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        super().__init__()
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"Expected a model of Transformers, got {type(model).__name__}: see Policy.from_pretrained")
        self.critic: nn.Module | None = None
        self.pretrained = bool(model.name_or_path)  # Transformers notes there where it loaded weights from
        self.precision: Precision = "float32"
        self.gradient_checkpointing = False
        self.compiled = False
        self.has_adapters = False
        self._adapters_on = True  # False in the reference of a policy with adapters
        self.source: str | None = None  # what from_pretrained loaded, so that adapters can be saved without the rest
        self.tokenizer: Tokenizer = make_tokenizer(tokenizer)
        self.tokenizer_source = tokenizer
        self.model = model
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"Expected a language model with a linear head, got {type(model).__name__}, whose output "
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
        self._scale, self._soft_cap = _logit_shape(model.config)
        self._decode_graph, self._action_graph, self._masked_graph = StepGraph(), StepGraph(), StepGraph()
        self._store = LaneStore()
        self._packable: dict[str, bool] = {}  # by attention, found when it is first asked for
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
            The policy, its weights in float32. A folder that `Policy.save_pretrained` wrote brings along its value
            head, critic and adapters, what is frozen, and how it computes.

        Raises:
            ValueError: If there is no such model, or it cannot be loaded safely.
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
        """A policy with random weights.

        Args:
            config: A Transformers config, or a dict of one: "model_type" ("llama", "gpt2", "t5", "lstm_lm", ...) and
                any of its settings. A dict takes vocabulary and special tokens from the tokenizer, where it names none.
            tokenizer: As `textenvs.make_tokenizer` takes it.
            seed: Of the weights.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy.

        Raises:
            ValueError: If there is no such model type, or the model has no logits for some tokens.
            TypeError: If there is no such setting; says which is closest.
        """
        made = make_tokenizer(tokenizer)
        full = config if isinstance(config, PretrainedConfig) else pretrained.config_of(config, made)
        kind = AutoModelForSeq2SeqLM if full.is_encoder_decoder else AutoModelForCausalLM
        _check_seed(seed)
        with torch.random.fork_rng(devices=[]):  # Transformers draws from the global generator, which stays as it was
            torch.manual_seed(seed)
            model = kind.from_config(full, dtype=torch.float32)  # type: ignore[no-untyped-call]
        nn.Module.to(model, choose_device(device))
        return cls(model, tokenizer)

    @classmethod
    def fresh(cls, tokenizer: Any, *, seed: int = 0, device: str | torch.device | None = None) -> Policy:
        """A small GPT-2 with random weights over any tokenizer, for tasks that need no language.

        Args:
            tokenizer: As `textenvs.make_tokenizer` takes it.
            seed: Of the weights.
            device: Where to put it; None takes CUDA, then MPS, then the CPU.

        Returns:
            The policy, two layers of width 64, with room for 1024 tokens.
        """
        return cls.from_config(_FRESH, tokenizer, seed=seed, device=device)

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
        """Say what of the policy is trained, and how it computes. Before it gets an optimiser; saved with it.

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
            seed: Of the adapters' weights.

        Returns:
            The policy itself.

        Raises:
            ImportError: If peft, which LoRA needs, is not installed.
            ValueError: If there is nothing to freeze, too much, or adapters there are already.
        """
        if precision is not None:
            if precision not in ("float32", "bfloat16"):
                raise ValueError(f"Expected precision 'float32' or 'bfloat16', got {precision!r}")
            self.precision = precision
            self._decode_graph, self._action_graph, self._masked_graph = StepGraph(), StepGraph(), StepGraph()
        if gradient_checkpointing is not None:
            if gradient_checkpointing and not self._checkpointable():
                raise ValueError(
                    f"Expected a model with layers that can be checkpointed, got {type(self.model).__name__}"
                )
            self.gradient_checkpointing = bool(gradient_checkpointing)
        _check_seed(seed)
        if compile is not None:
            self.compiled = bool(compile)
        if lora is not None:
            if self.has_adapters:
                raise ValueError("Expected a policy without adapters to add some to, got one that has them")
            adapters.add(self.model, lora, seed=seed)
            self.has_adapters = True
        if freeze is not None:
            self._freeze(freeze)
        return self

    def _freeze(self, what: int | str | Sequence[str]) -> None:
        if isinstance(what, int):
            parts = _first_layers(self.model.base_model, what)
            parameters = [parameter for part in parts for parameter in part.parameters()]
        else:
            patterns = [what] if isinstance(what, str) else list(what)
            names = dict(self.named_parameters())
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    close = get_close_matches(pattern, names, n=1, cutoff=0.0)
                    raise ValueError(f"Expected a pattern that fits some parameter, {close[0]!r} say, got {pattern!r}")
            parameters = [names[name] for pattern in patterns for name in fnmatch.filter(names, pattern)]
        for parameter in parameters:
            parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError(f"Expected something left to train, got freeze={what!r}, which freezes everything")

    def save_pretrained(self, folder: str | Path, *, merge: bool = False) -> None:
        """Write a folder that plain Transformers loads, with the value head and the rest of the policy beside it.

        A policy with adapters is the exception. Its folder holds the adapters, as peft writes them, and the name of the
        model under them (or that model, where it has no name); `merge` makes a plain model of the two. The reference of
        such a policy is the plain model without them.

        Args:
            folder: Made if it does not exist.
            merge: Adds the adapters to the weights, for good, in what is written: the model's, and the critic's.

        Raises:
            ValueError: If the tokenizer is an object that cannot be written.
        """
        pretrained.save(self, Path(folder), merge=merge)

    def separate_critic(self) -> nn.Module:
        """Give values a trunk of their own, a copy of the model's as it is now, unless they have one already.

        Returns:
            The critic's trunk.
        """
        if self.critic is None:
            self.critic = copy.deepcopy(self.model.base_model)
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
        other = copy.copy(self)  # shares its modules, in a dict of its own
        other._modules = dict(self._modules)
        other.critic = None
        if critic == "separate":
            other.separate_critic()
        return other

    def frozen_copy(self) -> Policy:
        """This policy as it is now, for good: the reference that KL is measured against. It has no critic.

        Under adapters it is the same model with the adapters off, and not a copy of it. Where they are already trained,
        it is thus not this policy as it is now, but the one that they were put on.
        """
        if self.has_adapters:
            base = copy.copy(self)  # shares its modules, in a dict of its own
            base._modules = dict(self._modules)
            base.critic = None
            base._adapters_on = False
            return base
        critic, self.critic = self.critic, None
        try:
            frozen = copy.deepcopy(self)
        finally:
            self.critic = critic
        frozen.requires_grad_(False)
        return frozen

    @property
    def is_adapters_off(self) -> bool:
        """Whether this is the reference of a policy with adapters, which lives in that policy's model."""
        return self.has_adapters and not self._adapters_on

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.value_head.weight.device  # Transformers looks through all of the model for its own
        return device

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
            A KV cache by lane, an LSTM's state by lane, or, for models without one that fits, full forward passes.

        Raises:
            ValueError: If the model has no positions for a text that long.
        """
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        # An encoder-decoder has that many positions for the prompt, and again for the response.
        if limit is not None and max_length > limit and not config.is_encoder_decoder:
            raise ValueError(
                f"Expected prompt and response to fit into the model's context of {limit} tokens, got {max_length}: "
                "lower max_new_tokens or max_prompt_length"
            )
        # Not the text alone: GPT-Neo counts from the last place that it is shown, empty ones among them.
        if self._cacheable and attention_window(self.model.config) >= looked_at(max_length):
            return self._fast_context(num_lanes, max_length)
        return FullContext(self.model, num_lanes, self._running)

    def _fast_context(self, num_lanes: int, max_length: int) -> Context:
        if isinstance(self.model, LSTMForCausalLM):
            return RecurrentContext(self.model, num_lanes, self._running)
        if self.model.config.is_encoder_decoder:
            return EncoderDecoderContext(self.model, num_lanes, self._running)
        way = self._step_way()
        if way is None:
            return CachedContext(self.model, num_lanes, self._running, max_length=max_length)
        steps = Steps(
            self.model,
            [self._head, self.value_head],
            self._choose,
            self.tokenizer.vocab_size,
            (self._decode_graph, self._action_graph, self._masked_graph),
            way,
            self._running,
        )
        store = self._store if way == "captured" else None
        return CachedContext(self.model, num_lanes, self._running, steps, store, max_length)

    def _step_way(self) -> Way | None:
        """How graphs of the decode steps are made; None: there are none."""
        if self._captures_steps():
            return "captured"
        if self.has_adapters:
            return None
        if self.precision == "float32" and self.device.type == "cpu":
            return "compiled" if self.compiled else "traced"
        return None

    def _captures_steps(self) -> bool:
        """Returns True if decode steps are recorded as CUDA graphs: in a compiled policy on CUDA, without adapters.

        The one door to what only a GPU can prove: recorded steps (`agents.policy.cuda_graphs`), launched ahead
        (`agents.policy.lookahead`).
        """
        return self.compiled and self.device.type == "cuda" and not self.has_adapters

    def _launches_ahead(self) -> bool:
        """Returns True if a step is launched before the observation it is for: where steps are recorded."""
        return self._captures_steps()

    def _running(self) -> AbstractContextManager[None]:
        """What forward passes run in."""
        if self.precision == "float32" and not self.is_adapters_off:
            return nullcontext()
        return self._adapted()

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.is_adapters_off:
                stack.enter_context(adapters.off(self.model))
            if self.precision == "bfloat16":
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            yield

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
    ) -> Step:
        """Read what is new in each lane, and take one action in each: `Context.extend` and `act`, as one step.

        In a compiled policy on CUDA, the step after it is launched too (`agents.policy.lookahead`). Not under action
        masks, which the environment has to say first, and not without a generator: PyTorch's own is anybody's.

        Args:
            context: What was read so far.
            input_ids: See `Context.extend`.
            lengths: Likewise.
            temperature: See `act`, as for the next arguments.
            deterministic: See `act`.
            generator: See `act`.
            allowed: See `act`.
            truncation: See `act`.

        Returns:
            See `act`.

        Raises:
            ValueError: If a lane may take no token at all.
        """
        if deterministic or truncation is not None or not _acts(context):
            return self.act(
                context.extend(input_ids, lengths),
                temperature=temperature,
                deterministic=deterministic,
                generator=generator,
                allowed=allowed,
                truncation=truncation,
            )
        device = self.device
        source = generator if allowed is None and self._launches_ahead() else None  # of a step launched ahead
        if context.launched is not None and (source is None or not context.launched.suits(temperature, source)):
            context.launched = None
        uniforms = torch.rand(len(lengths), 1, generator=generator, device=device)
        may = None if allowed is None else self._checked(allowed)
        step = Step(*context.act(input_ids, lengths, uniforms, temperature, may))
        if source is None:
            return step
        arriving = Arriving(step.actions)
        context.launch(step.actions, arriving, Foreseen(len(lengths), source), temperature)
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
    ) -> Step:
        """One action for each lane.

        Args:
            hidden: `(lanes, hidden)` from `Context.extend`.
            temperature: What the logits are divided by.
            deterministic: The likeliest token instead of a sample.
            generator: Source of randomness, on the policy's device. None draws from torch's default generator.
            allowed: `(lanes, vocab_size)`, True where a token may be taken; None: everywhere.
            truncation: Leaves unlikely tokens out. For evaluation only: see `agents.policy.sampling`.

        Returns:
            Actions, their log-probs under exactly the distribution that was sampled (0 where none was), and values.

        Raises:
            ValueError: If a lane may take no token at all.
        """
        logits = self._token_logits(hidden, torch.full((), temperature, dtype=torch.float32, device=hidden.device))
        if allowed is not None:
            logits = logits.masked_fill(~self._checked(allowed), -torch.inf)
        if truncation is not None:
            logits = logits.masked_fill(~truncation.kept(logits), -torch.inf)
        if deterministic:
            actions = logits.argmax(dim=-1)
            log_probs = torch.zeros_like(logits[:, 0])  # nothing else could have been taken
        else:
            uniforms = torch.rand(len(logits), 1, generator=generator, device=logits.device)
            actions, log_probs = _sampled(logits, uniforms)
        return Step(actions, log_probs, self._values(hidden))

    def _checked(self, allowed: NDArray[np.bool_]) -> Tensor:
        """Action masks as a tensor, `(lanes, vocab_size)` bool, some token of every lane in it."""
        if not allowed.any(axis=1).all():
            lanes = np.flatnonzero(~allowed.any(axis=1)).tolist()
            raise ValueError(f"Expected an action mask that allows some token in every lane, got none in {lanes}")
        return on_device(allowed, self.device)

    def _choose(
        self, hidden: Tensor, uniforms: Tensor, temperature: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, log-probs and values `(lanes,)`, as a function of tensors alone: see `ActionStep.forward`."""
        logits = self._token_logits(hidden, temperature)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        actions, log_probs = _sampled(logits, uniforms)
        return actions, log_probs, self._values(hidden)

    def _token_logits(self, hidden: Tensor, temperature: Tensor) -> Tensor:
        """The logits of all tokens, and of nothing else, divided by the temperature: `(lanes, vocab_size)`."""
        return self.logits(hidden)[:, : self.tokenizer.vocab_size] / temperature

    def _values(self, hidden: Tensor) -> Tensor:
        return self.value_head(hidden.float())[:, 0]  # type: ignore[no-any-return]

    def last_states(self, observation: Mapping[str, Tensor]) -> Tensor:
        """The trunk's state at the last token of each row, in one pass over whole rows, with gradients.

        Args:
            observation: `(lanes, max_length)` each, of any dtype: `input_ids`, `attention_mask` and `response_mask`.

        Returns:
            `(lanes, hidden)`.
        """
        lengths = observation["attention_mask"].long().sum(dim=1)
        mine = observation["response_mask"].long()
        prompts = torch.where(mine.any(dim=1), mine.argmax(dim=1), lengths)
        with self._running():
            states = trunk_states(self.model.base_model, observation["input_ids"].long(), prompts, lengths)
        return states[torch.arange(len(lengths), device=lengths.device), lengths - 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """What the model says of the next token, with gradients.

        Args:
            hidden: `(lanes, hidden)`.

        Returns:
            `(lanes, logits)` float32, before any temperature. A model may have more logits than tokens.
        """
        head = self._head  # asked for once: Transformers looks for it through the whole model
        with self._running():
            hidden, bias = hidden.to(head.weight.dtype), self._bias_of(head)
            logits = head(hidden) if bias is head.bias else nn.functional.linear(hidden, head.weight, bias)
        return self._shaped(logits.float())

    def token_log_probs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probs of tokens under the whole vocabulary, as Transformers has them, with gradients.

        Args:
            hidden: `(n, hidden)` the trunk's state before each token.
            tokens: `(n,)` int64.

        Returns:
            `(n,)` nats, float32 (float64 where the model is).
        """
        head = self._head
        with self._running():
            log_probs, _ = linear_log_probs(
                hidden.to(head.weight.dtype),
                head.weight,
                self._bias_of(head),
                tokens,
                temperature=1.0 if self._soft_cap else 1.0 / self._scale,
                entropy=False,
                transform=self._shaped if self._soft_cap else None,
            )
        return log_probs

    def row_states(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        """The trunk's states over whole rows, with gradients: see `trunk_states`.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            prompts: `(batch,)` int64, tokens of each prompt.
            ends: `(batch,)` int64, tokens of each row that are looked at.

        Returns:
            `(batch, max(ends), hidden)`.
        """
        with self._running(), self._checkpointing(self.model.base_model):
            return trunk_states(self.model.base_model, input_ids, prompts, ends)

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
        tensors = {name: torch.from_numpy(np.asarray(array)).to(self.device) for name, array in observation.items()}
        with torch.no_grad():
            hidden = self.last_states(tensors)
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
            positions: `(batch, time)` int64, where in its row each action stands (at least 1). The first of a row says
                where its prompt ends, which an encoder-decoder has to know, whether it counts or not.
            mask: `(batch, time)` bool, which actions count.
            temperature: What the logits are divided by, as in `act`.
            entropy: Whether to compute entropies.
            allowed: `(batch, time, ceil(vocab_size / 8))` uint8, `Rollout.action_masks`; None: all tokens.

        Returns:
            The evaluation.
        """
        at, hidden, tokens, values = self._before(input_ids, positions, mask)
        with self._running():
            log_probs, entropies = linear_log_probs(
                hidden, *self._weights(), tokens, entropy=entropy, **self._distribution(at, temperature, allowed)
            )

        def on_grid(flat: Tensor) -> Tensor:
            return flat.new_zeros(mask.shape).index_put(at, flat)

        return ActionEvaluation(on_grid(log_probs.float()), on_grid(entropies.float()), on_grid(values))

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
        """A loss that is a sum over actions, with its gradient: less work than to take that of `evaluate`.

        The head's gradient is computed in the forward pass (`agents.policy.chunked_log_probs.linear_loss`), so each
        logit is computed once. A second backward pass has no gradients left.

        Args:
            input_ids: See `evaluate`, as for all that is not named here.
            positions: See there.
            mask: See there.
            loss_of: Called for one chunk of counted actions after another. Arrays of the batch have theirs at the
                places it gets: `advantages[places]` are `(k,)`.
            temperature: See there.
            entropy: False: `loss_of` does not read entropies, which are NaN.
            allowed: See there.

        Returns:
            The sum of what `loss_of` returns, ().
        """
        (rows, steps), hidden, tokens, values = self._before(input_ids, positions, mask)

        def of_chunk(log_probs: Tensor, entropies: Tensor, values: Tensor, part: slice) -> Tensor:
            now = ActionEvaluation(log_probs.float(), entropies.float(), values)
            return loss_of(now, (rows[part], steps[part]))

        with self._running():
            return linear_loss(
                hidden,
                *self._weights(),
                tokens,
                values,
                of_chunk,
                entropy=entropy,
                **self._distribution((rows, steps), temperature, allowed),
            )

    def _before(self, input_ids: Tensor, positions: Tensor, mask: Tensor) -> tuple[Places, Tensor, Tensor, Tensor]:
        """The counted actions: their places, the states before them `(n, hidden)`, and tokens and values `(n,)`."""
        rows, steps = mask.nonzero(as_tuple=True)
        places = positions[rows, steps]
        prompts, ends = positions[:, 0], (positions * mask).amax(dim=1)
        packs = self._packs()

        def states_of(trunk: nn.Module) -> Tensor:
            with self._checkpointing(trunk):
                if packs:
                    states, starts = packed_states(trunk, input_ids, ends)
                    return states[starts[rows] + places - 1]
                return trunk_states(trunk, input_ids, prompts, ends)[rows, places - 1]

        with self._running():
            hidden = states_of(self.model.base_model)
            valued = hidden if self.critic is None else states_of(self.critic)
        values = self.value_head(valued.float())[:, 0]
        hidden = hidden.to(self._head.weight.dtype)  # an LSTM leaves bfloat16 under autocast
        return (rows, steps), hidden, input_ids[rows, places], values

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        head = self._head
        return head.weight, self._bias_of(head)

    def _distribution(self, at: Places, temperature: float, allowed: Tensor | None) -> dict[str, Any]:
        """What makes distributions of the head's logits at some places, as `linear_log_probs` takes it."""
        may = self._allowed
        if allowed is not None:
            may = unpack_masks(allowed[at], self.tokenizer.vocab_size)
            may = nn.functional.pad(may, (0, self._head.out_features - may.shape[1]))
        return {
            "temperature": temperature if self._soft_cap else temperature / self._scale,
            "allowed": may,
            "transform": self._shaped if self._soft_cap else None,
        }

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
        """V of the states before some positions, without gradients.

        Args:
            input_ids: `(batch, length)` int64, right-padded.
            positions: `(batch, time)` int64, where in its row each action stands, or would stand.
            mask: `(batch, time)` bool, which of them count.
            prompts: `(batch,)` int64, tokens of each row's prompt; None: as many as stand before its first position.
            micro_batch_size: Rows per forward pass.

        Returns:
            `(batch, time)` float32, zeros where the mask is False.
        """
        trunk = self.model.base_model if self.critic is None else self.critic
        prompts = positions[:, 0] if prompts is None else prompts
        values = torch.zeros(mask.shape, device=input_ids.device)
        for rows in torch.arange(len(input_ids), device=input_ids.device).split(micro_batch_size):
            with self._running():
                states = trunk_states(trunk, input_ids[rows], prompts[rows], (positions[rows] * mask[rows]).amax(dim=1))
            before = (positions[rows] - 1).clamp(max=states.shape[1] - 1)
            hidden = states.gather(1, before[..., None].expand(-1, -1, states.shape[-1]))
            values[rows] = torch.where(mask[rows], self.value_head(hidden.float())[..., 0], 0.0)
        return values

    @property
    def _head(self) -> nn.Linear:
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        return head

    def _bias_of(self, head: nn.Linear) -> Tensor | None:
        """What is added to the logits: the head's bias, or the constants that BART and Marian keep beside it."""
        beside = getattr(self.model, "final_logits_bias", None)
        return head.bias if beside is None else beside[0]

    def _shaped(self, logits: Tensor) -> Tensor:
        """The logits that the model means, from its head's: scaled, and with a soft cap, as Gemma has it."""
        if self._scale != 1:
            logits = logits * self._scale
        if self._soft_cap:
            logits = self._soft_cap * torch.tanh(logits / self._soft_cap)
        return logits

    def _checkpointable(self) -> list[Any]:
        return [one for one in self.model.base_model.modules() if isinstance(one, GradientCheckpointingLayer)]

    @contextmanager
    def _checkpointing(self, trunk: nn.Module) -> Iterator[None]:
        """Layers keep nothing but their input, where gradients are wanted and the policy was told to save memory.

        Transformers' layers do so in training mode alone, which would also switch dropout on. So each is in training
        mode for as long as it takes to see that, and back in evaluation mode when it computes.
        """
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            yield
            return
        layers: list[Any] = [one for one in trunk.modules() if isinstance(one, GradientCheckpointingLayer)]
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(_checkpointed, layer)
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False
                del layer._gradient_checkpointing_func

    # Checks ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _check_head(self) -> None:
        """Head, scale and soft cap must be all there is between the trunk and the logits."""
        tokens = torch.arange(min(4, self.tokenizer.vocab_size), device=self.device)[None]
        one, ends = tokens.new_ones(1), tokens.new_full((1,), tokens.shape[1])
        states = trunk_states(self.model.base_model, tokens, one, ends)[:, 0]
        apart = self._shaped(nn.functional.linear(states, self._head.weight, self._bias_of(self._head)).float())
        if self.model.config.is_encoder_decoder:
            start = tokens.new_full((1, 1), decoder_start(self.model))
            output = self.model(input_ids=tokens[:, :1], decoder_input_ids=start, use_cache=False)
        else:
            output = self.model(input_ids=tokens[:, :1], use_cache=False)
        whole = output.logits[:, 0].float()
        if not torch.allclose(apart, whole, atol=1e-3, rtol=1e-3):
            raise ValueError(
                f"Expected logits that are a linear function of the trunk's last hidden state, scaled or with a soft "
                f"cap, got {type(self.model).__name__}, which changes them in another way: not supported"
            )

    def _packs(self) -> bool:
        """Whether episodes go through the trunk one behind the other, in one row without padding."""
        attention = self.model.config._attn_implementation or ""
        if not self._has_flash_attention() or self.model.config.is_encoder_decoder:
            return False
        if attention not in self._packable:
            self._packable[attention] = self._check_packing()
        return self._packable[attention]

    def _has_flash_attention(self) -> bool:
        """Returns True if attention reads rows of several texts without a mask, as FlashAttention's kernels do.

        Other kernels compute the scores between all texts of a packed row, and then mask them.
        """
        return self.device.type == "cuda" and "flash" in (self.model.config._attn_implementation or "")

    @torch.no_grad()
    def _check_packing(self) -> bool:
        """Whether a packed row has this model's own states, on episodes of different lengths."""
        size, ends = self.tokenizer.vocab_size, torch.tensor([3, 1, 4], device=self.device)
        rows = torch.arange(1, 13, device=self.device).view(3, 4) * 7 % size
        tolerance = 1e-3 if self.precision == "float32" else 5e-2
        try:
            with self._running():
                expected = trunk_states(self.model.base_model, rows, torch.ones_like(ends), ends)
                states, starts = packed_states(self.model.base_model, rows, ends)
            for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
                got = states[start : start + end].float()
                if not torch.allclose(got, expected[row, :end].float(), atol=tolerance, rtol=tolerance):
                    raise ValueError("its packed states differ from those of padded rows")
        except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError) as error:
            transformers_logging.get_logger("agents").warning(
                f"{type(self.model).__name__} does not read packed rows ({error}): the update pads its rows."
            )
            return False
        return True

    @torch.no_grad()
    def _check_cache(self) -> bool:
        """Whether the lane cache gives this model's own states, on three lanes of different lengths."""
        size = self.tokenizer.vocab_size
        rows = np.array([[i * 7 % size, i * 5 % size, i * 3 % size, i % size] for i in range(1, 4)])
        try:
            cached, full = self._fast_context(3, rows.shape[1]), FullContext(self.model, 3)
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


def _acts(context: Context) -> TypeGuard[CachedContext]:
    return isinstance(context, CachedContext) and context.acts


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"Expected seed to be a whole number of at least 0, got {seed!r:.200}")
