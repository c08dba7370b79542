"""Write the tables of docs/algorithms.md from the config classes: python docs/algorithms.py."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

from agents.config import OptimizerConfig, RunConfig

import agents

PAGE = Path(__file__).with_suffix(".md")
CONFIGS = {
    "RunConfig": RunConfig,
    "PPOConfig": agents.PPOConfig,
    "ActorCriticConfig": agents.ActorCriticConfig,
    "REINFORCEConfig": agents.REINFORCEConfig,
    "BestOfNConfig": agents.BestOfNConfig,
    "SFTConfig": agents.SFTConfig,
}


def sentences(config: type) -> dict[str, str]:
    """What stands under each field of a config class itself.

    Args:
        config: The class.

    Returns:
        Field to text, in order, on one line each.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def table(config: type) -> str:
    """A table of the fields that a config adds or changes.

    Args:
        config: The class.

    Returns:
        Markdown.
    """
    texts = (sentences(OptimizerConfig) if config is RunConfig else {}) | sentences(config)
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for one in fields(config):
        if one.name in texts:
            default = one.default_factory() if one.default_factory is not MISSING else one.default
            rows.append(f"| `{one.name}` | `{default!r}` | {texts[one.name].replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def open_table() -> str:
    """A table of the settings whose default depends on the start model.

    Returns:
        Markdown.
    """

    def cell(kind: str, name: str) -> str:
        common, of_ppo = getattr(RunConfig, kind)[name], getattr(agents.PPOConfig, kind)[name]
        return f"`{common!r}`" + (f" (PPO: `{of_ppo!r}`)" if of_ppo != common else "")

    rows = ["| setting | start model pretrained | random weights |", "|---|---|---|"]
    rows += [f"| `{name}` | {cell('IF_PRETRAINED', name)} | {cell('IF_FRESH', name)} |" for name in RunConfig.IF_FRESH]
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with every table as the code has it now.

    Args:
        text: The page.

    Returns:
        The page.
    """

    def fill(match: re.Match[str]) -> str:
        rows = open_table() if match[1] == "open" else table(CONFIGS[match[1]])
        return f"<!-- table: {match[1]} -->\n{rows}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
