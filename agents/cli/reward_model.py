"""`python -m agents reward-model`: a preference model from pairs of responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents import Policy
from agents.cli.options import _model, _start_processes
from agents.distributed import processes
from agents.rewards.preference import RECORD
from agents.supervised import reward_model as preferences


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """Train a preference model from pairs of responses, and measure it on pairs that were held out.

    The folder that it writes is a reward: {"preference": {"model": FOLDER}}, or "dpo" with --method dpo.
    """

    pairs: Path
    """A .jsonl file: an object with prompt, chosen and rejected a line. A hash of the prompt divides them into train
    (80 %), validation (10 %) and test (10 %)."""
    prompt_field: str = "prompt"
    """The field that holds the prompt."""
    chosen_field: str = "chosen"
    """The field that holds the preferred response, without the prompt."""
    rejected_field: str = "rejected"
    """The field that holds the other."""
    model: str = "tiny"
    """What to start from: tiny, a folder of a Transformers model, or an id on the Hugging Face hub."""
    output: Path = Path("reward-model")
    """The folder to write."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    json: bool = False
    """Print one JSON object instead of lines."""


def reward_model(arguments: Any) -> None:
    """Train a preference model, say how good it is, and save it."""
    folder: Path = arguments.output
    device = _start_processes(arguments.device, pieces=False)
    if processes.rank() == 0 and (folder / RECORD).exists():
        raise ValueError(f"Expected a new folder for this model, got {str(folder)!r}, which holds another")
    splits = preferences.split_pairs(
        preferences.load_pairs(
            arguments.pairs,
            prompt=arguments.prompt_field,
            chosen=arguments.chosen_field,
            rejected=arguments.rejected_field,
        )
    )
    policy = Policy.from_pretrained(_model(arguments.model), device=device)
    config: preferences.PreferenceConfig = arguments.config
    sizes = ", ".join(f"{len(pairs):,} {split}" for split, pairs in splits.items())
    if not arguments.json:
        print(f"{config.method} on {arguments.model}, {policy.device}; pairs: {sizes}")

    def show(row: dict[str, float]) -> None:
        if not arguments.json:
            shown = (
                f"loss {row['loss']:.4f}  validation: accuracy {row['accuracy']:.3f}  log-loss {row['log_loss']:.4f}"
            )
            print(f"  epoch {row['epoch']:.0f}: {shown}", flush=True)

    trained = preferences.train(policy, splits["train"], splits["validation"], config, on_epoch=show)
    if processes.rank() > 0:
        return
    found = None
    if splits["test"]:
        margins = preferences.margins(policy, splits["test"], trained)
        found = preferences.evaluate_margins(margins, trained.temperature)
    preferences.save(folder, policy, trained, found)
    if arguments.json:
        print((folder / RECORD).read_text(encoding="utf-8"), end="")
        return
    print(f"  epoch {trained.epoch} is kept; temperature {trained.temperature:.3f}")
    if found is not None:
        print(
            f"test: accuracy {found.accuracy:.3f} [{found.accuracy_low:.3f}, {found.accuracy_high:.3f}]  "
            f"log-loss {found.log_loss:.4f}, calibrated {found.calibrated_log_loss:.4f}  "
            f"ECE {found.ece:.3f}, calibrated {found.calibrated_ece:.3f}  ({found.pairs} pairs)"
        )
    name = "dpo" if config.method == "dpo" else "preference"
    print(f"Use it: --reward '{json.dumps({name: {'model': str(folder)}})}'")


def _reward_model_arguments(argv: Sequence[str]) -> Any:
    """`RewardModel` with the settings of the training beside its own."""
    flat: Any = Annotated[preferences.PreferenceConfig, tyro.conf.OmitArgPrefixes]
    whole: Any = make_dataclass("RewardModel", [("config", flat)], bases=(RewardModel,), frozen=True, kw_only=True)
    return tyro.cli(whole, args=list(argv), description=RewardModel.__doc__, prog="python -m agents reward-model")
