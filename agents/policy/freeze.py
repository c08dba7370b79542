"""Freezing: parameters that training leaves as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from agents.policy.trunk import Trunk


def freeze(policy: nn.Module, trunk: Trunk, what: int | str | Sequence[str]) -> None:
    """Freezes parameters of a policy.

    Args:
        policy: The policy, changed in place.
        trunk: Its trunk.
        what: A number of first layers, frozen with the embeddings; or patterns of parameters' names.

    Raises:
        ValueError: If there are fewer layers, no parameter of such a name, or nothing is left to train.
    """
    if isinstance(what, int):
        parts = _first_layers(trunk, what)
        parameters = [parameter for part in parts for parameter in part.parameters()]
    else:
        patterns = [what] if isinstance(what, str) else list(what)
        names = dict(policy.named_parameters())
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                close = get_close_matches(pattern, names, n=1, cutoff=0.0)
                raise ValueError(f"Expected a pattern that fits some parameter, {close[0]!r} say, got {pattern!r}")
        parameters = [names[name] for pattern in patterns for name in fnmatch.filter(names, pattern)]
    for parameter in parameters:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in policy.parameters()):
        raise ValueError(f"Expected something left to train, got freeze={what!r}, which freezes everything")


def _first_layers(trunk: Trunk, count: int) -> list[nn.Module]:
    """Returns the embeddings and the first `count` layers of each stack of a trunk."""
    parts: list[nn.Module] = []
    for stack in trunk.stacks():
        layers: Any = next((module for module in stack.modules() if isinstance(module, nn.ModuleList)), None)
        if layers is None or not 0 <= count <= len(layers):
            raise ValueError(
                f"Expected to freeze from 0 to {0 if layers is None else len(layers)} layers of "
                f"{type(trunk.module).__name__}, got {count}"
            )
        inside_layers = {id(module) for layer in layers for module in layer.modules()}
        parts += [
            module
            for name, module in stack.named_modules()
            # BART normalises what it has embedded, before its first layer.
            if (isinstance(module, nn.Embedding) or "layernorm_embedding" in name) and id(module) not in inside_layers
        ]
        parts += list(layers[:count])
    return parts
