"""The contract, as checks that anybody can run on a reward, a task or a vector environment of their own.

    from textenvs.testing import check_reward, check_task, check_vector_env
    check_reward(MyReward())
    check_task(MyTask())
    check_vector_env("MyEnv-v0")

A check passes silently, or raises with the first thing that it found wrong.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenvs.rewards import Reward, Scorer, checked_score, make_payout, make_reward
from textenvs.tasks import SPLITS, Example, Task, make_task
from textenvs.tokenizer import Tokenizer, decode, make_tokenizer
from textenvs.vector_env import TextGenVectorEnv

EXAMPLES = (
    Example(
        "A happy story. A fox",
        ("The fox was very happy.", "The fox found a red ball."),
        {
            "mood": "happy",
            "keywords": ["fox", ["so good", "very happy"]],
            "concepts": ["fox", "find_V", "ball_N"],
            "plot_points": ["the fox", ["not very happy", "sad"], "no"],
            "pattern": r"( ?(The|the) fox was (not )?)+very (happy|good)[.!]?",
            "answer": 3.5,
            "steps": [3, 7],
        },
    ),
    Example(
        "A sad story. A fox",
        ("The fox was not happy at all.",),
        {
            "mood": "sad",
            "formality": "informal",
            "keywords": ["sad"],
            "concepts": ["be", "happy"],
            "plot_points": ["was", "was", "isn't bad"],
            "pattern": "( ?[a-z]+){3}",
            "answer": 3,
            "length": [3, 5],
            "grade": 2,
        },
    ),
    Example(
        "",
        ("Nothing came before this.",),
        {
            "keywords": ["漢字"],
            "concepts": ["come"],
            "plot_points": ["Ä", "😀 x"],
            "pattern": "(Ä|漢字|😀)*",
            "answer": 1,
        },
    ),
)
"""What a reward is checked with when its checker names no examples. The metadata are those of our own scores."""

PAYOUTS: tuple[Any, ...] = (
    "immediate",
    "sparse",
    "word",
    "sentence",
    {"every": 1},
    {"every": 3},
    {"delayed": 1},
    {"delayed": 3},
    {"shaped": {"gamma": 1.0}},
    {"shaped": {"gamma": 0.9}},
    {"shaped": {"gamma": 0.0}},
)
"""Every kind of payout, some with more than one number."""

_TEXT = 'The fox was not very happy, but it is so good! "No!" never (sad)? :) 3.5\n\nÄ 漢字 😀 least isn\'t BAD ...'
_NUM_LANES = 3


def check_reward(
    reward: Any,
    tokenizer: Any = None,
    examples: Sequence[Example] | None = None,
    *,
    max_examples: int = 50,
    tolerance: float = 1e-9,
) -> None:
    """Hold a reward to what it promises.

    - It gives a finite number from `low` to `high`, the same at every call.
    - Token by token, its scorer gives the score of the decoded text so far: with special tokens and halves of
      characters among the tokens, for several lanes at once in any order, after resets, and beside another scorer.
    - `score_whole` agrees, and the parts of a combination are reported as each scores by itself.
    - Every payout pays the final score, all in all.

    Args:
        reward: What `textenvs.make_reward` takes.
        tokenizer: What `textenvs.make_tokenizer` takes; None is the bundled one.
        examples: What the responses answer; None is `EXAMPLES`. Give your own when the reward reads metadata.
        max_examples: How many runs of several episodes are tried. They are the same at every call.
        tolerance: How far two numbers that should be equal may lie apart, relative to the larger where that is above 1.

    Raises:
        AssertionError: If the reward breaks a promise.
        RewardError: If it raises, or gives something that is not a finite number.
        ImportError: If Hypothesis is not installed.

    Example:
        >>> check_reward(lambda example, response: len(response), max_examples=5)
    """
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st
        from hypothesis.errors import Flaky
    except ImportError as error:
        raise ImportError("check_reward draws its cases with Hypothesis: pip install hypothesis") from error

    made = make_tokenizer("stories" if tokenizer is None else tokenizer)
    checker = _RewardChecker(make_reward(reward), made, tolerance)
    cases = list(EXAMPLES if examples is None else examples)
    if not cases:
        raise ValueError("Expected at least one example to check a reward with, got none")
    checker.check_function(cases)

    texts = [_TEXT, *(text for case in cases for text in (case.prompt, *case.references))]
    words = sorted({(" " if place else "") + word for text in texts for place, word in enumerate(text.split(" "))})
    spelled = [spelling for spelling in (_spell(made, word) for word in words) if spelling]
    special = st.sampled_from([made.eos_token_id, made.bos_token_id, made.pad_token_id])
    one_token = st.one_of(st.integers(0, made.vocab_size - 1), special).map(lambda token: [token])
    written = st.one_of(st.sampled_from(spelled), one_token) if spelled else one_token
    response = st.lists(written, max_size=8).map(lambda parts: list(chain.from_iterable(parts)))
    plan = st.lists(st.tuples(st.sampled_from(cases), response), max_size=3)
    turns = st.lists(st.lists(st.integers(0, _NUM_LANES - 1), min_size=1, unique=True), max_size=24)

    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(plans=st.lists(plan, min_size=_NUM_LANES, max_size=_NUM_LANES), turns=turns)
    def check_episodes(plans: list[list[tuple[Example, list[int]]]], turns: list[list[int]]) -> None:
        checker.check_episodes(plans, turns)

    try:
        check_episodes()
    except Flaky as error:
        raise AssertionError(
            f"{checker} is not a function of example and response: the same episodes gave other scores the second time"
        ) from error


class _RewardChecker:
    """The promises of one reward over one tokenizer, apart from what draws the cases."""

    def __init__(self, reward: Reward, tokenizer: Tokenizer, tolerance: float) -> None:
        self.reward, self.tokenizer, self.tolerance = reward, tokenizer, tolerance
        if not reward.low <= reward.high:
            raise AssertionError(f"{self} should have low <= high, got {reward.low} and {reward.high}")

    def __str__(self) -> str:
        return f"Reward {self.reward.name!r}"

    def same(self, one: float, other: float) -> bool:
        return bool(abs(one - other) <= self.tolerance * max(1.0, abs(one), abs(other)))

    def score(self, example: Example, response: str) -> float:
        """The definition, in range."""
        score = checked_score(self.reward, example, response)
        slack = self.tolerance * max(1.0, abs(score))
        if not self.reward.low - slack <= score <= self.reward.high + slack:
            raise AssertionError(
                f"{self} should be from {self.reward.low} to {self.reward.high}, got {score} for {response!r} to "
                f"{example!r}"
            )
        return score

    def check_function(self, examples: Sequence[Example]) -> None:
        """Scores are in range, and the same in whatever order they are asked for."""
        texts = ["", *(text for example in examples for text in (example.prompt, *example.references)), _TEXT]
        pairs = [(example, text) for example in examples for text in texts]
        scores = [self.score(example, text) for example, text in pairs]
        for (example, text), before in reversed(list(zip(pairs, scores, strict=True))):
            again = self.score(example, text)
            if not self.same(before, again):
                raise AssertionError(
                    f"{self} should give one response the same score at every call, got {before} and then {again} for "
                    f"{text!r} to {example!r}"
                )

    def check_episodes(self, plans: list[list[tuple[Example, list[int]]]], turns: list[list[int]]) -> None:
        """Some lanes write several episodes each.

        Args:
            plans: For each lane, its episodes: an example and the tokens that answer it.
            turns: Which lanes take their next step together, in this order. What is left then runs lane by lane.
        """
        scorer = self.reward.scorer(len(plans), self.tokenizer)
        bystander = self.reward.scorer(1, self.tokenizer)  # another environment's, of the same reward
        steps = [_steps(plan) for plan in plans]
        left = [[lane] for lane, todo in enumerate(steps) for _ in todo]
        tokens: list[list[int]] = [[] for _ in plans]
        phis: list[list[float]] = [[] for _ in plans]
        for turn in turns + left:
            now = [(lane, *steps[lane].pop(0)) for lane in turn if steps[lane]]
            resets = [(lane, example) for lane, example, token in now if token is None]
            pushes = [(lane, example, token) for lane, example, token in now if token is not None]
            if resets:
                scorer.reset(_lanes(*(lane for lane, _ in resets)), [example for _, example in resets])
            for lane, _ in resets:
                tokens[lane], phis[lane] = [], []
            if not pushes:
                continue
            lanes = _lanes(*(lane for lane, _, _ in pushes))
            ids = np.array([token for _, _, token in pushes], dtype=np.int64)
            bystander.reset(_lanes(0), [pushes[0][1]])
            bystander.push(_lanes(0), ids[-1:])
            pushed = scorer.push(lanes, ids)
            self.check_shape("push", pushed, len(pushes))
            self.check_part_names(scorer, lanes)
            for (lane, example, token), phi in zip(pushes, pushed.tolist(), strict=True):
                tokens[lane].append(token)
                phis[lane].append(phi)
                self.check_push(example, tokens[lane], phi)
                if not steps[lane] or steps[lane][0][1] is None:  # the episode's last token
                    self.check_payouts(tokens[lane], phis[lane])
                    self.check_whole(example, tokens[lane])

    def check_push(self, example: Example, tokens: list[int], phi: float) -> None:
        """One lane's Phi is the score of what it wrote."""
        text = decode(self.tokenizer, tokens)
        score = self.score(example, text)
        if self.same(phi, score):
            return
        alone = self.reward.scorer(1, self.tokenizer)
        alone.reset(_lanes(0), [example])
        last = [float(alone.push(_lanes(0), np.array([token], dtype=np.int64))[0]) for token in tokens][-1]
        case = f"the tokens {tokens}, which are {text!r}, answering {example!r}"
        if self.same(last, score):
            raise AssertionError(
                f"{self}: a lane should feel its own text alone, not other lanes, their order, other scorers or "
                f"anything earlier, but push gave {phi} among them and {last} alone, after {case}"
            )
        raise AssertionError(f"{self}: push should give the score of the text so far, {score}, got {phi} after {case}")

    def check_whole(self, example: Example, tokens: list[int]) -> None:
        """A whole text's Phi is its score, and so are its parts', from a scorer that has seen nothing yet."""
        texts = (decode(self.tokenizer, tokens), "")
        lanes = _lanes(2, 0)
        scorer = self.reward.scorer(_NUM_LANES, self.tokenizer)
        whole = scorer.score_whole(lanes, [example, example], texts)
        self.check_shape("score_whole", whole, 2)
        for text, phi in zip(texts, whole.tolist(), strict=True):
            score = self.score(example, text)
            if not self.same(phi, score):
                raise AssertionError(
                    f"{self}: score_whole should give the score of the text, {score}, got {phi} for {text!r} to "
                    f"{example!r}"
                )
        self.check_part_names(scorer, lanes)
        for name, scores in scorer.part_scores(lanes).items():
            for text, phi in zip(texts, scores.tolist(), strict=True):
                score = checked_score(self.reward.parts[name], example, text)
                if not self.same(phi, score):
                    raise AssertionError(f"{self}: part {name!r} should be reported as {score}, got {phi} for {text!r}")

    def check_part_names(self, scorer: Scorer, lanes: NDArray[np.intp]) -> None:
        """The parts that a scorer reports are the parts that its reward has."""
        parts = scorer.part_scores(lanes)
        if set(parts) != set(self.reward.parts):
            raise AssertionError(f"{self} has the parts {sorted(self.reward.parts)}, but reports {sorted(parts)}")
        for name, scores in parts.items():
            self.check_shape(f"part_scores[{name!r}]", scores, len(lanes))

    def check_shape(self, method: str, scores: Any, rows: int) -> None:
        """A scorer gives one number a lane."""
        if not isinstance(scores, np.ndarray) or scores.shape != (rows,) or scores.dtype != np.float64:
            got = f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else type(scores).__name__
            raise AssertionError(f"{self}: {method} should give float64 ({rows},), one a lane, got {got}")

    def check_payouts(self, tokens: list[int], phis: list[float]) -> None:
        """However an episode is paid, it is paid its last Phi."""
        scale = max(1.0, *map(abs, phis))
        for spec in PAYOUTS:
            payout = make_payout(spec, 1, self.tokenizer)
            gamma = 1.0 if payout.gamma is None else payout.gamma
            paid = 0.0
            for step, (token, phi) in enumerate(zip(tokens, phis, strict=True)):
                ended = np.array([step == len(tokens) - 1])
                rewards = payout.pay(_lanes(0), np.array([phi]), ended, np.array([token], dtype=np.int64))
                paid += gamma**step * float(rewards[0])
            due = gamma ** (len(tokens) - 1) * phis[-1]
            if not abs(paid - due) <= self.tolerance * scale:
                raise AssertionError(f"{self}: payout {spec!r} should pay {due} over an episode, got {paid} for {phis}")


