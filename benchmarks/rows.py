"""Files of results that grow row by row, one JSON object a line, and outlive a stop at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def all_rows(file: Path) -> list[dict[str, Any]]:
    """All rows of a file; a line that was cut off in the middle is left out.

    Args:
        file: A .jsonl file, there or not.

    Returns:
        The rows, as they were written.
    """
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append_rows(file: Path, *rows: dict[str, Any]) -> None:
    """Write rows at the end of a file, on lines of their own, also where the last one was cut off in the middle.

    Args:
        file: A .jsonl file, there or not.
        *rows: What it gets.
    """
    with file.open("ab+") as opened:
        whole = True
        if opened.tell():
            opened.seek(-1, 2)
            whole = opened.read() == b"\n"
        opened.write(("" if whole else "\n").encode() + "".join(json.dumps(row) + "\n" for row in rows).encode())
