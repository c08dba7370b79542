"""Writes the tables of docs/algorithms.md from the config classes: python docs/algorithms.py."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

import agents
from agents.training.config import OptimizerConfig, RunConfig

PAGE = Path(__file__).with_suffix(".md")
CONFIGS = {
    "RunConfig": RunConfig,
    "PPOConfig": agents.PPOConfig,
    "ActorCriticConfig": agents.ActorCriticConfig,
    "GRPOConfig": agents.GRPOConfig,
    "REINFORCEConfig": agents.REINFORCEConfig,
    "BestOfNConfig": agents.BestOfNConfig,
    "SFTConfig": agents.SFTConfig,
}


def sentences(config: type) -> dict[str, str]:
    """Returns the sentences under the fields that a config class defines itself.

    Args:
        config: The class.

    Returns:
        Field names with their text, in order, each on one line.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    sentences_by_field = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            sentences_by_field[field.target.id] = " ".join(str(text.value.value).split())
    return sentences_by_field


def table(config: type) -> str:
    """Returns a table of the fields that a config adds or changes.

    Args:
        config: The class.

    Returns:
        Markdown.
    """
    texts = (sentences(OptimizerConfig) if config is RunConfig else {}) | sentences(config)
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for field in fields(config):
        if field.name in texts:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            rows.append(f"| `{field.name}` | `{default!r}` | {texts[field.name].replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def open_table() -> str:
    """Returns a table of the settings whose default depends on the start model.

    Returns:
        Markdown.
    """

    def cell(kind: str, name: str) -> str:
        common, of_ppo = getattr(RunConfig, kind)[name], getattr(agents.PPOConfig, kind)[name]
        return f"`{common!r}`" + (f" (PPO: `{of_ppo!r}`)" if of_ppo != common else "")

    rows = ["| setting | start model pretrained | random weights |", "|---|---|---|"]
    rows += [f"| `{name}` | {cell('IF_PRETRAINED', name)} | {cell('IF_FRESH', name)} |" for name in RunConfig.IF_FRESH]
    return "\n".join(rows)


def published_table() -> str:
    """Returns a table of the published names.

    Returns:
        Markdown.
    """
    rows = ["| name | algorithm and settings | paper | what differs |", "|---|---|---|---|"]
    for name, row in agents.PUBLISHED.items():
        settings = ", ".join(f"`{key}={value!r}`" for key, value in row.settings.items())
        link = f"[{row.paper}](https://arxiv.org/abs/{row.paper})"
        rows.append(f"| `{name}` | `{row.algorithm}`: {settings} | {link} | {row.differs} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """Fills in the tables of the page from the code.

    Args:
        text: The page.

    Returns:
        The page with current tables.
    """

    def fill(match: re.Match[str]) -> str:
        tables = {"open": open_table, "published": published_table}
        rows = tables[match[1]]() if match[1] in tables else table(CONFIGS[match[1]])
        return f"<!-- table: {match[1]} -->\n{rows}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
