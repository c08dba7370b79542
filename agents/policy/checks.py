"""Checks of a new policy: does its model do what acting and learning rely on?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from agents.policy.context import Context, FullContext
from agents.policy.head import Head
from agents.policy.trunk import FAILURES, Trunk

_ROTATIONS_BY_LENGTH = ("longrope", "dynamic")
"""Kinds of rotary scaling that rotate every position of a text by the text's length."""

_THRESHOLDS = ("original_max_position_embeddings", "floor_scale")
"""Settings that name a position from which on a model computes otherwise."""

_MOST_THRESHOLDS = 16  # of a config; one or two are usual

_WITHOUT_GRADIENTS = ("reformer",)  # reversible layers, which assert that they are in training mode
_LARGE = 40.0  # a logit of a trained model
_LONGEST_TRIED = 256  # positions up to which the cache is compared with whole texts


@contextmanager
def supported(name: str) -> Iterator[None]:
    """Turns whatever a model raises that lacks what policies need into a ValueError.

    Args:
        name: The model's class.
    """
    try:
        yield
    except (*FAILURES, KeyError, AssertionError) as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"Expected a causal model or an encoder-decoder whose trunk gives hidden states for tokens, got {name}, "
            f"which does not work as a policy: not supported ({error!r:.300})"
        ) from error


@torch.no_grad()
def length_limit(trunk: Trunk, vocab_size: int) -> float:
    """Finds out up to which length the states of a text do not depend on the tokens behind them.

    Past it, log-probs that were recorded while a text was written are not those of the whole text. The config says so
    for the kinds of rotary scaling that are known, and around every other threshold in it the model is tried out.

    Args:
        trunk: The policy's trunk.
        vocab_size: Number of tokens.

    Returns:
        A number of tokens; infinity where there is no limit.
    """
    config = trunk.model.config
    if config.is_encoder_decoder:
        return float("inf")
    limits = [float("inf")]
    text = config.get_text_config()
    for rope in _dicts(text.to_dict()):
        if rope.get("rope_type", rope.get("type")) in _ROTATIONS_BY_LENGTH:
            names = ("original_max_position_embeddings", "max_position_embeddings")
            both = [rope.get(names[0]), getattr(text, names[0], None), getattr(text, names[1], None)]
            limits += [float(limit) for limit in both if limit][:1]
    for threshold in thresholds(config):
        tokens = torch.arange(4, device=trunk.device)[None] * 7 % vocab_size
        positions = threshold - 2 + torch.arange(4, device=trunk.device)[None]
        try:
            with trunk.mode():
                alone, followed = (
                    trunk.module(input_ids=tokens[:, :n], position_ids=positions[:, :n], use_cache=False)
                    .last_hidden_state[:, :2]
                    .float()
                    for n in (2, 4)
                )
        except FAILURES:  # without position ids, or without so many positions
            continue
        if not torch.allclose(alone, followed, atol=1e-3, rtol=1e-3):
            limits.append(float(threshold))
    return min(limits)


def thresholds(config: PretrainedConfig) -> list[int]:
    """Returns the positions from which on a model computes otherwise, as far as its config names them, ascending."""
    text = config.get_text_config()
    last = getattr(text, "max_position_embeddings", None) or 2**31
    named = [settings.get(name) for settings in _dicts(text.to_dict()) for name in _THRESHOLDS]
    chosen = sorted({int(number) for number in named if isinstance(number, (int, float)) and 2 <= number < last})
    if len(chosen) > _MOST_THRESHOLDS:  # each costs a few passes
        raise ValueError(f"Expected a config with few thresholds, got {len(chosen)} of {_THRESHOLDS}")
    return chosen


