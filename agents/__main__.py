"""The command line: python -m agents train | sft | evaluate | compare | generate | reward-model --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import gymnasium as gym

from agents.cli.options import SFT, Compare, Evaluate, Generate, RewardModel, Train
from agents.cli.parsing import parse
from textenvs import RewardError, render
from textenvs.subcommands import choose_command, replace_unprintable

PROG = "python -m agents"

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "train": (Train, "agents.cli.train"),
    "sft": (SFT, "agents.cli.sft"),
    "evaluate": (Evaluate, "agents.cli.evaluate"),
    "compare": (Compare, "agents.cli.compare"),
    "generate": (Generate, "agents.cli.generate"),
    "reward-model": (RewardModel, "agents.cli.reward_model"),
}
"""Name of a command to the class of its options and the module whose `run(options)` does it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command.

    The command's module, and torch with it, is imported when its options have been read.

    Args:
        argv: The words after `python -m agents`; None takes those of the process.
    """
    replace_unprintable()
    words = list(sys.argv[1:] if argv is None else argv)
    summaries = {name: (options.__doc__ or "").partition("\n")[0] for name, (options, _) in COMMANDS.items()}
    name = choose_command(PROG, summaries, words)
    options, module = COMMANDS[name]
    try:
        arguments = parse(f"{PROG} {name}", options, words[1:])
        import_module(module).run(arguments)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if not _is_told_in_a_message(error):
            raise
        print(render.visible(f"error: {error}"), file=sys.stderr)
        raise SystemExit(2) from error


def _is_told_in_a_message(error: Exception) -> bool:
    """True for errors that end a command with a message in place of a traceback."""
    if isinstance(error, (RewardError, ValueError, TypeError, ImportError, OSError, gym.error.Error)):
        return True
    # Only training raises the others. A mistake in the options is told before torch is imported.
    optimization, processes = map(import_module, ("agents.training.optimization", "agents.distributed.processes"))
    return isinstance(error, (optimization.NonFiniteError, processes.LostProcessError))


if __name__ == "__main__":
    main()
