"""Decode steps as graphs: a token in every lane through the trunk, without the Python between its operations.

A small model's layer is over sooner than Python has called it: of a step of a Llama of width 64, Transformers' Python
takes more than half. So once a policy has taken enough steps to be worth it, one step is traced. The graph runs the
very same operations on the very same weights, so it gives the same bits; that is checked, on other numbers of lanes and
positions than it was traced with, before it is used. A model that it cannot be traced for, or where the bits differ,
goes on as before, and the log says so.

There are two such steps. `DecodeToken` returns the state that a token leaves. `DecodeAction` goes on from there to the
next token, its log-prob and the value: all that a rollout does, with action masks or without.

A policy that was told to compile has its `DecodeAction` compiled instead, before its first step: by inductor, ahead of
time, into a library of its own, which checks nothing when it is called. Ten seconds or more, once for an architecture:
weights, lanes and lengths are arguments. Its numbers are the model's but for rounding. On CUDA both its steps are
recorded as CUDA graphs instead (`agents.policy.cuda`), in bfloat16 as well.

PyTorch calls `torch.jit.trace` deprecated. torch.compile's guards cost a small model's step more than it saves, and the
trace needs no compiler (docs/log.md). When the trace goes, the compiled step stays.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.utils import logging as transformers_logging

from agents.policy.cuda import graphs as cuda_graphs
from agents.policy.cuda.lane_store import LaneStore
from agents.policy.forward_mode import Mode
from agents.policy.head import headless

TRACE_AFTER = 200
"""Steps that a policy takes before one is traced, which costs about as much."""

_HARMLESS = ("torch/nn/functional.py", "transformers/integrations/", "agents/policy/decode_graph.py")
"""Files whose branches in Python, while tracing, depend on nothing but there being one token in a lane."""

_SHAPES = ((3, 12), (2, 30), (5, 7), (1, 9))
"""Lanes, and positions looked at, that a graph is checked with. It is traced or compiled with the first."""


Outputs = tuple[Tensor, ...]

Graph = Callable[..., Outputs]

DecodeMode = Literal["traced", "compiled", "captured"]
"""The ways to make a graph. All three compute the same function."""

Choose = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]
"""From `(lanes, hidden)` states, uniforms, temperature and action masks, as `DecodeAction.forward` takes them, to
actions, log-probs and values."""

Library = Callable[[list[Tensor]], list[Tensor]]
"""From weights and inputs to outputs. It empties the list that it gets."""

LIBRARIES: dict[str, Library] = {}
"""The libraries that this process has compiled, by their source: policies of one architecture share one."""


class _GraphLayer(CacheLayerMixin):
    """Keys and values `(lanes, heads, capacity, head_dim)` that are written in place at each lane's own position."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, lanes: Tensor, positions: Tensor, visible: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys: Tensor = keys
        self.values: Tensor = values
        self._lanes, self._positions, self._visible = lanes, positions, visible
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys[self._lanes, :, self._positions] = key_states[:, :, 0]
        self.values[self._lanes, :, self._positions] = value_states[:, :, 0]
        return self.keys[:, :, : self._visible], self.values[:, :, : self._visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._visible, 0

    def get_seq_length(self) -> int:
        return self._visible - 1

    def get_max_length(self) -> int:
        return -1


class DecodeToken(nn.Module):
    """One token in every lane, to the state that it leaves, as a function of tensors alone.

    Args:
        model: A Transformers causal model.
        last_position: The last position that the model has an embedding for.
        mode: What the trunk runs in.
    """

    def __init__(self, model: PreTrainedModel, last_position: int, mode: Mode = nullcontext) -> None:
        super().__init__()
        self.mode = mode
        self.trunk: Any = headless(model)
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self.last_position = last_position

    def forward(self, tokens: Tensor, positions: Tensor, columns: Tensor, *keys_and_values: Tensor) -> Outputs:
        """Writes a token, and returns the state that it leaves.

        Args:
            tokens: `(lanes,)` int64.
            positions: `(lanes,)` int64, the place of each in its row.
            columns: `(visible,)` int64, 0, 1, 2, ...: the positions that are looked at.
            *keys_and_values: `(lanes, heads, capacity, head_dim)`, keys of every layer, then values of every layer.
                Changed in place.

        Returns:
            `(lanes, hidden)`, alone in its tuple.
        """
        keys, values = keys_and_values[: self.layers], keys_and_values[self.layers :]
        lanes = torch.arange(tokens.shape[0], device=tokens.device)
        hides = columns > positions[:, None, None, None]
        dtype = keys[0].dtype
        mask = torch.zeros_like(hides, dtype=dtype).masked_fill_(hides, torch.finfo(dtype).min)
        layers: list[Any] = [
            _GraphLayer(key, value, lanes, positions, columns.shape[0]) for key, value in zip(keys, values, strict=True)
        ]
        with self.mode():
            output = self.trunk(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions.clamp(max=self.last_position)[:, None],
                past_key_values=Cache(layers=layers),
                use_cache=True,
            )
        return (output.last_hidden_state[:, 0],)


class DecodeAction(nn.Module):
    """One token in every lane, to the next action: a rollout's whole step, as a function of tensors alone.

    Args:
        step: The first half, up to the state.
        heads: The modules whose weights the second half reads.
        choose: The second half, from the state to the action.
        vocab_size: Number of tokens to choose from.
        masked: True if it takes action masks.
    """

    def __init__(
        self, step: DecodeToken, heads: list[nn.Module], choose: Choose, vocab_size: int, masked: bool
    ) -> None:
        super().__init__()
        self.vocab_size, self.masked = vocab_size, masked
        self.step = step
        self.heads = nn.ModuleList(heads)
        self.choose = choose

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        columns: Tensor,
        uniforms: Tensor,
        temperature: Tensor,
        *rest: Tensor,
    ) -> Outputs:
        """Writes a token, and chooses the next.

        Args:
            tokens: `(lanes,)` int64, as in `DecodeToken.forward`.
            positions: `(lanes,)` int64, as there.
            columns: `(visible,)` int64, as there.
            uniforms: `(lanes, 1)` float32 in [0, 1), which decide.
            temperature: `()` float32, what the logits are divided by.
            *rest: Where the step is masked, `(lanes, vocab_size)` bool first: True where a token may be taken. Then
                keys and values as in `DecodeToken.forward`.

        Returns:
            `(lanes,)` each: actions int64, their log-probs and the values float32.
        """
        (hidden,) = self.step(tokens, positions, columns, *rest[self.masked :])
        return self.choose(hidden, uniforms, temperature, rest[0] if self.masked else None)

    @property
    def trunk(self) -> Any:
        """The trunk of the first half."""
        return self.step.trunk

    @property
    def mode(self) -> Mode:
        """The mode of the first half."""
        return self.step.mode