def _dicts(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields a dict and the dicts in it."""
    yield settings
    for value in settings.values():
        if isinstance(value, Mapping):
            yield from _dicts(value)


@torch.no_grad()
def check_states(trunk: Trunk, vocab_size: int) -> None:
    """Checks that states do not depend on the tokens behind them, and have gradients.

    Args:
        trunk: The policy's trunk.
        vocab_size: Number of tokens.

    Raises:
        ValueError: If they do, or have none.
    """
    if trunk.model.config.model_type in _WITHOUT_GRADIENTS:
        raise ValueError(
            f"Expected a model that can be trained without dropout, got {trunk.name}, whose layers compute gradients "
            "in training mode alone: not supported"
        )
    if trunk.model.config.is_encoder_decoder:  # its decoder is causal, and its encoder need not be
        return
    tokens = torch.arange(1, 7, device=trunk.device)[None] * 7 % vocab_size
    prompts = tokens.new_ones(1)
    alone, followed = (trunk.row_states(tokens, prompts, tokens.new_full((1,), end))[:, :3] for end in (3, 6))
    if not torch.allclose(alone.float(), followed.float(), atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"Expected a causal model, whose state at a token does not depend on the tokens behind it, got "
            f"{trunk.name}, which reads in both directions: set is_decoder to True in its config, if it has that"
        )


@torch.no_grad()
def check_head(trunk: Trunk, head: Head) -> None:
    """Checks that head, scale and soft cap are all there is between the trunk and the logits.

    Args:
        trunk: The policy's trunk.
        head: Its head.

    Raises:
        ValueError: If the model's logits are others.
    """
    tokens = torch.arange(min(4, head.vocab_size), device=trunk.device)[None]
    prompts, ends = tokens.new_ones(1), tokens.new_full((1,), tokens.shape[1])

    def both() -> tuple[Tensor, Tensor]:
        ours = head.logits(trunk.row_states(tokens, prompts, ends)[:, 0])
        return ours, trunk.first_logits(tokens[:, :1]).float()

    ours, theirs = both()
    if head.is_plain:  # as large as those of a trained model, since a soft cap does little to those of a new one
        largest = float(ours.abs().max())
        hook = head.linear.register_forward_hook(lambda _, args, output: output * (_LARGE / max(largest, 1e-6)))
        try:
            ours, theirs = both()
        finally:
            hook.remove()
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"Expected logits that are a linear function of the trunk's last hidden state, scaled or with a soft "
            f"cap, got {trunk.name}, which changes them in another way: not supported"
        )


@torch.no_grad()
def cache_is_exact(trunk: Trunk, make_context: Callable[[int, int], Context], vocab_size: int) -> bool:
    """Compares the states of a context with those of full forward passes, on three lanes of different lengths.

    Their texts are short, and then, where the config names a position from which on the model computes otherwise, end
    on both sides of it.

    Args:
        trunk: The policy's trunk.
        make_context: From numbers of lanes and of tokens to the context.
        vocab_size: Number of tokens.

    Returns:
        True if they agree. A warning says where they do not, or the context fails.
    """
    beyond = [
        number for number in thresholds(trunk.model.config) if number + 2 <= min(_LONGEST_TRIED, trunk.longest_text)
    ]
    try:
        for read in (0, *(threshold - 2 for threshold in beyond)):  # tokens that all lanes have in front
            rows = np.array(
                [[i * factor % vocab_size for factor in (7, 5, 3, 1, *range(9, 9 + read))] for i in range(1, 4)]
            )
            cached, full = make_context(3, rows.shape[1]), FullContext(trunk, 3)
            for lengths in (np.array([1, 2, 3]), np.array([2, 3, 4]), np.array([3, 4, 4])):
                expected, actual = full.extend(rows, read + lengths), cached.extend(rows, read + lengths)
                moved = slice(0, 3 if lengths[0] < 3 else 2)  # the third lane has nothing new in the last step
                if not torch.allclose(expected[moved].float(), actual[moved].float(), atol=1e-3, rtol=1e-3):
                    raise ValueError("its cached states differ from a full forward pass")
    except FAILURES as error:
        transformers_logging.get_logger("agents").warning(
            f"{trunk.name} does not run on the lane cache ({error}): every step reads the whole text again, which is "
            "right, and slow."
        )
        return False
    return True
