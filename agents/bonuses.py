"""Bonuses: payments beside the score, which may depend on more than one episode's text.

A score is a function of one episode. A payment that depends on the other lanes, on the policy or on earlier episodes is
a bonus: it has its own array on the rollout, `Rollout.bonuses`, and its own line in the log, `bonus/NAME`, and never
changes `Rollout.rewards`. The algorithms learn from `Rollout.rewards_and_bonuses`.

    PPO("tiny", "TextGen-v0", bonuses={"novelty": 0.1, "diversity": {"weight": 0.2, "over": "batch"}})

Every bonus sees a whole batch of episodes before any of it is learned from, so that their order does not matter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.policy.policy import Policy
from agents.rollout import Rollout
from textenvs.arguments import check_count, did_you_mean


class Bonus(ABC):
    """A kind of bonus. It may remember something from update to update."""

    @abstractmethod
    def pay(self, rollout: Rollout, policy: Policy) -> Tensor:
        """Computes what each action of a fresh batch of episodes earns, and then remembers the batch.

        Args:
            rollout: The episodes, `ref_log_probs` filled in.
            policy: The policy that played them.

        Returns:
            `(batch, time)` float32, before the weight. Numbers at padding do not count.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what it remembers, as tensors by name; empty where it remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most remember nothing
        """Continues from what `state_dict` returned."""


