"""python -m benchmarks NAME --help: run one measurement."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from textenvs.subcommands import chosen

# Each is a module with a `main`, loaded when it is asked for: some need torch.
COMMANDS = {
    "env": "speed.env",
    "rewards": "speed.rewards",
    "tasks": "questions.payouts",
    "rollout": "speed.rollout",
    "update": "speed.update",
    "iteration": "speed.iteration",
    "gpu": "speed.gpu",
    "sentiment": "sentiment",
    "preferences": "questions.reward_model",
    "policies": "policies",
    "faults": "robustness.kill_and_resume",
    "fuzz": "robustness.fuzz_constructors",
    "learn": "learn.run_suite",
    "report": "learn.report",
    "fresh": "fresh",
    "warm_start": "warm_start",
    "sb3": "sb3",
    "values": "questions.values",
}


def about(name: str) -> str:
    """The first line of a measurement's docstring, read without loading it."""
    source = Path(__file__).parent / (COMMANDS[name].replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main() -> None:
    """Run one measurement."""
    words = sys.argv[1:]
    name = chosen("python -m benchmarks", {one: about(one) for one in COMMANDS}, words)
    import_module(f"benchmarks.{COMMANDS[name]}").main(words[1:])


if __name__ == "__main__":
    main()
