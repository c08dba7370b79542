"""The base of all scores that need a network, and the scorers that they share.

`NetworkReward` scores many texts at once. `NetworkScorer` is the base of scorers that grow with their lanes;
`RereadingScorer` is for networks that have to read the whole text again when a token is added.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig

from agents.policy import gate
from textenvs import Example, Reward, Tokenizer
from textenvs.rewards import Scorer, checked_score
from textenvs.tokenizer import decode_bytes


class NetworkReward(Reward):
    """A score of many texts at once."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Computes Phi of whole texts: the definition, without a cache.

        Args:
            examples: The example that each response answers.
            responses: The texts.

        Returns:
            `(n,)` Phi, 0 for empty responses.
        """

    def score(self, example: Example, response: str) -> float:
        """Computes Phi of one whole text."""
        return float(self.scores([example], [response])[0])


class NetworkScorer(Scorer):
    """A scorer that reads whole responses in batches.

    Args:
        reward: The reward.
        num_lanes: The number of texts that grow side by side.
    """

    reward: NetworkReward

    def __init__(self, reward: NetworkReward, num_lanes: int) -> None:
        super().__init__(reward)
        self._phi = np.zeros(num_lanes)

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Computes Phi of whole responses in one batch."""
        try:
            phi = self.reward.scores(examples, responses)
        except ValueError:  # the base class reads them one by one, for an error that names the response
            return super().score_whole(lanes, examples, responses)
        if not np.isfinite(phi).all():
            row = int(np.flatnonzero(~np.isfinite(phi))[0])
            checked_score(self.reward, examples[row], responses[row])
        return phi


class RereadingScorer(NetworkScorer):
    """A scorer that reads the whole texts of all lanes that have changed, in one batch.

    Args:
        reward: The reward.
        num_lanes: The number of texts that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.
    """

    def __init__(self, reward: NetworkReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, num_lanes)
        self._pieces = tokenizer.pieces
        self._data = [b""] * num_lanes
        self._texts = [""] * num_lanes
        self._examples: list[Example | None] = [None] * num_lanes

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts empty responses in some lanes."""
        self._phi[lanes] = 0.0
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._data[lane], self._texts[lane], self._examples[lane] = b"", "", example

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Appends a token to each of some lanes, and scores those whose text it has changed."""
        changed, examples = [], []
        for lane, token in zip(lanes.tolist(), tokens.tolist(), strict=True):
            example = self._examples[lane]
            if example is None:
                raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
            self._data[lane] += self._pieces[token]
            text = decode_bytes(self._data[lane])
            if text != self._texts[lane]:  # a part of a character, or a special token, changes nothing
                self._texts[lane] = text
                changed.append(lane)
                examples.append(example)
        if changed:
            rows = np.array(changed, dtype=np.intp)
            self._phi[rows] = self.score_whole(rows, examples, [self._texts[lane] for lane in changed])
        return self._phi[lanes]


def model_config(folder: str) -> Any:
    """Reads the config of a Transformers model, without its weights.

    Args:
        folder: The model's folder.

    Returns:
        The config.

    Raises:
        ValueError: If there is none that Transformers knows.
    """
    with gate.refusing("the folder of a Transformers model", repr(folder)):
        if Path(folder).is_dir():
            gate.check_folder(Path(folder))
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
