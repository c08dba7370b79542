"""The trunk's pass over whole rows, forward and backward, as two libraries without Python between their operations.

Most of a small model's update is not arithmetic but Python, PyTorch's dispatch, autograd and elementwise operations. A
policy on a CPU that was told to compile has the trunk's share of that compiled by inductor, ahead of time: the pass is
traced together with its gradient, with the numbers of rows and of tokens left open; the graph is cut in two, by what
the backward pass is given and what it computes again; and an autograd function calls the two. Weights are arguments, so
that policies of one architecture share both (a separate critic, too), and gradients reach the weights as ever.

Numbers are the model's but for rounding, which is checked before they are used. What is compiled depends on the model
and on what of it is trained alone, and nothing is added up in an order that threads decide, so that a run that goes on
in another process has the same numbers.

The joint graph and its partition are PyTorch's (`torch._functorch`), and private: they are imported when they are asked
for, and where a version has them no more, the model goes on without being compiled, and the log says so.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging as transformers_logging

from agents.decode import Library, first_line, loaded, weights_of
from agents.lane_cache import attention_window, whole_rows
from agents.linear import compiling_rows

_SHAPES = ((3, 13), (1, 30))
"""Rows, and tokens in each, that a compiled pass is checked with. Neither is what it was traced with."""


class Passes(NamedTuple):
    """A compiled pass over rows.

    Attributes:
        forward: From the weights and `input_ids` to the states and what else it has computed for the backward pass.
        backward: From what is kept and the gradient of the states to that of the weights that have one.
        kept: What is kept, as places in the list of forward's inputs and outputs.
        trained: Of each weight, whether backward gives its gradient.
    """

    forward: Library
    backward: Library
    kept: list[int]
    trained: list[bool]


_COMPILED: dict[str, Passes] = {}
"""What this process has compiled, by what it was compiled from."""


class CompiledTrunk:
    """A trunk's states over whole rows, compiled when they are first asked for, and again when the trunk is another.

    A copy of it, as of a policy, starts with nothing.
    """

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] = ()
        self._parts: list[Any] = []  # holds on to what was seen, so that no other object has the same id
        self._weights: list[Tensor] = []
        self._passes: Passes | None = None

    def __reduce__(self) -> tuple[type[CompiledTrunk], tuple[()]]:
        """What is compiled belongs to a trunk: a copy is a fresh one."""
        return CompiledTrunk, ()

    def states(self, trunk: Any, input_ids: Tensor) -> Tensor:
        """The trunk's last hidden states, with gradients where they are wanted.

        Args:
            trunk: The trunk of a causal model on a CPU. It runs as it is where it cannot be compiled, in training mode
                (dropout), and where modules of it have hooks, as under FSDP.
            input_ids: `(batch, length)` int64, right-padded.

        Returns:
            `(batch, length, hidden)`.
        """
        parts, seen = _look(trunk)
        if seen != self._seen:
            self._parts, self._seen = parts, seen
            self._weights = list(weights_of(trunk).values())
            trained = any(one.requires_grad for one in self._weights)
            plain = not trained or any(module.training or _hooks(module) for module in trunk.modules())
            self._passes = None if plain else _checked(trunk)
        # A mask hides what is behind a model's window: what is compiled has none.
        if self._passes is None or input_ids.shape[1] >= attention_window(trunk.config):
            return whole_rows(trunk, input_ids)
        states: Tensor = _Pass.apply(  # type: ignore[no-untyped-call]
            self._passes, input_ids.contiguous(), *self._weights
        )
        return states


class _Pass(torch.autograd.Function):
    """Calls the two libraries."""

    @staticmethod
    def forward(ctx: Any, passes: Passes, input_ids: Tensor, *weights: Tensor) -> Tensor:
        """The states."""
        inputs = [*weights, input_ids]
        outputs = passes.forward([*inputs])  # which empties the list that it gets
        everything = [*inputs, *outputs]
        ctx.passes = passes
        ctx.save_for_backward(*(everything[place] for place in passes.kept))
        return outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the weights."""
        found = iter(ctx.passes.backward([*ctx.saved_tensors, d_states.contiguous()]))
        return None, None, *(next(found) if trained else None for trained in ctx.passes.trained)


def _look(trunk: nn.Module) -> tuple[list[Any], tuple[Any, ...]]:
    """All that a trunk consists of, and what of it decides how it is compiled, and whether."""
    parts: list[Any] = []
    notes: list[Any] = []
    for module in trunk.modules():
        weights = [one for one in (*module._parameters.values(), *module._buffers.values()) if one is not None]
        parts += [module, *weights]
        notes += [module.training, _hooks(module)]
        notes += [(one.requires_grad, one.dtype, one.stride()) for one in weights]
    return parts, (*map(id, parts), *notes)