Step = DecodeToken | DecodeAction


class DecodeGraph:
    """The graph of one policy's step, made when it is worth it and again when weights have moved elsewhere.

    A copy of it, as of a policy, starts with none.

    Args:
        trace_after: Steps that are taken before one is traced.

    Attributes:
        graph: The graph; None: not made yet, or refused.
        refused: True if no graph could be made that gives the step's numbers.
    """

    def __init__(self, trace_after: int = TRACE_AFTER) -> None:
        self.graph: Graph | None = None
        self.refused = False
        self._trace_after = trace_after
        self._steps = 0
        self._addresses: tuple[int, ...] = ()
        self._mode: DecodeMode = "traced"

    def __reduce__(self) -> tuple[type[DecodeGraph], tuple[int]]:
        """Copies as a fresh one: a graph belongs to the weights that it was made for."""
        return DecodeGraph, (self._trace_after,)

    def begin(self, weights: Sequence[Tensor], mode: DecodeMode = "traced") -> None:
        """Drops the graph if weights are no longer where it reads them. Called before the steps of a rollout.

        Args:
            weights: All weights that the step reads.
            mode: How the graph is made.
        """
        addresses = tuple(weight.data_ptr() for weight in weights)
        if (addresses, mode) != (self._addresses, self._mode):
            self._addresses, self._mode, self.graph, self.refused = addresses, mode, None, False

    def run(self, step: Step, tokens: Tensor, positions: Tensor, columns: Tensor, *rest: Tensor) -> Outputs:
        """Takes one step: by the graph, if there is one or now is the time to make one, and else by the step itself.

        Args:
            step: The step that the graph is of.
            tokens: `(lanes,)` int64, as in `DecodeToken.forward`.
            positions: `(lanes,)` int64, as there.
            columns: `(visible,)` int64, as there.
            *rest: All other inputs of the step.

        Returns:
            The outputs of the step.
        """
        self._steps += 1
        if self.graph is None and not self.refused and (self._mode != "traced" or self._steps >= self._trace_after):
            self.graph = self._make(step, [tensor for tensor in rest if tensor.ndim == 4])
            self.refused = self.graph is None  # tried once: what failed would fail again at every step
        if self.graph is None:
            outputs: Outputs = step(tokens, positions, columns, *rest)
            return outputs
        return self.graph(tokens, positions, columns, *rest)

    def _make(self, step: Step, cache: list[Tensor]) -> Graph | None:
        """Returns a graph of the step, whose keys and values are like the cache's; None where there is none."""
        if self._mode == "captured":
            return _capture_step(step, cache)
        # Without a compiler, a trace is still worth having.
        return (compile_step(step, cache) if self._mode == "compiled" else None) or _trace_step(step, cache)


