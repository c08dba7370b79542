"""The first word of a command line: it picks a command, or asks for the list of commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper

from textenvs.arguments import did_you_mean


def replace_unprintable() -> None:
    """Lets the process print any text: a character that its output cannot encode becomes a question mark.

    A file or pipe on Windows is often cp1252, and one character outside it would end a command with an error. Python
    itself writes such characters to the standard error stream as escapes.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # a notebook's is another class, and None where there is no console
        sys.stdout.reconfigure(errors="replace")


def choose_command(prog: str, commands: Mapping[str, str], words: Sequence[str]) -> str:
    """Returns the command that a command line begins with.

    Args:
        prog: The program, `python -m agents`.
        commands: One line of help for each command, by name.
        words: The command line behind the program.

    Returns:
        The command's name.

    Raises:
        SystemExit: With code 2 if there is no such command, and 0 after --help; the commands are shown either way.

    Example:
        >>> choose_command("python -m agents", {"train": "Train.", "sft": "Imitate."}, ["train", "--seed", "1"])
        'train'
    """
    if words and words[0] in commands:
        return words[0]
    asks_for_help = bool(words) and words[0] in ("-h", "--help")
    width = max(map(len, commands))
    lines = [f"usage: {prog} {{{','.join(commands)}}} [--help]", ""]
    lines += [f"  {name:<{width}}  {line}" for name, line in commands.items()]
    lines += ["", f"{prog} COMMAND --help shows the options of one."]
    if words and not asks_for_help:
        hint = did_you_mean(words[0], commands)
        lines += ["", f"error: Expected a command of {prog}, got {words[0]!r}.{hint}"]
    elif not asks_for_help:
        lines += ["", f"error: Expected a command of {prog}, got none."]
    print("\n".join(lines), file=sys.stdout if asks_for_help else sys.stderr)
    raise SystemExit(0 if asks_for_help else 2)
