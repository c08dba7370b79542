"""Measures the reference scores that cannot be worked out, and writes `reference_scores.json` beside this file.

    python -m textenvs.data.make_reference_scores            # all of them
    python -m textenvs.data.make_reference_scores stories    # those of one task; the others stay as they are

For each task below, and each of its splits: the mean score of `EPISODES` episodes of tokens drawn uniformly from the
whole vocabulary, with half the width of its 95 % confidence interval, and the mean score of the demonstrations of all
examples. The latter is also the top score: if it is 1, no score is better, and in the other tasks a higher score would
take a text of nothing but mood words. The same code writes the same file. Tasks whose scores are worked out exactly
(by `textenvs.tasks.exact`) are not here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.rewards import checked_score, make_reward
from textenvs.tasks import Task, make_task
from textenvs.testing import play_randomly

OUTPUT = Path(__file__).parent / "reference_scores.json"
TASKS = (
    "stories",
    "sentiment",
    "dialogue",
    "summarize_extractive",
    "summarize_abstractive",
    "translate",
    "question_answering",
    "classify",
    "recommend",
    "write",
)
EPISODES = 16384
SEED = 0
DIGITS = 6


def measure(task: Task, split: str) -> dict[str, Any]:
    """Simulates the random policy, and scores the demonstrations.

    Args:
        task: The task, at its default settings.
        split: The split whose examples the means are over.

    Returns:
        A row of the file.
    """
    scores = play_randomly(task, split, EPISODES, SEED).scores
    reward = make_reward(task.default_reward)
    examples = [task.example(split, index) for index in range(task.num_examples(split))]
    top = float(np.mean([checked_score(reward, example, task.demonstration(example)) for example in examples]))
    interval = float(1.96 * scores.std(ddof=1) / np.sqrt(EPISODES))
    return {
        "random": round(float(scores.mean()), DIGITS),
        # If all scores are 0, the rule of three: episodes with a share of up to 3 / n are missed once in 20 times.
        "random_interval": round(interval or 3 / EPISODES, DIGITS),
        "demonstration": round(top, DIGITS),
        "top": round(top, DIGITS),
        "episodes": EPISODES,
        "seed": SEED,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures some tasks, and writes the file.

    Args:
        arguments: The command-line arguments; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m textenvs.data.make_reference_scores")
    parser.add_argument("tasks", nargs="*", help=f"from {', '.join(TASKS)}; all of them by default")
    chosen = parser.parse_args(arguments).tasks
    if unknown := [name for name in chosen if name not in TASKS]:
        parser.error(f"Expected tasks from {list(TASKS)}, got {unknown}")
    table = json.loads(OUTPUT.read_text(encoding="utf-8")) if chosen else {}
    for name in chosen or TASKS:
        task = make_task(name)
        table[name] = {split: measure(task, split) for split in task.splits}
    OUTPUT.write_text(json.dumps({name: table[name] for name in TASKS}, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {OUTPUT.name}")


if __name__ == "__main__":
    main()
