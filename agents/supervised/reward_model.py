"""Preference models: trained from pairs of responses of which one was preferred, measured on pairs held out.

Two methods, one likelihood: P(chosen is preferred) = sigmoid(r(chosen) - r(rejected)), after Bradley and Terry.

    bradley_terry   r is a linear head on the trunk's state at the last token        -> the score `preference`
    dpo             r is beta log(pi / pi_ref), pi the model itself                  -> the score `dpo`

    pairs = split_pairs(load_pairs("pairs.jsonl"))
    policy = Policy.from_pretrained("tiny")
    trained = train(policy, pairs["train"], pairs["validation"], PreferenceConfig())
    test_margins = margins(policy, pairs["test"], trained)
    save(folder, policy, trained, evaluate_margins(test_margins, trained.temperature))

`python -m agents reward-model` does all of it. What differs from common practice: pairs are divided by a hash of
their prompt, so that no prompt is in two splits; the epoch with the best validation log-loss is kept, since a reward
model overfits within a few; and a temperature is fitted to the validation pairs and saved with the model (Guo et al.
2017, arXiv:1706.04599), so that scores are calibrated log-odds. The test pairs decide nothing.

Sources: Bradley & Terry (1952); Christiano et al. (2017), arXiv:1706.03741; Rafailov et al. (2023), arXiv:2305.18290.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.distributed import processes
from agents.files import write_json
from agents.locks import FolderLock
from agents.losses import preference_loss
from agents.policy.policy import Policy
from agents.rewards.preference_record import FORMAT, RECORD
from agents.rewards.text_reader import TextModel
from agents.supervised.configs import PreferenceConfig
from agents.training.config import OptimizerConfig
from agents.training.meter import Meter
from agents.training.optimization import optimizer_step
from textenvs import Example
from textenvs.datasets import hashed_split, pair_of, read_tables


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt, of which one was preferred.

    Attributes:
        prompt: The prompt that both answer. May be empty.
        chosen: The response that was preferred.
        rejected: The other.
    """

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PreferenceEvaluation:
    """The quality of margins r(chosen) - r(rejected) as predictions of the preferred response.

    Attributes:
        pairs: Number of pairs.
        accuracy: Share of pairs whose margin is positive, half of those at 0 among them.
        accuracy_low: Lower end of its 95 % interval (Wilson 1927).
        accuracy_high: Its upper end.
        log_loss: Mean of -log sigmoid(margin), nats; log 2 = 0.693 is no better than a coin.
        ece: Expected calibration error: the distance between confidence and accuracy, on average over ten bins of
            confidence (Guo et al. 2017, equation 3).
        temperature: The number, fitted to other pairs, that margins are divided by in the two attributes that follow.
        calibrated_log_loss: The log-loss of the divided margins.
        calibrated_ece: Their calibration error.
    """

    pairs: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    ece: float
    temperature: float
    calibrated_log_loss: float
    calibrated_ece: float


@dataclass(frozen=True)
class Trained:
    """The results of `train` besides the weights.

    Attributes:
        config: The settings.
        temperature: The temperature that was fitted to the validation pairs.
        reference: The policy that DPO started from; None for Bradley-Terry.
        history: A row for each epoch: the training loss, and accuracy and log-loss on the validation pairs.
        epoch: The epoch whose weights were kept, from 1.
    """

    config: PreferenceConfig
    temperature: float
    reference: Policy | None
    history: list[dict[str, float]] = field(default_factory=list)
    epoch: int = 0


# Pairs ---------------------------------------------------------------------------------------------------------------


