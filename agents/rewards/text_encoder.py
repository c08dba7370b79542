"""Encoders and classifiers that read whole texts: each new token changes every state, so none is kept.

Used by classifier.py and bertscore.py; the cached counterpart for causal models is text_reader.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from agents.devices import choose_device
from agents.policy import gate
from agents.policy.weights import checked_config, quiet_loading
from agents.rewards.text_reader import DTYPES, files_stamp, reading_dtype

_TOKENS_PER_PASS = 1 << 13  # bounds the memory of a forward pass


class Encoder:
    """A Transformers model that reads whole texts, with its tokenizer.

    Args:
        model: The model.
        tokenizer: Its Transformers tokenizer.

    Attributes:
        model: The model.
        reference_states: By layer and text: the states of a reference, and which of them count.
        most_reference_states: The number of references whose states are kept.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self._tokenizer = model, tokenizer
        self.reference_states: dict[tuple[int | None, str], tuple[Tensor, Tensor]] = {}
        self.most_reference_states = 4096
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
        """Makes forward passes over texts, a few of like length at a time.

        Args:
            texts: One text each, or a pair of them.
            **settings: For the model.

        Yields:
            The indices of `k` texts, the model's output for them, the number of tokens in each, and a `(k, width)` bool
            mask: True at their tokens, without special ones and padding.
        """
        if not texts:
            return
        segments = [list(segment) for segment in zip(*texts, strict=True)]
        encoded = self._tokenizer(
            *segments, truncation=True, max_length=self._limit, return_special_tokens_mask=True, verbose=False
        )
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        segment_ids = encoded.get("token_type_ids")
        filler = self._tokenizer.bos_token_id or self._tokenizer.eos_token_id or 0
        for text, tokens in enumerate(ids):
            if not tokens:  # nothing to read: a decoder's tokenizer adds nothing to an empty text
                ids[text], special[text] = [filler], [1]
                if segment_ids is not None:
                    segment_ids[text] = [0]
        for rows in self._batches([len(tokens) for tokens in ids]):
            lengths = [len(ids[row]) for row in rows]
            batch = {
                "input_ids": self._padded([ids[row] for row in rows], self._pad or 0),
                "attention_mask": self._padded([[1] * length for length in lengths], 0),
            }
            if segment_ids is not None:
                batch["token_type_ids"] = self._padded([segment_ids[row] for row in rows], 0)
            counted = self._padded([special[row] for row in rows], 1) == 0
            yield rows, self.model(**batch, **settings), lengths, counted

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The indices of texts that are read in one pass, the shortest texts first."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        begin = 0
        while begin < len(order):
            end = begin + 1
            # A model that does not know its padding (GPT-2) reads texts of equal length together.
            while (
                end < len(order)
                and lengths[order[end]] * (end + 1 - begin) <= _TOKENS_PER_PASS
                and (self._pad is not None or lengths[order[end]] == lengths[order[begin]])
            ):
                end += 1
            yield order[begin:end]
            begin = end

    def _padded(self, rows: Sequence[Sequence[int]], filling: int) -> Tensor:
        """Rows as one `(rows, width)` int64 tensor on the model's device, right-padded."""
        table = torch.full((len(rows), max(map(len, rows))), filling, dtype=torch.int64)
        for index, row in enumerate(rows):
            table[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return table.to(self.model.device)


def load_encoder(
    source: str, kind: Literal["classifier", "encoder"], *, dtype: str | None = None, device: str | None = None
) -> Encoder:
    """Loads a classifier or encoder by name: the same one for the same name, as long as its files do not change.

    Args:
        source: A folder or a hub id.
        kind: "classifier" or "encoder".
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: The device to put it on; None takes CUDA, then MPS, then the CPU.

    Returns:
        The encoder.

    Raises:
        ValueError: If there is no such model, or it lacks weights that it needs.
    """
    chosen = choose_device(device)
    return _load_encoder(source, kind, reading_dtype(dtype, chosen), str(chosen), files_stamp(source))


@lru_cache(maxsize=8)
def _load_encoder(source: str, kind: str, dtype: str, device: str, stamp: tuple[int, ...]) -> Encoder:
    auto: Any = AutoModelForSequenceClassification if kind == "classifier" else AutoModel
    with gate.refusing(f"a {kind} that loads from safetensors", repr(source)), quiet_loading():
        checked_config(source, auto)
        model, report = auto.from_pretrained(
            source, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError("it holds peft's adapters beside the model. Merge them into it first")
        with gate.reading("its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # An encoder's states are read before its pooler, which many are saved without.
    missing = [name for name in report["missing_keys"] if "pooler" not in name or kind == "classifier"]
    if missing:
        raise ValueError(f"Expected a trained {kind}, got {source!r}, whose files lack the weights {missing}")
    model.to(device).eval().requires_grad_(False)
    return Encoder(model, tokenizer)
