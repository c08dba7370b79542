"""python -m benchmarks NAME --help: run one measurement."""

import sys
from importlib import import_module

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


def main() -> None:
    """Run one measurement."""
    words = sys.argv[1:]
    if not words or words[0] not in COMMANDS:
        asked = bool(words) and words[0] in ("-h", "--help")
        usage = f"usage: python -m benchmarks {{{','.join(COMMANDS)}}} [--help]"
        print(usage, file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    import_module(f"benchmarks.{words[0]}").main(words[1:])


if __name__ == "__main__":
    main()
