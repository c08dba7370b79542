"""One decode step as a graph: a token in every lane through the trunk, without the Python between its operations.

A small model's layer is over sooner than Python has called it: of a step of a Llama of width 64, Transformers' Python
takes more than half. So once a policy has taken enough steps to be worth it, one step is traced. The graph runs the
very same operations on the very same weights, so it gives the same bits; that is checked, on other numbers of lanes and
positions than it was traced with, before it is used. A model that it cannot be traced for, or where the bits differ,
goes on as before, and the log says so.

There are two such steps. `DecodeStep` gives the state that a token leaves. `ActionStep` goes on from there to the next
token, its log-prob and the value: all that a rollout does, with action masks or without.

A policy that was told to compile has its `ActionStep` compiled instead, before its first step: by inductor, ahead of
time, into a library of its own, which checks nothing when it is called. Ten seconds or more, once for an architecture:
weights, lanes and lengths are arguments. Its numbers are the model's but for rounding. On a GPU both its steps are
recorded as CUDA graphs instead (`agents/policy/cuda_graphs.py`), in bfloat16 as well.

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
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.utils import logging as transformers_logging

from agents.policy import cuda_graphs
from agents.policy.trunk import Mode

WORTH_IT = 200
"""Steps that a policy takes before one is traced, which costs about as much."""


_KNOWN = ("torch/nn/functional.py", "transformers/integrations/", "agents/policy/decode_graph.py")
"""Whose decisions while tracing are known to depend on nothing but there being one token a lane."""


_SHAPES = ((3, 12), (2, 30), (5, 7), (1, 9))
"""Lanes, and positions looked at, that a graph is checked with. Traced or compiled with the first."""


Outputs = tuple[Tensor, ...]


Graph = Callable[..., Outputs]


Way = Literal["traced", "compiled", "captured"]
"""How a graph is made: all are the same function."""


Choose = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]
"""From `(lanes, hidden)` states, and what `ActionStep.forward` says, to actions, log-probs and values."""


Library = Callable[[list[Tensor]], list[Tensor]]
"""From weights and inputs to outputs. It empties the list that it gets."""


_COMPILED: dict[str, Library] = {}
"""What this process has compiled, by what was compiled: policies of one architecture share it."""


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


class DecodeStep(nn.Module):
    """One token in every lane, as a function of tensors alone.

    Args:
        model: A Transformers causal model.
        last_position: The last one that it has an embedding for.
        mode: What the trunk runs in.
    """

    def __init__(self, model: PreTrainedModel, last_position: int, mode: Mode = nullcontext) -> None:
        super().__init__()
        self.mode = mode
        self.trunk: Any = model.base_model
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self.last_position = last_position

    def forward(self, tokens: Tensor, positions: Tensor, columns: Tensor, *keys_and_values: Tensor) -> Outputs:
        """Write a token, and give the state that it leaves.

        Args:
            tokens: `(lanes,)` int64.
            positions: `(lanes,)` int64, where in its row each stands.
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


class ActionStep(nn.Module):
    """One token in every lane, and the next one: a rollout's whole step, as a function of tensors alone.

    Args:
        step: The first half.
        heads: The modules whose weights the second half reads.
        choose: The second half.
        vocab_size: How many tokens there are to choose from.
        masked: Whether it takes action masks.
    """

    def __init__(self, step: DecodeStep, heads: list[nn.Module], choose: Choose, vocab_size: int, masked: bool) -> None:
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
        """Write a token, and choose the next.

        Args:
            tokens: See `DecodeStep.forward`.
            positions: Likewise.
            columns: Likewise.
            uniforms: `(lanes, 1)` float32 in [0, 1), which decide.
            temperature: `()` float32, what the logits are divided by.
            *rest: Where it is masked, `(lanes, vocab_size)` bool: True where a token may be taken. Then keys and values
                as in `DecodeStep.forward`.

        Returns:
            `(lanes,)` each: actions int64, their log-probs and the values float32.
        """
        (hidden,) = self.step(tokens, positions, columns, *rest[self.masked :])
        return self.choose(hidden, uniforms, temperature, rest[0] if self.masked else None)

    @property
    def trunk(self) -> Any:
        """The first half's."""
        return self.step.trunk

    @property
    def mode(self) -> Mode:
        """The first half's."""
        return self.step.mode


Step = DecodeStep | ActionStep


