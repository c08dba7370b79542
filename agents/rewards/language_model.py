"""`lm`: the log-probability of the response under a causal language model (text_reader.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agents.rewards.network_reward import NetworkReward, NetworkScorer
from agents.rewards.text_reader import LogProbReader, TextModel, check_dtype, check_source, load_text_model
from textenvs import Example, Tokenizer
from textenvs.arguments import check_choice, check_count, check_flag, check_number
from textenvs.rewards import Scorer


class LanguageModelScore(NetworkReward):
    """Log-probability of the response, given the prompt, under a causal language model.

        sum:   sum_i (log p(token_i | prompt, tokens before) + baseline)
        mean:  the same, over max(tokens, min_tokens)

    Tokens are the language model's own, whatever the policy's are. An empty response scores 0, which is the top value
    where `baseline` is 0: a policy that trains on that alone learns to say nothing. A positive baseline is how many
    nats a token may cost before it is a loss; with it, use `min_tokens`, or a policy learns to write one likely word. A
    language model often finds repetition likeliest: weigh it with a score of the content.

    Range: from minus infinity to 0 (`mean`: to the larger of 0 and `baseline`; `sum` with a positive baseline: no end).
    Cost: one cached step of the language model a token.
    Source: the fluency term of Ziegler et al. (2019), arXiv:1909.08593, equation 2, there as a KL penalty.

    Args:
        model: "tiny", a folder or a hub id: any causal model that `Policy.from_pretrained` takes.
        reduction: "mean" over the response's tokens, or "sum".
        baseline: Nats added for each token.
        min_tokens: The least number of tokens that a mean is over.
        chat_template: If True, the prompt is read as a user's message, in the chat template of the model's tokenizer,
            and the response as the assistant's answer.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: The device of the model; None takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If there is no such model, or an argument is out of range.
    """

    name = "lm"

    def __init__(
        self,
        model: str | Path = "tiny",
        reduction: Literal["mean", "sum"] = "mean",
        baseline: float = 0.0,
        min_tokens: int = 1,
        chat_template: bool = False,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.model = check_source(model)
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.baseline = check_number("baseline", baseline)
        self.min_tokens = check_count("min_tokens", min_tokens)
        self.chat_template = check_flag("chat_template", chat_template)
        self.dtype, self.device = check_dtype(dtype), device
        endless = reduction == "sum" and self.baseline > 0
        self.high = math.inf if endless else max(0.0, self.baseline)

    def text_model(self) -> TextModel:
        """Returns the language model, and loads it where it was not loaded yet."""
        return load_text_model(self.model, dtype=self.dtype, device=self.device, chat_template=self.chat_template)

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Computes Phi of whole texts."""
        model = self.text_model()
        log_probs = model.log_probs(*model.rows(examples, responses))
        sums = np.array([tokens.sum() for tokens in log_probs])
        return self.reduced(sums, np.array([len(tokens) for tokens in log_probs]))

    def reduced(self, sums: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Computes Phi `(n,)` of responses with these log-probs `(n,)` and numbers of tokens `(n,)`."""
        total = sums + self.baseline * counts
        return total if self.reduction == "sum" else total / np.maximum(counts, self.min_tokens)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Returns a scorer of growing responses."""
        return _LanguageModelScorer(self, num_lanes, tokenizer)


class _LanguageModelScorer(NetworkScorer):
    def __init__(self, reward: LanguageModelScore, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, num_lanes)
        self._reduced = reward.reduced
        self._log_probs = LogProbReader(reward.text_model(), num_lanes, tokenizer, reward.name)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._log_probs.reset(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._reduced(*self._log_probs.push(lanes, tokens))