def _lanes(*lanes: int) -> NDArray[np.intp]:
    return np.array(lanes, dtype=np.intp)


def _steps(plan: list[tuple[Example, list[int]]]) -> list[tuple[Example, int | None]]:
    """What a lane does, step by step: a token to push, or None for the reset that starts an episode."""
    return [(example, token) for example, tokens in plan for token in (None, *tokens)]


def _spell(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens that write a text, the longest first at each place; bytes that no token writes are left out."""
    by_piece = {piece: token for token, piece in enumerate(tokenizer.pieces) if piece}
    longest = max(map(len, by_piece), default=0)
    data, tokens = text.encode(), []
    while data:
        length = next((length for length in range(longest, 0, -1) if data[:length] in by_piece), 0)
        if length:
            tokens.append(by_piece[data[:length]])
        data = data[length or 1 :]
    return tokens


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
    - Demonstrations, where there are any, score better under the task's reward than random tokens do.

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
    )
    checker.check_splits()
    checker.check_pure(again)
    checker.check_examples()
    checker.check_prompts()
    checker.check_demonstrations(again)


class _TaskChecker:
    """The promises of one task."""

    def __init__(self, task: Task, tokenizer: Tokenizer, reward: Reward, max_examples: int) -> None:
        self.task, self.tokenizer, self.reward = task, tokenizer, reward
        self.sizes = {split: self.check_size(split) for split in SPLITS}
        if not any(self.sizes.values()):
            raise AssertionError(f"{self} should have an example in some split")
        self.places = [
            (split, index)
            for split, size in self.sizes.items()
            for index in sorted({place * size // max_examples for place in range(max_examples)} if size else ())
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
        shown, drawn = float(np.mean(scores)), self.random_score()
        if not shown > drawn:
            raise AssertionError(
                f"{self}: demonstrations should score better than random tokens, got {shown} and {drawn} on average"
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

    def random_score(self) -> float:
        """The mean score of random tokens, over as many episodes as examples are looked at."""
        split = next(split for split, size in self.sizes.items() if size)
        lanes = max(len(self.places), 32)
        envs = TextGenVectorEnv(
            lanes, self.task, self.reward, "sparse", self.tokenizer, split=split, autoreset_mode=AutoresetMode.DISABLED
        )
        envs.reset(seed=0)
        rng, ended, scores = np.random.default_rng(0), np.zeros(lanes, dtype=np.bool_), np.zeros(lanes)
        while not ended.all():
            _, _, ended, _, infos = envs.step(rng.integers(self.tokenizer.vocab_size, size=lanes))
            scores = infos["score"]
        return float(scores.mean())


@contextmanager
def _other_global_generators() -> Iterator[None]:
    """Global random generators in another state, and back in their own afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a careless task would use
    random.seed(20_240_229)
    np.random.seed(20_240_229)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def check_vector_env(
    make: str | Callable[..., VectorEnv[Any, Any, Any]],
    make_single: Callable[[], gym.Env[Any, Any]] | None = None,
    *,
    num_envs: int = 3,
    steps: int = 100,
    seed: int = 0,
) -> None:
    """Hold a vector environment to what it promises: to be Gymnasium's `SyncVectorEnv` of the single one, only faster.

    - In every autoreset mode, it returns what `SyncVectorEnv` does: values, dtypes, keys, `final_obs` and `final_info`.
      So lane i, seeded s, is the single environment seeded s + i.
    - What it returns lies in its spaces, which are those of the single environment, batched. Rewards are float64, flags
      bool, `truncated` is False, infos have the same keys at every step, and nothing returned changes afterwards
      (unless it says `copy = False`).
    - A reset mask resets its lanes alone, and the options stay as they were.
    - A seed decides everything, whatever the global random generators hold and whatever another environment does. A
      pickled copy goes on as the environment does.

    Actions are random tokens, with EOS often among them where the environment has a `tokenizer`.

    Args:
        make: An id that Gymnasium knows, or a function `make(num_envs=..., autoreset_mode=...)` that returns one.
        make_single: Makes the single environment; None where `make` is an id.
        num_envs: How many lanes to try.
        steps: How many steps to take in each mode. Some episodes have to end in that time.
        seed: What all that is drawn here, and the environments, are seeded with.

    Raises:
        AssertionError: If the environment breaks a promise.
        TypeError: If `make` is a function and `make_single` is missing.
        ValueError: If no episode ends, or a number is below 1.

    Example:
        >>> check_vector_env("TextGen-v0", steps=40)
    """
    if num_envs < 1 or steps < 1:
        raise ValueError(f"Expected num_envs and steps to be at least 1, got {num_envs} and {steps}")
    if isinstance(make, str):
        env_id = make
        checker = _VectorChecker(
            lambda **kwargs: gym.make_vec(env_id, **kwargs), lambda: gym.make(env_id), num_envs, steps, seed
        )
    elif make_single is None:
        raise TypeError("Expected make_single, which makes the single environment, where make is a function")
    else:
        checker = _VectorChecker(make, make_single, num_envs, steps, seed)
    for mode in AutoresetMode:
        checker.check_spaces(mode)
        checker.check_as_sync(mode)
        checker.check_reset_mask(mode)
        checker.check_seed(mode)
        checker.check_pickle(mode)


class _VectorChecker:
    """The promises of one vector environment."""

    def __init__(
        self,
        make: Callable[..., VectorEnv[Any, Any, Any]],
        make_single: Callable[[], gym.Env[Any, Any]],
        num_envs: int,
        steps: int,
        seed: int,
    ) -> None:
        self._make, self.make_single = make, make_single
        self.num_envs, self.steps, self.seed = num_envs, steps, seed
        self.eos = getattr(getattr(make_single().unwrapped, "tokenizer", None), "eos_token_id", None)

    def make(self, mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
        """A fresh one."""
        return self._make(num_envs=self.num_envs, autoreset_mode=mode)

    def actions(self, envs: VectorEnv[Any, Any, Any]) -> Iterator[NDArray[np.int64]]:
        """Random tokens for each step, the same at every call."""
        rng = np.random.default_rng(self.seed)
        space: Any = envs.single_action_space
        for _ in range(self.steps):
            drawn = space.start + rng.integers(space.n, size=self.num_envs)
            ends = rng.random(self.num_envs) < 0.15
            yield drawn if self.eos is None else np.where(ends, self.eos, drawn)

    def played(self, mode: AutoresetMode, envs: VectorEnv[Any, Any, Any]) -> Iterator[tuple[str, Any]]:
        """All that an environment returns in some episodes, and where. Ended lanes are reset when that is asked for."""
        yield "reset", envs.reset(seed=self.seed)
        for step, actions in enumerate(self.actions(envs)):
            result = envs.step(actions)
            yield f"step {step}", result
            over = result[2] | result[3]
            if mode == AutoresetMode.DISABLED and over.any():
                yield f"reset after step {step}", envs.reset(options={"reset_mask": over.copy()})

    def check_spaces(self, mode: AutoresetMode) -> None:
        """Spaces, numbers and metadata."""
        envs, single = self.make(mode), self.make_single()
        if envs.num_envs != self.num_envs:
            raise AssertionError(f"num_envs should be {self.num_envs}, got {envs.num_envs}")
        if envs.metadata.get("autoreset_mode") != mode:
            raise AssertionError(
                f"metadata['autoreset_mode'] should be {mode}, got {envs.metadata.get('autoreset_mode')!r}"
            )
        for name in ("observation_space", "action_space"):
            one, batched = getattr(single, name), getattr(envs, name)
            if getattr(envs, f"single_{name}") != one:
                raise AssertionError(f"single_{name} should be {one}, got {getattr(envs, f'single_{name}')}")
            if batched != batch_space(one, self.num_envs):
                raise AssertionError(f"{name} should be single_{name}, batched, got {batched}")

    def check_as_sync(self, mode: AutoresetMode) -> None:
        """Everything is as Gymnasium's `SyncVectorEnv` has it."""
        envs = self.make(mode)
        sync = SyncVectorEnv([self.make_single] * self.num_envs, autoreset_mode=mode)
        kept: list[tuple[str, Any, Any]] = []
        keys: set[str] | None = None
        endings = 0
        for (where, ours), (_, theirs) in zip(self.played(mode, envs), self.played(mode, sync), strict=True):
            at = f"{mode.value}, {where}"
            self.check_types(envs, ours, at)
            _check_same(ours, theirs, f"{at}: ", "as SyncVectorEnv has it")
            now = set(ours[-1]) - {"final_obs", "_final_obs", "final_info", "_final_info"}
            keys = now if keys is None else keys
            if now != keys:
                raise AssertionError(
                    f"{at}: infos should have the same keys at every step, {sorted(keys ^ now)} changed"
                )
            if len(ours) == 5:
                endings += int(ours[2].sum())
            if getattr(envs.unwrapped, "copy", True):
                kept.append((at, ours, _snapshot(ours)))
        if not endings:
            raise ValueError(f"Expected an episode to end in {self.steps} steps: try more, or a smaller budget")
        for at, ours, copy in kept:
            _check_same(ours, copy, f"{at}: ", "as it was returned, after later steps")

    def check_types(self, envs: VectorEnv[Any, Any, Any], result: tuple[Any, ...], where: str) -> None:
        """What is returned lies in the spaces, and has the types that it should."""
        if result[0] not in envs.observation_space:
            raise AssertionError(f"{where}: observations should lie in observation_space, got {result[0]!r}")
        if len(result) == 2:
            return
        for name, array, dtype in zip(
            ("rewards", "terminated", "truncated"), result[1:4], (np.float64, np.bool_, np.bool_), strict=True
        ):
            if not isinstance(array, np.ndarray) or array.shape != (self.num_envs,) or array.dtype != dtype:
                raise AssertionError(f"{where}: {name} should be ({self.num_envs},) {dtype.__name__}, got {array!r}")
        if result[3].any():
            raise AssertionError(f"{where}: truncated should be False: spending a budget is an end of the task")

    def check_reset_mask(self, mode: AutoresetMode) -> None:
        """A mask resets its lanes alone."""
        envs = self.make(mode)
        envs.reset(seed=self.seed)
        actions = next(self.actions(envs))
        actions[actions == self.eos] = 1 if self.eos == 0 else 0
        before = _snapshot(envs.step(actions)[0])
        mask = np.arange(self.num_envs) % 2 == 0
        options = {"reset_mask": mask}
        after, _ = envs.reset(options=options)
        if (
            list(options) != ["reset_mask"]
            or options["reset_mask"] is not mask
            or mask.tolist() != [lane % 2 == 0 for lane in range(self.num_envs)]
        ):
            raise AssertionError(f"{mode.value}: a reset should leave its options as they are, got {options}")
        one, other = _rows(after, ~mask), _rows(before, ~mask)
        _check_same(one, other, f"{mode.value}, lanes outside a reset mask: ", "as they were")

    def check_seed(self, mode: AutoresetMode) -> None:
        """A seed decides everything, and other environments nothing."""
        alone = [(where, _snapshot(result)) for where, result in self.played(mode, self.make(mode))]
        with _other_global_generators():
            both = zip(self.played(mode, self.make(mode)), self.played(mode, self.make(mode)), strict=True)
            for (where, expected), ((_, one), (_, other)) in zip(alone, both, strict=True):
                for got in (one, other):
                    _check_same(got, expected, f"{mode.value}, {where}, again: ", "as the same seed gave it before")

    def check_pickle(self, mode: AutoresetMode) -> None:
        """A pickled copy goes on alike."""
        envs = self.make(mode)
        envs.reset(seed=self.seed)
        rest = list(self.actions(envs))
        first = envs.step(rest[0])
        if mode == AutoresetMode.DISABLED and (over := first[2]).any():
            envs.reset(options={"reset_mask": over.copy()})
        try:
            again = pickle.loads(pickle.dumps(envs))
        except Exception as error:
            raise AssertionError(f"{mode.value}: the environment should pickle, but {error!r}") from error
        for step, actions in enumerate(rest[1:20]):
            one, other = envs.step(actions), again.step(actions)
            _check_same(other, one, f"{mode.value}, step {step} of a pickled copy: ", "as in the original")


def _snapshot(value: Any) -> Any:
    """What was returned, as it was at that time."""
    return pickle.loads(pickle.dumps(value))


def _rows(value: Any, kept: NDArray[np.bool_]) -> Any:
    """Some lanes of what is batched."""
    return {key: _rows(part, kept) for key, part in value.items()} if isinstance(value, dict) else value[kept]


def _check_same(one: Any, other: Any, where: str, should: str) -> None:
    """Equal in value, type, dtype and keys, all the way down."""
    if type(one) is type(other):
        if isinstance(one, dict) and one.keys() == other.keys():
            for key in one:
                _check_same(one[key], other[key], f"{where}[{key!r}]", should)
            return
        if isinstance(one, np.ndarray) and one.dtype == other.dtype == object:
            one, other = one.tolist(), other.tolist()
        if isinstance(one, (list, tuple)) and len(one) == len(other):
            for place, (left, right) in enumerate(zip(one, other, strict=True)):
                _check_same(left, right, f"{where}[{place}]", should)
            return
        if isinstance(one, np.ndarray):
            if one.dtype == other.dtype and np.array_equal(one, other):
                return
        elif not isinstance(one, (dict, list, tuple)) and one == other:
            return
    raise AssertionError(f"{where} should be {should}, {_short(other)}, got {_short(one)}")


def _short(value: Any) -> str:
    """What it is, in a line or two."""
    shown = repr(sorted(value) if isinstance(value, dict) else value)
    shown = shown if len(shown) < 400 else f"{shown[:200]} ... {shown[-200:]}"
    return f"{type(value).__name__} {shown}" if not isinstance(value, np.ndarray) else f"{value.dtype} {shown}"
