"""`preference` and `dpo`: scores by models that were trained on pairs of responses (text_reader.py).

`agents.supervised.reward_model` trains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.rewards.network_reward import NetworkReward, NetworkScorer
from agents.rewards.preference_record import read_record
from agents.rewards.text_reader import LogProbReader, TextModel, TextReader, check_dtype, check_source, load_text_model
from textenvs import Example, Tokenizer
from textenvs.arguments import check_flag, check_number
from textenvs.rewards import Scorer


class PreferenceScore(NetworkReward):
    """The value of a response by a Bradley-Terry reward model, above the value of the empty response.

        Phi = (r(prompt, response) - r(prompt, "")) / temperature

    r is a linear head on the state of the last token. Only differences of r mean anything, so the empty response's is
    subtracted: Phi starts from 0, and no choice between two responses changes. The temperature was fitted to validation
    pairs, so the difference of two responses' scores is the log-odds that people prefer the one to the other.

    Paid immediately, a token's reward is the difference of the model's values before and after it, which is RED.

    Range: no limits. Top value: none; scores far above those of the pairs that it was trained on mean little.
    Cost: one cached step of the model a token.
    Source: Bradley & Terry (1952); Christiano et al. (2017), arXiv:1706.03741, equation 1; the values of prefixes as
    rewards of tokens: Li et al. (2025), RED, arXiv:2411.08302.

    Args:
        model: A folder that `python -m agents reward-model` wrote.
        calibrated: If True, values are divided by the fitted temperature.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: The device of the model; None takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If the folder holds no reward model.
    """

    name = "preference"

    def __init__(
        self, model: str | Path, calibrated: bool = True, dtype: str | None = None, device: str | None = None
    ) -> None:
        record = read_record(check_source(model), "bradley_terry")
        self.model = str(model)
        self.calibrated = check_flag("calibrated", calibrated)
        self.dtype, self.device = check_dtype(dtype), device
        self._temperature = float(record["temperature"]) if calibrated else 1.0
        self._chat_template = bool(record["config"].get("chat_template", False))

    def text_model(self) -> TextModel:
        """Returns the reward model, and loads it where it was not loaded yet."""
        return load_text_model(self.model, dtype=self.dtype, device=self.device, chat_template=self._chat_template)

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Computes Phi of whole texts."""
        model = self.text_model()
        last, empty = model.values(*model.rows(examples, responses))
        phi: NDArray[np.float64] = (last - empty) / self._temperature
        return phi

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Returns a scorer of growing responses."""
        return _PreferenceScorer(self, num_lanes, tokenizer, self._temperature)


class _PreferenceScorer(NetworkScorer):
    def __init__(self, reward: PreferenceScore, num_lanes: int, tokenizer: Tokenizer, temperature: float) -> None:
        super().__init__(reward, num_lanes)
        self._temperature = temperature
        self._reader = TextReader(reward.text_model(), num_lanes, tokenizer, reward.name)
        self._empty = np.full(num_lanes, np.nan)  # the value of the empty response; NaN until the prompt is read

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._reader.reset(lanes, examples)
        self._empty[lanes] = np.nan
        self._phi[lanes] = 0.0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        reader = self._reader
        changed, _ = reader.push(lanes, tokens)
        if len(changed):
            new = changed[np.isnan(self._empty[changed])]
            if len(new):
                self._empty[new] = reader.model.head_values(reader.states(new, reader.prompt_length[new] - 1))
            values = reader.model.head_values(reader.states(changed, reader.length[changed] - 1))
            self._phi[changed] = (values - self._empty[changed]) / self._temperature
        return self._phi[lanes]


class LogRatioScore(NetworkReward):
    """The log-ratio of the response's probabilities under a language model and its reference: DPO's implicit reward.

        Phi = beta * sum_i (log pi(token_i | before) - log pi_ref(token_i | before))

    Paid immediately, a token's reward is beta times its own log-ratio, which is RTO. Each model has its own tokenizer.

    Range: no limits. Cost: one cached step of each of the two models a token.
    Source: Rafailov et al. (2023), DPO, arXiv:2305.18290, equation 5; as the reward of tokens: Zhong et al. (2024),
    RTO, arXiv:2404.18922.

    Args:
        model: A folder that `python -m agents reward-model --method dpo` wrote; or, with a `reference`, any causal
            language model.
        reference: The model to compare with; None takes the one that DPO started from, which is in the folder.
        beta: Scale; None takes the one that the model was trained with, over the fitted temperature: the difference of
            two responses' scores is then the log-odds that people prefer the one to the other.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: The device of the models; None takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If there are no such models, or beta is not positive.
    """

    name = "dpo"

    def __init__(
        self,
        model: str | Path,
        reference: str | Path | None = None,
        beta: float | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.model = check_source(model)
        self.reference = None if reference is None else check_source(reference)
        self.beta = beta if beta is None else check_number("beta", beta, low=0.0, open_low=True)
        self._chat_template = False
        if self.reference is None or beta is None:
            record = read_record(self.model, "dpo")
            self._chat_template = bool(record["config"].get("chat_template", False))
            self._reference = self.reference or str(Path(self.model) / "reference")
            self._beta = float(record["config"]["beta"]) / float(record["temperature"]) if beta is None else float(beta)
        else:
            self._reference, self._beta = self.reference, float(beta)
        self.dtype, self.device = check_dtype(dtype), device

    def text_models(self) -> tuple[TextModel, TextModel]:
        """Returns the model and its reference, and loads them where they were not loaded yet."""
        model, reference = (
            load_text_model(source, dtype=self.dtype, device=self.device, chat_template=self._chat_template)
            for source in (self.model, self._reference)
        )
        return model, reference

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Computes Phi of whole texts."""
        log_probs, ref_log_probs = (
            np.array([tokens.sum() for tokens in model.log_probs(*model.rows(examples, responses))])
            for model in self.text_models()
        )
        phi: NDArray[np.float64] = self._beta * (log_probs - ref_log_probs)
        return phi

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Returns a scorer of growing responses."""
        return _LogRatioScorer(self, num_lanes, tokenizer, self._beta)


class _LogRatioScorer(NetworkScorer):
    def __init__(self, reward: LogRatioScore, num_lanes: int, tokenizer: Tokenizer, beta: float) -> None:
        super().__init__(reward, num_lanes)
        self._beta = beta
        self._readers = [LogProbReader(model, num_lanes, tokenizer, reward.name) for model in reward.text_models()]

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for reader in self._readers:
            reader.reset(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        (log_probs, _), (ref_log_probs, _) = (reader.push(lanes, tokens) for reader in self._readers)
        phi: NDArray[np.float64] = self._beta * (log_probs - ref_log_probs)
        return phi