class Novelty(Bonus):
    """1 / sqrt(n(s)), with n(s) the number of times that a text was written, this batch included: new texts earn more.

    Args:
        n: The text is the n tokens that end with the action; None: all of it so far, the prompt included.
        bits: Counts are kept for 2^bits hashes, in 4 bytes each; texts whose hashes collide share a count.

    Raises:
        TypeError: If a number is of the wrong type.
        ValueError: If a number is out of range.

    Source: Tang et al. (2017), #Exploration: a study of count-based exploration for deep reinforcement learning,
        arXiv:1611.04717, equation 1, with tokens hashed as they are.
    """

    def __init__(self, reference: Policy, seed: int, *, n: int | None = 3, bits: int = 18) -> None:
        self.n = check_count("n of bonus 'novelty'", n, optional=True)
        self.bits = check_count("bits of bonus 'novelty'", bits, most=30)
        self._counts = np.zeros(1 << self.bits, dtype=np.int32)

    def pay(self, rollout: Rollout, policy: Policy) -> Tensor:
        """Pays by the counts of all batches, this one included, so that the order of episodes does not matter."""
        mask = rollout.response_mask.cpu().numpy()
        hashes = text_hashes(rollout.input_ids.cpu().numpy(), rollout.positions.cpu().numpy(), self.n)
        buckets = (hashes >> np.uint64(64 - self.bits)).astype(np.int64)
        np.add.at(self._counts, buckets[mask], 1)
        paid = np.where(mask, 1 / np.sqrt(np.maximum(self._counts[buckets], 1)), 0)
        return torch.from_numpy(paid.astype(np.float32)).to(rollout.rewards.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the counts."""
        return {"counts": torch.from_numpy(self._counts.copy())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from such counts."""
        self._counts = state["counts"].cpu().numpy().copy()


def text_hashes(input_ids: NDArray[np.int64], positions: NDArray[np.int64], n: int | None) -> NDArray[np.uint64]:
    """Hashes the n tokens that end at each position, or all up to it. Hashes are the same on every machine.

    Args:
        input_ids: `(batch, length)` token ids.
        positions: `(batch, time)` int64, the position of each action in its row.
        n: Number of tokens; None: all. Before a row's beginning there is a token that occurs nowhere else.

    Returns:
        `(batch, time)` uint64.
    """
    tokens = input_ids.astype(np.uint64) + np.uint64(1)
    if n is None:
        hashed = np.zeros_like(tokens)
        state = np.zeros(len(tokens), dtype=np.uint64)
        for column in range(tokens.shape[1]):
            state = hashed[:, column] = _mixed(state, tokens[:, column])
        return np.take_along_axis(hashed, positions, axis=1)
    state = np.zeros(positions.shape, dtype=np.uint64)
    for back in range(n - 1, -1, -1):
        columns = positions - back
        token = np.take_along_axis(tokens, np.maximum(columns, 0), axis=1)
        state = _mixed(state, np.where(columns < 0, np.uint64(0), token))
    return state


def _mixed(state: NDArray[np.uint64], token: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mixes a token into a hash: two rounds of multiply and shift, whose upper bits depend on all of the input."""
    state = (state ^ token) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return state ^ (state >> np.uint64(32))


class RandomNetworkDistillation(Bonus):
    """The error of a network that learns to predict a random one: large in states that are unlike those seen before.

    A state is the last hidden state after the action, of the start model: that of the policy changes while it learns,
    and would look new. The error is divided by its running standard deviation, so that the weight means the same
    throughout a run.

    Args:
        features: Number of outputs of the two networks.
        hidden: Number of units in their one hidden layer.
        learning_rate: Step size of the Adam that trains the predictor: one step for each `chunk` states.
        chunk: States in a step.

    Raises:
        TypeError: If a number is of the wrong type.
        ValueError: If a number is out of range.

    Source: Burda et al. (2018), Exploration by random network distillation, arXiv:1810.12894, sections 2.2 and 2.4
        (states whitened and clipped to 5). There the bonus is divided by the deviation of its returns.
    """

    def __init__(
        self,
        reference: Policy,
        seed: int,
        *,
        features: int = 32,
        hidden: int = 64,
        learning_rate: float = 1e-3,
        chunk: int = 1024,
    ) -> None:
        for name, number in (("features", features), ("hidden", hidden), ("chunk", chunk)):
            check_count(f"{name} of bonus 'rnd'", number)
        if not _is_number(learning_rate) or learning_rate <= 0:
            raise ValueError(f"Expected learning_rate of bonus 'rnd' to be above 0, got {learning_rate!r}")
        self._reference, self._chunk = reference, chunk
        width = reference.value_head.in_features
        generator = torch.Generator().manual_seed(seed)
        self._target = _network(width, hidden, features, generator).to(reference.device).requires_grad_(False)
        self._predictor = _network(width, hidden, features, generator).to(reference.device)
        self._optimizer = torch.optim.Adam(self._predictor.parameters(), lr=learning_rate)
        self._states = _Moments(width, reference.device)
        self._errors = _Moments(1, reference.device)

    def pay(self, rollout: Rollout, policy: Policy) -> Tensor:
        """Pays by the errors before the predictor learns from this batch."""
        mask = rollout.response_mask
        states = last_hidden_states(self._reference, rollout)[mask]
        self._states.join(states)
        states = ((states - self._states.mean.float()) / self._states.std.float()).clamp(-5, 5)
        errors = []
        for chunk in states.split(self._chunk):
            error = (self._predictor(chunk) - self._target(chunk)).square().mean(dim=1)
            errors.append(error.detach())
        self._errors.join(torch.cat(errors)[:, None])
        for chunk in states.split(self._chunk):
            (self._predictor(chunk) - self._target(chunk)).square().mean().backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        paid = torch.zeros_like(rollout.rewards)
        paid[mask] = torch.cat(errors) / self._errors.std.float()
        return paid

    def state_dict(self) -> dict[str, Tensor]:
        """Returns both networks, the optimiser's state and the running moments."""
        networks = {"target": self._target, "predictor": self._predictor}
        state = {f"{name}.{key}": tensor for name, net in networks.items() for key, tensor in net.state_dict().items()}
        for name, moments in (("states", self._states), ("errors", self._errors)):
            state.update({f"{name}.{key}": getattr(moments, key) for key in _Moments.fields})
        for index, entries in self._optimizer.state_dict()["state"].items():
            state.update({f"adam.{index}.{key}": tensor for key, tensor in entries.items()})
        return {name: tensor.contiguous() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from such a state."""
        self._target.load_state_dict(_under("target", state))
        self._predictor.load_state_dict(_under("predictor", state))
        for name, moments in (("states", self._states), ("errors", self._errors)):
            for key, tensor in _under(name, state).items():
                setattr(moments, key, tensor.to(self._reference.device))
        of_optimizer = self._optimizer.state_dict()
        for key, tensor in _under("adam", state).items():
            index, name = key.split(".", 1)
            of_optimizer["state"].setdefault(int(index), {})[name] = tensor
        self._optimizer.load_state_dict(of_optimizer)


def _network(width: int, hidden: int, features: int, generator: torch.Generator) -> nn.Sequential:
    """Makes two layers whose weights come from a generator, and not from the global one."""
    layers = [nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((width, hidden), (hidden, features))]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=math.sqrt(2), generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


class _Moments:
    """Running mean and variance of the columns of the rows that it gets, in float64.

    Source: Chan, Golub & LeVeque (1979), equation 2.1b.
    """

    fields: ClassVar = ("count", "mean", "variance")

    def __init__(self, width: int, device: torch.device) -> None:
        # MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.count = torch.zeros((), dtype=dtype, device=device)
        self.mean = torch.zeros(width, dtype=dtype, device=device)
        self.variance = torch.zeros(width, dtype=dtype, device=device)

    def join(self, rows: Tensor) -> None:
        rows = rows.to(self.mean.dtype)
        share = len(rows) / (self.count + len(rows))
        apart = rows.mean(dim=0) - self.mean
        spread = rows.var(dim=0, correction=0)
        self.variance = self.variance + share * (spread - self.variance) + share * (1 - share) * apart.square()
        self.mean = self.mean + share * apart
        self.count = self.count + len(rows)

    @property
    def std(self) -> Tensor:
        return self.variance.sqrt().clamp(min=1e-6)


@torch.no_grad()
def last_hidden_states(policy: Policy, rollout: Rollout, micro_batch_size: int = 64) -> Tensor:
    """Computes the trunk's hidden state after each action.

    Args:
        policy: The policy whose trunk it is.
        rollout: The episodes.
        micro_batch_size: Episodes per forward pass.

    Returns:
        `(batch, time, hidden)` float32, zeros at padding.
    """
    parts: list[Tensor] = []
    for rows in torch.arange(len(rollout), device=rollout.input_ids.device).split(micro_batch_size):
        positions = rollout.positions[rows]
        ends = positions.amax(dim=1) + 1  # with the last action, whose state is the episode's last
        if not policy.model.config.is_encoder_decoder:  # the same numbers whatever the micro-batch: no row is cut
            ends = torch.full_like(ends, rollout.input_ids.shape[1])
        states = policy.row_states(rollout.input_ids[rows], positions[:, 0], ends)
        columns = positions[:, :, None].expand(*positions.shape, states.shape[-1])
        parts.append(states.gather(1, columns).float() * rollout.response_mask[rows][:, :, None])
    return torch.cat(parts)


def _under(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with `name` and a dot, without that beginning."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


class Entropy(Bonus):
    """-log pi(a | s) of each action: in expectation the entropy of the policy there, as in maximum-entropy learning.

    Unlike `entropy_coef`, which pulls on the distribution of the present state alone, it is part of the return, so that
    the policy also seeks states in which it will have a choice.

    Source: Haarnoja et al. (2018), Soft actor-critic, arXiv:1801.01290, equation 1, with the sample's estimate.
    """

    def __init__(self, reference: Policy, seed: int) -> None:
        """Remembers nothing."""

    def pay(self, rollout: Rollout, policy: Policy) -> Tensor:
        """Pays minus the log-prob of each action."""
        return -rollout.log_probs


class KL(Bonus):
    """log pi(a | s) - log pi_start(a | s) of each action: in expectation the KL to the start model there.

    With a negative weight, each token and those before it pay for the distance: `{"kl": -c}` is `kl_coef=c` with
    `kl_credit="return"`, without a limit.

    Source: Ziegler et al. (2019), arXiv:1909.08593, equation 2.
    """

    def __init__(self, reference: Policy, seed: int) -> None:
        """Remembers nothing."""

    def pay(self, rollout: Rollout, policy: Policy) -> Tensor:
        """Pays the log-ratio of each action."""
        return rollout.kl("k1")


class Diversity(Bonus):
    """1 - self-BLEU of an episode's response, paid with its last token: from 0 (its words are the others') to 1.

    Args:
        over: The others: "group", those that answer the same example, or "batch", all.
        order: The longest n-grams that are compared.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting is out of range.

    Source: Zhu et al. (2018), Texygen, arXiv:1802.01886, section 3.2.3 (self-BLEU).
    """

    def __init__(self, reference: Policy, seed: int, *, over: str = "group", order: int = 4) -> None:
        if over not in ("group", "batch"):
            raise ValueError(f"Expected over of bonus 'diversity' to be 'group' or 'batch', got {over!r}")
        self.over, self.order = over, check_count("order of bonus 'diversity'", order)

    def pay(self, rollout: Rollout, policy: Policy) -> Tensor:
        """Pays the last action of each episode."""
        responses = rollout.responses(policy)
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for row, group in enumerate(rollout.group.tolist()):
            groups[group if self.over == "group" else 0].append(row)
        diversity = np.zeros(len(responses), dtype=np.float32)
        for rows in groups.values():
            if len(rows) == 1:
                raise ValueError(
                    "Expected several episodes of each example for bonus 'diversity', got one: make the environment "
                    "with group_size=, or compare the whole batch, {'diversity': {'over': 'batch'}}"
                )
            similar = self_bleu([responses[row] for row in rows], self.order)
            # An empty response resembles no other, and yet must not earn anything.
            diversity[rows] = [
                1 - bleu if responses[row].split() else 0.0 for row, bleu in zip(rows, similar, strict=True)
            ]
        paid = torch.zeros_like(rollout.rewards)
        last = rollout.response_mask.sum(dim=1) - 1
        paid[torch.arange(len(paid), device=paid.device), last] = torch.from_numpy(diversity).to(paid.device)
        return paid


def self_bleu(texts: Sequence[str], order: int = 4) -> list[float]:
    """Computes the sentence BLEU of each text with all the others as references, from 0 to 1.

    As sacrebleu has it with `effective_order=True`, `smooth_method="exp"` and words between white space. Each text's
    n-grams are counted once: the largest count among the others is the largest of all, or, for the text that has that
    one, the second largest.

    Args:
        texts: At least two.
        order: The longest n-grams.

    Returns:
        One BLEU for each text; 0 for an empty one.

    Source: Papineni et al. (2002), BLEU; smoothing 3 of Chen & Cherry (2014).
    """
    words = [text.split() for text in texts]
    counts = [
        [Counter(zip(*(row[start:] for start in range(n)), strict=False)) for n in range(1, order + 1)] for row in words
    ]
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # n-gram: the most, in which text, the second most
    for row, of_row in enumerate(counts):
        for grams in of_row:
            for gram, count in grams.items():
                first, where, second = most.get(gram, (0, -1, 0))
                most[gram] = (count, row, first) if count > first else (first, where, max(second, count))
    scores = []
    for row, of_row in enumerate(counts):
        size = len(words[row])
        matches = [
            sum(min(count, most[gram][2 if most[gram][1] == row else 0]) for gram, count in grams.items())
            for grams in of_row[:size]
        ]
        if not any(matches):  # without one common word, there is nothing to smooth
            scores.append(0.0)
            continue
        log_precision, smooth = 0.0, 1.0
        for n, matched in enumerate(matches):
            smooth *= 1.0 if matched else 2.0
            log_precision += math.log((matched or 1 / smooth) / (size - n))
        closest = min((abs(len(other) - size), len(other)) for index, other in enumerate(words) if index != row)[1]
        brevity = 1.0 if size >= closest else math.exp(1 - closest / size)
        scores.append(brevity * math.exp(log_precision / len(matches)))
    return scores


BONUSES: dict[str, Callable[..., Bonus]] = {
    "novelty": Novelty,
    "rnd": RandomNetworkDistillation,
    "entropy": Entropy,
    "diversity": Diversity,
    "kl": KL,
}
"""Name to bonus: `BONUSES[name](reference, seed, **arguments)`."""


class Bonuses:
    """The bonuses of a run.

    Args:
        settings: Name to weight, or to a dict of arguments that may include `weight` (1 by default). JSON values.
        reference: The start model.
        seed: Seeds what is random in them.

    Raises:
        ValueError: If a name is unknown, a weight is no finite number or an argument out of range.
        TypeError: If an argument is unknown or of the wrong type.
    """

    def __init__(self, settings: Mapping[str, Any], reference: Policy, seed: int) -> None:
        self._bonuses: dict[str, tuple[float, Bonus]] = {}
        for index, (name, setting) in enumerate(sorted(settings.items())):
            if name not in BONUSES:
                hint = did_you_mean(name, BONUSES)
                raise ValueError(f"Expected a bonus from {sorted(BONUSES)}, got {name!r}.{hint}")
            arguments = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
            weight = arguments.pop("weight", 1.0)
            if not _is_number(weight):
                raise ValueError(f"Expected the weight of bonus {name!r} to be a finite number, got {weight!r}")
            known = [*list(signature(BONUSES[name]).parameters)[2:], "weight"]
            for key in arguments:
                if key not in known:
                    raise TypeError(f"Expected bonus {name!r} with arguments from {known}, got {key!r}")
            bonus_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
            self._bonuses[name] = (float(weight), BONUSES[name](reference, bonus_seed, **arguments))

    def pay(self, rollout: Rollout, policy: Policy) -> tuple[Rollout, dict[str, float]]:
        """Adds bonuses to a rollout.

        Args:
            rollout: Fresh episodes, `ref_log_probs` filled in.
            policy: The policy that played them.

        Returns:
            The rollout, `bonuses` filled in where there are any; and `bonus/NAME` to what each paid an episode on
            average, its weight included.

        Raises:
            ValueError: If a bonus is not finite.
        """
        if not self._bonuses:
            return rollout, {}
        total, row = torch.zeros_like(rollout.rewards), {}
        for name, (weight, bonus) in self._bonuses.items():
            paid = torch.where(rollout.response_mask, weight * bonus.pay(rollout, policy), 0.0)
            row[f"bonus/{name}"] = float(paid.sum() / len(rollout))
            if not math.isfinite(row[f"bonus/{name}"]):
                raise ValueError(f"Expected bonus {name!r} to pay finite numbers, got {row[f'bonus/{name}']}")
            total += paid
        return replace(rollout, bonuses=total), row

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what they remember, as tensors by name."""
        named = ((name, bonus.state_dict()) for name, (_, bonus) in self._bonuses.items())
        return {f"{name}.{key}": tensor for name, state in named for key, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from such a state.

        Args:
            state: Returned by `state_dict` of the same bonuses.

        Raises:
            ValueError: If it is that of other bonuses.
        """
        named = {key.split(".", 1)[0] for key in state}
        remembering = {name for name, (_, bonus) in self._bonuses.items() if bonus.state_dict()}
        if named != remembering:
            raise ValueError(f"Expected the state of the bonuses {sorted(remembering)}, got that of {sorted(named)}")
        for name in named:
            self._bonuses[name][1].load_state_dict(_under(name, state))


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