def _hooks(module: nn.Module) -> bool:
    """Whether a module does more than its `forward` says."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _checked(trunk: Any) -> Passes | None:
    """A trunk, compiled; None where it cannot be, or gives other numbers."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own deprecations, which its user can do nothing about
            passes = _compiled(trunk)
            for shape in _SHAPES:
                _check(trunk, passes, *shape)
    except Exception as error:  # a compiler fails in its own ways: none is a reason to stop
        _LOG.warning(
            f"{type(trunk).__name__} learns without being compiled ({type(error).__name__}: "
            f"{first_line(error):.200}), which is right, and slower. Compiling needs a C++ compiler "
            "(g++ or clang++)."
        )
        return None
    _LOG.info(f"Compiled the update of {type(trunk).__name__} in {time.perf_counter() - started:.0f} s")
    return passes


def _check(trunk: Any, passes: Passes, rows: int, length: int) -> None:
    """Hold what is compiled against the trunk: states and gradients.

    Raises:
        ValueError: If they differ.
    """
    weights = weights_of(trunk)
    trained = [one for one in weights.values() if one.requires_grad]
    noise = torch.Generator().manual_seed(length)
    input_ids = torch.randint(trunk.get_input_embeddings().num_embeddings, (rows, length), generator=noise)

    def of(states: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        d_states = torch.randn(states.shape, generator=torch.Generator().manual_seed(rows))
        return states.detach(), torch.autograd.grad(states, trained, d_states, allow_unused=True)

    found = of(_Pass.apply(passes, input_ids, *weights.values()))  # type: ignore[no-untyped-call]
    expected = of(whole_rows(trunk, input_ids))
    if not _close(found[0], expected[0], 0.0):
        raise ValueError("its states differ from the model's own")
    # Some gradients are 0 but for rounding, as that of a bias of keys: the largest of all says what is little.
    most = max((float(one.abs().max()) for one in expected[1] if one is not None), default=0.0)
    for one, other in zip(found[1], expected[1], strict=True):
        if one is None or other is None:
            if one is not other:
                raise ValueError("other weights have a gradient than those of the model itself")
        elif not _close(one, other, 1e-6 * most):
            raise ValueError("its gradients differ from the model's own")


def _close(found: Tensor, expected: Tensor, little: float) -> bool:
    """Whether numbers are the same but for rounding, as measured by the largest."""
    return bool(torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()) + little))


def _compiled(trunk: Any) -> Passes:
    """The two libraries: from those that there are, or new ones."""
    weights = weights_of(trunk)
    shapes = [(name, one.shape, one.stride(), one.dtype, one.requires_grad) for name, one in weights.items()]
    config = f"{trunk.config._attn_implementation} {trunk.config.to_json_string()}"
    source = f"{torch.get_num_threads()} {type(trunk)} {trunk} {config} {shapes}"
    if source not in _COMPILED:
        forward, backward, kept, trained = _cut(_joint(trunk, weights), len(weights))
        _COMPILED[source] = Passes(_library(forward), _library(backward), kept, trained)
    return _COMPILED[source]


def _joint(trunk: Any, weights: dict[str, Tensor]) -> fx.GraphModule:
    """A pass over rows and its gradient as one graph, for any number of rows and of tokens.

    Raises:
        ValueError: If the model's attention is not PyTorch's, or its gradient would differ from run to run.
    """
    from torch._export.utils import _compiling_state_context
    from torch._functorch.aot_autograd import aot_export_joint_simple
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    config = trunk.config
    attention = config._attn_implementation
    if attention != "sdpa":
        raise ValueError(f"its attention is {attention!r}, not 'sdpa'")
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    inputs = [mode.from_tensor(one, static_shapes=True) for one in weights.values()]
    sizes: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 2)
    inputs.append(mode.from_tensor(torch.zeros(4, 11, dtype=torch.int64), symbolic_context=sizes))

    def states(*inputs: Tensor) -> tuple[Tensor]:
        named = dict(zip(weights, inputs, strict=False))
        output = torch.func.functional_call(trunk, named, (), {"input_ids": inputs[-1], "use_cache": False})
        return (output.last_hidden_state.clone(),)  # no view of anything, which the joint graph does not take

    decompositions = dict(select_decomp_table())
    decompositions.pop(torch.ops.aten.embedding_dense_backward.default, None)
    config._attn_implementation = _CAUSAL
    try:
        # As while exporting: Transformers then does not look at numbers, which a trace does not have.
        with mode, _compiling_state_context(), compiling_rows():
            joint: Any = aot_export_joint_simple(states, tuple(inputs), trace_joint=True, decompositions=decompositions)
    finally:
        config._attn_implementation = attention
    for node in joint.graph.nodes:
        if node.target is torch.ops.aten.embedding_dense_backward.default:
            node.target = torch.ops.textenvs.embedding_dense_backward.default
        elif any(name in str(node.target) for name in _ORDERLESS):
            raise ValueError(f"inductor's {node.target} adds up in no fixed order")
    return joint  # type: ignore[no-any-return]


