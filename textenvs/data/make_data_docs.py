"""Writes docs/real-data.md: what the ids over public data sets read, ask for and pay. All of it comes from the presets.

    python -m textenvs.data.make_data_docs                      # the page
    python -m textenvs.data.make_data_docs --measure FOLDER     # also measures scores on the sets that FOLDER holds

A test checks that the committed page is what this script writes.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.datasets import PRESETS, Preset, PublicDataset, env_id_of
from textenvs.datasets.reading import TRAIN_AND_VALIDATION
from textenvs.rewards import Reward, checked_score
from textenvs.rewards.registry import make_reward
from textenvs.tasks import SPLITS, Task
from textenvs.testing.canaries import canary_scores
from textenvs.testing.random_play import play_randomly
from textenvs.tokenizer import make_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "real-data.md"
SCORES = Path(__file__).parent / "data_scores.json"
_RANDOM_EPISODES = 4096
_CANARY_EXAMPLES = 64

_BEGINNING = """# Real data

Ten public data sets are tasks under ids of their own. Their data is not part of the package, so name it:

```python
import gymnasium as gym
import textenvs

env = gym.make("TextGen/GSM8K-v0", data="path/to/grade-school-math")
print(env.unwrapped.task)  # the set, its splits, the template, an example, the score and the budget
```

    python -m agents train --env TextGen/GSM8K-v0 --data path/to/grade-school-math --model path/to/model

- **`data=`** takes the set's folder (the authors' files, a clone of their repository, or a file for each split:
  `train.jsonl`, `validation.csv`, `test.parquet`), one file, the id of a copy on the Hugging Face hub, rows in
  memory, or a dict of split to any of these. Files may have the authors' columns or the hub's.
- **`TEXTENVS_DATA`** names a folder with a sub-folder for each set, by the names below. Then the id alone is
  enough.
- **The hub** is asked where neither is given and its library is installed: `pip install "textenvs[data]"`.

Without any of these, `gym.make` says how to get the data, and names the bundled task that is like it.
`textenvs.list_envs(data=True)` and `python -m textenvs list --data` list these ids beside the others.

| id | folder | tests | score | budget | bundled twin |
|---|---|---|---|--:|---|
"""

_END = """
## What they have in common

- **Splits** are the source's own. Where there is no validation split, a tenth of the train split becomes one,
  by a hash of the prompt (in SQuAD, of the passage). A file without splits is divided 80 : 10 : 10 by the same
  hash. A prompt that two splits have stays in the later one, and a warning says how many there were.
- **Tokenizer**: the bundled one, which cuts any text into pieces of bytes, unless `tokenizer=` names another.
  An agent makes the environment with its policy's own. Budgets and limits are in tokens of that tokenizer.
- **Too long**: a prompt beyond the limit, or beyond what the agent's model can read beside the budget, is cut
  in its middle, so that the instruction at its beginning and the question at its end stay. A warning counts
  such prompts. Supervised fine-tuning counts the demonstrations that the budget cuts. `max_prompt_length` and
  `max_new_tokens` change both.
- **Demonstrations** are the first references, with a space in front where they continue a line.
- **Names**: `task={"gsm8k": {"template": ..., "limit": 500}}` changes the prompt, or keeps some examples of
  each split.
- There are no thresholds, since everybody has other parts of a set. Episodes report `is_success` where a right
  answer is a success.
- A score of **`mood`** reads words and their neighbours, not sense: key words in a row can earn as much as the
  text that they are from, or more. It is there to be learned with the KL
  penalty, which is on by default, and read beside the held-out metric.
