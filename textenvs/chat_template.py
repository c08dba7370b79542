"""Chat templates: the form in which an instruct model reads a conversation.

The templates are Jinja, and those of models from the Hub are other people's programs: they run in Jinja's sandbox, as
they do in Transformers, whose helpers they may use. One helper is left out, `strftime_now`, since a prompt must not
depend on the day: templates that ask for it have a fixed date to fall back on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

TEMPLATE_FILE = "chat_template.jinja"


def find_chat_template(folder: Path) -> str | None:
    """Finds the chat template that lies beside a tokenizer.json.

    Args:
        folder: The folder: its `chat_template.jinja` is read, or else its `tokenizer_config.json`.

    Returns:
        The template, the one named "default" where there are several, or None.
    """
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    return (
        as_template(json.loads(config.read_text(encoding="utf-8")).get("chat_template")) if config.is_file() else None
    )


def as_template(templates: Any) -> str | None:
    """Picks the template to use from a tokenizer's `chat_template`.

    Args:
        templates: A template, or several by name, in a dict or in a list of `{"name": ..., "template": ...}`.

    Returns:
        The template, or the one named "default", or None.
    """
    if isinstance(templates, list):
        templates = {named["name"]: named["template"] for named in templates}
    if isinstance(templates, dict):
        templates = templates.get("default")
    return templates if isinstance(templates, str) else None


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    special_tokens: Mapping[str, str | None],
) -> str:
    """Writes a conversation by its template.

    Args:
        template: The Jinja template.
        messages: `{"role": "user" | "assistant" | "system", "content": text}` each.
        add_generation_prompt: If True, the text ends where the assistant is to speak.
        special_tokens: `bos_token`, `eos_token` and `pad_token`.

    Returns:
        The text, special tokens written out.

    Raises:
        ImportError: If Jinja is not installed.
        ValueError: If the template refuses the conversation.
    """
    text: str = _compiled(template).render(
        messages=[dict(message) for message in messages],
        add_generation_prompt=add_generation_prompt,
        **{name: token or "" for name, token in special_tokens.items()},
    )
    return text


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ImportError("Jinja is needed for chat templates. Install it with: pip install jinja2") from error

    def raise_exception(message: str) -> NoReturn:
        raise ValueError(f"The chat template refuses the conversation: {message}")

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    # Transformers' own block around the assistant's words, which Jinja does not know. It prints nothing.
    template = re.sub(r"(\{%-?\s*)generation(\s*-?%\})", r"\1if true\2", template)
    return environment.from_string(re.sub(r"(\{%-?\s*)endgeneration(\s*-?%\})", r"\1endif\2", template))
