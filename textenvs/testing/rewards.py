"""`check_reward`: the contract of a reward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards import Reward, Scorer, checked_score, make_payout
from textenvs.rewards.registry import make_reward
from textenvs.tasks import Example
from textenvs.tokenizer import Tokenizer, decode, make_tokenizer

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
"""The examples of `check_reward` when it is given none. Their metadata are those that the bundled scores read."""

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
"""Every kind of payout, some with several numbers."""

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
    """Checks that a reward keeps its contract.

    - It gives a finite number from `low` to `high`, the same at every call.
    - Token by token, its scorer gives the score of the decoded text so far: with special tokens and halves of
      characters among the tokens, for several lanes at once in any order, after resets, and beside another scorer.
    - `score_whole` agrees, and each part of a combination is reported with the score that it has by itself.
    - Every payout pays the final score over an episode.

    Args:
        reward: Anything that `textenvs.make_reward` takes.
        tokenizer: Anything that `textenvs.make_tokenizer` takes; None is the bundled one.
        examples: The examples that are answered; None is `EXAMPLES`. Give your own if the reward reads metadata.
        max_examples: The number of runs of several episodes. They are the same at every call.
        tolerance: The largest difference of two numbers that should be equal, relative to the larger if that is above
            1.

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

    tokenizer = make_tokenizer("stories" if tokenizer is None else tokenizer)
    checker = _RewardChecker(make_reward(reward), tokenizer, tolerance)
    cases = list(EXAMPLES if examples is None else examples)
    if not cases:
        raise ValueError("Expected at least one example to check a reward with, got none")
    checker.check_function(cases)

    texts = [_TEXT, *(text for case in cases for text in (case.prompt, *case.references))]
    words = sorted({(" " if index else "") + word for text in texts for index, word in enumerate(text.split(" "))})
    spellings = [spelling for spelling in (spell(tokenizer, word) for word in words) if spelling]
    special = st.sampled_from([tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id])
    single_token = st.one_of(st.integers(0, tokenizer.vocab_size - 1), special).map(lambda token: [token])
    word_or_token = st.one_of(st.sampled_from(spellings), single_token) if spellings else single_token
    response = st.lists(word_or_token, max_size=8).map(lambda parts: list(chain.from_iterable(parts)))
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
    """The promises of one reward over one tokenizer, apart from the drawing of cases."""

    def __init__(self, reward: Reward, tokenizer: Tokenizer, tolerance: float) -> None:
        self.reward, self.tokenizer, self.tolerance = reward, tokenizer, tolerance
        if not reward.low <= reward.high:
            raise AssertionError(f"{self} should have low <= high, got {reward.low} and {reward.high}")

    def __str__(self) -> str:
        return f"Reward {self.reward.name!r}"

    def same(self, left: float, right: float) -> bool:
        return bool(abs(left - right) <= self.tolerance * max(1.0, abs(left), abs(right)))

    def score(self, example: Example, response: str) -> float:
        """Computes the score of a whole response, and checks its range."""
        score = checked_score(self.reward, example, response)
        slack = self.tolerance * max(1.0, abs(score))
        if not self.reward.low - slack <= score <= self.reward.high + slack:
            raise AssertionError(
                f"{self} should be from {self.reward.low} to {self.reward.high}, got {score} for {response!r} to "
                f"{example!r}"
            )
        return score

    def check_function(self, examples: Sequence[Example]) -> None:
        """Checks that scores are in range, and do not depend on the order of the calls."""
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
        """Writes several episodes in each of some lanes, and checks every score on the way.

        Args:
            plans: The episodes of each lane: an example and the tokens that answer it.
            turns: The lanes that take their next step together, turn by turn. Steps left after them run lane by lane.
        """
        scorer = self.reward.scorer(len(plans), self.tokenizer)
        bystander = self.reward.scorer(1, self.tokenizer)  # as if of another environment with the same reward
        steps = [_steps(plan) for plan in plans]
        remaining = [[lane] for lane, lane_steps in enumerate(steps) for _ in lane_steps]
        tokens: list[list[int]] = [[] for _ in plans]
        phis: list[list[float]] = [[] for _ in plans]
        for turn in turns + remaining:
            taken = [(lane, *steps[lane].pop(0)) for lane in turn if steps[lane]]
            resets = [(lane, example) for lane, example, token in taken if token is None]
            pushes = [(lane, example, token) for lane, example, token in taken if token is not None]
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
        """Checks that one lane's Phi is the score of its text."""
        text = decode(self.tokenizer, tokens)
        score = self.score(example, text)
        if self.same(phi, score):
            return
        # Wrong. The same tokens in a lane alone tell if other lanes disturbed it, for a better message.
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
        """Checks that a fresh scorer gives a whole text its score, and its parts theirs."""
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
        """Checks that a scorer reports just the parts of its reward."""
        parts = scorer.part_scores(lanes)
        if set(parts) != set(self.reward.parts):
            raise AssertionError(f"{self} has the parts {sorted(self.reward.parts)}, but reports {sorted(parts)}")
        for name, scores in parts.items():
            self.check_shape(f"part_scores[{name!r}]", scores, len(lanes))

    def check_shape(self, method: str, scores: Any, rows: int) -> None:
        """Checks that a scorer gives one number for each lane."""
        if not isinstance(scores, np.ndarray) or scores.shape != (rows,) or scores.dtype != np.float64:
            got = f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else type(scores).__name__
            raise AssertionError(f"{self}: {method} should give float64 ({rows},), one a lane, got {got}")

    def check_payouts(self, tokens: list[int], phis: list[float]) -> None:
        """Checks that every payout pays an episode's last Phi in total."""
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
    """Lists a lane's steps: a token to push, or None for the reset that starts an episode."""
    return [(example, token) for example, tokens in plan for token in (None, *tokens)]


def spell(tokenizer: Tokenizer, text: str) -> list[int]:
    """Writes a text with a tokenizer that has no `encode_response`: the longest piece that fits, and on from its end.

    Args:
        tokenizer: Any tokenizer.
        text: The text.

    Returns:
        The tokens. Bytes that no token writes are left out.
    """
    by_piece = {piece: token for token, piece in enumerate(tokenizer.pieces) if piece}
    longest = max(map(len, by_piece), default=0)
    data, tokens = text.encode(), []
    while data:
        length = next((length for length in range(longest, 0, -1) if data[:length] in by_piece), 0)
        if length:
            tokens.append(by_piece[data[:length]])
        data = data[length or 1 :]
    return tokens
