"""The mode in which a policy's forward passes run: in which precision, and with adapters or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from agents.policy import lora

Precision = Literal["float32", "bfloat16"]

Mode = Callable[[], AbstractContextManager[Any]]
"""Makes the context manager that forward passes run in; `contextlib.nullcontext` is the plain one."""


@dataclass
class ForwardMode:
    """The mode of one policy, called for each forward pass.

    Attributes:
        model: The policy's model.
        precision: "bfloat16" for autocast.
        adapters_off: True in the reference of a policy with adapters, which is the same model without them.
    """

    model: PreTrainedModel
    precision: Precision = "float32"
    adapters_off: bool = False

    def __call__(self) -> AbstractContextManager[None]:
        """Returns the context manager of one forward pass."""
        if self.precision == "float32" and not self.adapters_off:
            return nullcontext()
        return self._entered()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.adapters_off:
                stack.enter_context(lora.off(self.model))
            if self.precision == "bfloat16":
                stack.enter_context(torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16))
            yield
