"""Preference models: trained from pairs of responses of which one was preferred, measured on pairs held out.

Two methods, one likelihood: P(chosen is preferred) = sigmoid(r(chosen) - r(rejected)), after Bradley and Terry.

    bradley_terry   r is a linear head on the trunk's state at the last token        -> the score `preference`
    dpo             r is beta log(pi / pi_ref), pi the model itself                  -> the score `dpo`

    pairs = split_pairs(load_pairs("pairs.jsonl"))
    policy = Policy.from_pretrained("tiny")
    found = train(policy, pairs["train"], pairs["validation"], PreferenceConfig())
    save(folder, policy, found, evaluate_margins(margins(policy, pairs["test"], found), found.temperature))

`python -m agents reward-model --help` does all of it. What differs from common practice: pairs are divided by a hash of
their prompt, so that no prompt is in two splits; the epoch with the best validation log-loss is kept, since a reward
model overfits within a few; and a temperature is fitted to the validation pairs and saved with the model (Guo et al.
2017, arXiv:1706.04599), so that scores are calibrated log-odds. The test pairs decide nothing.

Sources: Bradley & Terry (1952); Christiano et al. (2017), arXiv:1706.03741; Rafailov et al. (2023), arXiv:2305.18290.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.distributed import processes
from agents.losses import preference_loss
from agents.policy.policy import Policy
from agents.rewards.preference_record import FORMAT, RECORD
from agents.rewards.text_reader import TextModel
from agents.supervised.configs import PreferenceConfig
from agents.training.config import OptimizerConfig
from agents.training.meter import Meter
from agents.training.optimization import optimizer_step
from textenvs import Example
from textenvs.datasets import pair_of, read_tables

_SHARES = {"train": 80, "validation": 10, "test": 10}  # per cent


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt, of which one was preferred.

    Attributes:
        prompt: What both answer. May be empty.
        chosen: The response that was preferred.
        rejected: The other.
    """

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PreferenceEvaluation:
    """How well margins r(chosen) - r(rejected) foretell what was preferred.

    Attributes:
        pairs: How many.
        accuracy: Share of pairs whose margin is positive, half of those at 0 among them.
        accuracy_low: Lower end of its 95 % interval (Wilson 1927).
        accuracy_high: Its upper end.
        log_loss: Mean of -log sigmoid(margin), nats; log 2 = 0.693 is no better than a coin.
        ece: Expected calibration error: how far apart confidence and accuracy are, on average over ten bins of
            confidence (Guo et al. 2017, equation 3).
        temperature: What margins are divided by in the two that follow, fitted to other pairs.
        calibrated_log_loss: The log-loss then.
        calibrated_ece: The error then.
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
    """What `train` found besides the weights.

    Attributes:
        config: The settings.
        temperature: Fitted to the validation pairs.
        reference: Where DPO started; None for Bradley-Terry.
        history: A row an epoch: the training loss, and accuracy and log-loss on the validation pairs.
        epoch: The one that was kept, from 1.
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
    """The pairs of a file.

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
        ValueError: If the file cannot be read or is empty, or a line is not what it should be; says which.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"Expected a file of pairs that can be read, got {str(path)!r}: there is no such file")
    pairs = []
    has_prompt: bool | None = None
    for table in read_tables(path):
        for where, row in table.rows:
            if isinstance(row, ValueError):
                raise row
            has_prompt = prompt != "prompt" or prompt in row or chosen not in row if has_prompt is None else has_prompt
            pairs.append(Pair(*pair_of(row, prompt if has_prompt else None, chosen, rejected, where)))
    if not pairs:
        raise ValueError(f"Expected at least one pair in {str(path)!r}, got an empty file")
    return pairs


def split_pairs(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Divide pairs by a hash of their prompts into train (80 %), validation and test (10 % each).

    Args:
        pairs: The pairs. Where all have one prompt, the responses are hashed instead.

    Returns:
        Split to pairs. All pairs of a prompt are in one of them.
    """
    by_prompt = len({pair.prompt for pair in pairs}) > 1
    splits: dict[str, list[Pair]] = {split: [] for split in _SHARES}
    for pair in pairs:
        key = pair.prompt if by_prompt else "\n".join(sorted((pair.chosen, pair.rejected)))
        place = int.from_bytes(sha256(key.encode()).digest()[:8], "big") % 100
        for split, share in _SHARES.items():
            if place < share:
                splits[split].append(pair)
                break
            place -= share
    return splits


# Margins -------------------------------------------------------------------------------------------------------------


