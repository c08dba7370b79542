"""Canaries: degenerate responses that no reward should prefer to a demonstration.

Agents find every hole in a score. These are the ones that they find first: nothing at all, one word over and over, the
prompt, the right words in no order, the words that the score likes best. `check_canaries` checks that a reward ranks
each of them below the task's demonstrations, in the mean over some examples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any

import numpy as np

from textenvs.arguments import check_count
from textenvs.env import TextGenEnv
from textenvs.rewards import Reward, checked_score
from textenvs.rewards.registry import make_reward
from textenvs.tasks import SPLITS, Example, Task
from textenvs.tasks.registry import make_task

CANARIES = ("empty", "eos at once", "one word repeated", "prompt copied", "words shuffled", "keywords")
"""The names of the canaries, in the order in which they are tried."""

_MAX_WORDS = 200  # each is scored by itself, for every example


@dataclass(frozen=True)
class CanaryScores:
    """A reward's scores of demonstrations and of canaries.

    Attributes:
        reward: The reward's name.
        demonstration: The demonstrations' mean score.
        scores: Each canary's mean score, over the examples that have it.
        alive: The canaries that are not clearly below the demonstrations of the same examples: the mean difference is
            not above 0 by two of its standard errors.
        responses: Each canary's best response.
    """

    reward: str
    demonstration: float
    scores: dict[str, float]
    alive: tuple[str, ...]
    responses: dict[str, str]


def canary_scores(
    task: Any, reward: Any = None, *, num_examples: int = 32, split: str = "test", seed: int = 0
) -> CanaryScores:
    """Scores the canaries of a task.

    - **empty**: no text.
    - **eos at once**: the same, as an episode: EOS is the first action, in every turn.
    - **one word repeated**: a word as often as the demonstration has words. Tried are the demonstration's first word
      and those that score best by themselves, under the reward or one of its parts; the best counts.
    - **prompt copied**: the prompt.
    - **words shuffled**: a reference, or else the demonstration, with its words in another order.
    - **keywords**: the words that score best by themselves, as many as the demonstration has, none twice.

    A canary that happens to be the demonstration of its example, or that an example cannot have (a demonstration of one
    word has no other order), is left out for that example.

    Args:
        task: Anything that `textenvs.make_task` takes.
        reward: Anything that `textenvs.make_reward` takes; None is the task's own.
        num_examples: The number of examples.
        split: The split of the examples; another if the task has none there.
        seed: The seed of the shuffling.

    Returns:
        The scores.

    Raises:
        ValueError: If the task has no demonstrations, or `num_examples` is below 1.
        TypeError: If `num_examples` is not a whole number.
        RewardError: If the reward fails.
    """
    check_count("num_examples", num_examples)
    task = make_task(task)
    reward = make_reward(task.default_reward if reward is None else reward)
    examples = pick_examples(task, split, num_examples)
    try:
        demonstrations = [task.demonstration(example) for example in examples]
    except NotImplementedError as error:
        raise ValueError(f"Expected a task with demonstrations to hold canaries against, got {task.name!r}") from error
    env = TextGenEnv(task, reward, "sparse")
    vocabulary = _vocabulary(examples, demonstrations)
    rng = random.Random(seed)
    results: dict[str, list[tuple[float, float, str]]] = {name: [] for name in CANARIES}
    shown: list[float] = []  # the demonstrations' scores
    for example, demonstration in zip(examples, demonstrations, strict=True):
        shown.append(checked_score(reward, example, demonstration))
        for name, texts in _texts(reward, example, demonstration, vocabulary, rng).items():
            scored = [(checked_score(reward, example, text), text) for text in texts if _differ(text, demonstration)]
            if scored:
                score, text = max(scored)
                results[name].append((score, shown[-1], text))
        if _differ("", demonstration):
            results["eos at once"].append((_play_eos(env, example), shown[-1], ""))
    results = {name: rows for name, rows in results.items() if rows}
    margins = {name: [demonstrated - score for score, demonstrated, _ in rows] for name, rows in results.items()}
    return CanaryScores(
        reward=reward.name,
        demonstration=float(np.mean(shown)),
        scores={name: float(np.mean([score for score, _, _ in rows])) for name, rows in results.items()},
        alive=tuple(name for name, differences in margins.items() if not _is_clearly_positive(differences)),
        responses={name: max(rows)[2] for name, rows in results.items()},
    )


def _is_clearly_positive(differences: list[float]) -> bool:
    """Returns True if the mean is above 0 by two standard errors."""
    error = np.std(differences, ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return bool(np.mean(differences) > 1e-9 + 2 * error)


def check_canaries(
    task: Any, reward: Any = None, *, num_examples: int = 32, split: str = "test", seed: int = 0
) -> None:
    """Checks that a reward ranks degenerate responses below demonstrations; `canary_scores` describes them.

    Args:
        task: Anything that `textenvs.make_task` takes.
        reward: Anything that `textenvs.make_reward` takes; None is the task's own.
        num_examples: The number of examples that the means are over.
        split: The split of the examples.
        seed: The seed of the shuffling.

    Raises:
        AssertionError: If a canary does not score clearly below the demonstrations: names it, and shows one.
        ValueError: If the task has no demonstrations.
        RewardError: If the reward fails.

    Example:
        >>> is_reference = lambda example, text: float(text in example.references)
        >>> check_canaries("stories", {"product": ["sentiment", is_reference]})
    """
    result = canary_scores(task, reward, num_examples=num_examples, split=split, seed=seed)
    if result.alive:
        listed = "".join(
            f"\n  {name}: {result.scores[name]:.3f}, such as {result.responses[name]!r}" for name in result.alive
        )
        raise AssertionError(
            f"Reward {result.reward!r} should score every degenerate response clearly below the demonstrations, "
            f"{result.demonstration:.3f}, but does not:{listed}"
        )


def pick_examples(task: Task, split: str, number: int) -> list[Example]:
    """Picks some examples of a split, the same at every call.

    Args:
        task: The task.
        split: The split; if it has no example, the first that has any is taken.
        number: The number of examples.

    Returns:
        At most that many examples.

    Raises:
        ValueError: If the task has no example at all.
    """
    for name in (split, *SPLITS):
        size = task.num_examples(name)
        if size:
            # Drawn, since every sixteenth example of a task that alternates between two kinds is of one kind.
            indices = random.Random(0).sample(range(size), min(number, size))
            return [task.example(name, index) for index in sorted(indices)]
    raise ValueError(f"Expected task {task.name!r} to have an example in some split")


def _vocabulary(examples: Sequence[Example], demonstrations: Sequence[str]) -> list[str]:
    """Collects words of the task, up to a maximum."""
    texts = [text for example in examples for text in (example.prompt, *example.references)]
    return list(dict.fromkeys(word for text in (*demonstrations, *texts) for word in text.split()))[:_MAX_WORDS]


def _texts(
    reward: Reward, example: Example, demonstration: str, vocabulary: Sequence[str], rng: random.Random
) -> dict[str, list[str]]:
    """Writes the canaries of one example, in one or several ways, of which the best counts."""
    words = demonstration.split()
    size = max(len(words), 1)
    # The parts judge as well: under a reward whose gate is closed, all words score alike.
    rankings = [_ranked(judge, example, vocabulary) for judge in (reward, *reward.parts.values())]
    source = (example.references[0] if example.references else demonstration).split()
    shuffled = rng.sample(source, len(source))
    favourites = [word for ranking in rankings for word in ranking[:3]]
    return {
        "empty": [""],
        "one word repeated": [" ".join([word] * size) for word in dict.fromkeys([*words[:1], *favourites])],
        "prompt copied": [example.prompt],
        "words shuffled": [] if shuffled == source else [" ".join(shuffled)],
        "keywords": [" ".join(ranking[:size]) for ranking in rankings],
    }


def _ranked(reward: Reward, example: Example, words: Sequence[str]) -> list[str]:
    # Ties go by the alphabet, so that no sentence is left in its order.
    return sorted(words, key=lambda word: (-checked_score(reward, example, word), word))


def _differ(text: str, demonstration: str) -> bool:
    """Returns False if the two are one answer, but for case and the marks around words."""
    words, shown = ([word.strip(punctuation).lower() for word in each.split()] for each in (text, demonstration))
    # Answers of marks alone, which leave no words, are compared as they are.
    return text.split() != demonstration.split() and (words != shown or not any(words))


def _play_eos(env: TextGenEnv, example: Example) -> float:
    """Returns the return of an episode whose every action is EOS."""
    env.reset(options={"example": example})
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.tokenizer.eos_token_id)
        total += reward
    return total
