"""The fields that all configs have. An algorithm's config inherits them and adds its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args

from textenvs.arguments import check_choice, check_count, check_number, did_you_mean

TRUNCATIONS = ("top_k", "top_p", "min_p")
"""The settings of `agents.policy.sampling` that training refuses."""


Schedule = Literal["constant", "linear", "exponential", "inverse", "cosine", "stepwise"]
"""The shape in which a factor falls from 1 to its final share, see `agents.training.schedules.schedule`."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of everything that is trained by gradients: reinforcement learning, and a warm start on demonstrations.

    A field that is None is left open: its value depends on the start model or on the payout, and `filled_in` fills it
    in.
    """

    IF_PRETRAINED: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-4}
    """Open fields, where the start model was trained before: small steps, so that it keeps what it knows."""
    IF_FRESH: ClassVar[Mapping[str, Any]] = {"learning_rate": 2e-3}
    """Open fields, where its weights are random."""
    IF_PAID_AT_ONCE: ClassVar[Mapping[str, Any]] = {}
    """Open fields, where the payout pays each token for what it added itself."""
    IF_PAID_LATER: ClassVar[Mapping[str, Any]] = {}
    """Open fields, where what a token is paid may be the work of tokens before it."""

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """Name of the torch optimiser."""
    learning_rate: float | None = None
    """Step size at the start (after the warm-up). None: 5e-4 if the start model was pretrained, 2e-3 if its
    weights are random."""
    learning_rate_schedule: Schedule = "constant"
    """Shape in which the step size falls over the run: linearly, as half a cosine, as 1 / time, by a constant factor,
    or in four equal stages."""
    learning_rate_final: float = 0.1
    """Share of learning_rate that a schedule ends with."""
    warmup: float = 0.0
    """Share of the run over which the step size grows linearly from 0."""
    weight_decay: float = 0.0
    """Strength of weight decay: decoupled for adamw, added to the gradient for the others."""
    momentum: float = 0.0
    """Momentum of sgd and rmsprop."""
    adam_epsilon: float = 1e-5
    """Epsilon of adam, adamw and rmsprop; 1e-5 is PPO's, larger than torch's 1e-8."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; larger gradients are scaled down, once per optimiser step."""
    max_skipped_steps: int = 10
    """Number of optimiser steps in a row that may be skipped because their loss or gradient is NaN or infinite, before
    the run stops."""
    micro_batch_size: int = 64
    """Episodes per forward pass. Changes how much memory and time is needed, never the results."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If a number is out of range.
            TypeError: If a field is of the wrong type.
        """
        self.check_count("micro_batch_size")
        self.check_count("max_skipped_steps", least=0)
        self.check_number("learning_rate", low=0.0, open_low=True, optional=True)
        for name in ("adam_epsilon", "max_grad_norm"):
            self.check_number(name, low=0.0, open_low=True)
        for name in ("weight_decay", "momentum"):
            self.check_number(name, low=0.0)
        self.check_number("warmup", low=0.0, high=1.0)
        self.check_number("learning_rate_final", low=0.0, high=1.0, open_low=True)
        self.check_choice("optimizer", "adam", "adamw", "sgd", "rmsprop")
        self.check_choice("learning_rate_schedule", *get_args(Schedule))
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(f"Expected momentum only with sgd or rmsprop, got {self.momentum} with {self.optimizer}")

    def check_count(self, name: str, least: int = 1) -> None:
        """Raises unless a field is a whole number of at least `least`. NumPy's become Python's, which JSON can hold."""
        object.__setattr__(self, name, check_count(name, getattr(self, name), least))

    def check_choice(self, name: str, *choices: str, optional: bool = False) -> None:
        """Raises unless a field is one of some words, or None where `optional`."""
        check_choice(name, getattr(self, name), choices, optional=optional)

    def check_number(
        self, name: str, low: float, high: float = float("inf"), open_low: bool = False, optional: bool = False
    ) -> None:
        """Raises unless a field is a finite number in [low, high] (`open_low`: above low), or None where `optional`."""
        value = getattr(self, name)
        if value is None and optional:
            return
        number = check_number(name, value, low, high, open_low=open_low)
        if not isinstance(value, (int, float)):  # a number of NumPy's
            object.__setattr__(self, name, number)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Self:
        """Makes a config from names and values.

        Args:
            settings: Some of the fields.

        Returns:
            The config, every other field at its default.

        Raises:
            TypeError: If there is no such field; says which is closest.
            ValueError: If a value is out of range.
        """
        known = [setting.name for setting in fields(cls)]
        for name in settings:
            if name in TRUNCATIONS:
                raise ValueError(
                    f"Expected to train on the whole distribution, got {name}={settings[name]!r}: once an update moves "
                    "a sampled token out of a truncated one, its log-prob is -inf. Pass it to evaluate()"
                )
            if name not in known:
                hint = did_you_mean(name, known)
                raise TypeError(f"Expected settings from {known}, got {name!r}.{hint}")
        return cls(**settings)

    def filled_in(self, pretrained: bool, paid_at_once: bool = False) -> Self:
        """Returns the config with nothing left open.

        Args:
            pretrained: True if the start model was trained before, False if its weights are random.
            paid_at_once: True if the payout pays each token for what it added itself, see `Payout.at_once`.

        Returns:
            The config, each field that was None and has an entry in `defaults` at that entry.

        Example:
            >>> RunConfig(kl_coef=0.1).filled_in(pretrained=False).kl_coef, RunConfig().filled_in(False).kl_coef
            (0.1, 0.0)
        """
        defaults = self.defaults(pretrained, paid_at_once)
        changes: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **changes)

    def defaults(self, pretrained: bool, paid_at_once: bool = False) -> Mapping[str, Any]:
        """Returns the values that open fields get, by name.

        Args:
            pretrained: True if the start model was trained before.
            paid_at_once: True if the payout pays each token for what it added itself.

        Returns:
            `IF_PRETRAINED` or `IF_FRESH`, and `IF_PAID_AT_ONCE` or `IF_PAID_LATER`, with what other fields change.
        """
        of_model = self.IF_PRETRAINED if pretrained else self.IF_FRESH
        return {**of_model, **(self.IF_PAID_AT_ONCE if paid_at_once else self.IF_PAID_LATER)}

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass(frozen=True, kw_only=True)
class RunConfig(OptimizerConfig):
    """Settings of a training run, whatever the algorithm."""

    # Random weights have nothing to lose, so nothing holds the policy to them. They have everything to find out, which
    # takes larger steps and, until then, a price on being sure: see docs/log.md.
    IF_PRETRAINED: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-4,
        "kl_coef": 0.015,
        "entropy_coef": 0.0,
        "entropy_schedule": "constant",
    }
    IF_FRESH: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 2e-3,
        "kl_coef": 0.0,
        "entropy_coef": 0.1,
        "entropy_schedule": "linear",
    }

    num_envs: int = 128
    """Lanes: episodes played in parallel. More than episodes_per_update are of no use."""
    episodes_per_update: int = 128
    """Episodes collected for one update; each is played to its end."""
    group_size: int = 1
    """Episodes of each example, played in parallel, which the baselines leave_one_out and group compare."""
    gamma: float = 1.0
    """Discount per token."""
    temperature: float = 1.0
    """Divisor of the logits, in sampling and in every log-prob."""
    recompute_log_probs: bool = False
    """If True, the log-probs of the policy that played are recorded again with the update's own pass. Where sampling
    and learning round differently, as in bfloat16, the first ratio is then 1; the difference is logged as
    log_prob_mismatch and log_prob_mismatch_max."""
    kl_coef: float | None = None
    """Price of one nat of KL to the start model, in units of the score. 0 turns the penalty off. None: 0.015 if the
    start model was pretrained, and 0 if its weights are random, since there is no reason to stay near them."""
    kl_limit: float | None = 0.35
    """Nats per token that the policy may move from the start model at that price. Beyond this limit the price grows
    with the square of the distance, which stops a policy that runs away. None: the price stays constant."""
    kl_target: float | None = None
    """Nats per token at which to hold the policy, by raising and lowering the price from update to update (Ziegler et
    al. 2019, section 2.2). Replaces kl_limit. The price starts at kl_coef (0.015 if that is left open) and is
    multiplied by factors. None: the price does not depend on earlier updates."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimator of a token's KL, see `agents.losses.kl_estimate`: k1 where KL is charged to a token or the return,
    since k2 and k3 would push the policy away there; k2 or k3 in the loss."""
    kl_credit: Literal["token", "return", "loss"] = "token"
    """Place where a token's KL is charged. "token": to that token alone. Its gradient is then that of the KL at its own
    state, and nearly free of noise. "return": subtracted from the reward (Ziegler et al. 2019), so that every earlier
    token pays too. This is the exact objective, but so noisy that small batches drift far from the start model. Both
    are in units of the score, whatever advantages are divided by afterwards. "loss": as a term of the loss, as in GRPO,
    in units of the loss; with k2 or k3, since k1 has no gradient there on average."""
    entropy_coef: float | None = None
    """Weight of the entropy bonus in the loss, per nat and token. None: 0 if the start model was pretrained, and 0.1 if
    its weights are random."""
    entropy_schedule: Schedule | None = None
    """Shape in which that weight falls over total_timesteps. None: "constant" if the start model was pretrained, and
    "linear" if its weights are random, because a constant bonus would only spread the policy again once a task is
    solved. Except with "constant", a run that is given more tokens later differs from one that had them from the
    start."""
    entropy_final: float = 0.1
    """Share of entropy_coef that its schedule ends with."""
    loss_mean: Literal["token", "episode", "response"] = "token"
    """"token": the loss is a mean over tokens, so tokens of long and short episodes weigh the same in a batch.
    "episode": it is summed over each episode and averaged over episodes, as the policy gradient theorem has it.
    "response": it is a mean over each episode, averaged over episodes, so tokens of short episodes weigh more. Entropy,
    KL and the critic's error are averaged alike."""
    bonuses: dict[str, Any] = field(default_factory=dict)
    """Bonuses paid beside the score: each name with its weight, or with a dict of arguments that includes `weight` (see
    agents.bonuses)."""

    def __post_init__(self) -> None:
        """Checks every field."""
        super().__post_init__()
        for name in ("num_envs", "episodes_per_update", "group_size"):
            self.check_count(name)
        self.check_number("temperature", low=0.0, open_low=True)
        self.check_number("gamma", low=0.0, high=1.0)
        for name in ("kl_limit", "kl_target"):
            self.check_number(name, low=0.0, open_low=True, optional=True)
        self.check_number("kl_coef", low=0.0, optional=True)
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError(
                "Expected kl_coef above 0 with kl_target, which moves that price by factors, got 0: leave kl_coef out, "
                "or kl_target"
            )
        self.check_number("entropy_coef", low=0.0, optional=True)
        self.check_number("entropy_final", low=0.0, high=1.0, open_low=True)
        self.check_choice("entropy_schedule", *get_args(Schedule), optional=True)
        self.check_choice("kl_estimator", "k1", "k2", "k3")
        self.check_choice("kl_credit", "token", "return", "loss")
        self.check_choice("loss_mean", "token", "episode", "response")
        if self.kl_credit != "loss" and self.kl_estimator != "k1":
            raise ValueError(
                f"Expected kl_estimator 'k1' with kl_credit={self.kl_credit!r}, got {self.kl_estimator!r}: as a "
                "reward, k2 and k3 push the policy away from its reference. Use them with kl_credit='loss'"
            )
        if self.kl_credit == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "Expected kl_estimator 'k2' or 'k3' with kl_credit='loss', got 'k1', whose gradient averages to 0"
            )
        if not isinstance(self.bonuses, dict):
            raise TypeError(f"Expected bonuses to be a dict of names to weights, got {self.bonuses!r}")
        if self.group_size > 1:  # only whole groups can be compared
            if self.num_envs % self.group_size:
                raise ValueError(
                    f"Expected num_envs to be a multiple of group_size={self.group_size}, got {self.num_envs}"
                )
            if self.episodes_per_update % self.num_envs:
                raise ValueError(
                    f"Expected episodes_per_update to be a multiple of num_envs={self.num_envs}, so that every group "
                    f"is filled, got {self.episodes_per_update}"
                )

    def defaults(self, pretrained: bool, paid_at_once: bool = False) -> Mapping[str, Any]:
        """Returns those of `OptimizerConfig`; with kl_target, whose factors cannot move a price of 0, one above it."""
        defaults = super().defaults(pretrained, paid_at_once)
        return defaults if self.kl_target is None else {**defaults, "kl_coef": self.IF_PRETRAINED["kl_coef"]}