class _Rows:
    """The two texts of each pair as tokens, made once. Text 2 i is pair i's chosen one, and 2 i + 1 the rejected."""

    def __init__(self, policy: Policy, pairs: Sequence[Pair], config: PreferenceConfig) -> None:
        texts = [(Example(pair.prompt), text) for pair in pairs for text in (pair.chosen, pair.rejected)]
        reader = TextModel(policy, config.chat_template)
        rows, self.prompt_lengths = reader.rows([one for one, _ in texts], [text for _, text in texts])
        self.rows = [torch.tensor(row) for row in rows]

    def values(self, policy: Policy, places: Sequence[int]) -> Tensor:
        """The value head's number at the last token of some texts, `(n,)`, with gradients.

        Without the head's bias, which cancels in every difference: its gradient would be rounding, scaled up by Adam.
        """
        states, lengths = self._states(policy, places)
        last = states[torch.arange(len(places), device=states.device), lengths - 1]
        values: Tensor = (last.float() @ policy.value_head.weight.T)[:, 0]
        return values

    def log_probs(self, policy: Policy, places: Sequence[int]) -> Tensor:
        """The log-prob of some responses, `(n,)`, with gradients."""
        states, lengths = self._states(policy, places)
        starts = torch.tensor([self.prompt_lengths[place] for place in places], device=states.device)
        steps = torch.arange(states.shape[1], device=states.device)
        rows, ends = ((steps >= starts[:, None]) & (steps < lengths[:, None])).nonzero(as_tuple=True)
        tokens = self._table(places).to(states.device)[rows, ends]
        found = policy.head.token_log_probs(states[rows, ends - 1], tokens)
        return found.new_zeros(len(places)).index_add(0, rows, found)

    def _states(self, policy: Policy, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        table = self._table(places).to(policy.device)
        lengths = torch.tensor([len(self.rows[place]) for place in places], device=policy.device)
        return policy.row_states(table, lengths, lengths), lengths

    def _table(self, places: Sequence[int]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([self.rows[place] for place in places], batch_first=True)


def _margins(
    policy: Policy, rows: _Rows, pairs: Sequence[int], config: PreferenceConfig, reference: NDArray[np.float64] | None
) -> Tensor:
    """r(chosen) - r(rejected) of some pairs, `(n,)`, with gradients. `reference`: log-probs of every text."""
    places = [place for pair in pairs for place in (2 * pair, 2 * pair + 1)]
    if config.method == "bradley_terry":
        rewards = rows.values(policy, places)
    else:
        assert reference is not None
        before = torch.from_numpy(reference[places]).to(policy.device, torch.float32)
        rewards = config.beta * (rows.log_probs(policy, places) - before)
    return rewards[0::2] - rewards[1::2]


@torch.no_grad()
def _reference_log_probs(reference: Policy, rows: _Rows, size: int) -> NDArray[np.float64]:
    places = range(len(rows.rows))
    parts = [rows.log_probs(reference, places[begin : begin + size]) for begin in range(0, len(places), size)]
    found: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return found


@torch.no_grad()
def _all_margins(
    policy: Policy, rows: _Rows, config: PreferenceConfig, reference: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    pairs, size = range(len(rows.rows) // 2), config.micro_batch_size
    parts = [_margins(policy, rows, pairs[at : at + size], config, reference) for at in range(0, len(pairs), size)]
    found: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return found


def margins(policy: Policy, pairs: Sequence[Pair], trained: Trained) -> NDArray[np.float64]:
    """r(chosen) - r(rejected) of each pair, in nats of log-odds, not divided by the temperature.

    Args:
        policy: The trained model.
        pairs: The pairs, at least one.
        trained: What `train` returned with it.

    Returns:
        `(pairs,)`.
    """
    rows = _Rows(policy, pairs, trained.config)
    size = trained.config.micro_batch_size
    before = None if trained.reference is None else _reference_log_probs(trained.reference, rows, size)
    return _all_margins(policy, rows, trained.config, before)


# Training ------------------------------------------------------------------------------------------------------------


def train(
    policy: Policy,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    config: PreferenceConfig,
    *,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Train a policy's weights into a preference model.

    Args:
        policy: The start model, changed in place. Bradley-Terry starts its value head from 0; DPO leaves it aside.
        pairs: What to train on.
        validation: What the best epoch and the temperature are found on.
        config: The settings.
        on_epoch: Called with each row of the history.

    Returns:
        What was found besides the weights.

    Raises:
        ValueError: If there are no pairs to train on or to validate with, or one is too long for the model.
    """
    if not pairs or not validation:
        raise ValueError(
            "Expected at least one pair to train on and one to validate with, got "
            f"{len(pairs)} and {len(validation)}: more prompts are needed, since all pairs of one are in one split"
        )
    policy.critic = None  # a trunk that some agent read its values off
    reference = policy.frozen_copy() if config.method == "dpo" else None
    if config.method == "bradley_terry":
        torch.nn.init.zeros_(policy.value_head.weight)
        torch.nn.init.zeros_(policy.value_head.bias)
    rows, held_out = _Rows(policy, pairs, config), _Rows(policy, validation, config)
    before = held_out_before = None
    if reference is not None:
        before = _reference_log_probs(reference, rows, config.micro_batch_size)
        held_out_before = _reference_log_probs(reference, held_out, config.micro_batch_size)
    parameters = [one for one in policy.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    steps = config.epochs * -(-len(pairs) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    generator = torch.Generator().manual_seed(config.seed)
    history: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    steps_config = OptimizerConfig(micro_batch_size=config.micro_batch_size, max_grad_norm=config.max_grad_norm)

    def loss_of(size: int, part: Tensor, found: Meter) -> Tensor:
        loss = preference_loss(_margins(policy, rows, part.tolist(), config, before), normalizer=size)
        found.add_shares(float(size), len(part) / size, {"loss": loss})
        return loss

    for epoch in range(1, config.epochs + 1):
        meter = Meter()
        for batch in torch.randperm(len(pairs), generator=generator).split(config.batch_size):
            optimizer_step(optimizer, batch, partial(loss_of, len(batch)), steps_config, meter)
            schedule.step()
        seen = processes.from_first(evaluate_margins(_all_margins(policy, held_out, config, held_out_before)))
        loss = meter.means().get("loss", math.nan)
        row = {"epoch": float(epoch), "loss": loss, "accuracy": seen.accuracy, "log_loss": seen.log_loss}
        history.append(row)
        if on_epoch is not None:
            on_epoch(row)
        if best is None or seen.log_loss < best[0]:
            best = (seen.log_loss, epoch, {name: one.detach().clone() for name, one in policy.state_dict().items()})
    assert best is not None
    policy.load_state_dict(best[2])
    temperature = fit_temperature(_all_margins(policy, held_out, config, held_out_before))
    return Trained(config, temperature, reference, history, best[1])


# How good it is ------------------------------------------------------------------------------------------------------


def fit_temperature(margins: NDArray[np.float64]) -> float:
    """The temperature that makes margins calibrated: the least mean of -log sigmoid(margin / T).

    Args:
        margins: `(pairs,)` r(chosen) - r(rejected), at least one.

    Returns:
        T, from 0.001 to 1000. The loss is convex in 1 / T, and its slope is halved in on. Where every pair is right
        there is no least loss, and T is the smallest; where the margins foretell nothing, it is the largest.

    Source: Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, section 4.2.
    """
    low, high = math.log(1e-3), math.log(1e3)  # of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        slope = -np.mean(margins * _sigmoid(-math.exp(middle) * margins))
        low, high = (middle, high) if slope <= 0 else (low, middle)  # 0: it is too small for a float
    return math.exp(-(low + high) / 2)


def evaluate_margins(margins: NDArray[np.float64], temperature: float = 1.0) -> PreferenceEvaluation:
    """Accuracy, log-loss and calibration.

    Args:
        margins: `(pairs,)` r(chosen) - r(rejected), at least one.
        temperature: What `fit_temperature` found on other pairs.

    Returns:
        The evaluation.
    """
    count = len(margins)
    accuracy = float(np.mean(margins > 0) + np.mean(margins == 0) / 2)
    z = 1.96
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
    """Over bins of confidence from 0.5 to 1: mean |accuracy - confidence|, each bin weighed by its pairs."""
    confidence = _sigmoid(np.abs(margins))
    right = np.where(margins > 0, 1.0, np.where(margins < 0, 0.0, 0.5))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(margins))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -x))


# Folders -------------------------------------------------------------------------------------------------------------


def save(folder: str | Path, policy: Policy, trained: Trained, evaluation: PreferenceEvaluation | None = None) -> Path:
    """Write a preference model as safetensors and JSON, for the scores `preference` and `dpo`.

    Args:
        folder: Made if it does not exist. The reference of DPO goes into `reference` inside it.
        policy: The trained model.
        trained: What `train` returned.
        evaluation: How good it is on test pairs, for the record.

    Returns:
        The folder.
    """
    folder = Path(folder)
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
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder
