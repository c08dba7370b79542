"""A decode step on a GPU as one launch: its kernels are recorded once, as a CUDA graph, and then replayed.

A step of a small or middling model launches some hundreds of kernels, each over sooner than Python has launched the
next. A replay launches them all at once. But it repeats them to the letter: the same addresses, the same shapes. So
there is a recording for every number of lanes and every number of positions looked at, inputs are copied to where it
reads them, and keys and values have to stay in their place (`agents.policy.cuda.lane_store`).

The recorder is an argument, so that all but the recording itself is tested without a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

LIMIT = 128
"""Recordings of a step that are kept; the one that was not replayed for longest makes room for another."""

Outputs = tuple[Tensor, ...]


class Recording(Protocol):
    """The kernels that a function of no arguments launched."""

    @property
    def outputs(self) -> Outputs:
        """The tensors that every replay writes its outputs to."""

    def replay(self) -> None:
        """Launches the kernels again, on what is now in the memory that they read."""


Record = Callable[[Callable[[], Outputs], Recording | None], Recording]
"""From a function, and another recording whose memory for intermediate results may be shared, to its recording."""


class CudaRecording:
    """A CUDA graph of a function.

    Args:
        function: The function to record. It is called twice before, for real, since the first calls of a kernel or
            library prepare things that no graph may hold; so it must do no more the second time than the first.
        beside: A recording to share memory with. The two are never under way at the same time.
        device: The device that it runs on.
    """

    def __init__(self, function: Callable[[], Outputs], beside: CudaRecording | None, device: torch.device) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    function()
            torch.cuda.current_stream().wait_stream(side)
            pool = None if beside is None else beside._graph.pool()
            # Other threads may use the device meanwhile. The outer context is for a recording that fails, which leaves
            # its own stream current.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
            ):
                self.outputs = function()

    def replay(self) -> None:
        """Launches the kernels again."""
        self._graph.replay()


def recorder(device: torch.device) -> Record:
    """Returns the function that records on a device."""

    def record(function: Callable[[], Outputs], beside: Any) -> Recording:
        return CudaRecording(function, beside, device)

    return record


class CapturedStep:
    """A step that is recorded for every shape and place of its inputs, and replayed from then on.

    Args:
        step: A function of tensors; those with four dimensions are read and written where they are, and all others are
            copied to where the recording reads them. To call it twice changes nothing more than to call it once.
        record: The recorder.
        limit: Number of recordings that are kept.
    """

    def __init__(self, step: Callable[..., Outputs], record: Record, limit: int = LIMIT) -> None:
        self._step, self._record, self._limit = step, record, limit
        # By shape and place: the recording, and where it reads its inputs. The last replayed comes last.
        self._held: OrderedDict[tuple[Any, ...], tuple[Recording, list[Tensor]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Outputs:
        """Takes the step by its recording. Returns the outputs in tensors of their own."""
        key = tuple((x.dtype, x.shape, x.stride(), x.data_ptr()) if x.ndim == 4 else (x.dtype, x.shape) for x in inputs)
        if key in self._held:
            self._held.move_to_end(key)
            recording, buffers = self._held[key]
            for buffer, given in zip(buffers, inputs, strict=True):
                if given.ndim != 4:
                    buffer.copy_(given)
        else:
            recording, buffers = self._recorded(inputs)
            self._held[key] = recording, buffers
            if len(self._held) > self._limit:
                self._held.popitem(last=False)
        recording.replay()
        return tuple(output.clone() for output in recording.outputs)

    def _recorded(self, inputs: Outputs) -> tuple[Recording, list[Tensor]]:
        buffers = [x if x.ndim == 4 else x.clone() for x in inputs]
        beside = next(iter(self._held.values()))[0] if self._held else None
        return self._record(lambda: self._step(*buffers), beside), buffers
