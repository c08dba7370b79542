"""`check_task`: the contract of a task."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from textenvs.arguments import check_count
from textenvs.rewards import Reward, checked_score
from textenvs.rewards.registry import make_reward
from textenvs.tasks import ReferenceScores, Task
from textenvs.tasks.registry import make_task
from textenvs.testing.global_generators import reseeded_global_generators
from textenvs.testing.random_play import play_randomly
from textenvs.testing.rewards import spell
from textenvs.tokenizer import Tokenizer, decode, make_tokenizer

_RANDOM_EPISODES = 1024


def check_task(
    task: str | Task | Mapping[str, Mapping[str, Any]],
    tokenizer: Any = None,
    reward: Any = None,
    *,
    max_examples: int = 64,
) -> None:
    """Checks that a task keeps its contract.

    - An index in a split is one example, regardless of earlier calls and of the global random generators, and also in
      another process (a pickled copy, or the task made again from its name). An index outside raises IndexError, an
      unknown split ValueError.
    - No prompt is in two splits. Examples have the right types, and metadata that JSON can hold.
    - Prompts and demonstrations come back from the tokenizer as they went in (but for a space in front of a prompt); a
      demonstration and its EOS fit into the budget.
    - Over episodes of random tokens, the immediate and the sparse payout pay the same.
    - Demonstrations, if there are any, score better under the task's reward than random tokens.
    - Reference scores, if there are any, are right: random tokens, drawn with fixed seeds, score within 4 standard
      errors of the stated score, and the demonstrations exactly theirs, which is above the threshold. They are checked
      with the task's own tokenizer and reward alone, for which they hold.

    Args:
        task: Anything that `textenvs.make_task` takes.
        tokenizer: Anything that `textenvs.make_tokenizer` takes; None is the task's own.
        reward: Anything that `textenvs.make_reward` takes; None is the task's own.
        max_examples: The number of examples of each split that are looked at closely, evenly over the split. Prompts
            are compared over all.

    Raises:
        AssertionError: If the task breaks a promise.
        RewardError: If its reward fails.
        ValueError: If a name is unknown, or `max_examples` is below 1.
        TypeError: If `max_examples` is not a whole number.

    Example:
        >>> check_task("stories", max_examples=8)
    """
    check_count("max_examples", max_examples)
    checked = make_task(task)
    copied = pickle.loads(pickle.dumps(checked)) if isinstance(task, Task) else make_task(task)
    checker = _TaskChecker(
        checked,
        make_tokenizer(checked.default_tokenizer if tokenizer is None else tokenizer),
        make_reward(checked.default_reward if reward is None else reward),
        max_examples,
        is_default=tokenizer is None and reward is None,
    )
    checker.check_splits()
    checker.check_pure(copied)
    checker.check_examples()
    checker.check_prompts()
    checker.check_random_policy()
    checker.check_demonstrations(copied)


class _TaskChecker:
    """The promises of one task."""

    def __init__(
        self, task: Task, tokenizer: Tokenizer, reward: Reward, max_examples: int, *, is_default: bool
    ) -> None:
        self.task, self.tokenizer, self.reward = task, tokenizer, reward
        self.references = task.reference_scores() if is_default else None
        self.random = -math.inf  # the mean score of random tokens
        self.sizes = {split: self.check_size(split) for split in task.splits}
        if not any(self.sizes.values()):
            raise AssertionError(f"{self} should have an example in some split")
        self.places = [
            (split, index)
            for split, size in self.sizes.items()
            # Each step is one further than an even one: evenly spaced indices could miss every second kind of example.
            for index in sorted({(step * size // max_examples + step) % size for step in range(max_examples) if size})
        ]

    def __str__(self) -> str:
        return f"Task {self.task.name!r}"

    def check_size(self, split: str) -> int:
        """Returns the number of examples in a split; checks it, the weights, and the errors beyond its end."""
        size: Any = self.task.num_examples(split)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise AssertionError(f"{self}: num_examples({split!r}) should be a whole number from 0, got {size!r}")
        for method, arguments, expected in (
            (self.task.example, (split, size), IndexError),
            (self.task.example, ("no such split", 0), ValueError),
            (self.task.num_examples, ("no such split",), ValueError),
        ):
            call: Any = method
            try:
                got = call(*arguments)
            except expected:
                continue
            except Exception as error:
                got = repr(error)
            raise AssertionError(f"{self}: {call.__name__}{arguments} should raise {expected.__name__}, got {got}")
        weights = self.task.weights(split)
        if weights is not None:
            array = np.asarray(weights, dtype=np.float64)
            if array.shape != (size,) or not np.isfinite(array).all() or (array < 0).any() or (size and not any(array)):
                raise AssertionError(f"{self}: weights({split!r}) should be {size} numbers from 0, not all of them 0")
        return size

    def check_splits(self) -> None:
        """Checks that no prompt is in two splits."""
        seen: dict[str, str] = {}
        for split, size in self.sizes.items():
            for index in range(size):
                prompt = self.task.example(split, index).prompt
                if seen.setdefault(prompt, split) != split:
                    raise AssertionError(
                        f"{self}: no prompt should be in two splits, but {seen[prompt]!r} and {split!r} have {prompt!r}"
                    )

    def check_pure(self, copied: Task) -> None:
        """Checks that an example is a function of its split and index."""
        first = [self.task.example(*place) for place in self.places]
        with reseeded_global_generators():
            second = [self.task.example(*place) for place in reversed(self.places)][::-1]
            third = [copied.example(*place) for place in self.places]
        for place, example, repeated, in_copy in zip(self.places, first, second, third, strict=True):
            if example != repeated:
                raise AssertionError(
                    f"{self}: example{place} should be the same at every call, got {example} and then {repeated}"
                )
            if example != in_copy:
                raise AssertionError(
                    f"{self}: example{place} should be the same in a copy, got {example} and there {in_copy}"
                )

    def check_examples(self) -> None:
        """Checks that texts are strings, and metadata is JSON."""
        for place in self.places:
            example = self.task.example(*place)
            texts = (example.prompt, *example.references)
            if not isinstance(example.references, tuple) or not all(isinstance(text, str) for text in texts):
                raise AssertionError(f"{self}: example{place} should have texts and a tuple of texts, got {example!r}")
            try:
                json.dumps(dict(example.metadata), allow_nan=False)
            except (TypeError, ValueError) as error:
                raise AssertionError(f"{self}: the metadata of example{place} should be JSON, but {error}") from error

    def check_prompts(self) -> None:
        """Checks that the tokenizer can write every prompt."""
        texts = [self.task.example(*place).prompt for place in self.places]
        for place, text, ids in zip(self.places, texts, self.tokenizer.encode_batch(texts), strict=True):
            back = decode(self.tokenizer, ids)
            if back not in (text, f" {text}"):
                raise AssertionError(
                    f"{self}: the prompt of example{place} should come back from the tokenizer, {text!r}, got {back!r}"
                )

    def check_demonstrations(self, copied: Task) -> None:
        """Checks that demonstrations are pure, can be written, and beat random tokens."""
        scores = []
        for place in self.places:
            example = self.task.example(*place)
            try:
                text = self.task.demonstration(example)
            except NotImplementedError:
                return
            with reseeded_global_generators():
                texts = (self.task.demonstration(example), copied.demonstration(example))
            if texts != (text, text):
                raise AssertionError(f"{self}: demonstrations should be the same at every call, got {text!r}, {texts}")
            self.check_written(place, text)
            scores.append(checked_score(self.reward, example, text))
        shown = float(np.mean(scores))
        if not shown > self.random:
            raise AssertionError(
                f"{self}: demonstrations should score better than random tokens, got {shown} and {self.random} on "
                "average"
            )
        if self.references is not None:
            self.check_demonstration_score(self.references)

    def check_demonstration_score(self, references: ReferenceScores) -> None:
        """Checks the stated score of the demonstrations."""
        if not references.demonstration >= references.threshold:
            raise AssertionError(
                f"{self}: demonstrations should score near the top score {references.top}, at least "
                f"{references.threshold}, got {references.demonstration} by reference_scores"
            )
        examples = [self.task.example("test", index) for index in range(self.sizes["test"])]
        shown = float(
            np.mean([checked_score(self.reward, example, self.task.demonstration(example)) for example in examples])
        )
        if abs(shown - references.demonstration) > 1e-6:
            raise AssertionError(
                f"{self}: the demonstrations of split 'test' should score {references.demonstration} on average, "
                f"as reference_scores says, got {shown}"
            )

    def check_written(self, place: tuple[str, int], text: str) -> None:
        """Checks that an agent could have written a demonstration."""
        encode = getattr(self.tokenizer, "encode_response", None)
        ids = spell(self.tokenizer, text) if encode is None else encode(text)
        back, budget = decode(self.tokenizer, ids), self.task.default_max_new_tokens
        if back != text:
            raise AssertionError(
                f"{self}: the demonstration of example{place} should come back from the tokenizer, {text!r}, got "
                f"{back!r}"
            )
        if len(ids) + 1 > budget:
            raise AssertionError(
                f"{self}: the demonstration of example{place} and EOS should fit into {budget} tokens, got "
                f"{len(ids) + 1}: {text!r}"
            )

    def check_random_policy(self) -> None:
        """Checks that both payouts pay random tokens their score, and that its mean is the stated one."""
        split = "test" if self.references else next(split for split, size in self.sizes.items() if size)
        play = play_randomly(self.task, split, _RANDOM_EPISODES, 0, self.tokenizer, self.reward)
        wrong = np.flatnonzero(~np.isclose(play.immediate, play.scores, rtol=1e-9, atol=1e-9))
        if len(wrong):
            raise AssertionError(
                f"{self}: the payouts 'immediate' and 'sparse' should pay the same over an episode, got "
                f"{play.immediate[wrong[0]]} and {play.scores[wrong[0]]}"
            )
        self.random = float(play.scores.mean())
        if self.references is None:
            return
        stated = self.references.random
        variance = float(play.scores.var(ddof=1))
        if not variance and math.isfinite(self.reward.high - self.reward.low):
            # Success was too rare to be seen. Take the largest variance that a score in [low, high] with this mean can
            # have, that of one which is always either of the two.
            variance = (stated - self.reward.low) * (self.reward.high - stated)
        half = self.references.random_interval / 1.96
        error = math.sqrt(variance / len(play.scores) + half**2)
        if abs(self.random - stated) > 4 * error:
            raise AssertionError(
                f"{self}: random tokens should score {stated} on average in split {split!r}, as reference_scores says, "
                f"got {self.random} with a standard error of {error}"
            )
