"""Canaries: degenerate responses that no reward should like better than a demonstration.

An agent finds whatever its score has overlooked. These are the first things that agents find: nothing at all, one word
over and over, the prompt, the right words in no order, the words that the score likes best. `check_canaries` holds a
reward to ranking each of them, in the mean over some examples, below the task's demonstrations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any

import numpy as np

from textenvs.env import TextGenEnv
from textenvs.rewards import Reward, checked_score
from textenvs.rewards.registry import make_reward
from textenvs.tasks import SPLITS, Example, Task
from textenvs.tasks.registry import make_task

CANARIES = ("empty", "eos at once", "one word repeated", "prompt copied", "words shuffled", "keywords")
"""What is tried, in this order."""


_MOST_WORDS = 200  # of which the ones that a score likes best are found


@dataclass(frozen=True)
class CanaryScores:
    """What a reward gave to demonstrations and to canaries.

    Attributes:
        reward: The reward's name.
        demonstration: The demonstrations' mean score.
        scores: Canary to mean score, over the examples that have it.
        alive: The canaries that are not clearly below the demonstrations of the same examples: the mean difference is
            not above 0 by two of its standard errors.
        responses: Canary to the one of its responses that scored best.
    """

    reward: str
    demonstration: float
    scores: dict[str, float]
    alive: tuple[str, ...]
    responses: dict[str, str]


def canary_scores(
    task: Any, reward: Any = None, *, num_examples: int = 32, split: str = "test", seed: int = 0
) -> CanaryScores:
    """Score the canaries of a task.

    - **empty**: no text.
    - **eos at once**: the same, as an episode: EOS is the first action, in every turn.
    - **one word repeated**: to the length of the demonstration; of the words that score best by themselves, under
      the reward or one of its parts, and the demonstration's first, the one that does best.
    - **prompt copied**: the prompt.
    - **words shuffled**: a reference, or else the demonstration, with its words in another order.
    - **keywords**: the words that score best by themselves, likewise, as many as the demonstration has, none twice.

    A canary that happens to be the demonstration of its example, or that an example cannot have (a demonstration of one
    word has no other order), is left out for that example.

    Args:
        task: What `textenvs.make_task` takes.
        reward: What `textenvs.make_reward` takes; None is the task's own.
        num_examples: How many examples, evenly over the split.
        split: Which examples; another where the task has none there.
        seed: Of the shuffling.

    Returns:
        The scores.

    Raises:
        ValueError: If the task has no demonstrations, or `num_examples` is below 1.
        RewardError: If the reward fails.
    """
    if num_examples < 1:
        raise ValueError(f"Expected num_examples to be at least 1, got {num_examples}")
    made, scorer = make_task(task), make_reward(make_task(task).default_reward if reward is None else reward)
    examples = _examples(made, split, num_examples)
    try:
        demonstrations = [made.demonstration(example) for example in examples]
    except NotImplementedError as error:
        raise ValueError(f"Expected a task with demonstrations to hold canaries against, got {made.name!r}") from error
    env = TextGenEnv(made, scorer, "sparse")
    vocabulary = _vocabulary(examples, demonstrations)
    rng = random.Random(seed)
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in CANARIES}
    good: list[float] = []
    for example, demonstration in zip(examples, demonstrations, strict=True):
        good.append(checked_score(scorer, example, demonstration))
        for name, texts in _texts(scorer, example, demonstration, vocabulary, rng).items():
            tried = [(checked_score(scorer, example, text), text) for text in texts if _differ(text, demonstration)]
            if tried:
                score, text = max(tried)
                found[name].append((score, good[-1], text))
        if _differ("", demonstration):
            found["eos at once"].append((_played_eos(env, example), good[-1], ""))
    rows = {name: row for name, row in found.items() if row}
    return CanaryScores(
        reward=scorer.name,
        demonstration=float(np.mean(good)),
        scores={name: float(np.mean([score for score, _, _ in row])) for name, row in rows.items()},
        alive=tuple(name for name, row in rows.items() if not _clearly_above_0([best - own for own, best, _ in row])),
        responses={name: max(row)[2] for name, row in rows.items()},
    )


def _clearly_above_0(differences: list[float]) -> bool:
    error = np.std(differences, ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return bool(np.mean(differences) > 1e-9 + 2 * error)


def check_canaries(
    task: Any, reward: Any = None, *, num_examples: int = 32, split: str = "test", seed: int = 0
) -> None:
    """Hold a reward to ranking degenerate responses below demonstrations; see `canary_scores` for what is tried.

    Args:
        task: What `textenvs.make_task` takes.
        reward: What `textenvs.make_reward` takes; None is the task's own.
        num_examples: How many examples the means are over.
        split: Which examples.
        seed: Of what is random.

    Raises:
        AssertionError: If a canary does not score clearly below the demonstrations: names it, and shows one.
        ValueError: If the task has no demonstrations.
        RewardError: If the reward fails.

    Example:
        >>> is_reference = lambda example, text: float(text in example.references)
        >>> check_canaries("stories", {"product": ["sentiment", is_reference]})
    """
    found = canary_scores(task, reward, num_examples=num_examples, split=split, seed=seed)
    if found.alive:
        shown = "".join(
            f"\n  {name}: {found.scores[name]:.3f}, such as {found.responses[name]!r}" for name in found.alive
        )
        raise AssertionError(
            f"Reward {found.reward!r} should score every degenerate response clearly below the demonstrations, "
            f"{found.demonstration:.3f}, but does not:{shown}"
        )


def _examples(task: Task, split: str, number: int) -> list[Example]:
    """Some examples, evenly over the split, or over the first that has any."""
    for name in (split, *SPLITS):
        size = task.num_examples(name)
        if size:
            return [task.example(name, index) for index in sorted({place * size // number for place in range(number)})]
    raise ValueError(f"Expected task {task.name!r} to have an example in some split")


def _vocabulary(examples: Sequence[Example], demonstrations: Sequence[str]) -> list[str]:
    """Words of the task, the first ones there are."""
    texts = [text for example in examples for text in (example.prompt, *example.references)]
    return list(dict.fromkeys(word for text in (*demonstrations, *texts) for word in text.split()))[:_MOST_WORDS]


def _texts(
    reward: Reward, example: Example, demonstration: str, vocabulary: Sequence[str], rng: random.Random
) -> dict[str, list[str]]:
    """The canaries of one example, as texts; of several texts, the best counts."""
    words = demonstration.split()
    size = max(len(words), 1)
    # Of the parts too: a closed gate tells no word from another. Ties by the alphabet, which makes no sentence.
    judges = [reward, *reward.parts.values()]
    liked = [_ranked(one, example, vocabulary) for one in judges]
    source = (example.references[0] if example.references else demonstration).split()
    shuffled = rng.sample(source, len(source))
    favourites = [word for one in liked for word in one[:3]]
    return {
        "empty": [""],
        "one word repeated": [" ".join([word] * size) for word in dict.fromkeys([*words[:1], *favourites])],
        "prompt copied": [example.prompt],
        "words shuffled": [] if shuffled == source else [" ".join(shuffled)],
        "keywords": [" ".join(one[:size]) for one in liked],
    }


def _ranked(reward: Reward, example: Example, words: Sequence[str]) -> list[str]:
    return sorted(words, key=lambda word: (-checked_score(reward, example, word), word))


def _differ(text: str, demonstration: str) -> bool:
    """Whether they are two answers, and not one in two spellings: with another case, or other marks around words."""
    one, other = ([word.strip(punctuation).lower() for word in each.split()] for each in (text, demonstration))
    return text.split() != demonstration.split() and (one != other or not any(one))


def _played_eos(env: TextGenEnv, example: Example) -> float:
    """The return of an episode whose every action is EOS."""
    env.reset(options={"example": example})
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.tokenizer.eos_token_id)
        total += reward
    return total
