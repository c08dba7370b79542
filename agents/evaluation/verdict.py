"""The verdict on a run, in a sentence, and the warning before it that there is hardly anything to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agents.evaluation.evaluation import Evaluation
from textenvs import TextGenVectorEnv, make_tokenizer

_SAMPLES = 3
_SAMPLE_LENGTH = 160  # characters
_MOST, _NEARLY_ALL = 0.75, 0.95
"""Shares of equal scores from which learning is said to be slow, and from which there is hardly anything to learn.
Random play has 0.66 on TextGen/Copy-v0, 0.86 on Brackets and 0.94 on DelayedCue, which PPO learns, and 1 on Password.
"""

_FEWEST = 16
"""Scores below which nothing is said."""


def verdict(before: Evaluation, after: Evaluation, split: str = "test") -> str:
    """Says what training has changed, and what it has cost.

    Args:
        before: The evaluation of the start model.
        after: The evaluation of the trained one, on the same prompts.
        split: The split that both are of.

    Returns:
        A sentence: score, share of the demonstrations' score, and in brackets the held-out metric, KL and diversity.
        It says so where the intervals of the two scores overlap.
    """
    parts = [f"{split.capitalize()} score {_number(before.score)} -> {_number(after.score)}"]
    if before.share is not None and after.share is not None:
        parts.append(f"from {before.share:.0%} to {after.share:.0%} of the demonstrations'")
    costs = []
    if before.held_out is not None and after.held_out is not None:
        name = before.held_out_name or "held-out metric"
        costs.append(f"{name} {_number(before.held_out)} -> {_number(after.held_out)}")
    if after.kl is not None:
        costs.append(f"KL {after.kl:.1f} nats")
    costs.append(f"diversity {before.distinct_2:.2f} -> {after.distinct_2:.2f}")
    doubt = ""
    if after.score_low <= before.score_high and before.score_low <= after.score_high:
        doubt = " The 95 % intervals of the two scores overlap: more episodes or more training would tell."
    return f"{': '.join(parts)} ({'; '.join(costs)}).{doubt}"


def too_equal(scores: Sequence[float], responses: Sequence[str], demonstration: float | None) -> str | None:
    """Warns where the scores of a start model hardly differ, so that an algorithm has next to nothing to learn from.

    Args:
        scores: The score of each episode.
        responses: The text of each.
        demonstration: Mean score of the demonstrations; None where there are none.

    Returns:
        The warning: share of the most frequent score, spread, three samples, and what to try; None where less than
        three quarters of the scores are equal, or there are less than 16.
    """
    if len(scores) < _FEWEST:
        return None
    commonest, count = Counter(round(score, 9) for score in scores).most_common(1)[0]
    share = count / len(scores)
    if share < _MOST:
        return None
    mean = sum(scores) / len(scores)
    spread = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    shown = "" if demonstration is None else f"; demonstrations score {_number(demonstration)}"
    first = list(zip(scores, responses, strict=True))[:_SAMPLES]
    samples = "".join(f"    {score:+.3f} {_short(text)!r}\n" for score, text in first)
    warm_start = "a warm start on demonstrations (python -m agents sft), " if demonstration is not None else ""
    meaning = "there is hardly anything to learn from" if share >= _NEARLY_ALL else "learning will be slow"
    return (
        f"{share:.0%} of the start model's {len(scores)} scores are {_number(commonest)} (mean {_number(mean)}, "
        f"standard deviation {_number(spread)}{shown}): {meaning}. Its first "
        f"responses:\n{samples}Try {warm_start}another start model, or another reward or payout"
    )


def yardsticks(env: TextGenVectorEnv, split: str) -> dict[str, float]:
    """Returns the known scores that a learning curve is read against.

    Args:
        env: The environment that is trained in.
        split: The split that is evaluated.

    Returns:
        Name to mean score: "random" and "blind" (the best constant text) where the task knows them and the environment
        has its default reward, tokenizer and budget.
    """
    task, setting = env.task, env.setting
    is_default = (
        setting.has_default_reward
        and setting.max_new_tokens == task.default_max_new_tokens
        and setting.tokenizer.vocab_size == make_tokenizer(task.default_tokenizer).vocab_size
    )
    # Asked for last: some tasks work their scores out by dynamic programming.
    scores = task.reference_scores(split) if is_default and split in task.splits else None
    if scores is None:
        return {}
    known = {"random": scores.random, "blind": scores.blind}
    return {name: value for name, value in known.items() if value is not None}


def _number(value: float) -> str:
    """A number in three decimals, more where it is small."""
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def _short(text: str) -> str:
    return text if len(text) <= _SAMPLE_LENGTH else text[: _SAMPLE_LENGTH - 3] + "..."