"""


def page() -> str:
    """Writes the text of the page.

    Returns:
        Markdown.
    """
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    by_id = sorted((env_id_of(name), name) for name in PRESETS)
    rows = []
    for env_id, name in by_id:
        preset = PRESETS[name]
        anchor = _title(env_id).lower()
        score = make_reward(preset.reward).name
        cells = (f"[`{env_id}`](#{anchor})", f"`{name}`", preset.tests, f"`{score}`", str(preset.max_new_tokens))
        rows.append(f"| {' | '.join(cells)} | `{preset.twin}` |")
    sections = [_section(env_id, name, scores.get(name)) for env_id, name in by_id]
    return _BEGINNING + "\n".join(rows) + "\n" + _END + "\n" + "\n".join(sections)


def _section(env_id: str, name: str, scores: dict[str, Any] | None) -> str:
    preset = PRESETS[name]
    reward, held_out = make_reward(preset.reward), make_reward(preset.held_out_reward)
    rows = {
        "get it": f"`{preset.command}`",
        "on the hub": f"`{preset.hub.name}`" + (f", `{preset.hub.configuration}`" if preset.hub.configuration else ""),
        "licence": preset.licence,
        "files": _files(preset),
        "splits": _splits(preset),
        "template": f"`{preset.template!r}`",
        "score": f"`{_written(preset.reward)}`, from {reward.low:g} to {reward.high:g}",
        "held-out metric": f"`{_written(preset.held_out_reward)}`, from {held_out.low:g} to {held_out.high:g}",
        "a success": "-" if preset.success_score is None else f"from {preset.success_score:g}",
        "budget": f"{preset.max_new_tokens} tokens, behind a prompt of at most {preset.max_prompt_tokens}",
    }
    lines = [f"## {_title(env_id)}", "", f"{preset.title}: {preset.tests}.", "", "| property | value |", "|---|---|"]
    lines += [f"| {property_name} | {value} |" for property_name, value in rows.items()]
    return "\n".join([*lines, "", *_measured(scores), ""])


def _measured(scores: dict[str, Any] | None) -> list[str]:
    if scores is None:
        return ["Not measured: the data was not there when this page was written."]
    examples = ", ".join(f"{scores['examples'][split]:,} {split}" for split in SPLITS)
    text = (
        f"Measured on {examples} examples of it, with the bundled tokenizer, on the test split: random tokens "
        f"{scores['random']:.3f} ± {scores['random_interval']:.3f}, demonstrations {scores['demonstration']:.3f}"
    )
    if scores["other_reference"] is not None:
        text += f", one reference against the others {scores['other_reference']:.3f}"
    text += (
        f". The best degenerate text ({scores['canary']}) has {scores['canary_score']:.3f}. The budget holds "
        f"{scores['fitting']:.0%} of the demonstrations, and the limit {scores['uncut']:.0%} of the prompts."
    )
    return [text]


def _files(preset: Preset) -> str:
    layouts = []
    for layout in preset.layouts:
        names = [f"`{names[0]}`" for source in layout for names in source.files.values()]
        layouts.append(", ".join(names))
    return "; or ".join(layouts)


def _splits(preset: Preset) -> str:
    own = [source.split for source in preset.layouts[0]]
    if own == [None] * len(own):
        return "by a hash; on the hub, its own"
    return "its own" + (", validation out of train" if TRAIN_AND_VALIDATION in own else "")


def _title(env_id: str) -> str:
    return env_id.removeprefix("TextGen/").removesuffix("-v0")


def _written(reward: Any) -> str:
    return reward if isinstance(reward, str) else json.dumps(reward)


def measure(folder: Path) -> None:
    """Measures the scores of the sets that a folder holds, and keeps them.

    Args:
        folder: A folder as `TEXTENVS_DATA` names it.
    """
    kept = json.loads(SCORES.read_text(encoding="utf-8")) if SCORES.exists() else {}
    for name in sorted(PRESETS):
        if (folder / name).is_dir():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of prompts that are cut, which are counted below
                kept[name] = _scores_of(PublicDataset(name, folder / name))
            print(f"{name}: {kept[name]}", file=sys.stderr, flush=True)
    SCORES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _scores_of(task: PublicDataset) -> dict[str, Any]:
    reward, tokenizer = make_reward(task.default_reward), make_tokenizer(task.default_tokenizer)
    examples = [task.example("test", index) for index in range(task.num_examples("test"))]
    shown = [task.demonstration(example) for example in examples]
    play = play_randomly(task, "test", _RANDOM_EPISODES, 0)
    canaries = canary_scores(task, reward, num_examples=_CANARY_EXAMPLES)
    canary = max(canaries.scores, key=lambda kind: canaries.scores[kind])
    encode: Callable[[str], list[int]] = tokenizer.encode_response  # type: ignore[attr-defined]  # the bundled one has it
    lengths = [len(encode(text)) + 1 for text in shown]
    prompts = tokenizer.encode_batch([example.prompt for example in examples])
    limit = task.preset.max_prompt_tokens
    return {
        "examples": {split: task.num_examples(split) for split in SPLITS},
        "random": round(float(play.scores.mean()), 4),
        "random_interval": round(float(1.96 * play.scores.std(ddof=1) / len(play.scores) ** 0.5), 4),
        "demonstration": round(
            float(np.mean([checked_score(reward, *pair) for pair in zip(examples, shown, strict=True)])), 4
        ),
        "other_reference": _score_of_another(task, reward),
        "canary": canary,
        "canary_score": round(canaries.scores[canary], 4),
        "fitting": round(float(np.mean([length <= task.default_max_new_tokens for length in lengths])), 4),
        "uncut": round(float(np.mean([len(prompt) <= limit for prompt in prompts])), 4),
    }


def _score_of_another(task: Task, reward: Reward) -> float | None:
    """Returns the mean score of the first reference against the others; None where there are no others."""
    scores = []
    for index in range(task.num_examples("test")):
        example = task.example("test", index)
        if len(example.references) > 1:
            others = type(example)(example.prompt, example.references[1:], example.metadata)
            scores.append(checked_score(reward, others, task.demonstration(example)))
    return round(float(np.mean(scores)), 4) if len(scores) > task.num_examples("test") // 2 else None


def main() -> None:
    """Measures, where a folder is named, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="a folder with a sub-folder for each set")
    folder = parser.parse_args().measure
    if folder is not None:
        measure(folder)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
