"""Checks that a policy is read back from its folder as it was written.

Transformers, tokenizers and peft each have objects whose files hold less than the objects do. Which ones is a long list
that changes with their versions, so what was written is read and compared, and not guessed at.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from agents.policy import pretrained
from agents.policy.weights import quiet_loading
from textenvs import Tokenizer
from textenvs.tokenizer import fingerprint

if TYPE_CHECKING:
    from agents.policy.policy import Policy

_PROBES = (
    "",
    "Once upon a time, there was a cat's hat. It cost 3.14 in 2024!",
    "  two spaces\n\n\ta tab; e.g. UPPER lower... 12345678",
    "naïve café e\u0301 \u201cquotes\u201d \u2014 \u5317\u4eac \U0001f642 \u0928\u092e\u0938\u094d\u0924\u0947",
)
"""Prompts in which tokenizers that cut differently are likely to differ; names of special tokens are added."""


def check_reload(policy: Policy, folder: Path, weights: Mapping[str, Tensor], *, merged: bool) -> None:
    """Loads what was written, and compares it with the policy that it was written from.

    Args:
        policy: The policy.
        folder: What `pretrained.save` wrote.
        weights: What that returned.
        merged: True if the folder holds a plain model without the policy's adapters: its weights alone are compared.

    Raises:
        ValueError: If the folder cannot be loaded, or holds another policy; says in what.
    """
    verbosity = transformers_logging.get_verbosity()
    with quiet_loading(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say was said when the policy was made
        transformers_logging.set_verbosity_error()
        try:
            again = pretrained.load(type(policy), folder, device="cpu")
            difference = (
                tokenizer_difference(policy.tokenizer, again.tokenizer)
                or _weights_difference(weights, again.state_dict())
                or (None if merged else _settings_difference(policy, again))
            )
        except ValueError as error:
            raise ValueError(
                f"Expected a policy that can be written and read back, but what was written to {str(folder)!r} cannot "
                f"be loaded: {error}"
            ) from error
        finally:
            transformers_logging.set_verbosity(verbosity)
    if difference is not None:
        raise ValueError(
            f"Expected a policy that is read back as it was written, but what was written to {str(folder)!r} has "
            f"{difference}"
        )


def tokenizer_difference(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    """Compares two tokenizers: each token's bytes, how prompts are cut, and the chat template.

    Args:
        ours: The tokenizer that was written.
        theirs: The one that was read.

    Returns:
        The difference, in words; None if there is none.
    """
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(ours, name) != getattr(theirs, name):
            return f"another tokenizer: {name} is {getattr(theirs, name)}, and was {getattr(ours, name)}"
    if fingerprint(ours) != fingerprint(theirs):
        token = next(i for i, pair in enumerate(zip(ours.pieces, theirs.pieces, strict=True)) if pair[0] != pair[1])
        return f"another tokenizer: its token {token} adds {theirs.pieces[token]!r}, and added {ours.pieces[token]!r}"
    names = {ours.eos_token_id, ours.bos_token_id, ours.pad_token_id}
    backend = getattr(ours, "backend", None)
    special = [] if backend is None else [f"a{backend.id_to_token(token)} b" for token in sorted(names)]
    texts = [*_PROBES, *special]
    for text, before, after in zip(texts, ours.encode_batch(texts), theirs.encode_batch(texts), strict=True):
        if list(before) != list(after):
            return f"another tokenizer: it reads {text!r} as {list(after)}, and read it as {list(before)}"
    if getattr(ours, "chat_template", None) != getattr(theirs, "chat_template", None):
        return "another chat template"
    return None


def _weights_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """Compares the tensors of two policies, by name."""
    if missing := sorted(ours.keys() - theirs.keys()):
        return f"no {missing[0]}"
    if more := sorted(theirs.keys() - ours.keys()):
        return f"{more[0]} beside what was written: save into an empty folder"
    for name, tensor in ours.items():
        before, after = tensor.detach().cpu().float(), theirs[name].float()
        if before.shape != after.shape or not torch.allclose(before, after, rtol=0, atol=0, equal_nan=True):
            return f"other values in {name}"
    return None


@torch.no_grad()
def _settings_difference(policy: Policy, again: Policy) -> str | None:
    """Compares what two policies of the same weights do with them."""
    for name in ("precision", "gradient_checkpointing", "compiled", "has_adapters", "pretrained"):
        if getattr(policy, name) != getattr(again, name):
            return f"{name} {getattr(again, name)!r}, and had {getattr(policy, name)!r}"
    trained = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    for name, parameter in again.named_parameters():
        if parameter.requires_grad != trained[name]:
            return f"{name} {'trained' if parameter.requires_grad else 'frozen'}, which was not"
    tokens = torch.arange(min(4, policy.tokenizer.vocab_size))[None]
    before, after = (_logits(one, tokens) for one in (policy, again))
    # Devices round differently; the weights are known to be equal.
    tolerance = (1e-3 if policy.device.type == "cpu" else 5e-2) * max(1.0, float(before.abs().max()))
    if not torch.allclose(before, after, rtol=0, atol=tolerance, equal_nan=True):
        return "the same weights and other logits, so its config.json is not that of the model"
    return None


def _logits(policy: Policy, tokens: Tensor) -> Tensor:
    """Computes a policy's logits behind a prompt of some tokens `(1, n)`."""
    tokens = tokens.to(policy.device)
    ends = tokens.new_full((1,), tokens.shape[1])
    return policy.head.logits(policy.trunk.row_states(tokens, torch.ones_like(ends), ends)[0]).cpu()
