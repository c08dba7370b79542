"""Chat templates: how an instruct model wants a conversation written.

The templates are Jinja, and those of models from the Hub are other people's programs: they run in Jinja's sandbox, as
they do in Transformers, whose helpers they may use. One is left out, `strftime_now`: templates that ask for it have a
fixed date for where there is none, and a prompt must not depend on the day.
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
    """The chat template that lies beside a tokenizer.json.

    Args:
        folder: Where to look: `chat_template.jinja`, else what `tokenizer_config.json` says.

    Returns:
        The template, the one named "default" where there are several, or None.
    """
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return as_template(found)


def as_template(found: Any) -> str | None:
    """The one template to use, of what a tokenizer has: a string, or several by name, in a dict or a list.

    Args:
        found: A tokenizer's `chat_template`.

    Returns:
        The template, or None.
    """
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) else None


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    special_tokens: Mapping[str, str | None],
) -> str:
    """A conversation as its template writes it.

    Args:
        template: The Jinja template.
        messages: `{"role": "user" | "assistant" | "system", "content": text}` each.
        add_generation_prompt: Whether the text ends where the assistant is to speak.
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

    def tojson(value: Any, **how: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **how})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    # Transformers' mark around what the assistant says, which prints nothing.
    template = re.sub(r"(\{%-?\s*)generation(\s*-?%\})", r"\1if true\2", template)
    return environment.from_string(re.sub(r"(\{%-?\s*)endgeneration(\s*-?%\})", r"\1endif\2", template))
