"""From what --model, --models, --init and --run name to what `Policy.from_pretrained` takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agents.cli.options import name_or_json
from agents.files import read_json
from agents.training import checkpoints
from textenvs.datasets import absolute_source


def absolute_data(data: str | None) -> str | None:
    """The data that --data names, the same from every working directory.

    Args:
        data: The option.

    Returns:
        The option with absolute paths.
    """
    if data is None:
        return None
    source = absolute_source(name_or_json(data))
    return source if isinstance(source, str) else json.dumps(source)


def policy_folder(run: Path, which: str = "last") -> Path:
    """The folder in which a run keeps its policy.

    Args:
        run: The folder of a run of sft or of train, or of a checkpoint.
        which: Of a run of train: which checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: If there is no policy.
    """
    if not (checkpoints.numbers(run) or (run / checkpoints.MANIFEST).is_file()):
        for folder in (run / "policy", run):
            if (folder / "policy.json").is_file() or (folder / "model.safetensors").is_file():
                return folder
    try:
        return checkpoints.find(run, which).path / "policy"
    except ValueError as error:
        raise ValueError(f"Expected the folder of a run, with a policy in it, got {str(run)!r}: {error}") from error


def model_source(model: str) -> str | Path:
    """The source of a model that may be a run's folder.

    Args:
        model: A name, a folder or a hub id.

    Returns:
        The folder of the run's policy, or the model as it was given.
    """
    folder = Path(model)
    holds_run = checkpoints.numbers(folder) or (folder / "policy" / "policy.json").is_file()
    return policy_folder(folder) if holds_run else model


def training_temperature(source: str | Path) -> float | None:
    """The temperature that a policy was trained at.

    Args:
        source: What `policy_folder` or `model_source` returned.

    Returns:
        The temperature; None unless the policy lies in a checkpoint of a run.
    """
    file = Path(source).parent / "agent.json"
    if not file.is_file():
        return None
    config = read_json(file).get("config")
    temperature = config.get("temperature") if isinstance(config, dict) else None
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise ValueError(f"Expected the temperature of the training in {str(file)!r}, got {temperature!r:.200}")
    return float(temperature)


def named_sources(models: Sequence[str]) -> dict[str, str]:
    """Gives each model of a command line a short name.

    Args:
        models: Names or folders, or `name=folder`, at least two.

    Returns:
        Name to source: what stands before "=", or the last part of the path that is not a checkpoint's.

    Raises:
        ValueError: If two have the same name, or there are not two.
    """
    if len(models) < 2:
        raise ValueError(f"Expected at least two models to compare, got {list(models)}: see evaluate for one alone")
    sources: dict[str, str] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not equals or "/" in name:
            source = model
            parts = [
                part for part in Path(model).parts if part not in ("checkpoints", "policy") and not part.isdecimal()
            ]
            name = parts[-1] if parts else model
        if name in sources:
            raise ValueError(f"Expected names that differ, got {name!r} twice: write NAME={source}")
        sources[name] = source
    return sources
