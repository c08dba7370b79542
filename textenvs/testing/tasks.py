"""`check_task`: the contract of a task."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from textenvs.rewards import Reward, checked_score
from textenvs.rewards.registry import make_reward
from textenvs.tasks import Task
from textenvs.tasks.registry import make_task
from textenvs.testing.random_play import play_randomly
from textenvs.testing.rewards import _spell
from textenvs.testing.vector_envs import _other_global_generators
from textenvs.tokenizer import Tokenizer, decode, make_tokenizer

_RANDOM_EPISODES = 1024


def check_task(
    task: str | Task | Mapping[str, Mapping[str, Any]],
    tokenizer: Any = None,
    reward: Any = None,
    *,
    max_examples: int = 64,
) -> None:
    """Hold a task to what it promises.

    - A place in a split is one example, whatever was asked before, whatever the global random generators hold, and in
      another process (a pickled copy, or the task made again from its name). A place outside raises IndexError, an
      unknown split ValueError.
    - No prompt is in two splits. Examples have the right types, and metadata that JSON can hold.
    - Prompts, and the demonstrations, come back from the tokenizer as they went in (but for a space in front of a
      prompt); a demonstration and its EOS fit into the budget.
    - Over episodes of random tokens, the immediate and the sparse payout pay the same.
    - Demonstrations, where there are any, score better under the task's reward than random tokens do.
    - Reference scores, where there are any, are so: random tokens, drawn with fixed seeds, score within 4 standard
      errors of what the task says, and the demonstrations just that, which is above the threshold. They hold for the
      task's own tokenizer and reward, and are looked at with these alone.

    Args:
        task: What `textenvs.make_task` takes.
        tokenizer: What `textenvs.make_tokenizer` takes; None is the task's own.
        reward: What `textenvs.make_reward` takes; None is the task's own.
        max_examples: How many examples of each split are looked at closely; they lie evenly over the split. Prompts are
            compared over all.

    Raises:
        AssertionError: If the task breaks a promise.
        RewardError: If its reward fails.
        ValueError: If a name is unknown, or `max_examples` is below 1.

    Example:
        >>> check_task("stories", max_examples=8)
    """
    if max_examples < 1:
        raise ValueError(f"Expected max_examples to be at least 1, got {max_examples}")
    made = make_task(task)
    again = pickle.loads(pickle.dumps(made)) if isinstance(task, Task) else make_task(task)
    checker = _TaskChecker(
        made,
        make_tokenizer(made.default_tokenizer if tokenizer is None else tokenizer),
        make_reward(made.default_reward if reward is None else reward),
        max_examples,
        is_default=tokenizer is None and reward is None,
    )
    checker.check_splits()
    checker.check_pure(again)
    checker.check_examples()
    checker.check_prompts()
    checker.check_random_policy()
    checker.check_demonstrations(again)


class _TaskChecker:
    """The promises of one task."""

    def __init__(
        self, task: Task, tokenizer: Tokenizer, reward: Reward, max_examples: int, *, is_default: bool
    ) -> None:
        self.task, self.tokenizer, self.reward = task, tokenizer, reward
        self.references = task.reference_scores() if is_default else None
        self.random = -math.inf  # what random tokens score
        self.sizes = {split: self.check_size(split) for split in task.splits}
        if not any(self.sizes.values()):
            raise AssertionError(f"{self} should have an example in some split")
        self.places = [
            (split, index)
            for split, size in self.sizes.items()
            # One further each time, since what alternates from index to index would fall in step with even distances.
            for index in sorted(
                {(place * size // max_examples + place) % size for place in range(max_examples) if size}
            )
        ]

    def __str__(self) -> str:
        return f"Task {self.task.name!r}"

    def check_size(self, split: str) -> int:
        """How many examples a split has, and what is said of places and splits that are not there."""
        size: Any = self.task.num_examples(split)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise AssertionError(f"{self}: num_examples({split!r}) should be a whole number from 0, got {size!r}")
        for method, asked, wanted in (
            (self.task.example, (split, size), IndexError),
            (self.task.example, ("no such split", 0), ValueError),
            (self.task.num_examples, ("no such split",), ValueError),
        ):
            call: Any = method
            try:
                got = call(*asked)
            except wanted:
                continue
            except Exception as error:
                got = repr(error)
            raise AssertionError(f"{self}: {call.__name__}{asked} should raise {wanted.__name__}, got {got}")
        weights = self.task.weights(split)
        if weights is not None:
            array = np.asarray(weights, dtype=np.float64)
            if array.shape != (size,) or not np.isfinite(array).all() or (array < 0).any() or (size and not any(array)):
                raise AssertionError(f"{self}: weights({split!r}) should be {size} numbers from 0, not all of them 0")
        return size

    def check_splits(self) -> None:
        """No prompt is in two splits."""
        seen: dict[str, str] = {}
        for split, size in self.sizes.items():
            for index in range(size):
                prompt = self.task.example(split, index).prompt
                if seen.setdefault(prompt, split) != split:
                    raise AssertionError(
                        f"{self}: no prompt should be in two splits, but {seen[prompt]!r} and {split!r} have {prompt!r}"
                    )

    def check_pure(self, again: Task) -> None:
        """An example is a function of its place."""
        first = [self.task.example(*place) for place in self.places]
        with _other_global_generators():
            second = [self.task.example(*place) for place in reversed(self.places)][::-1]
            third = [again.example(*place) for place in self.places]
        for place, one, two, three in zip(self.places, first, second, third, strict=True):
            if one != two:
                raise AssertionError(
                    f"{self}: example{place} should be the same at every call, got {one} and then {two}"
                )
            if one != three:
                raise AssertionError(
                    f"{self}: example{place} should be the same in a copy, got {one} and there {three}"
                )

    def check_examples(self) -> None:
        """Texts are texts, and metadata is JSON."""
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
        """The tokenizer can write every prompt."""
        texts = [self.task.example(*place).prompt for place in self.places]
        for place, text, ids in zip(self.places, texts, self.tokenizer.encode_batch(texts), strict=True):
            back = decode(self.tokenizer, ids)
            if back not in (text, f" {text}"):
                raise AssertionError(
                    f"{self}: the prompt of example{place} should come back from the tokenizer, {text!r}, got {back!r}"
                )

    def check_demonstrations(self, again: Task) -> None:
        """Demonstrations are pure, fit into the budget and are better than nothing."""
        scores = []
        for place in self.places:
            example = self.task.example(*place)
            try:
                text = self.task.demonstration(example)
            except NotImplementedError:
                return
            with _other_global_generators():
                texts = (self.task.demonstration(example), again.demonstration(example))
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
        if self.references is None:
            return
        if not self.references.demonstration >= self.references.threshold:
            raise AssertionError(
                f"{self}: demonstrations should score near the top score {self.references.top}, at least "
                f"{self.references.threshold}, got {self.references.demonstration} by reference_scores"
            )
        examples = [self.task.example("test", index) for index in range(self.sizes["test"])]
        shown = float(
            np.mean([checked_score(self.reward, example, self.task.demonstration(example)) for example in examples])
        )
        if abs(shown - self.references.demonstration) > 1e-6:
            raise AssertionError(
                f"{self}: the demonstrations of split 'test' should score {self.references.demonstration} on average, "
                f"as reference_scores says, got {shown}"
            )

    def check_written(self, place: tuple[str, int], text: str) -> None:
        """An agent could have written a demonstration."""
        encode = getattr(self.tokenizer, "encode_response", None)
        ids = _spell(self.tokenizer, text) if encode is None else encode(text)
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
        """Both payouts pay the score of what random tokens wrote, and its mean is what the task says."""
        split = "test" if self.references else next(split for split, size in self.sizes.items() if size)
        found = play_randomly(self.task, split, _RANDOM_EPISODES, 0, self.tokenizer, self.reward)
        wrong = np.flatnonzero(~np.isclose(found.immediate, found.scores, rtol=1e-9, atol=1e-9))
        if len(wrong):
            raise AssertionError(
                f"{self}: the payouts 'immediate' and 'sparse' should pay the same over an episode, got "
                f"{found.immediate[wrong[0]]} and {found.scores[wrong[0]]}"
            )
        self.random = float(found.scores.mean())
        if self.references is None:
            return
        stated = self.references.random
        variance = float(found.scores.var(ddof=1))
        if not variance and math.isfinite(self.reward.high - self.reward.low):
            # Too rare to be seen. A score in [low, high] varies most where it is always one of the two.
            variance = (stated - self.reward.low) * (self.reward.high - stated)
        half = self.references.random_interval / 1.96
        error = math.sqrt(variance / len(found.scores) + half**2)
        if abs(self.random - stated) > 4 * error:
            raise AssertionError(
                f"{self}: random tokens should score {stated} on average in split {split!r}, as reference_scores says, "
                f"got {self.random} with a standard error of {error}"
            )