class DecodeGraphs:
    """The graphs of a policy, and the memory that recorded steps write to. They outlive a rollout.

    Args:
        trace_after: Steps that are taken before one is traced.

    Attributes:
        token: The graph of the `DecodeToken`.
        action: The graph of the `DecodeAction` without action masks.
        masked_action: The graph of the one with action masks.
        store: Memory that stays in place between rollouts.
    """

    def __init__(self, trace_after: int = TRACE_AFTER) -> None:
        self._trace_after = trace_after
        self.store = LaneStore()
        self.clear()

    def clear(self) -> None:
        """Drops all graphs, as where the policy computes in another precision from now on."""
        self.token, self.action, self.masked_action = (DecodeGraph(self._trace_after) for _ in range(3))


@dataclass(frozen=True)
class Decoding:
    """The way in which a policy's decode steps become graphs.

    Attributes:
        graphs: The policy's graphs.
        mode: The way they are made. In mode "compiled", the `DecodeToken` is traced: only greedy play takes it.
        heads: The modules whose weights `choose` reads.
        choose: From states to actions.
        vocab_size: Number of tokens to choose from.
    """

    graphs: DecodeGraphs
    mode: DecodeMode
    heads: list[nn.Module]
    choose: Choose
    vocab_size: int


class TokenDecoder:
    """Takes the decode steps of a policy for the time of a rollout: by its graphs, where there are some.

    Args:
        model: A Transformers causal model.
        decoding: Its graphs, and how they are made.
        mode: What the trunk runs in.
    """

    def __init__(self, model: PreTrainedModel, decoding: Decoding, mode: Mode = nullcontext) -> None:
        config = model.config.get_text_config()
        self.choose = decoding.choose
        self._token = DecodeToken(model, getattr(config, "max_position_embeddings", 2**31) - 1, mode)
        self._actions = [
            DecodeAction(self._token, decoding.heads, decoding.choose, decoding.vocab_size, masked)
            for masked in (False, True)
        ]
        self._graphs = decoding.graphs
        weights = list(_weights_of(self._actions[0]).values())
        self._graphs.token.begin(weights, "traced" if decoding.mode == "compiled" else decoding.mode)
        for graph in (self._graphs.action, self._graphs.masked_action):
            graph.begin(weights, decoding.mode)

    def decode_token(self, *inputs: Tensor) -> Tensor:
        """Writes a token in every lane; inputs as in `DecodeToken.forward`. Returns `(lanes, hidden)`."""
        return self._graphs.token.run(self._token, *inputs)[0]

    def decode_action(self, masked: bool, *inputs: Tensor) -> Outputs:
        """Writes a token in every lane and chooses the next; inputs and outputs as in `DecodeAction.forward`."""
        graph = self._graphs.masked_action if masked else self._graphs.action
        return graph.run(self._actions[masked], *inputs)


