"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from agents import Evaluation
from agents.distributed import processes
from agents.files import read_json
from agents.training import checkpoints


@dataclass(frozen=True, kw_only=True)
class EnvironmentArguments:
    """Which environment."""

    env: str = "TextGen-v0"
    """A registered id (python -m textenvs list shows them)."""
    reward: str | None = None
    """A reward's name, or JSON: '{"sentiment": 0.7, "length": 0.3}'. Default: the task's own."""
    payout: str = "immediate"
    """immediate, sparse, word, sentence, or JSON: '{"every": 8}', '{"delayed": 4}', '{"shaped": {"gamma": 0.99}}'."""
    max_new_tokens: int | None = None
    """Tokens an episode may spend. Default: the task's own."""
    curriculum: str | None = None
    """true, or JSON: '{"raise_at": 0.9, "lower_at": 0.3}': train on the task's levels from the easiest on, harder as
    the success rate rises, and evaluate on all of them. Default: the task's own level."""
    prompts: Path | None = None
    """A .jsonl or .txt file of texts to continue, in place of the environment's own task. Each text's first
    --prompt-tokens tokens become a prompt; a hash divides the prompts into train, validation and test."""
    prompt_field: str = "text"
    """The field of a .jsonl row that holds the text."""
    prompt_tokens: int = 16
    """How many tokens of each text in --prompts are kept as the prompt."""

    def kwargs(self) -> dict[str, Any]:
        """What `gym.make` gets."""
        kwargs: dict[str, Any] = {"payout": _name_or_json(self.payout)}
        if self.reward is not None:
            kwargs["reward"] = _name_or_json(self.reward)
        if self.max_new_tokens is not None:
            kwargs["max_new_tokens"] = self.max_new_tokens
        if self.curriculum is not None:
            try:
                kwargs["curriculum"] = json.loads(self.curriculum)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"Expected --curriculum to be true or JSON, got {self.curriculum[:200]!r}") from error
        if self.prompts is not None:
            settings = {"prompt": self.prompt_field, "prompt_tokens": self.prompt_tokens}
            kwargs["task"] = {"dataset": {"path": str(self.prompts), **settings}}
        return kwargs


def _start_processes(device: str | None, *, pieces: bool) -> str | None:
    """Join the other processes, where there are some. The first one talks."""
    device = processes.start(device, pieces=pieces)
    if processes.rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
    return device


def _policy_folder(run: Path, which: str = "last") -> Path:
    """Where a run, of sft or of train, keeps its policy; of train, that of a checkpoint."""
    if not (checkpoints.numbers(run) or (run / checkpoints.MANIFEST).is_file()):
        for place in (run / "policy", run):
            if (place / "policy.json").is_file() or (place / "model.safetensors").is_file():
                return place
    try:
        return checkpoints.find(run, which).path / "policy"
    except ValueError as error:
        raise ValueError(f"Expected the folder of a run, with a policy in it, got {str(run)!r}: {error}") from error


def _model(source: str) -> str | Path:
    """What `Policy.from_pretrained` takes: a model's name or folder as it is, the policy of a run's folder."""
    folder = Path(source)
    holds_run = checkpoints.numbers(folder) or (folder / "policy" / "policy.json").is_file()
    return _policy_folder(folder) if holds_run else source


def _temperature_of(source: str | Path) -> float | None:
    """The temperature that a policy was trained at, where it lies in a checkpoint of a run."""
    file = Path(source).parent / "agent.json"
    return float(read_json(file)["config"]["temperature"]) if file.is_file() else None


def _said(argv: Sequence[str]) -> set[str]:
    """Which options for the environment a command line gives."""
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    return given & {one.name for one in fields(EnvironmentArguments)}


def _line(label: str, found: Evaluation) -> str:
    parts = [f"{label:>10}: score {found.score:+.3f} [{found.score_low:+.3f}, {found.score_high:+.3f}]"]
    if found.held_out is not None:
        interval = f"[{found.held_out_low:+.3f}, {found.held_out_high:+.3f}]"
        parts.append(f"{found.held_out_name} {found.held_out:+.3f} {interval}")
    if found.kl is not None:
        parts.append(f"KL {found.kl:.2f}")
    parts.append(f"distinct-2 {found.distinct_2:.3f}")
    parts.append(f"length {found.response_length:.1f}")
    return "  ".join(parts) + f"  ({found.episodes} episodes)"


def _name_or_json(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a name or JSON, got {text[:200]!r}, which could not be read: {error}") from error


def _option(argv: Sequence[str], name: str) -> str | None:
    """What the command line says of one option, which decides what the others are."""
    found = None
    for place, word in enumerate(argv):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name and place + 1 < len(argv):
            found = argv[place + 1]
    return found
