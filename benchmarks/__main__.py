"""Runs one measurement: python -m benchmarks NAME --help."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from textenvs.subcommands import choose_command, replace_unprintable

# A module is loaded when its command is asked for: some need torch.
COMMANDS = {
    "env": "speed.env",
    "rewards": "speed.rewards",
    "steps": "speed.longest_step",
    "tasks": "questions.payouts",
    "search": "questions.search",
    "rollout": "speed.rollout",
    "update": "speed.update",
    "iteration": "speed.iteration",
    "gpu": "speed.gpu",
    "memory": "speed.memory",
    "preferences": "questions.reward_model",
    "faults": "robustness.kill_and_resume",
    "folders": "robustness.shared_folders",
    "foreign": "robustness.foreign",
    "fuzz": "robustness.fuzz_constructors",
    "models": "robustness.model_types",
    "learn": "learn.run_suite",
    "laptop": "learn.laptop",
    "report": "learn.report",
    "values": "questions.values",
}
"""Command to a module of benchmarks with a `main`."""


def about(name: str) -> str:
    """Returns the first line of a measurement's docstring, without loading the module."""
    source = Path(__file__).parent / (COMMANDS[name].replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main() -> None:
    """Runs one measurement."""
    replace_unprintable()
    words = sys.argv[1:]
    name = choose_command("python -m benchmarks", {command: about(command) for command in COMMANDS}, words)
    import_module(f"benchmarks.{COMMANDS[name]}").main(words[1:])


if __name__ == "__main__":
    main()
