"""The first word of a command line: which command, or what commands there are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from textenvs.arguments import did_you_mean


def chosen(prog: str, commands: Mapping[str, str], words: Sequence[str]) -> str:
    """The command that a command line begins with.

    Args:
        prog: What comes before it, `python -m agents`.
        commands: Name to a line that says what it does.
        words: The command line.

    Returns:
        Its name.

    Raises:
        SystemExit: With code 2 where there is no such command, and 0 after --help; the commands are shown either way.

    Example:
        >>> chosen("python -m agents", {"train": "Train.", "sft": "Imitate."}, ["train", "--seed", "1"])
        'train'
    """
    if words and words[0] in commands:
        return words[0]
    asked = bool(words) and words[0] in ("-h", "--help")
    width = max(map(len, commands))
    lines = [f"usage: {prog} {{{','.join(commands)}}} [--help]", ""]
    lines += [f"  {name:<{width}}  {line}" for name, line in commands.items()]
    lines += ["", f"{prog} COMMAND --help shows the options of one."]
    if words and not asked:
        hint = did_you_mean(words[0], commands)
        lines += ["", f"error: Expected a command of {prog}, got {words[0]!r}.{hint}"]
    elif not asked:
        lines += ["", f"error: Expected a command of {prog}, got none."]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    raise SystemExit(0 if asked else 2)
