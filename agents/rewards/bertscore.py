"""`bertscore`: similarity to the references in the states of an encoder (text_encoder.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.rewards.network_reward import NetworkReward, RereadingScorer, model_config
from agents.rewards.text_encoder import Encoder, load_encoder
from agents.rewards.text_reader import check_dtype, check_source
from textenvs import Example, Tokenizer
from textenvs.arguments import check_choice, check_count
from textenvs.rewards import Scorer


class BERTScore(NetworkReward):
    """Greedy matching of the response's words with a reference's, by the cosine of an encoder's states.

        recall = mean over the reference's tokens of max over the response's of cos(x_i, y_j), precision the other way
        F1 = 2 precision recall / (precision + recall)

    The best of several references counts. Special tokens are matched with, as in the bert-score package, and left out
    of the means. There is no idf weighting, and no rescaling with a baseline. Where precision or recall is negative,
    F1 is 0.

    Range: 0 to 1 ("f1"), or -1 to 1. Top value: 1, for the reference itself. The scale is the encoder's: with most of
    them hardly any pair of texts is below 0.8. Cost: the whole response at every token, all lanes in one batch; states
    of references are kept.
    Source: Zhang et al. (2020), BERTScore, arXiv:1904.09675, section 3. The bert-score package gives the same numbers
    for encoders whose tokenizer puts no space in front of a text.

    Args:
        model: A folder or a hub id, of any encoder with a fast tokenizer.
        layer: The layer whose states are compared: 0 is the embeddings, and None the last layer. The paper's choice for
            each model is in the bert-score package.
        part: "f1", "precision" or "recall".
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: The device of the encoder; None takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If there is no such encoder or layer, or an argument is out of range.
    """

    name = "bertscore"

    def __init__(
        self,
        model: str | Path,
        layer: int | None = None,
        part: Literal["f1", "precision", "recall"] = "f1",
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        check_choice("part", part, ("f1", "precision", "recall"))
        layer = check_count("layer", layer, least=0, optional=True)
        self.model = check_source(model)
        if layer is not None and Path(self.model).is_dir():  # a hub id is checked when it is loaded
            layers = model_config(self.model).num_hidden_layers
            if layer > layers:
                raise ValueError(f"Expected a layer from 0 to {layers} of {self.model!r}, got {layer}")
        self.layer, self.part = layer, part
        self.dtype, self.device = check_dtype(dtype), device
        self.low, self.high = (0.0 if part == "f1" else -1.0), 1.0

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Computes Phi of whole texts."""
        references = [example.references for example in examples]
        for example in examples:
            if not example.references or not all(text.strip() for text in example.references):
                raise ValueError(f"Expected an example with references, none of them empty, got {example!r}")
        encoder = load_encoder(self.model, "encoder", dtype=self.dtype, device=self.device)
        self._read_references(encoder, [text for texts in references for text in texts])
        states = self._states(encoder, responses)
        return np.array(
            [
                max(self._match(state, encoder.reference_states[self.layer, text]) for text in texts)
                for state, texts in zip(states, references, strict=True)
            ]
        )

    def _read_references(self, encoder: Encoder, texts: Sequence[str]) -> None:
        """Sees to it that the encoder has the states of some references, each computed once."""
        kept = encoder.reference_states
        distinct = list(dict.fromkeys(texts))
        missing = [text for text in distinct if (self.layer, text) not in kept]
        if missing and len(kept) + len(missing) > encoder.most_reference_states:
            kept.clear()
            missing = distinct
        kept.update(zip([(self.layer, text) for text in missing], self._states(encoder, missing), strict=True))

    def _states(self, encoder: Encoder, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Unit states of each text's tokens, `(tokens, hidden)`, and which are not special, `(tokens,)` bool."""
        states_of: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(texts)
        for rows, output, lengths, counted in encoder.passes(
            [(text.strip(),) for text in texts], output_hidden_states=True
        ):
            layers = output.hidden_states
            if self.layer is not None and self.layer >= len(layers):
                raise ValueError(f"Expected a layer from 0 to {len(layers) - 1} of {self.model!r}, got {self.layer}")
            states = layers[-1 if self.layer is None else self.layer]
            unit = states / states.norm(dim=2, keepdim=True).clamp_min(1e-12)
            for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                states_of[row] = unit[index, :length], counted[index, :length]
        return states_of

    def _match(self, response: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
        """The chosen part of the score of one response and one reference."""
        if not response[1].any() or not reference[1].any():
            return 0.0
        cosines = (response[0] @ reference[0].T).double()
        precision = float(cosines.amax(dim=1)[response[1]].mean())
        recall = float(cosines.amax(dim=0)[reference[1]].mean())
        if self.part != "f1":
            return precision if self.part == "precision" else recall
        return 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Returns a scorer of growing responses."""
        return RereadingScorer(self, num_lanes, tokenizer)