def load_pairs(
    path: str | Path, *, prompt: str = "prompt", chosen: str = "chosen", rejected: str = "rejected"
) -> list[Pair]:
    """Reads the pairs of a file.

    Args:
        path: A `.jsonl` file, one object a line, or a file of another kind that data sets have. It is read a row at a
            time, and no line may have more than 64 MB.
        prompt: The field that holds the prompt. If it is "prompt" and the first row has none, the prompt is what both
            responses of a row begin with: messages, or text up to the last "Assistant:" or the last whole word.
        chosen: The field that holds the preferred response, without the prompt, its leading space included.
        rejected: The field that holds the other.

    Returns:
        The pairs, in the file's order.

    Raises:
        ValueError: If the file cannot be read or is empty, or a line is not as it should be; it names the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"Expected a file of pairs that can be read, got {str(path)!r}: there is no such file")
    pairs = []
    has_prompt: bool | None = None
    for table in read_tables(path):
        for location, row in table.rows:
            if isinstance(row, ValueError):
                raise row
            if has_prompt is None:
                has_prompt = prompt != "prompt" or prompt in row or chosen not in row
            pairs.append(Pair(*pair_of(row, prompt if has_prompt else None, chosen, rejected, location)))
    if not pairs:
        raise ValueError(f"Expected at least one pair in {str(path)!r}, got an empty file")
    return pairs


def split_pairs(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Divides pairs by a hash of their prompts into train (80 %), validation and test (10 % each).

    Args:
        pairs: The pairs. Where all have one prompt, the responses are hashed instead.

    Returns:
        Split to pairs. All pairs of a prompt are in one of them.
    """
    by_prompt = len({pair.prompt for pair in pairs}) > 1
    splits: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        key = pair.prompt if by_prompt else "\n".join(sorted((pair.chosen, pair.rejected)))
        splits[hashed_split(key)].append(pair)
    return splits


# Margins -------------------------------------------------------------------------------------------------------------


