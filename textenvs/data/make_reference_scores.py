"""Measures the reference scores that cannot be worked out, and writes `reference_scores.json` beside this file.

    python -m textenvs.data.make_reference_scores            # all of them
    python -m textenvs.data.make_reference_scores stories    # those of one task; the others stay as they are
    python -m textenvs.data.make_reference_scores --blind    # the blind scores alone, which take a search a task

For every task with an id, and each of its splits: the blind score, which is the mean score of the best constant that a
search of `BUDGET` texts has found on the train split (`textenvs.testing.search`), with its texts.

For each task below, and each of its splits, also: the mean score of `EPISODES` episodes of tokens drawn uniformly from
the whole vocabulary, with half the width of its 95 % confidence interval, and the mean score of the demonstrations of
all examples. The latter is also the top score, unless the search has found more: then the top is the most that the
score can be. The same code writes the same file. The other scores of the other tasks are worked out exactly (by
`textenvs.tasks.exact`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.overview import make_env
from textenvs.registration import list_envs
from textenvs.rewards import checked_score, make_reward
from textenvs.tasks import Task, make_task
from textenvs.testing import TextPlayer, play_randomly, search

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
"""The tasks whose random score is simulated."""
EPISODES = 16384
BUDGET = 50_000
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


def blind(env_id: str) -> dict[str, dict[str, Any]]:
    """Searches for the best constant, and scores it on each split.

    Args:
        env_id: The id of the task.

    Returns:
        Split to its part of a row of the file.
    """
    env = make_env(env_id)
    result, task = search(env, budget=BUDGET, seed=SEED), env.task
    texts = result.blind.texts
    player = TextPlayer(env.setting)
    rows = {}
    for split in task.splits:
        examples = [task.example(split, index) for index in range(task.num_examples(split))]
        responses = [texts[str(example.metadata[task.kind_key]) if task.kind_key else ""] for example in examples]
        score = float(player.scores(examples, responses).mean())
        rows[split] = {"blind": round(score, DIGITS), "blind_texts": texts}
        if result.beating and np.isfinite(env.setting.reward.high):
            rows[split]["top"] = env.setting.reward.high
    return rows


def ids() -> dict[str, str]:
    """Returns an id of each task that has one."""
    return {make_env(env_id).task.name: env_id for env_id in list_envs()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures some tasks, and writes the file.

    Args:
        arguments: The command-line arguments; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m textenvs.data.make_reference_scores")
    known = ids()
    parser.add_argument("--blind", action="store_true", help="only the blind scores; the others stay as they are")
    parser.add_argument("tasks", nargs="*", help=f"from {', '.join(known)}; all of them by default")
    options = parser.parse_args(arguments)
    chosen = options.tasks
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"Expected tasks from {list(known)}, got {unknown}")
    table = json.loads(OUTPUT.read_text(encoding="utf-8")) if chosen or options.blind else {}
    for name in chosen or known:
        task, rows = make_task(name), blind(known[name])
        for split in task.splits if name in TASKS else ():
            rows[split] = {**(table[name][split] if options.blind else measure(task, split)), **rows[split]}
        table[name] = rows
        print(f"{name}: {table[name]['test']}", flush=True)
    names = [*TASKS, *sorted(known.keys() - {*TASKS})]
    ordered = {name: table[name] for name in names if name in table}
    OUTPUT.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"Wrote {OUTPUT.name}")


if __name__ == "__main__":
    main()
