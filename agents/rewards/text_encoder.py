"""Encoders and classifiers that read whole texts: each new token changes every state, so none is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from agents.devices import choose_device
from agents.policy.pretrained import quiet_loading
from agents.rewards.text_reader import DTYPES, check_dtype, files_stamp

_TOKENS_PER_PASS = 1 << 13  # bounds the memory of a forward pass


class Encoder:
    """A Transformers model that reads whole texts, with its tokenizer.

    Args:
        model: The model.
        tokenizer: Its Transformers tokenizer.

    Attributes:
        model: The same.
        kept: States of references, and which of them count, by layer and text.
    """

    MOST_KEPT = 4096

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self._tokenizer = model, tokenizer
        self.kept: dict[tuple[int | None, str], tuple[Tensor, Tensor]] = {}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"Expected a model with a fast tokenizer, got {type(tokenizer).__name__}")
        backend.encode_special_tokens = True  # "[SEP]" in a response is text like any other
        tokenizer.truncation_side = "left"
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        # RoBERTa's positions begin behind that of its padding.
        offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
        self._limit = min(positions - offset, tokenizer.model_max_length)
        self._pad: int | None = model.config.pad_token_id

    @torch.no_grad()
    def passes(
        self, texts: Sequence[tuple[str, ...]], **settings: Any
    ) -> Iterator[tuple[list[int], Any, list[int], Tensor]]:
        """Forward passes over texts, a few of like length at a time.

        Args:
            texts: One text each, or a pair of them.
            **settings: For the model.

        Yields:
            The places of `k` texts, the model's output for them, the number of tokens in each, and a `(k, width)` bool
            mask: True at their tokens, without special ones and padding.
        """
        if not texts:
            return
        parts = [list(part) for part in zip(*texts, strict=True)]
        encoded = self._tokenizer(
            *parts, truncation=True, max_length=self._limit, return_special_tokens_mask=True, verbose=False
        )
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        kinds = encoded.get("token_type_ids")
        filler = self._tokenizer.bos_token_id or self._tokenizer.eos_token_id or 0
        for row, one in enumerate(ids):
            if not one:  # nothing to read: a decoder's tokenizer adds nothing to an empty text
                ids[row], special[row] = [filler], [1]
                if kinds is not None:
                    kinds[row] = [0]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        begin = 0
        while begin < len(order):
            end = begin + 1
            # A model that does not know its padding (GPT-2) reads texts of equal length together.
            while (
                end < len(order)
                and len(ids[order[end]]) * (end + 1 - begin) <= _TOKENS_PER_PASS
                and (self._pad is not None or len(ids[order[end]]) == len(ids[order[begin]]))
            ):
                end += 1
            rows = order[begin:end]
            begin = end
            width = len(ids[rows[-1]])

            def padded(table: list[list[int]], filling: int, rows: list[int] = rows, width: int = width) -> Tensor:
                made = torch.full((len(rows), width), filling, dtype=torch.int64)
                for place, row in enumerate(rows):
                    made[place, : len(table[row])] = torch.tensor(table[row], dtype=torch.int64)
                return made.to(self.model.device)

            mask = padded([[1] * len(one) for one in ids], 0)
            batch = {"input_ids": padded(ids, self._pad or 0), "attention_mask": mask}
            if kinds is not None:
                batch["token_type_ids"] = padded(kinds, 0)
            lengths = [len(ids[row]) for row in rows]
            yield rows, self.model(**batch, **settings), lengths, padded(special, 1) == 0


def load_encoder(
    source: str, kind: Literal["classifier", "encoder"], *, dtype: str | None = None, device: str | None = None
) -> Encoder:
    """A classifier or encoder by name; the same one for the same name, as long as its files stay as they are.

    Args:
        source: A folder or a hub id.
        kind: Which of the two.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: Where to put it; None takes CUDA, then MPS, then the CPU.

    Returns:
        The encoder.

    Raises:
        ValueError: If there is no such model, or it lacks weights that it needs.
    """
    chosen = choose_device(device)
    if dtype is None:
        dtype = "float64" if chosen.type == "cpu" else "float32"
    return _load_encoder(source, kind, check_dtype(dtype), str(chosen), files_stamp(source))


@lru_cache(maxsize=8)
def _load_encoder(source: str, kind: str, dtype: str, device: str, stamp: tuple[int, ...]) -> Encoder:
    auto: Any = AutoModelForSequenceClassification if kind == "classifier" else AutoModel
    try:
        with quiet_loading():
            model, report = auto.from_pretrained(
                source, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"Expected a {kind} that loads from safetensors, got {source!r}: {error}") from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name or kind == "classifier"]
    if missing:
        raise ValueError(f"Expected a trained {kind}, got {source!r}, whose files lack the weights {missing}")
    model.to(device).eval().requires_grad_(False)
    return Encoder(model, tokenizer)