class _Margins:
    """The margins r(chosen) - r(rejected) of some pairs under a policy. Their texts are spelled once.

    Text 2 i is pair i's chosen one, and text 2 i + 1 the rejected one.

    Args:
        policy: The policy. The margins follow its weights.
        pairs: The pairs.
        config: The settings.
        reference: The policy that DPO started from; None for Bradley-Terry.
    """

    def __init__(
        self, policy: Policy, pairs: Sequence[Pair], config: PreferenceConfig, reference: Policy | None
    ) -> None:
        self._policy, self._config, self._num_pairs = policy, config, len(pairs)
        examples = [Example(pair.prompt) for pair in pairs for _ in range(2)]
        responses = [response for pair in pairs for response in (pair.chosen, pair.rejected)]
        rows, self._prompt_lengths = TextModel(policy, config.chat_template).rows(examples, responses)
        self._rows = [torch.tensor(row) for row in rows]
        self._ref_log_probs = None if reference is None else self._all_log_probs(reference)

    def of(self, pairs: Sequence[int]) -> Tensor:
        """Computes the margins of some pairs, `(n,)`, with gradients."""
        texts = [text for pair in pairs for text in (2 * pair, 2 * pair + 1)]
        if self._ref_log_probs is None:
            rewards = self._values(texts)
        else:
            log_ratios = self._log_probs(self._policy, texts) - self._ref_log_probs[texts]
            rewards = self._config.beta * log_ratios
        return rewards[0::2] - rewards[1::2]

    @torch.no_grad()
    def all(self) -> NDArray[np.float64]:
        """Computes the margins of all pairs, `(pairs,)`."""
        size = self._config.micro_batch_size
        pairs = range(self._num_pairs)
        parts = [self.of(pairs[begin : begin + size]) for begin in range(0, self._num_pairs, size)]
        margins: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
        return margins

    def _values(self, texts: Sequence[int]) -> Tensor:
        """The value head's number at the last token of some texts, `(n,)`, with gradients.

        Without the head's bias, which cancels in every difference: its gradient would be rounding, scaled up by Adam.
        """
        states, lengths = self._states(self._policy, texts)
        last = states[torch.arange(len(texts), device=states.device), lengths - 1]
        values: Tensor = (last.float() @ self._policy.value_head.weight.T)[:, 0]
        return values

    def _log_probs(self, policy: Policy, texts: Sequence[int]) -> Tensor:
        """The log-prob of some responses under a policy, `(n,)`, with gradients."""
        states, lengths = self._states(policy, texts)
        starts = torch.tensor([self._prompt_lengths[text] for text in texts], device=states.device)
        positions = torch.arange(states.shape[1], device=states.device)
        is_response = (positions >= starts[:, None]) & (positions < lengths[:, None])
        rows, ends = is_response.nonzero(as_tuple=True)
        tokens = self._padded(texts).to(states.device)[rows, ends]
        log_probs = policy.head.token_log_probs(states[rows, ends - 1], tokens)
        return log_probs.new_zeros(len(texts)).index_add(0, rows, log_probs)

    @torch.no_grad()
    def _all_log_probs(self, policy: Policy) -> Tensor:
        """The log-prob of all responses, `(texts,)` float32."""
        size = self._config.micro_batch_size
        texts = range(len(self._rows))
        parts = [self._log_probs(policy, texts[begin : begin + size]) for begin in range(0, len(texts), size)]
        return torch.cat(parts).float()

    def _states(self, policy: Policy, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The trunk's states of some texts, `(n, length, hidden)`, and the texts' lengths, `(n,)`."""
        lengths = torch.tensor([len(self._rows[text]) for text in texts], device=policy.device)
        return policy.row_states(self._padded(texts).to(policy.device), lengths, lengths), lengths

    def _padded(self, texts: Sequence[int]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([self._rows[text] for text in texts], batch_first=True)


def margins(policy: Policy, pairs: Sequence[Pair], trained: Trained) -> NDArray[np.float64]:
    """Computes r(chosen) - r(rejected) of each pair, in nats of log-odds, not divided by the temperature.

    Args:
        policy: The trained model.
        pairs: The pairs, at least one.
        trained: The result of `train`.

    Returns:
        `(pairs,)`.
    """
    return _Margins(policy, pairs, trained.config, trained.reference).all()


# Training ------------------------------------------------------------------------------------------------------------


def train(
    policy: Policy,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    config: PreferenceConfig,
    *,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Trains a policy's weights into a preference model.

    Args:
        policy: The start model, changed in place. Bradley-Terry starts its value head from 0; DPO does not use it.
        pairs: The pairs to train on.
        validation: The pairs that decide the best epoch and the temperature.
        config: The settings.
        on_epoch: Called with each row of the history.

    Returns:
        The results besides the weights.

    Raises:
        ValueError: If there are no pairs to train on or to validate with, or one is too long for the model.
    """
    if not pairs or not validation:
        raise ValueError(
            "Expected at least one pair to train on and one to validate with, got "
            f"{len(pairs)} and {len(validation)}: more prompts are needed, since all pairs of one are in one split"
        )
    policy.critic = None  # values are read off the policy's own trunk, not off one that some agent gave it
    reference = policy.frozen_copy() if config.method == "dpo" else None
    if config.method == "bradley_terry":
        torch.nn.init.zeros_(policy.value_head.weight)
        torch.nn.init.zeros_(policy.value_head.bias)
    training = _Margins(policy, pairs, config, reference)
    held_out = _Margins(policy, validation, config, reference)
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    num_steps = config.epochs * -(-len(pairs) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / num_steps)
    generator = torch.Generator().manual_seed(config.seed)
    history: list[dict[str, float]] = []
    best_log_loss, best_epoch, best_weights = math.inf, 0, dict[str, Tensor]()
    for epoch in range(1, config.epochs + 1):
        loss = _train_epoch(training, len(pairs), optimizer, schedule, generator, config)
        evaluation = processes.from_first(evaluate_margins(held_out.all()))
        row = {"epoch": float(epoch), "loss": loss, "accuracy": evaluation.accuracy, "log_loss": evaluation.log_loss}
        history.append(row)
        if on_epoch is not None:
            on_epoch(row)
        if not best_weights or evaluation.log_loss < best_log_loss:
            best_log_loss, best_epoch = evaluation.log_loss, epoch
            best_weights = {name: weight.detach().clone() for name, weight in policy.state_dict().items()}
    policy.load_state_dict(best_weights)
    return Trained(config, fit_temperature(held_out.all()), reference, history, best_epoch)


def _train_epoch(
    training: _Margins,
    num_pairs: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    config: PreferenceConfig,
) -> float:
    """Trains on all pairs once, in random order, and returns the mean loss; NaN where every step was skipped."""
    optimization = OptimizerConfig(micro_batch_size=config.micro_batch_size, max_grad_norm=config.max_grad_norm)
    meter = Meter()
    for batch in torch.randperm(num_pairs, generator=generator).split(config.batch_size):
        optimizer_step(optimizer, batch, partial(_loss, training, len(batch)), optimization, meter)
        schedule.step()
    return meter.means().get("loss", math.nan)


def _loss(training: _Margins, batch_size: int, pairs: Tensor, meter: Meter) -> Tensor:
    """The part of some pairs in the loss of their batch."""
    loss = preference_loss(training.of(pairs.tolist()), normalizer=batch_size)
    meter.add_shares(float(batch_size), len(pairs) / batch_size, {"loss": loss})
    return loss


# Evaluation -----------------------------------------------------------------------------------------------------------


def fit_temperature(margins: NDArray[np.float64]) -> float:
    """Fits the temperature that makes margins calibrated: the one with the least mean of -log sigmoid(margin / T).

    Args:
        margins: `(pairs,)` r(chosen) - r(rejected), at least one.

    Returns:
        T, from 0.001 to 1000, by bisection on the slope of the loss, which is convex in 1 / T. Where every pair is
        right there is no least loss, and T is the smallest; where the margins predict nothing, it is the largest.

    Source: Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, section 4.2.
    """
    low, high = math.log(1e-3), math.log(1e3)  # of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        slope = -np.mean(margins * _sigmoid(-math.exp(middle) * margins))
        low, high = (middle, high) if slope <= 0 else (low, middle)  # 0 is a slope too small for a float
    return math.exp(-(low + high) / 2)


def evaluate_margins(margins: NDArray[np.float64], temperature: float = 1.0) -> PreferenceEvaluation:
    """Computes accuracy, log-loss and calibration.

    Args:
        margins: `(pairs,)` r(chosen) - r(rejected), at least one.
        temperature: The temperature that `fit_temperature` fitted to other pairs.

    Returns:
        The evaluation.
    """
    count = len(margins)
    accuracy = float(np.mean(margins > 0) + np.mean(margins == 0) / 2)
    z = 1.96  # of the normal distribution, for 95 %
    centre = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    return PreferenceEvaluation(
        pairs=count,
        accuracy=accuracy,
        accuracy_low=centre - margin,
        accuracy_high=centre + margin,
        log_loss=_log_loss(margins),
        ece=_calibration_error(margins),
        temperature=temperature,
        calibrated_log_loss=_log_loss(margins / temperature),
        calibrated_ece=_calibration_error(margins / temperature),
    )


def _log_loss(margins: NDArray[np.float64]) -> float:
    return float(np.logaddexp(0.0, -margins).mean())


def _calibration_error(margins: NDArray[np.float64], bins: int = 10) -> float:
    """The mean of |accuracy - confidence| over bins of confidence from 0.5 to 1, each weighed by its pairs."""
    confidence = _sigmoid(np.abs(margins))
    right = np.where(margins > 0, 1.0, np.where(margins < 0, 0.0, 0.5))
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(margins))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -x))


# Folders -------------------------------------------------------------------------------------------------------------


def save(folder: str | Path, policy: Policy, trained: Trained, evaluation: PreferenceEvaluation | None = None) -> Path:
    """Writes a preference model as safetensors and JSON, for the scores `preference` and `dpo`.

    Args:
        folder: The folder, made if it does not exist. The reference of DPO goes into `reference` inside it.
        policy: The trained model.
        trained: The result of `train`.
        evaluation: Its evaluation on test pairs, for the record.

    Returns:
        The folder.

    Raises:
        ValueError: If another process writes to the folder.
    """
    with FolderLock(Path(folder)):
        return _save(Path(folder), policy, trained, evaluation)


def _save(folder: Path, policy: Policy, trained: Trained, evaluation: PreferenceEvaluation | None) -> Path:
    policy.save_pretrained(folder)
    if trained.reference is not None:
        trained.reference.save_pretrained(folder / "reference")
    record = {
        "format": FORMAT,
        "method": trained.config.method,
        "temperature": trained.temperature,
        "epoch": trained.epoch,
        "config": asdict(trained.config),
        "history": trained.history,
        "test": None if evaluation is None else asdict(evaluation),
    }
    write_json(folder / RECORD, record)
    return folder
