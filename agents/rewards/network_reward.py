"""Scores that need a network: fluency, classifiers, preferences. `import agents` registers them with textenvs by name.

    gym.make("TextGen-v0", reward={"lm": {"model": "gpt2", "reduction": "sum"}})
    gym.make("TextGen-v0", reward={"classifier": {"model": "path/to/toxicity", "label": "toxic", "weight": -1}})
    gym.make("TextGen-v0", reward={"preference": {"model": "runs/reward-model"}})

| name | score | per token |
|---|---|---|
| `lm` | log-prob of the response under a causal language model | one cached step |
| `preference` | a Bradley-Terry reward model's value, above that of the empty response | one cached step |
| `dpo` | beta times the log-ratio of two language models | one cached step of each |
| `classifier` | probability or log-odds of a label | the whole text again |
| `bertscore` | greedy matching with the references in an encoder's states | the whole response again |

"One cached step" is what a step of the policy costs, plus the tokens of the unfinished last word wherever a letter more
spells it anew (see `text_model.py`). All lanes that move in a step are read in one batch.

A reward holds names and numbers alone, so it can be pickled and written to JSON; its model is loaded when a scorer or a
score is first asked for, once in a process. Models are never trained here: a score is a frozen function of text.

Numbers are in float64 on a CPU, where a push then equals the score of the whole text to 1e-9; to 1e-6 for a model that
computes its attention in float32 whatever it is given (Gemma 2). In float32, which is the default on an accelerator and
can be asked for with `dtype`, a batch of another shape rounds differently: `check_reward(..., tolerance=1e-3)`. What is
paid adds up to 1e-9 all the same.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig

from textenvs import Example, Reward, Tokenizer
from textenvs.rewards import Scorer, checked_score
from textenvs.tokenizer import decode_bytes


class NetworkReward(Reward):
    """A score of many texts at once."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Phi of whole texts: the definition, without a cache.

        Args:
            examples: What each response answers.
            responses: The texts.

        Returns:
            `(n,)` Phi, 0 for empty responses.
        """

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        return float(self.scores([example], [response])[0])


class _NetworkScorer(Scorer):
    """Scores whole responses in batches."""

    reward: NetworkReward

    def __init__(self, reward: NetworkReward, num_lanes: int) -> None:
        super().__init__(reward)
        self._phi = np.zeros(num_lanes)

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        try:
            phi = self.reward.scores(examples, responses)
        except ValueError:  # one by one, for an error that names the response
            return super().score_whole(lanes, examples, responses)
        if not np.isfinite(phi).all():
            row = int(np.flatnonzero(~np.isfinite(phi))[0])
            checked_score(self.reward, examples[row], responses[row])
        return phi


# Whole texts, read again at each token -------------------------------------------------------------------------------


class _Rereader(_NetworkScorer):
    """Scores the whole texts of the lanes that have changed, in one batch."""

    def __init__(self, reward: NetworkReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, num_lanes)
        self._pieces = tokenizer.pieces
        self._data = [b""] * num_lanes
        self._texts = [""] * num_lanes
        self._examples: list[Example | None] = [None] * num_lanes

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._phi[lanes] = 0.0
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._data[lane], self._texts[lane], self._examples[lane] = b"", "", example

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        changed, examples = [], []
        for lane, token in zip(lanes.tolist(), tokens.tolist(), strict=True):
            example = self._examples[lane]
            if example is None:
                raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
            self._data[lane] += self._pieces[token]
            text = decode_bytes(self._data[lane])
            if text != self._texts[lane]:
                self._texts[lane] = text
                changed.append(lane)
                examples.append(example)
        if changed:
            rows = np.array(changed, dtype=np.intp)
            self._phi[rows] = self.score_whole(rows, examples, [self._texts[lane] for lane in changed])
        return self._phi[lanes]


def _config(folder: str) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"Expected the folder of a Transformers model, got {folder!r}: {error}") from error


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Expected {name} to be true or false, got {value!r}")
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number, got {value!r}")
    return float(value)