class StepGraph:
    """The graph of one policy's step, made when it is worth it and again when weights have moved elsewhere.

    A copy of it, as of a policy, starts with none.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._graph: Graph | None = None
        self._places: tuple[int, ...] = ()
        self._refused = False
        self._way: Way = "traced"

    def __reduce__(self) -> tuple[type[StepGraph], tuple[()]]:
        """A graph belongs to the weights that it was made for: a copy is a fresh one."""
        return StepGraph, ()

    def begin(self, weights: Sequence[Tensor], way: Way = "traced") -> None:
        """Look whether the weights are still where the graph reads them. Before the steps of a rollout.

        Args:
            weights: What the step reads, whose graph this is.
            way: How it is made.
        """
        places = tuple(one.data_ptr() for one in weights)
        if (places, way) != (self._places, self._way):
            self._places, self._way, self._graph, self._refused = places, way, None, False

    def take(self, step: Step, tokens: Tensor, positions: Tensor, columns: Tensor, *rest: Tensor) -> Outputs:
        """One step: by a graph, if there is one or now is the time to make one, and else by the step itself.

        Args:
            step: See `begin`.
            tokens: See `DecodeStep.forward`.
            positions: Likewise.
            columns: Likewise.
            *rest: What else the step takes.

        Returns:
            What the step gives.
        """
        self._steps += 1
        if self._graph is None and not self._refused and (self._way != "traced" or self._steps >= WORTH_IT):
            cache = [one for one in rest if one.ndim == 4]
            if self._way == "captured":
                self._graph = _captured(step, cache)
            else:
                self._graph = (_compiled(step, cache) if self._way == "compiled" else None) or _traced(step, cache)
            self._refused = self._graph is None
        if self._graph is None:
            outputs: Outputs = step(tokens, positions, columns, *rest)
            return outputs
        return self._graph(tokens, positions, columns, *rest)


class Steps:
    """The decode steps of a policy, for the time of a rollout: by its graphs, where there are some.

    Args:
        model: A Transformers causal model.
        heads: See `ActionStep`.
        choose: Likewise.
        vocab_size: Likewise.
        graphs: Where the graphs of the policy's `DecodeStep` are kept, and of its `ActionStep` without masks and with.
        way: How they are made. Of those that are compiled, the first is traced.
        mode: What the trunk runs in.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        heads: list[nn.Module],
        choose: Choose,
        vocab_size: int,
        graphs: tuple[StepGraph, StepGraph, StepGraph],
        way: Way = "traced",
        mode: Mode = nullcontext,
    ) -> None:
        config = model.config.get_text_config()
        self.choose = choose
        self._decode = DecodeStep(model, getattr(config, "max_position_embeddings", 2**31) - 1, mode)
        self._acts = [ActionStep(self._decode, heads, choose, vocab_size, masked) for masked in (False, True)]
        self._graphs = graphs
        weights = list(_weights_of(self._acts[0]).values())
        for graph in graphs:
            graph.begin(weights, "traced" if way == "compiled" and graph is graphs[0] else way)

    def decode(self, *inputs: Tensor) -> Tensor:
        """See `DecodeStep.forward`: `(lanes, hidden)`."""
        return self._graphs[0].take(self._decode, *inputs)[0]

    def act(self, masked: bool, *inputs: Tensor) -> Outputs:
        """See `ActionStep.forward`."""
        return self._graphs[1 + masked].take(self._acts[masked], *inputs)


