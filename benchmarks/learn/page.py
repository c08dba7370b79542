"""Reports as Markdown and as one page of HTML with its pictures inside."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from textenvs.render import visible_line

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1d22; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.25; font-weight: 600; } h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .22rem .7rem; border-bottom: 1px solid #dcdfe6; text-align: right; }
td { white-space: nowrap; } td.text, th.text { text-align: left; } th { font-weight: 600; vertical-align: bottom; }
td.text { white-space: normal; min-width: 9rem; }
tr:hover td { background: #f6f7f9; } img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
p { max-width: 46rem; } .note { color: #5b606b; } code { font-size: 13px; overflow-wrap: anywhere; }
"""

_TEXT_COLUMNS = {"agent", "environment", "payout", "what", "why", "row beats column"}
"""Columns whose cells are aligned to the left."""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: The heading.
        text: Paragraphs that explain it.
        table: Rows of cells, the names of the columns first; or None.
        picture: A PNG, or None. Markdown leaves it out.
    """

    title: str
    text: tuple[str, ...] = ()
    table: list[list[str]] | None = None
    picture: bytes | None = None


def markdown(head: Sequence[str], sections: Sequence[Section]) -> str:
    """Returns the report without its pictures, and without sections that are nothing else.

    Args:
        head: The title, and paragraphs below it.
        sections: The sections.
    """
    lines = [f"# {head[0]}", ""]
    for paragraph in head[1:]:
        lines += [paragraph, ""]
    for section in sections:
        if section.picture is not None and section.table is None:
            continue
        lines += [f"## {section.title}", ""]
        for paragraph in section.text:
            lines += [paragraph, ""]
        if section.table is not None:
            first, *rest = section.table
            lines += ["| " + " | ".join(map(_markdown_cell, first)) + " |", "|" + "---|" * len(first)]
            lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rest]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(text: str) -> str:
    """Writes a cell's text so that no name in it is taken for a border, a line break or raw HTML."""
    shown = visible_line(text.replace("\n", " "))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def html(head: Sequence[str], sections: Sequence[Section]) -> str:
    """Returns the report as one page that needs no other file.

    Args:
        head: The title, and paragraphs below it.
        sections: The sections.
    """
    lines = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(head[0])}</title><style>{_STYLE}</style><h1>{escape(head[0])}</h1>",
        *[_paragraph(paragraph) for paragraph in head[1:]],
    ]
    for section in sections:
        lines.append(f"<h2>{escape(section.title)}</h2>")
        lines += [f"<p class=note>{escape(paragraph)}</p>" for paragraph in section.text]
        if section.table is not None:
            lines.append(f"<div class=wide>{_html_table(section.table)}</div>")
        if section.picture is not None:
            data = base64.b64encode(section.picture).decode()
            lines.append(f"<img alt='{escape(section.title)}' src='data:image/png;base64,{data}'>")
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    return f"<p><code>{escape(text.strip())}</code></p>" if text.startswith("    ") else f"<p>{escape(text)}</p>"


def _html_table(table: list[list[str]]) -> str:
    texts = [name in _TEXT_COLUMNS for name in table[0]]

    def line(cells: list[str], tag: str) -> str:
        # An agent with many settings may break between two of them.
        broken = ["<wbr>".join(map(escape, re.split(r"(?<=;)|(?=\[)", cell))) for cell in cells]
        parts = [f"<{tag}{' class=text' if texts[i] else ''}>{cell}</{tag}>" for i, cell in enumerate(broken)]
        return "<tr>" + "".join(parts) + "</tr>"

    return "<table>" + line(table[0], "th") + "".join(line(row, "td") for row in table[1:]) + "</table>"


def draw_png(draw: Callable[[Any], Any]) -> bytes:
    """Draws a picture.

    Args:
        draw: Gets `matplotlib.pyplot` and returns a figure.

    Returns:
        The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = draw(plt)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return buffer.getvalue()