# PyTorch's own gradient of an embedding, which inductor would replace: by sums to which threads add as they come.
_OPERATOR = "embedding_dense_backward"
_LIBRARY = torch.library.Library("textenvs", "FRAGMENT")
_LIBRARY.define(f"{_OPERATOR}(Tensor d_out, Tensor indices, SymInt rows, SymInt padding, bool by_frequency) -> Tensor")
_LIBRARY.impl(_OPERATOR, torch.ops.aten.embedding_dense_backward.default, "CPU")
torch.library.register_fake(
    f"textenvs::{_OPERATOR}",
    lambda d_out, indices, rows, padding, by_frequency: d_out.new_empty(rows, d_out.shape[-1]),
    lib=_LIBRARY,
)
_ORDERLESS = ("index_put", "scatter_add", "scatter_reduce")
"""Operators that inductor does so as well."""


def _causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **settings: Any) -> Any:
    """Transformers' attention by PyTorch's kernel, under a name that it makes no mask for.

    Rows are right-padded, so that causal attention needs none: with one, the kernel is slower.
    """
    return sdpa_attention_forward(module, query, key, value, None, **settings)


_CAUSAL = "textenvs_causal"
AttentionInterface.register(_CAUSAL, _causal)


def _cut(joint: fx.GraphModule, weights: int) -> tuple[fx.GraphModule, fx.GraphModule, list[int], list[bool]]:
    """The joint graph in two, and what `Passes` says of them."""
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    parts: tuple[Any, Any] = min_cut_rematerialization_partition(joint, None, num_fwd_outputs=1)
    forward, backward = parts
    states, *others = forward.graph.output_node().args[0]
    inputs = forward.graph.find_nodes(op="placeholder")
    computed = [one for one in others if one not in inputs and one is not states and _is_tensor(one)]
    # Neither inputs nor sizes are outputs: the one are at hand, and the others those of the gradient of the states.
    forward.graph.output_node().args = ([states, *computed],)
    forward.recompile()
    given = backward.graph.find_nodes(op="placeholder")
    _read_sizes(backward.graph, [one for one in given if not _is_tensor(one)], given[-1])
    gradients = backward.graph.output_node().args[0]
    backward.graph.output_node().args = ([one for one in gradients if one is not None],)
    backward.recompile()
    places = {one.name: place for place, one in enumerate([*inputs, states, *computed])}
    kept = [places[one.name] for one in given[:-1] if _is_tensor(one)]
    return forward, backward, kept, [one is not None for one in gradients[:weights]]


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["val"], Tensor)


def _read_sizes(graph: fx.Graph, sizes: list[fx.Node], source: fx.Node) -> None:
    """Have a graph read numbers off the sizes of an input, which it was given as inputs."""
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    first = next(one for one in graph.nodes if one.op != "placeholder")
    with graph.inserting_before(first):
        read = {
            size.node.expr: fx.Proxy(graph.call_function(torch.ops.aten.sym_size.int, (source, dimension)))
            for dimension, size in enumerate(source.meta["val"].shape)
            if isinstance(size, torch.SymInt)
        }
        for one in sizes:
            number: Any = sympy_interp(PythonReferenceAnalysis, read, one.meta["val"].node.expr)
            one.replace_all_uses_with(number.node)
            graph.erase_node(one)


def _library(graph: fx.GraphModule) -> Library:
    """A graph, compiled."""
    from torch._inductor.package.package import package_aoti

    inputs = tuple(one.meta["val"] for one in graph.graph.find_nodes(op="placeholder"))
    files: Any = torch._inductor.aot_compile(graph, inputs, options={"aot_inductor.package": True})
    return loaded(lambda file: package_aoti(file, files))


_LOG = transformers_logging.get_logger("agents")
