"""`classifier`: the probability of a label, by a sequence classification model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.rewards.network_reward import NetworkReward, _config, _Rereader
from agents.rewards.text_encoder import load_encoder
from agents.rewards.text_reader import check_dtype, check_source
from textenvs import Example, Tokenizer
from textenvs.rewards import Scorer


class ClassifierScore(NetworkReward):
    """What a Transformers text classifier says of the response: sentiment, toxicity, topic, a rater's grade.

    "probability" is that of the label: from 0 to 1, and 0 for an empty response. "logit" is its log-odds, log p / (1 -
    p), above those of the empty response, so that it starts from 0 as well: no limits. A model with a single output (a
    reward model from the hub) has its output as logit, and its sigmoid as probability; so has one for several labels at
    a time.

    Cost: the whole text at every token, since an encoder's states all change with it; all lanes in one batch. A text
    that is too long for the classifier is cut, and keeps its end.
    Source: as a reward, Ziegler et al. (2019), arXiv:1909.08593, section 3.1.1.

    Args:
        model: A folder or a hub id, of any `AutoModelForSequenceClassification`.
        label: The label's name or number; None takes the last one, which is the positive one of two as a rule.
        output: "probability" or "logit".
        reads: "response", "text" (prompt and response, joined) or "pair" (prompt and response, as two segments).
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: Where the model goes; None takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If there is no such classifier or label, or an argument is out of range.
    """

    name = "classifier"

    def __init__(
        self,
        model: str | Path,
        label: str | int | None = None,
        output: Literal["probability", "logit"] = "probability",
        reads: Literal["response", "text", "pair"] = "response",
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        if output not in ("probability", "logit"):
            raise ValueError(f"Expected output to be 'probability' or 'logit', got {output!r}")
        if reads not in ("response", "text", "pair"):
            raise ValueError(f"Expected reads to be 'response', 'text' or 'pair', got {reads!r}")
        self.model = check_source(model)
        self.label, self.output, self.reads = label, output, reads
        self.dtype, self.device = dtype if dtype is None else check_dtype(dtype), device
        if output == "probability":
            self.low, self.high = 0.0, 1.0
        if Path(self.model).is_dir():  # a hub id is checked when it is loaded
            _label_place(_config(self.model), label)

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """See `NetworkReward.scores`."""
        found = np.zeros(len(responses))
        rows = [row for row, response in enumerate(responses) if response]
        if not rows:
            return found
        prompts = [examples[row].prompt for row in rows]
        logits = self._logits(prompts, [responses[row] for row in rows])
        if self.output == "probability":
            found[rows] = 1.0 / (1.0 + np.exp(-logits))
        else:
            distinct = list(dict.fromkeys(prompts if self.reads != "response" else [""]))
            empty = dict(zip(distinct, self._logits(distinct, [""] * len(distinct)), strict=True))
            found[rows] = logits - [empty[prompt if self.reads != "response" else ""] for prompt in prompts]
        return found

    def _logits(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds of the label, `(n,)`."""
        encoder = load_encoder(self.model, "classifier", dtype=self.dtype, device=self.device)
        if self.reads == "pair":
            texts: list[tuple[str, ...]] = list(zip(prompts, responses, strict=True))
        else:
            joined = self.reads == "text"
            texts = [(prompt + text if joined else text,) for prompt, text in zip(prompts, responses, strict=True)]
        config = encoder.model.config
        place = _label_place(config, self.label)
        found = np.zeros(len(texts))
        for rows, output, _, _ in encoder.passes(texts):
            logits = output.logits.double()
            if logits.shape[1] > 1 and config.problem_type != "multi_label_classification":
                others = [other for other in range(logits.shape[1]) if other != place]
                logits = logits[:, [place]] - logits[:, others].logsumexp(dim=1, keepdim=True)
                found[rows] = logits[:, 0].cpu().numpy()
            else:
                found[rows] = logits[:, place].cpu().numpy()
        return found

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _Rereader(self, num_lanes, tokenizer)


def _label_place(config: Any, label: str | int | None) -> int:
    """Where a classifier's label stands among its outputs."""
    kind = (config.architectures or [""])[0]
    if not kind.endswith("ForSequenceClassification"):
        raise ValueError(f"Expected a model for sequence classification, got {kind or 'one of unknown kind'}")
    names = {int(place): str(name) for place, name in config.id2label.items()}
    if label is None:
        return len(names) - 1
    if isinstance(label, int) and not isinstance(label, bool) and label in names:
        return label
    found = [place for place, name in names.items() if name == label]
    if not found:
        raise ValueError(f"Expected a label from {list(names.values())} or its number, got {label!r}")
    return found[0]
