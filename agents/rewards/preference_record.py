"""`preference.json`: the record in a preference model's folder. Training writes it, and the scores read it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from agents.files import read_json

PreferenceMethod = Literal["bradley_terry", "dpo"]
"""A way to train a preference model; `agents.supervised.reward_model` has both."""

RECORD = "preference.json"
"""The file that tells what a folder's model was trained on, how, and how good it is."""

FORMAT = 1
"""The version of that file's layout."""


def read_record(folder: str | Path, method: PreferenceMethod) -> dict[str, Any]:
    """The record of a model.

    Args:
        folder: Its folder.
        method: The method that it must have been trained with.

    Returns:
        The record.

    Raises:
        ValueError: If the folder holds no preference model, or one of another method or version.
    """
    file = Path(folder) / RECORD
    command = "python -m agents reward-model" + (" --method dpo" if method == "dpo" else "")
    if not file.is_file():
        raise ValueError(f"Expected a folder that {command!r} wrote, got {str(folder)!r}, which has no {RECORD}")
    record = read_json(file)
    if record.get("format") != FORMAT:
        raise ValueError(f"Expected {str(file)!r} to be of format {FORMAT}, got {record.get('format')!r}")
    if record.get("method") != method:
        raise ValueError(f"Expected a model trained with {method!r} in {str(folder)!r}, got {record.get('method')!r}")
    if method == "dpo" and not (Path(folder) / "reference" / "config.json").is_file():
        raise ValueError(f"Expected the reference of DPO in {str(Path(folder) / 'reference')!r}, found none")
    config = record.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"Expected the config of the training in {str(file)!r}, got {config!r:.200}")
    if method == "dpo" and (
        not isinstance(beta := config.get("beta"), (int, float)) or isinstance(beta, bool) or not 0 < beta < math.inf
    ):
        raise ValueError(f"Expected a beta above 0 in {str(file)!r}, got {beta!r:.200}")
    temperature = record.get("temperature")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ValueError(f"Expected a temperature above 0 in {str(file)!r}, got {temperature!r:.200}")
    return record
