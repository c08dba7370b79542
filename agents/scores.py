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
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig

from agents.preferences import read_record
from agents.text_encoder import Encoder, load_encoder
from agents.text_model import LogProbReader, TextModel, TextReader, check_dtype, check_source, load_text_model
from textenvs import Example, Reward, Tokenizer, register_reward
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


# Fluency -------------------------------------------------------------------------------------------------------------


class LanguageModelScore(NetworkReward):
    """Log-probability of the response, given the prompt, under a causal language model.

        sum:   sum_i (log p(token_i | prompt, tokens before) + baseline)
        mean:  the same, over max(tokens, min_tokens)

    Tokens are the language model's own, whatever the policy's are. An empty response scores 0, which is the top value
    where `baseline` is 0: a policy that trains on that alone learns to say nothing. A positive baseline is how many
    nats a token may cost before it is a loss; with it, use `min_tokens`, or one likely word is all there is. And what a
    language model finds likeliest is often repetition: weigh it with a score of the content.

    Range: from minus infinity to 0 (`mean`: to the larger of 0 and `baseline`; `sum` with a positive baseline: no end).
    Cost: one cached step of the language model a token.
    Source: the fluency term of Ziegler et al. (2019), arXiv:1909.08593, equation 2, there as a KL penalty.

    Args:
        model: "tiny", a folder or a hub id: any causal model that `Policy.from_pretrained` takes.
        reduction: "mean" over the response's tokens, or "sum".
        baseline: Nats added for each token.
        min_tokens: The least number of tokens that a mean is over.
        chat_template: Whether the prompt is read as what a user says, in the chat template of the model's tokenizer,
            and the response as the assistant's answer.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: Where the model goes; None takes CUDA, then MPS, then the CPU.

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
        if reduction not in ("mean", "sum"):
            raise ValueError(f"Expected reduction to be 'mean' or 'sum', got {reduction!r}")
        if isinstance(min_tokens, bool) or not isinstance(min_tokens, int) or min_tokens < 1:
            raise ValueError(f"Expected min_tokens to be at least 1, got {min_tokens!r}")
        self.model = check_source(model)
        self.reduction = reduction
        self.baseline = _finite("baseline", baseline)
        self.min_tokens = min_tokens
        self.chat_template = _flag("chat_template", chat_template)
        self.dtype, self.device = dtype if dtype is None else check_dtype(dtype), device
        endless = reduction == "sum" and self.baseline > 0
        self.high = math.inf if endless else max(0.0, self.baseline)

    def text_model(self) -> TextModel:
        """The language model, loaded where it was not yet."""
        return load_text_model(self.model, dtype=self.dtype, device=self.device, chat_template=self.chat_template)

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """See `NetworkReward.scores`."""
        model = self.text_model()
        found = model.log_probs(*model.rows(examples, responses))
        sums, counts = np.array([one.sum() for one in found]), np.array([len(one) for one in found])
        return self.reduced(sums, counts)

    def reduced(self, sums: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Phi `(n,)` of responses with these log-probs `(n,)` and numbers of tokens `(n,)`."""
        total = sums + self.baseline * counts
        return total if self.reduction == "sum" else total / np.maximum(counts, self.min_tokens)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _LanguageModelScorer(self, num_lanes, tokenizer)


