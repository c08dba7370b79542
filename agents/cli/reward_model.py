"""`python -m agents reward-model`: a preference model from pairs of responses."""

from __future__ import annotations

import json
from pathlib import Path

from agents import Policy
from agents.cli.console import join_processes, owned
from agents.cli.options import RewardModel
from agents.cli.sources import model_source
from agents.distributed import processes
from agents.files import check_empty
from agents.locks import LOCK
from agents.rewards.preference_record import RECORD
from agents.supervised import reward_model as preferences
from agents.training.checkpoints import rehearse
from textenvs.render import visible_line


def run(arguments: RewardModel) -> None:
    """Trains a preference model, prints how good it is, and saves it."""
    device = join_processes(arguments.device, pieces=False)
    with owned(arguments.output, _check_new):
        _train(arguments, device)


def _check_new(folder: Path) -> None:
    if (folder / RECORD).exists():
        raise ValueError(f"Expected a new folder for this model, got {str(folder)!r}, which holds another")
    check_empty(folder, but=(LOCK,))


def _train(arguments: RewardModel, device: str | None) -> None:
    folder, config = arguments.output, arguments.settings
    splits = preferences.split_pairs(
        preferences.load_pairs(
            arguments.pairs,
            prompt=arguments.prompt_field,
            chosen=arguments.chosen_field,
            rejected=arguments.rejected_field,
        )
    )
    policy = Policy.from_pretrained(model_source(arguments.model), device=device)
    if processes.rank() == 0:
        rehearse(folder, policy.save_pretrained)  # what would fail at the end is said before training
    sizes = ", ".join(f"{len(pairs):,} {split}" for split, pairs in splits.items())
    if not arguments.json:
        print(visible_line(f"{config.method} on {arguments.model}, {policy.device}; pairs: {sizes}"))
    trained = preferences.train(
        policy, splits["train"], splits["validation"], config, on_epoch=None if arguments.json else _print_epoch
    )
    if processes.rank() > 0:
        return
    evaluation = None
    if splits["test"]:
        margins = preferences.margins(policy, splits["test"], trained)
        evaluation = preferences.evaluate_margins(margins, trained.temperature)
    preferences.save(folder, policy, trained, evaluation)
    if arguments.json:
        print((folder / RECORD).read_text(encoding="utf-8"), end="")
        return
    print(f"  epoch {trained.epoch} is kept; temperature {trained.temperature:.3f}")
    if evaluation is not None:
        _print_test(evaluation)
    name = "dpo" if config.method == "dpo" else "preference"
    print(f"Use it: --reward '{json.dumps({name: {'model': str(folder)}})}'")


def _print_epoch(row: dict[str, float]) -> None:
    validation = f"validation: accuracy {row['accuracy']:.3f}  log-loss {row['log_loss']:.4f}"
    print(f"  epoch {row['epoch']:.0f}: loss {row['loss']:.4f}  {validation}", flush=True)


def _print_test(evaluation: preferences.PreferenceEvaluation) -> None:
    print(
        f"test: accuracy {evaluation.accuracy:.3f} [{evaluation.accuracy_low:.3f}, {evaluation.accuracy_high:.3f}]  "
        f"log-loss {evaluation.log_loss:.4f}, calibrated {evaluation.calibrated_log_loss:.4f}  "
        f"ECE {evaluation.ece:.3f}, calibrated {evaluation.calibrated_ece:.3f}  ({evaluation.pairs} pairs)"
    )
