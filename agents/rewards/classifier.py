"""`classifier`: the probability of a label, by a sequence classification model (text_encoder.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.rewards.network_reward import NetworkReward, RereadingScorer, model_config
from agents.rewards.text_encoder import load_encoder
from agents.rewards.text_reader import check_dtype, check_source
from textenvs import Example, Tokenizer
from textenvs.arguments import check_choice
from textenvs.rewards import Scorer


class ClassifierScore(NetworkReward):
    """The opinion of a Transformers text classifier: sentiment, toxicity, topic, a rater's grade.

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
        device: The device of the model; None takes CUDA, then MPS, then the CPU.

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
        check_choice("output", output, ("probability", "logit"))
        check_choice("reads", reads, ("response", "text", "pair"))
        self.model = check_source(model)
        self.label, self.output, self.reads = label, output, reads
        self.dtype, self.device = check_dtype(dtype), device
        if output == "probability":
            self.low, self.high = 0.0, 1.0
        if Path(self.model).is_dir():  # a hub id is checked when it is loaded
            _label_index(model_config(self.model), label)

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Computes Phi of whole texts."""
        phi = np.zeros(len(responses))
        rows = [row for row, response in enumerate(responses) if response]
        if not rows:
            return phi
        prompts = [examples[row].prompt for row in rows]
        logits = self._logits(prompts, [responses[row] for row in rows])
        if self.output == "probability":
            phi[rows] = 1.0 / (1.0 + np.exp(-logits))
        else:
            if self.reads == "response":
                prompts = [""] * len(rows)  # none is read, so that one empty response stands for all
            distinct = list(dict.fromkeys(prompts))
            empty = dict(zip(distinct, self._logits(distinct, [""] * len(distinct)), strict=True))
            phi[rows] = logits - [empty[prompt] for prompt in prompts]
        return phi

    def _logits(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds of the label, `(n,)`."""
        encoder = load_encoder(self.model, "classifier", dtype=self.dtype, device=self.device)
        if self.reads == "pair":
            texts: list[tuple[str, ...]] = list(zip(prompts, responses, strict=True))
        else:
            joined = self.reads == "text"
            texts = [(prompt + text if joined else text,) for prompt, text in zip(prompts, responses, strict=True)]
        config = encoder.model.config
        label = _label_index(config, self.label)
        log_odds = np.zeros(len(texts))
        for rows, output, _, _ in encoder.passes(texts):
            logits = output.logits.double()
            of_label = logits[:, label]
            if logits.shape[1] > 1 and config.problem_type != "multi_label_classification":
                others = [other for other in range(logits.shape[1]) if other != label]
                of_label = of_label - logits[:, others].logsumexp(dim=1)  # the softmax's log p / (1 - p)
            log_odds[rows] = of_label.cpu().numpy()
        return log_odds

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Returns a scorer of growing responses."""
        return RereadingScorer(self, num_lanes, tokenizer)


def _label_index(config: Any, label: str | int | None) -> int:
    """The index of a label among a classifier's outputs."""
    kind = (config.architectures or [""])[0]
    if not kind.endswith("ForSequenceClassification"):
        raise ValueError(f"Expected a model for sequence classification, got {kind or 'one of unknown kind'}")
    names = {int(index): str(name) for index, name in config.id2label.items()}
    if label is None:
        return len(names) - 1
    if isinstance(label, int) and not isinstance(label, bool) and label in names:
        return label
    indices = [index for index, name in names.items() if name == label]
    if not indices:
        raise ValueError(f"Expected a label from {list(names.values())} or its number, got {label!r}")
    return indices[0]