def _example(step: Step, like: list[Tensor], lanes: int, visible: int, seed: int = 0) -> Outputs:
    """Returns inputs to try a step with, drawn anew; the cache is longer than what is looked at."""
    device = like[0].device
    noise = torch.Generator(device).manual_seed(lanes + 100 * seed)
    rows = step.trunk.get_input_embeddings().num_embeddings
    numbers = torch.arange(lanes, device=device)
    caches = [
        tensor.new_zeros(lanes, tensor.shape[1], visible + 8, tensor.shape[3]).normal_(generator=noise)
        for tensor in like
    ]
    extra: Outputs = ()
    if isinstance(step, DecodeAction):
        uniforms = torch.rand(lanes, 1, generator=noise, device=device)
        extra = uniforms, torch.tensor(0.9, device=device)
        if step.masked:
            extra += (torch.rand(lanes, step.vocab_size, generator=noise, device=device) > 0.1,)
    return (
        (numbers * 7 + 1 + seed) % rows,
        (numbers * 5 + visible // 2 + seed) % visible,
        torch.arange(visible, device=device),
        *extra,
        *caches,
    )


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns all tensors that a module reads beside its inputs, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check(step: Step, graph: Graph, like: list[Tensor], tolerance: float) -> None:
    """Compares a graph with its step: outputs, and what both write, twice in the same memory with other inputs.

    Raises:
        ValueError: If they differ.
    """
    for shape in (*_SHAPES, _SHAPES[0]):
        caches = _example(step, like, *shape)[-len(like) :]
        for seed in (0, 1):
            inputs = (*_example(step, like, *shape, seed)[: -len(like)], *caches)
            copies = tuple(tensor.clone() for tensor in inputs)
            actual, expected = graph(*inputs), step(*copies)
            if not _agree(actual, expected, tolerance):
                raise ValueError("its numbers differ from the model's own")
            if not _agree(inputs, copies, tolerance):
                raise ValueError("what it writes differs from what the model writes")


def _agree(actual: Outputs, expected: Outputs, tolerance: float) -> bool:
    """Returns True if integers are equal, and floats within the tolerance, relative and absolute."""
    return all(
        torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
        if ours.is_floating_point()
        else torch.equal(ours, theirs)
        for ours, theirs in zip(actual, expected, strict=True)
    )


@torch.no_grad()
def _trace_step(step: Step, like: list[Tensor]) -> Graph | None:
    """Traces a step. Returns its graph; None where there is none that gives the same bits."""
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with _without_loss_warning():
                traced: Any = torch.jit.trace(step, _example(step, like, *_SHAPES[0]), check_trace=False)
        for warning in seen:
            decides = issubclass(warning.category, torch.jit.TracerWarning)  # type: ignore[attr-defined]
            if decides and not any(known in warning.filename for known in _HARMLESS):
                raise ValueError(f"{warning.filename}:{warning.lineno} decides in Python: {warning.message}")
        _check(step, traced, like, 0.0)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError) as error:
        _LOG.warning(
            f"{type(step.trunk).__name__} takes its decode steps without a graph ({_first_line(error)}), "
            "which is right, and for a small model slower."
        )
        return None

    def graph(*inputs: Tensor) -> Outputs:
        with torch.inference_mode():  # saves autograd's bookkeeping
            outputs = traced(*inputs)
        return tuple(output.clone() for output in outputs)  # ordinary tensors again

    return graph


