"""The command line: python -m agents train | sft | evaluate | compare | generate | reward-model --help."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import gymnasium as gym
import tyro

from agents.cli.compare import Compare, compare
from agents.cli.evaluate import Evaluate, evaluate
from agents.cli.generate import Generate, generate
from agents.cli.options import _said
from agents.cli.reward_model import RewardModel, _reward_model_arguments, reward_model
from agents.cli.sft import SFT, sft
from agents.cli.train import Train, _train_arguments, train
from agents.distributed.processes import LostProcessError
from agents.training.optimization import NonFiniteError
from textenvs import RewardError, render
from textenvs.subcommands import choose_command

_FAILURES = (
    RewardError, NonFiniteError, LostProcessError, ValueError, TypeError, ImportError, OSError, gym.error.Error,
)  # fmt: skip
"""What a command ends with a message for, in place of a traceback."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        argv: The words after `python -m agents`; None takes those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": lambda rest: train(_train_arguments(rest)),
        "sft": lambda rest: sft(tyro.cli(SFT, args=rest, prog="python -m agents sft")),
        "evaluate": lambda rest: evaluate(tyro.cli(Evaluate, args=rest, prog="python -m agents evaluate"), _said(rest)),
        "compare": lambda rest: compare(tyro.cli(Compare, args=rest, prog="python -m agents compare")),
        "generate": lambda rest: generate(tyro.cli(Generate, args=rest, prog="python -m agents generate")),
        "reward-model": lambda rest: reward_model(_reward_model_arguments(rest)),
    }
    kinds = (Train, SFT, Evaluate, Compare, Generate, RewardModel)
    lines = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in zip(commands, kinds, strict=True)}
    command = commands[choose_command("python -m agents", lines, words)]
    try:
        command(words[1:])
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except _FAILURES as error:
        print(render.visible(f"error: {error}"), file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