class _LanguageModelScorer(_NetworkScorer):
    def __init__(self, reward: LanguageModelScore, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, num_lanes)
        self._reduced = reward.reduced
        self._log_probs = LogProbReader(reward.text_model(), num_lanes, tokenizer, reward.name)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._log_probs.reset(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._reduced(*self._log_probs.push(lanes, tokens))


# Preferences ---------------------------------------------------------------------------------------------------------


class PreferenceScore(NetworkReward):
    """What a Bradley-Terry reward model gives a response, above what it gives the empty one.

        Phi = (r(prompt, response) - r(prompt, "")) / temperature

    r is a linear head on the state of the last token. The model says nothing about r but in differences, so the empty
    response's is taken off: Phi starts from 0, and no choice between two responses changes. The temperature is the one
    that was fitted to validation pairs, so the difference of two responses' scores is the log-odds that people
    prefer the one to the other.

    Paid immediately, a token's reward is the difference of the model's values before and after it, which is RED.

    Range: no limits. Top value: none; what lies far above the pairs that it was trained on is not to be believed.
    Cost: one cached step of the model a token.
    Source: Bradley & Terry (1952); Christiano et al. (2017), arXiv:1706.03741, equation 1; the values of prefixes as
    rewards of tokens: Li et al. (2025), RED, arXiv:2411.08302.

    Args:
        model: A folder that `python -m agents reward-model` wrote.
        calibrated: Whether to divide by the fitted temperature.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: Where the model goes; None takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If the folder holds no reward model.
    """

    name = "preference"

    def __init__(
        self, model: str | Path, calibrated: bool = True, dtype: str | None = None, device: str | None = None
    ) -> None:
        record = read_record(check_source(model), "bradley_terry")
        self.model = str(model)
        self.calibrated = calibrated
        self.dtype, self.device = dtype if dtype is None else check_dtype(dtype), device
        self._temperature = float(record["temperature"]) if calibrated else 1.0
        self._chat_template = bool(record["config"].get("chat_template", False))

    def text_model(self) -> TextModel:
        """The reward model, loaded where it was not yet."""
        return load_text_model(self.model, dtype=self.dtype, device=self.device, chat_template=self._chat_template)

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """See `NetworkReward.scores`."""
        model = self.text_model()
        last, before = model.values(*model.rows(examples, responses))
        phi: NDArray[np.float64] = (last - before) / self._temperature
        return phi

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _PreferenceScorer(self, num_lanes, tokenizer, self._temperature)


class _PreferenceScorer(_NetworkScorer):
    def __init__(self, reward: PreferenceScore, num_lanes: int, tokenizer: Tokenizer, temperature: float) -> None:
        super().__init__(reward, num_lanes)
        self._temperature = temperature
        self._reader = TextReader(reward.text_model(), num_lanes, tokenizer, reward.name)
        self._before = np.full(num_lanes, np.nan)  # the value of the empty response; NaN until the prompt is read

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._reader.reset(lanes, examples)
        self._before[lanes] = np.nan
        self._phi[lanes] = 0.0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        reader = self._reader
        changed, _ = reader.push(lanes, tokens)
        if len(changed):
            new = changed[np.isnan(self._before[changed])]
            if len(new):
                self._before[new] = reader.model.head_values(reader.states(new, reader.prompt_length[new] - 1))
            values = reader.model.head_values(reader.states(changed, reader.length[changed] - 1))
            self._phi[changed] = (values - self._before[changed]) / self._temperature
        return self._phi[lanes]


class LogRatioScore(NetworkReward):
    """How much likelier a language model finds the response than its reference does: DPO's implicit reward.

        Phi = beta * sum_i (log pi(token_i | before) - log pi_ref(token_i | before))

    Paid immediately, a token's reward is beta times its own log-ratio, which is RTO. Each model has its own tokenizer.

    Range: no limits. Cost: one cached step of each of the two models a token.
    Source: Rafailov et al. (2023), DPO, arXiv:2305.18290, equation 5; as the reward of tokens: Zhong et al. (2024),
    RTO, arXiv:2404.18922.

    Args:
        model: A folder that `python -m agents reward-model --method dpo` wrote; or, with a `reference`, any causal
            language model.
        reference: The model to compare with; None takes the one that DPO started from, which lies in the folder.
        beta: Scale; None takes the one that the model was trained with, over the fitted temperature: the difference of
            two responses' scores is then the log-odds that people prefer the one to the other.
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: Where the models go; None takes CUDA, then MPS, then the CPU.

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
        self.beta = beta
        if beta is not None and _finite("beta", beta) <= 0:
            raise ValueError(f"Expected beta to be above 0, got {beta}")
        self._chat_template = False
        if self.reference is None or beta is None:
            record = read_record(self.model, "dpo")
            self._chat_template = bool(record["config"].get("chat_template", False))
            self._reference = self.reference or str(Path(self.model) / "reference")
            self._beta = float(record["config"]["beta"]) / float(record["temperature"]) if beta is None else float(beta)
        else:
            self._reference, self._beta = self.reference, float(beta)
        self.dtype, self.device = dtype if dtype is None else check_dtype(dtype), device

    def text_models(self) -> tuple[TextModel, TextModel]:
        """The model and its reference, loaded where they were not yet."""
        one, other = (
            load_text_model(source, dtype=self.dtype, device=self.device, chat_template=self._chat_template)
            for source in (self.model, self._reference)
        )
        return one, other

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """See `NetworkReward.scores`."""
        one, other = (
            np.array([part.sum() for part in model.log_probs(*model.rows(examples, responses))])
            for model in self.text_models()
        )
        phi: NDArray[np.float64] = self._beta * (one - other)
        return phi

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _LogRatioScorer(self, num_lanes, tokenizer, self._beta)


class _LogRatioScorer(_NetworkScorer):
    def __init__(self, reward: LogRatioScore, num_lanes: int, tokenizer: Tokenizer, beta: float) -> None:
        super().__init__(reward, num_lanes)
        self._beta = beta
        self._readers = [LogProbReader(model, num_lanes, tokenizer, reward.name) for model in reward.text_models()]

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for reader in self._readers:
            reader.reset(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        (one, _), (other, _) = (reader.push(lanes, tokens) for reader in self._readers)
        phi: NDArray[np.float64] = self._beta * (one - other)
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
        layer: Whose states: 0 is the embeddings, and None the last layer. The paper's choice for each model is in the
            bert-score package.
        part: "f1", "precision" or "recall".
        dtype: "float64", "float32" or "bfloat16"; None takes float64 on a CPU and float32 elsewhere.
        device: Where the encoder goes; None takes CUDA, then MPS, then the CPU.

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
        if part not in ("f1", "precision", "recall"):
            raise ValueError(f"Expected part to be 'f1', 'precision' or 'recall', got {part!r}")
        if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
            raise ValueError(f"Expected layer to be a whole number of at least 0, or None, got {layer!r}")
        self.model = check_source(model)
        if layer is not None and Path(self.model).is_dir():  # a hub id is checked when it is loaded
            layers = _config(self.model).num_hidden_layers
            if layer > layers:
                raise ValueError(f"Expected a layer from 0 to {layers} of {self.model!r}, got {layer}")
        self.layer, self.part = layer, part
        self.dtype, self.device = dtype if dtype is None else check_dtype(dtype), device
        self.low, self.high = (0.0 if part == "f1" else -1.0), 1.0

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """See `NetworkReward.scores`."""
        references = [example.references for example in examples]
        for example in examples:
            if not example.references:
                raise ValueError(f"Expected an example with references, got {example!r}")
        encoder = load_encoder(self.model, "encoder", dtype=self.dtype, device=self.device)
        wanted = [text for texts in references for text in texts if (self.layer, text) not in encoder.kept]
        fresh = list(dict.fromkeys(wanted))
        if fresh and len(encoder.kept) + len(fresh) > encoder.MOST_KEPT:
            encoder.kept.clear()
            fresh = list(dict.fromkeys(text for texts in references for text in texts))
        encoder.kept.update(zip([(self.layer, text) for text in fresh], self._states(encoder, fresh), strict=True))
        states = self._states(encoder, responses)
        return np.array(
            [
                max(self._match(state, encoder.kept[self.layer, text]) for text in texts)
                for state, texts in zip(states, references, strict=True)
            ]
        )

    def _states(self, encoder: Encoder, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Unit states of each text's tokens, `(tokens, hidden)`, and which are not special, `(tokens,)` bool."""
        found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(texts)
        for rows, output, lengths, counted in encoder.passes(
            [(text.strip(),) for text in texts], output_hidden_states=True
        ):
            layers = output.hidden_states
            if self.layer is not None and self.layer >= len(layers):
                raise ValueError(f"Expected a layer from 0 to {len(layers) - 1} of {self.model!r}, got {self.layer}")
            states = layers[-1 if self.layer is None else self.layer]
            unit = states / states.norm(dim=2, keepdim=True).clamp_min(1e-12)
            for place, row in enumerate(rows):
                found[row] = unit[place, : lengths[place]], counted[place, : lengths[place]]
        return found

    def _match(self, response: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
        if not response[1].any() or not reference[1].any():
            return 0.0
        cosines = (response[0] @ reference[0].T).double()
        precision = float(cosines.amax(dim=1)[response[1]].mean())
        recall = float(cosines.amax(dim=0)[reference[1]].mean())
        if self.part != "f1":
            return precision if self.part == "precision" else recall
        return 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _Rereader(self, num_lanes, tokenizer)


def _config(folder: str) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"Expected the folder of a Transformers model, got {folder!r}: {error}") from error


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


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Expected {name} to be true or false, got {value!r}")
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number, got {value!r}")
    return float(value)


for _score in (LanguageModelScore, ClassifierScore, PreferenceScore, LogRatioScore, BERTScore):
    register_reward(_score.name, _score)