class _LossWarning(logging.Filter):
    """Drops one warning: tracing reads every attribute of a module, and a trunk has no loss function to show."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "loss_type" not in record.getMessage()


@contextmanager
def _without_loss_warning() -> Iterator[None]:
    loss_warning = _LossWarning()
    logger = transformers_logging.get_logger("transformers.modeling_utils")
    logger.addFilter(loss_warning)
    try:
        yield
    finally:
        logger.removeFilter(loss_warning)


@torch.no_grad()
def _capture_step(step: Step, like: list[Tensor]) -> Graph | None:
    """Records a step's kernels. Returns what replays them; None where that fails, or gives other numbers."""
    device = like[0].device
    with step.mode():
        rounds = torch.is_autocast_enabled(device.type) or like[0].dtype != torch.float32
    try:
        _check(step, cuda_graphs.CapturedStep(step, cuda_graphs.recorder(device)), like, 2e-2 if rounds else 1e-4)
    except Exception as error:  # CUDA's ways to fail are not a closed list: none is a reason to stop
        _LOG.warning(
            f"{type(step.trunk).__name__} takes its decode steps without a CUDA graph ({type(error).__name__}: "
            f"{_first_line(error)}), which is right, and slower."
        )
        return None
    return cuda_graphs.CapturedStep(step, cuda_graphs.recorder(device))


class _Pure(nn.Module):
    """A step whose weights are an argument, so that its library holds none."""

    def __init__(self, step: Any, names: list[str]) -> None:
        super().__init__()
        self._step, self._names = [step], names  # in a list, so that its weights are not this module's

    def forward(self, weights: list[Tensor], *inputs: Tensor) -> Outputs:
        """Runs the step with these weights, in the order of the names."""
        named = dict(zip(self._names, weights, strict=True))
        outputs: Outputs = torch.func.functional_call(self._step[0], named, inputs)
        return outputs


@torch.no_grad()
def compile_step(step: Step, like: list[Tensor]) -> Graph | None:
    """Compiles a step. Returns its graph; None where that fails, or gives other numbers."""
    weights = [weight.detach() for weight in _weights_of(step).values()]
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own deprecations, which its user can do nothing about
            library = compile_library(step, weights, _example(step, like, *_SHAPES[0]))

        def graph(*inputs: Tensor) -> Outputs:
            return tuple(library([*weights, *inputs]))

        _check(step, graph, like, 1e-4)
    except Exception as error:  # a compiler fails in its own ways: none is a reason to stop
        _LOG.warning(
            f"{type(step.trunk).__name__} goes on without being compiled ({type(error).__name__}: "
            f"{_first_line(error)}), which is right, and slower. Compiling needs a C++ compiler (g++ or clang++)."
        )
        return None
    _LOG.info(f"Compiled the decode step of {type(step.trunk).__name__} in {time.perf_counter() - started:.0f} s")
    return graph


def compile_library(step: Step, weights: list[Tensor], inputs: Outputs) -> Library:
    """Returns a step as a library, for any number of lanes, columns and positions."""
    any_size = torch.export.Dim.DYNAMIC
    sizes: list[dict[int, Any] | None] = []
    for tensor in inputs:
        sizes += [{0: any_size, 2: any_size} if tensor.ndim == 4 else {0: any_size} if tensor.ndim else None]
    exported = torch.export.export(
        _Pure(step, list(_weights_of(step))),
        (weights, *inputs),
        dynamic_shapes={"weights": [None] * len(weights), "inputs": tuple(sizes)},
        strict=False,
    )
    # The graph's text determines the library, but for the values of constants, of which there are none as a rule.
    text = exported.graph_module.print_readable(print_output=False, include_stride=True)
    code = f"{torch.get_num_threads()} {text}"
    if exported.constants or code not in LIBRARIES:
        with tempfile.TemporaryDirectory() as folder:  # the file is not needed once it is loaded
            file = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "library.pt2"))
            library: Library = torch._inductor.aoti_load_package(file).loader.boxed_run
        if exported.constants:
            return library
        LIBRARIES[code] = library
    return LIBRARIES[code]


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's message, for a warning."""
    return (str(error).splitlines() or [""])[0]


_LOG = transformers_logging.get_logger("agents")
