"""Freezing: parameters that training leaves as they are."""

from __future__ import annotations

from typing import Any

from torch import nn


def _first_layers(trunk: Any, count: int) -> list[nn.Module]:
    """The embeddings and the first `count` layers of a trunk; of encoder and decoder both, where there are two."""
    stacks: list[Any] = [trunk.get_encoder(), trunk.get_decoder()] if trunk.config.is_encoder_decoder else [trunk]
    found: list[nn.Module] = []
    for stack in stacks:
        layers = next((one for one in stack.modules() if isinstance(one, nn.ModuleList)), None)
        if layers is None or not 0 <= count <= len(layers):
            raise ValueError(
                f"Expected to freeze from 0 to {0 if layers is None else len(layers)} layers of "
                f"{type(trunk).__name__}, got {count}"
            )
        inside = {id(one) for layer in layers for one in layer.modules()}
        found += [
            one
            for name, one in stack.named_modules()
            # BART normalises what it has embedded, before its first layer.
            if (isinstance(one, nn.Embedding) or "layernorm_embedding" in name) and id(one) not in inside
        ]
        found += list(layers[:count])
    return found
