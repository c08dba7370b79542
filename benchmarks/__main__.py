"""python -m benchmarks NAME --help: run one measurement."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from textenvs.subcommands import choose_command

# Each is a module with a `main`, loaded when it is asked for: some need torch.
COMMANDS = (
    "env",
    "rewards",
    "tasks",
    "rollout",
    "update",
    "iteration",
    "gpu",
    "sentiment",
    "preferences",
    "policies",
    "faults",
    "fuzz",
    "learn",
    "report",
    "fresh",
    "warm_start",
    "sb3",
    "values",
)


def about(name: str) -> str:
    """The first line of a measurement's docstring, read without loading it."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main() -> None:
    """Run one measurement."""
    words = sys.argv[1:]
    name = choose_command("python -m benchmarks", {one: about(one) for one in COMMANDS}, words)
    import_module(f"benchmarks.{name}").main(words[1:])


if __name__ == "__main__":
    main()