def _example(step: Step, like: list[Tensor], lanes: int, visible: int, seed: int = 0) -> Outputs:
    """Inputs to try a step with, in numbers drawn anew; there is more room than is looked at."""
    device = like[0].device
    noise = torch.Generator(device).manual_seed(lanes + 100 * seed)
    rows = step.trunk.get_input_embeddings().num_embeddings
    places = torch.arange(lanes, device=device)
    caches = [one.new_zeros(lanes, one.shape[1], visible + 8, one.shape[3]).normal_(generator=noise) for one in like]
    extra: Outputs = ()
    if isinstance(step, ActionStep):
        uniforms = torch.rand(lanes, 1, generator=noise, device=device)
        extra = uniforms, torch.tensor(0.9, device=device)
        if step.masked:
            extra += (torch.rand(lanes, step.vocab_size, generator=noise, device=device) > 0.1,)
    return (
        (places * 7 + 1 + seed) % rows,
        (places * 5 + visible // 2 + seed) % visible,
        torch.arange(visible, device=device),
        *extra,
        *caches,
    )


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    """All that a module reads beside its inputs, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check(step: Step, graph: Graph, like: list[Tensor], tolerance: float) -> None:
    """Hold a graph against the step: what it gives, and what it writes, twice in the same place with other inputs.

    Raises:
        ValueError: If they differ.
    """
    for shape in (*_SHAPES, _SHAPES[0]):
        caches = _example(step, like, *shape)[-len(like) :]
        for seed in (0, 1):
            inputs = (*_example(step, like, *shape, seed)[: -len(like)], *caches)
            copies = tuple(one.clone() for one in inputs)
            found, expected = graph(*inputs), step(*copies)
            if not _agree(found, expected, tolerance):
                raise ValueError("its numbers differ from the model's own")
            if not _agree(inputs, copies, tolerance):
                raise ValueError("what it writes differs from what the model writes")


def _agree(found: Outputs, expected: Outputs, tolerance: float) -> bool:
    """Whether whole numbers are the same, and others within the tolerance, relative and absolute."""
    return all(
        torch.allclose(one, other, rtol=tolerance, atol=tolerance)
        if one.is_floating_point()
        else torch.equal(one, other)
        for one, other in zip(found, expected, strict=True)
    )


@torch.no_grad()
def _traced(step: Step, like: list[Tensor]) -> Graph | None:
    """The graph of a step; None where there is none that gives the same bits."""
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with _not_asked_for_losses():
                traced: Any = torch.jit.trace(step, _example(step, like, *_SHAPES[0]), check_trace=False)
        for warning in seen:
            decides = issubclass(warning.category, torch.jit.TracerWarning)  # type: ignore[attr-defined]
            if decides and not any(known in warning.filename for known in _KNOWN):
                raise ValueError(f"{warning.filename}:{warning.lineno} decides in Python: {warning.message}")
        _check(step, traced, like, 0.0)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError) as error:
        _LOG.warning(
            f"{type(step.trunk).__name__} takes its decode steps without a graph ({_first_line(error)}), "
            "which is right, and for a small model slower."
        )
        return None

    def graph(*inputs: Tensor) -> Outputs:
        with torch.inference_mode():  # spares the graph what autograd would keep an eye on
            outputs = traced(*inputs)
        return tuple(one.clone() for one in outputs)  # ordinary tensors again

    return graph


class _AboutLosses(logging.Filter):
    """PyTorch asks modules for all they have while it traces, and a trunk that is asked for its loss warns of none."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "loss_type" not in record.getMessage()


@contextmanager
def _not_asked_for_losses() -> Iterator[None]:
    about = _AboutLosses()
    logger = transformers_logging.get_logger("transformers.modeling_utils")
    logger.addFilter(about)
    try:
        yield
    finally:
        logger.removeFilter(about)


@torch.no_grad()
def _captured(step: Step, like: list[Tensor]) -> Graph | None:
    """A step whose kernels are recorded, and replayed; None where they cannot be, or give other numbers."""
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
    """A step whose weights are an argument, so that what is compiled holds none."""

    def __init__(self, step: Any, names: list[str]) -> None:
        super().__init__()
        self._step, self._names = [step], names  # in a list, so that its weights are not this module's

    def forward(self, weights: list[Tensor], *inputs: Tensor) -> Outputs:
        """The step, with these weights `[...]` in the order of the names."""
        named = dict(zip(self._names, weights, strict=True))
        outputs: Outputs = torch.func.functional_call(self._step[0], named, inputs)
        return outputs


@torch.no_grad()
def _compiled(step: Step, like: list[Tensor]) -> Graph | None:
    """A step, compiled; None where it cannot be, or gives other numbers."""
    weights = [one.detach() for one in _weights_of(step).values()]
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own deprecations, which its user can do nothing about
            library = _library(step, weights, _example(step, like, *_SHAPES[0]))

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


def _library(step: Step, weights: list[Tensor], inputs: Outputs) -> Library:
    """A step as a library that takes one list of weights and inputs, for any number of lanes, columns and positions."""
    any_size = torch.export.Dim.DYNAMIC
    sizes: list[dict[int, Any] | None] = []
    for one in inputs:
        sizes += [{0: any_size, 2: any_size} if one.ndim == 4 else {0: any_size} if one.ndim else None]
    exported = torch.export.export(
        _Pure(step, list(_weights_of(step))),
        (weights, *inputs),
        dynamic_shapes={"weights": [None] * len(weights), "inputs": tuple(sizes)},
        strict=False,
    )
    # Its text says all that the library is made of, but for the values of constants, of which there are none as a rule.
    text = exported.graph_module.print_readable(print_output=False, include_stride=True)
    code = f"{torch.get_num_threads()} {text}"
    if exported.constants or code not in _COMPILED:
        with tempfile.TemporaryDirectory() as folder:  # the file is not needed once it is loaded
            file = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "library.pt2"))
            library: Library = torch._inductor.aoti_load_package(file).loader.boxed_run
        if exported.constants:
            return library
        _COMPILED[code] = library
    return _COMPILED[code]


def _first_line(error: Exception) -> str:
    """What a warning says of an error."""
    return (str(error).splitlines() or [""])[0]


_LOG = transformers_logging.get_logger("agents")
