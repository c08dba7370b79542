"""The step after this one, launched before the environment has scored this one: a GPU computes while the host works.

Nobody knows yet which lanes go on, so the step takes for granted that all do, each with the action that it has just
chosen. Those that did not (they ended, or the environment replied) are computed again, from what they have to read, as
they are without this. All draw the numbers that they would have drawn: a generator is only looked into for a step that
is launched ahead, and draws when the step is taken. So a rollout is the same with and without, and so is what comes
after it.

Between two steps the host waits for the actions alone. What goes to the device is put into pinned memory first, and the
copy is not waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Arriving:
    """A tensor on its way to the host: behind all that was launched before, and before all that is launched after.

    Args:
        tensor: The tensor, on any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._here = tensor.to("cpu", non_blocking=tensor.is_cuda)  # which puts it into pinned memory
        self._copied = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def array(self) -> NDArray[Any]:
        """Waits for the copy, and returns it as an array. On a CPU it shares its memory with the tensor."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._here.numpy()


class Foreseen:
    """The numbers that a generator draws next. It is left as if they were not drawn.

    Args:
        lanes: Number of lanes.
        generator: The generator.

    Attributes:
        uniforms: `(lanes, 1)` float32 in [0, 1), on the generator's device.
    """

    def __init__(self, lanes: int, generator: torch.Generator) -> None:
        self._state = generator.get_state()
        self.uniforms = torch.rand(lanes, 1, generator=generator, device=generator.device)
        generator.set_state(self._state)

    def are_next_in(self, generator: torch.Generator) -> bool:
        """Returns True if a generator still draws these numbers next. The host knows a CUDA generator's state too."""
        return torch.equal(generator.get_state(), self._state)


@dataclass(frozen=True)
class Launched:
    """A step of every lane, for the case that each goes on with its action.

    Attributes:
        outputs: `(lanes,)` each: actions, log-probs and values, as `DecodeAction.forward` returns them.
        tokens: `(lanes,)` int64, the token that each lane was to go on with.
        lengths: `(lanes,)` int64, the tokens in each row with that one; 0 where the lane has begun again since.
        foreseen: The numbers that its actions were drawn with.
        temperature: The temperature that its logits were divided by.
    """

    outputs: tuple[Tensor, ...]
    tokens: Arriving
    lengths: NDArray[np.int64]
    foreseen: Foreseen
    temperature: float

    def suits(self, temperature: float, generator: torch.Generator) -> bool:
        """Returns True if this is the step asked for now: at that temperature, with the next draws of a generator."""
        return self.temperature == temperature and self.foreseen.are_next_in(generator)

    def went_on(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Finds the lanes that did go on, so that this is their step.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lengths: `(lanes,)` tokens in each row.

        Returns:
            `(lanes,)` bool, True where a lane went on with its action.
        """
        last = input_ids[np.arange(len(lengths)), lengths - 1]
        went_on: NDArray[np.bool_] = (lengths == self.lengths) & (last == self.tokens.array())
        return went_on
