"""What every algorithm's config has in common. An algorithm's own config inherits these fields and adds its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, Self


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a training run, whatever the algorithm."""

    num_envs: int = 128
    """Lanes: episodes played side by side. More than episodes_per_update are of no use."""
    episodes_per_update: int = 128
    """Episodes collected for one update; every one of them is played to its end."""
    learning_rate: float = 5e-4
    """Step size of Adam."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon; 1e-5 is PPO's, larger than torch's 1e-8."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm, once per optimiser step."""
    micro_batch_size: int = 64
    """Episodes per forward pass. Changes memory and speed, never the numbers."""
    gamma: float = 1.0
    """Discount per token."""
    temperature: float = 1.0
    """What logits are divided by, in sampling and in every log-prob."""
    kl_coef: float = 0.015
    """Price of one nat of KL to the start model, in units of the score. 0 turns the penalty off."""
    kl_limit: float | None = 0.35
    """How many nats a token the policy may move from the start model at that price. Beyond, the price grows with the
    square of the distance, which catches a policy that runs away. None keeps the price as it is."""
    kl_credit: Literal["token", "return"] = "token"
    """Who pays for a token's KL. "token": that token alone, whose gradient is then that of the KL at its own state,
    and nearly free of noise. "return": it comes off the reward (Ziegler et al. 2019), so every token before it pays
    too, which is the exact objective, and so noisy that small batches drift far from the start model."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the loss, per nat and token."""
    bonuses: dict[str, Any] = field(default_factory=dict)
    """What is paid beside the score: name to weight, or to arguments of which `weight` is one (see agents.bonuses)."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a number is out of range.
            TypeError: If a field is of the wrong type.
        """
        for name in ("num_envs", "episodes_per_update", "micro_batch_size"):
            self.check_count(name)
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "temperature"):
            self.check_number(name, low=0.0, open_low=True)
        for name in ("kl_coef", "entropy_coef"):
            self.check_number(name, low=0.0)
        if not isinstance(self.bonuses, dict):
            raise TypeError(f"Expected bonuses to be a dict of names to weights, got {self.bonuses!r}")
        self.check_number("gamma", low=0.0, high=1.0)
        if self.kl_limit is not None:
            self.check_number("kl_limit", low=0.0, open_low=True)
        if self.kl_credit not in ("token", "return"):
            raise ValueError(f"Expected kl_credit to be 'token' or 'return', got {self.kl_credit!r}")

    def check_count(self, name: str, least: int = 1) -> None:
        """Raise unless a field is a whole number of at least `least`."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Expected {name} to be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"Expected {name} to be at least {least}, got {value}")

    def check_number(self, name: str, low: float, high: float = float("inf"), open_low: bool = False) -> None:
        """Raise unless a field is a finite number in [low, high], or (low, high] where `open_low`."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"Expected {name} to be a number, got {value!r}")
        if not (low < value if open_low else low <= value) or not value <= high or value == float("inf"):
            bracket = "(" if open_low else "["
            closing = f"{high:g}]" if high != float("inf") else "inf)"
            raise ValueError(f"Expected {name} in {bracket}{low:g}, {closing}, got {value}")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Self:
        """A config from names and values.

        Args:
            settings: Some of the fields.

        Returns:
            The config, every other field at its default.

        Raises:
            TypeError: If there is no such field; says which is closest.
            ValueError: If a value is out of range.
        """
        known = [one.name for one in fields(cls)]
        for name in settings:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"Expected settings from {known}, got {name!r}.{hint}")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
