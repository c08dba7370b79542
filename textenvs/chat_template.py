"""Chat templates: the form in which an instruct model reads a conversation.

The templates are Jinja, and those of models from the Hub are other people's programs: they run in Jinja's sandbox, as
they do in Transformers, whose helpers they may use. One helper gives something else: for `strftime_now` it is always
`DATE`, since a prompt must not depend on the day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from textenvs.arguments import did_you_mean
from textenvs.files import read_json, read_text

TEMPLATE_FILE = "chat_template.jinja"

DATE = "2026-01-01"
"""The day that it is for templates that ask, unless the settings of `chat_template` have another `date`."""

_GIVEN = frozenset({"messages", "add_generation_prompt", "strftime_now", "raise_exception", "namespace", "dict"})
"""Names of a template that this module sets, and nobody else."""

_FAILURES = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError)
"""What templates raise beside Jinja's own errors: they are programs."""


def find_chat_template(folder: Path) -> str | None:
    """Finds the chat template that lies beside a tokenizer.json.

    Args:
        folder: The folder: its `chat_template.jinja` is read, or else its `tokenizer_config.json`.

    Returns:
        The template, the one named "default" where there are several, or None.

    Raises:
        ValueError: If one of the files cannot be read.
    """
    if (folder / TEMPLATE_FILE).is_file():
        return read_text(folder / TEMPLATE_FILE)
    config = folder / "tokenizer_config.json"
    return as_template(read_json(config).get("chat_template")) if config.is_file() else None


def as_template(templates: Any) -> str | None:
    """Picks the template to use from a tokenizer's `chat_template`.

    Args:
        templates: A template, or several by name, in a dict or in a list of `{"name": ..., "template": ...}`.

    Returns:
        The template, or the one named "default", or None.
    """
    if isinstance(templates, list):
        named = [entry for entry in templates if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
        templates = {entry["name"]: entry.get("template") for entry in named}
    if isinstance(templates, dict):
        templates = templates.get("default")
    return templates if isinstance(templates, str) else None


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    special_tokens: Mapping[str, str],
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Writes a conversation by its template.

    Args:
        template: The Jinja template.
        messages: `{"role": "user" | "assistant" | "system", "content": text}` each.
        add_generation_prompt: If True, the text ends where the assistant is to speak.
        special_tokens: The special tokens that the tokenizer names, by role: `bos_token`, `eos_token`, ...
        variables: Further variables of the template, `enable_thinking` say, and `date`, the day for `strftime_now`.

    Returns:
        The text, special tokens written out.

    Raises:
        ImportError: If Jinja is not installed.
        ValueError: If the template refuses the conversation, or cannot write it.
    """
    given = dict(variables or {})
    day = datetime.fromisoformat(given.pop("date", DATE))
    compiled = _compiled(template)
    try:
        text: str = compiled.render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            strftime_now=day.strftime,
            **{"tools": None, "documents": None, **special_tokens, **given},
        )
    except (_jinja2().TemplateError, *_FAILURES) as error:
        raise ValueError(f"Expected a chat template that writes the conversation, got the error: {error}") from error
    return text


def check_chat_settings(template: str, settings: Mapping[str, Any]) -> None:
    """Checks what a user passes as `chat_template`, besides True.

    Args:
        template: The template.
        settings: `system`, the text of a system message; `date`, the day for `strftime_now`; and variables of the
            template.

    Raises:
        ValueError: If a name is none of them, a variable that is always set, or the date is none.
        TypeError: If the system message is not a text.
    """
    variables = _variables(template) - _GIVEN
    known = {"system", "date", *variables}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"Expected chat_template with 'system', 'date' or variables of the tokenizer's template, "
                f"{sorted(variables)}, got {name!r}.{did_you_mean(name, known)}"
            )
        if name in ("system", "date") and not isinstance(value, str):
            raise TypeError(f"Expected the {name!r} of chat_template to be a text, got {value!r:.200}")
    try:
        datetime.fromisoformat(settings.get("date", DATE))
    except ValueError as error:
        raise ValueError(
            f"Expected the 'date' of chat_template like {DATE!r}, got {settings['date']!r:.200}"
        ) from error


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str]:
    """Returns the variables that a template reads and does not set itself."""
    environment = _environment()
    try:
        parsed = environment.parse(template)
    except (_jinja2().TemplateError, *_FAILURES) as error:
        raise ValueError(f"Expected a chat template in Jinja, got one that cannot be read: {error}") from error
    return frozenset(import_module("jinja2.meta").find_undeclared_variables(parsed))


def _jinja2() -> Any:
    try:
        return import_module("jinja2")
    except ImportError as error:
        raise ImportError("Jinja is needed for chat templates. Install it with: pip install jinja2") from error


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """Returns a template, ready to be rendered."""
    try:
        return _environment().from_string(template)
    except (_jinja2().TemplateError, *_FAILURES) as error:
        raise ValueError(f"Expected a chat template in Jinja, got one that cannot be read: {error}") from error


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Returns the sandbox that templates run in, with the helpers that Transformers has in its own."""
    jinja2 = _jinja2()
    sandbox, extension = import_module("jinja2.sandbox"), import_module("jinja2.ext")

    class Generation(extension.Extension):  # type: ignore[misc,name-defined]
        """Transformers' own block around the assistant's words, which Jinja does not know. It prints what is in it."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> NoReturn:
        raise ValueError(f"The chat template refuses the conversation: {message}")

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    return environment
