"""Settings of supervised training, apart from what trains: the command line shows them without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from agents.rewards.preference_record import PreferenceMethod
from agents.training.config import OptimizerConfig
from textenvs.arguments import check_choice, check_count, check_flag, check_number


@dataclass(frozen=True, kw_only=True)
class SFTConfig(OptimizerConfig):
    """Settings of supervised fine-tuning."""

    epochs: int = 10
    """Largest number of passes over the demonstrations."""
    batch_size: int = 64
    """Demonstrations per optimiser step."""
    demonstrations: int | None = None
    """Number of examples of the train split that are used, starting with the first. None: all."""
    patience: int = 2
    """Number of epochs without a lower validation loss after which training stops."""
    eval_episodes: int = 200
    """Episodes played on the validation split after each epoch, to measure the score. 0: none."""

    def __post_init__(self) -> None:
        """Checks every field."""
        super().__post_init__()
        for name in ("epochs", "batch_size", "patience"):
            self.check_count(name)
        self.check_count("eval_episodes", least=0)
        if self.demonstrations is not None:
            self.check_count("demonstrations")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of the training of a preference model."""

    method: PreferenceMethod = "bradley_terry"
    """bradley_terry: a value head on the last token. dpo: the model's log-ratio to the model that it started from."""
    epochs: int = 4
    """Passes over the pairs; the one with the best validation log-loss is kept."""
    batch_size: int = 64
    """Pairs in an optimiser step."""
    micro_batch_size: int = 64
    """Pairs per forward pass. Changes memory and speed, never the numbers beyond rounding."""
    learning_rate: float = 5e-4
    """Step size of AdamW at the start; it falls in a straight line to 0. Large models want 1e-5."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    beta: float = 0.1
    """DPO: the reward of a nat of log-ratio. Bradley-Terry does not use it."""
    chat_template: bool = False
    """Read prompts in the chat template of the model's tokenizer: for instruct models. The score that the model becomes
    reads them in the same way."""
    seed: int = 0
    """Seed of the order of the pairs."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If one is out of range.
            TypeError: If one is of the wrong type.
        """
        check_choice("method", self.method, get_args(PreferenceMethod))
        # What is kept are Python's numbers, which JSON can hold.
        for name, least in (("epochs", 1), ("batch_size", 1), ("micro_batch_size", 1), ("seed", 0)):
            object.__setattr__(self, name, check_count(name, getattr(self, name), least))
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "beta"):
            number = check_number(name, getattr(self, name), low=0.0, open_low=name != "weight_decay")
            object.__setattr__(self, name, number)
        object.__setattr__(self, "chat_template", check_flag("chat_template", self.chat_template))
