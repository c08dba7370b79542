"""The evaluation of a policy: scores on examples that it never trained on, and what training on a score may cost.

The costs are watched by a held-out metric, the KL to the start model, the diversity and the length of the responses.
Comparisons of several policies are in comparison.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch

from agents.collector import collect
from agents.policy.policy import Policy
from agents.policy.sampling import Truncation
from agents.rollout import Rollout, reference_log_probs
from textenvs import Example, Reward, RewardError, TextGenVectorEnv, Tokenizer, make_reward
from textenvs.arguments import check_count, check_number
from textenvs.render import Segment
from textenvs.rewards import checked_score
from textenvs.tokenizer import decode_prompt, decode_tokens

_HELD_OUT_BATCH = 64  # texts

_EPISODES = {
    "prompts": "prompt",
    "responses": "response",
    "scores": "score",
    "held_outs": "held_out",
    "token_texts": "token_texts",
    "token_rewards": "token_rewards",
}
"""Field of an `Evaluation` with an entry for each episode to the name of an entry in a row of `samples`."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """The times at which a run is evaluated, and the sampling of its policy then.

    Before the first update and after the last one, a run is evaluated on validation and test examples; in between on
    validation examples alone, whose score decides which checkpoint is the best.
    """

    episodes: int = 300
    """Episodes of each evaluation."""
    during: int = 4
    """Evaluations between the first and the last, evenly over the run's tokens."""
    temperature: float | None = None
    """The number that logits are divided by; None: as in training."""
    deterministic: bool = False
    """If True, the likeliest token is taken at every step instead of a sample."""
    top_k: int | None = None
    """Sample from the k likeliest tokens alone."""
    top_p: float | None = None
    """Sample from the likeliest tokens alone, whose probabilities add up to this."""
    min_p: float | None = None
    """Sample from tokens alone that have at least this share of the likeliest one's probability."""
    seed: int = 0
    """Seed of the sampling."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If a number is out of range.
            TypeError: If a field is of the wrong type.
        """
        temperature = check_number("temperature", self.temperature, low=0.0, open_low=True, optional=True)
        object.__setattr__(self, "temperature", temperature)  # as one of Python's numbers, which JSON can hold
        for name, least in (("episodes", 1), ("during", 0), ("seed", 0)):
            object.__setattr__(self, name, check_count(name, getattr(self, name), least))
        Truncation.of(self.top_k, self.top_p, self.min_p)

    def sampling(self, temperature: float) -> dict[str, Any]:
        """Returns the arguments of `evaluate` that say how to sample.

        Args:
            temperature: The temperature of training.

        Returns:
            Name to argument.
        """
        return {
            "temperature": temperature if self.temperature is None else self.temperature,
            "deterministic": self.deterministic,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": self.seed,
        }

    def splits(self, progress: float, before: float | None, *, ended: bool) -> tuple[str, ...]:
        """Returns the splits on which an evaluation is due now.

        Args:
            progress: Share of the run's tokens that are played.
            before: That share at the last evaluation; None: there was none.
            ended: True if the run is over.

        Returns:
            The names of the splits.
        """
        if before is None or (ended and progress != before):
            return ("validation", "test")
        # The evaluations in between divide the run into stages: one is due when the next stage has begun.
        stage, last = (int(min(share, 1.0) * (self.during + 1)) for share in (progress, before))
        return ("validation",) if stage > last and not ended else ()


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        episodes: Number of episodes.
        score: Mean score.
        score_low: Lower end of the mean's 95 % confidence interval. Episodes of one example count as one sample of it,
            their mean.
        score_high: Its upper end.
        held_out: Mean of the held-out metric; None where there is none.
        held_out_low: Lower end of its interval.
        held_out_high: Upper end.
        kl: KL to the reference policy in nats a response, estimated from the responses. For a greedy policy it is minus
            the log-prob of its responses under the reference. None without a reference.
        distinct_2: Distinct word bigrams over all bigrams of the responses.
        response_length: Mean number of tokens of a response.
        held_out_name: Name of the held-out metric.
        demonstration: Mean score of the task's demonstrations of the same prompts; None where it has none.
        prompts: The prompt of each episode.
        responses: The response of each.
        scores: The score of each.
        held_outs: The held-out metric of each; None where there is none.
        token_texts: The text that each token of each response prints: none for special tokens.
        token_rewards: The reward of each of those tokens.
    """

    episodes: int
    score: float
    score_low: float
    score_high: float
    held_out: float | None
    held_out_low: float | None
    held_out_high: float | None
    kl: float | None
    distinct_2: float
    response_length: float
    held_out_name: str | None
    demonstration: float | None
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    held_outs: tuple[float, ...] | None
    token_texts: tuple[tuple[str, ...], ...]
    token_rewards: tuple[tuple[float, ...], ...]

    @property
    def share(self) -> float | None:
        """The score as a share of the demonstrations'; None where they are unknown, or not above 0."""
        return self.score / self.demonstration if self.demonstration is not None and self.demonstration > 0 else None

    def summary(self) -> dict[str, Any]:
        """The numbers, without the episodes."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _EPISODES}

    def samples(self) -> Iterator[dict[str, Any]]:
        """The episodes as JSON values, one dict each."""
        for episode in range(self.episodes):
            yield {
                name: None if (entries := getattr(self, column)) is None else entries[episode]
                for column, name in _EPISODES.items()
            }

    @classmethod
    def of(cls, summary: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Self:
        """Restores an evaluation from its `summary` and `samples`, which may have been JSON in between.

        Args:
            summary: The numbers. Other names in it are ignored.
            samples: The episodes.

        Returns:
            The evaluation.

        Raises:
            ValueError: If a name is missing, or there is another number of episodes.
        """
        try:
            numbers = {field.name: summary[field.name] for field in fields(cls) if field.name not in _EPISODES}
            _restore_infinities(numbers)
            columns: dict[str, Any] = {column: [row[name] for row in samples] for column, name in _EPISODES.items()}
        except KeyError as error:
            raise ValueError(f"Expected a whole evaluation, got one without {error}") from error
        if len(samples) != numbers["episodes"]:
            raise ValueError(f"Expected {numbers['episodes']} episodes of an evaluation, got {len(samples)}")
        for name, entries in columns.items():
            columns[name] = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in entries)
        if None in columns["held_outs"]:
            columns["held_outs"] = None
        return cls(**numbers, **columns)

    def segments(self, episode: int) -> list[Segment]:
        """Returns an episode for `textenvs.render`: its prompt, and each token of its response with its reward.

        Args:
            episode: Its index.

        Returns:
            The segments.
        """
        tokens = zip(self.token_texts[episode], self.token_rewards[episode], strict=True)
        response = [Segment(text, "response", reward, special=not text) for text, reward in tokens]
        return [Segment(self.prompts[episode], "prompt"), *response]


def _restore_infinities(numbers: dict[str, Any]) -> None:
    """Puts back the ends of intervals that JSON has as null: the interval of a single episode has none."""
    for mean in ("score", "held_out"):
        if numbers[mean] is not None:
            for end, infinity in ((f"{mean}_low", -math.inf), (f"{mean}_high", math.inf)):
                numbers[end] = infinity if numbers[end] is None else numbers[end]


def confidence_interval(
    samples: np.ndarray[Any, Any], clusters: Sequence[int] | None = None
) -> tuple[float, float, float]:
    """Computes the mean of samples, with its 95 % interval.

    Args:
        samples: `(n,)` float.
        clusters: `(n,)`, equal for samples that belong together, as several episodes of one prompt do. Samples of
            different clusters are independent. None: all samples are, as also where there is a single cluster.

    Returns:
        Mean, lower end, upper end: mean -+ 1.96 s / sqrt(n), the normal approximation, good from about 30 samples. Of
        k clusters as large as each other it is mean -+ 1.96 s / sqrt(k), with s of their means.

    Source: Liang & Zeger (1986), Longitudinal data analysis using generalized linear models, for clusters that differ
    in size, scaled by k / (k - 1).
    """
    mean, count = float(samples.mean()), len(samples)
    _, cluster = np.unique(np.arange(count) if clusters is None else np.asarray(clusters), return_inverse=True)
    sums = np.bincount(cluster, samples - mean)
    if 1 < len(sums) < count:
        margin = 1.96 * math.sqrt(len(sums) / (len(sums) - 1) * float(np.square(sums).sum())) / count
    else:
        margin = 1.96 * float(samples.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return mean, mean - margin, mean + margin


def held_out_scores(
    reward: Reward, examples: Sequence[Example], responses: Sequence[str], tokenizer: Tokenizer
) -> np.ndarray[Any, Any]:
    """Computes a second score of responses, in batches: a score that needs a network reads many texts at once.

    Args:
        reward: The held-out metric, or the reward itself, of whole texts.
        examples: The example that each response answers.
        responses: The texts.
        tokenizer: The tokenizer of the policy that wrote them.

    Returns:
        `(n,)` float64.

    Raises:
        RewardError: If the metric raises, or gives anything but a finite number; it names the example and response.
    """
    scores = np.zeros(len(responses))
    scorer = reward.scorer(min(_HELD_OUT_BATCH, len(responses)), tokenizer)
    for begin in range(0, len(responses), _HELD_OUT_BATCH):
        part = slice(begin, begin + _HELD_OUT_BATCH)
        try:
            scores[part] = scorer.score_whole(np.arange(len(responses[part])), examples[part], responses[part])
        except RewardError:
            raise
        except Exception:
            _raise_for_a_response(reward, examples[part], responses[part])
            raise
    wrong = np.flatnonzero(~np.isfinite(scores)).tolist()
    _raise_for_a_response(reward, [examples[row] for row in wrong], [responses[row] for row in wrong])
    return scores


def _raise_for_a_response(reward: Reward, examples: Sequence[Example], responses: Sequence[str]) -> None:
    """Scores responses one by one, so that the error of a batch names the response that it comes from."""
    for example, response in zip(examples, responses, strict=True):
        checked_score(reward, example, response)


def evaluate(
    policy: Policy,
    env: TextGenVectorEnv,
    num_episodes: int = 300,
    *,
    reference: Policy | None = None,
    held_out: Any = None,
    temperature: float = 1.0,
    deterministic: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
) -> Evaluation:
    """Plays the first examples of a split once each (again from the start, where there are too few) and scores them.

    Args:
        policy: The policy that plays.
        env: Lanes over the split to evaluate on, `autoreset_mode="Disabled"`.
        num_episodes: The number of episodes.
        reference: The policy to measure KL to, or None.
        held_out: A second score, as `make_reward` takes it; None takes the task's own, which may be none.
        temperature: The number that logits are divided by.
        deterministic: If True, the likeliest token is taken instead of a sample.
        top_k: Sample from the k likeliest tokens alone. KL is then that of the truncated policy.
        top_p: Sample from the likeliest tokens alone, whose probabilities add up to this.
        min_p: Sample from tokens alone that have at least this share of the likeliest one's probability.
        seed: Seed of the sampling.

    Returns:
        The evaluation. The same arguments give the same one.
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    examples = [episode % len(env.setting.pool) for episode in range(num_episodes)]
    rollout = collect(
        env,
        policy,
        num_episodes,
        seed=seed,
        temperature=temperature,
        deterministic=deterministic,
        generator=generator,
        examples=examples,
        truncation=Truncation.of(top_k, top_p, min_p),
    )
    return describe(rollout, policy, env, reference=reference, held_out=held_out, temperature=temperature)


def describe(
    rollout: Rollout,
    policy: Policy,
    env: TextGenVectorEnv,
    *,
    reference: Policy | None = None,
    held_out: Any = None,
    temperature: float = 1.0,
) -> Evaluation:
    """Evaluates the episodes of a rollout.

    Args:
        rollout: The episodes.
        policy: The policy that played them.
        env: The environment that they were played in.
        reference: The policy to measure KL to, or None.
        held_out: A second score, as `make_reward` takes it; None takes the task's own, which may be none.
        temperature: The number that logits were divided by.

    Returns:
        The evaluation.
    """
    episodes, rows = len(rollout), rollout.examples.tolist()  # of each episode: its example's row in the pool
    responses = rollout.responses(policy)
    scores = rollout.scores.double().cpu().numpy()
    score, low, high = confidence_interval(scores, rows)
    token_texts, token_rewards = _tokens(rollout, policy)
    held_out_reward = held_out if held_out is not None else env.task.held_out_reward
    held_out_interval: tuple[float | None, float | None, float | None] = (None, None, None)
    held_out_name = held_outs = None
    if held_out_reward is not None:
        metric = make_reward(held_out_reward)
        held_out_name = metric.name
        examples = [env.setting.pool.examples[row] for row in rows]
        held_outs = held_out_scores(metric, examples, responses, policy.tokenizer)
        held_out_interval = confidence_interval(held_outs, rows)
    kl = None
    if reference is not None:
        ref_log_probs = reference_log_probs(reference, rollout, temperature=temperature)
        kl = float(((rollout.log_probs - ref_log_probs) * rollout.response_mask).sum() / episodes)
    return Evaluation(
        episodes=episodes,
        score=score,
        score_low=low,
        score_high=high,
        held_out=held_out_interval[0],
        held_out_low=held_out_interval[1],
        held_out_high=held_out_interval[2],
        kl=kl,
        distinct_2=distinct_n(responses),
        response_length=float(rollout.response_mask.sum() / episodes),
        held_out_name=held_out_name,
        demonstration=demonstration_score(env, rows, policy.tokenizer),
        prompts=tuple(prompt_texts(env, rows)),
        responses=tuple(responses),
        scores=tuple(scores.tolist()),
        held_outs=None if held_outs is None else tuple(held_outs.tolist()),
        token_texts=token_texts,
        token_rewards=token_rewards,
    )


def demonstration_score(env: TextGenVectorEnv, rows: Sequence[int], tokenizer: Tokenizer) -> float | None:
    """Scores the task's demonstrations of some prompts with the environment's reward, as it is now.

    Args:
        env: The environment.
        rows: The prompts' rows in its pool, one for each episode.
        tokenizer: The tokenizer of whoever writes there.

    Returns:
        The mean over the episodes; None where the task has no demonstrations.

    Raises:
        RewardError: If the reward fails on one.
    """
    examples = [env.setting.pool.examples[row] for row in rows]
    try:
        texts = [env.task.demonstration(example) for example in examples]
    except NotImplementedError:
        return None
    return float(held_out_scores(env.setting.reward, examples, texts, tokenizer).mean())


def _tokens(rollout: Rollout, policy: Policy) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[float, ...], ...]]:
    """The text that each token of each response adds, and its reward.

    A character that is split over several tokens is the text of the last of them.
    """
    actions = rollout.input_ids.gather(1, rollout.positions).tolist()
    lengths = rollout.response_mask.sum(dim=1).tolist()
    texts = [tuple(decode_tokens(policy.tokenizer, row[:length])) for row, length in zip(actions, lengths, strict=True)]
    rewards = [tuple(row[:length]) for row, length in zip(rollout.rewards.tolist(), lengths, strict=True)]
    return tuple(texts), tuple(rewards)


def prompt_texts(env: TextGenVectorEnv, rows: list[int]) -> list[str]:
    """Returns prompts of an environment's pool as texts, cut to the environment's length.

    Args:
        env: The environment.
        rows: The prompts' rows in the pool.

    Returns:
        The texts.
    """
    pool = env.setting.pool
    return [decode_prompt(env.tokenizer, pool.prompts[row, : pool.lengths[row]].tolist()) for row in rows]


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Computes the share of distinct n-grams among all word n-grams of a corpus.

    Args:
        texts: The corpus. White space divides words; n-grams do not cross texts.
        n: Number of words in an n-gram.

    Returns:
        The share, from 0 to 1; 0 where there is no n-gram. It falls as a corpus grows: compare corpora of equal size.

    Source: Li et al. (2016), A diversity-promoting objective function for neural conversation models.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.split()
        counts.update(zip(*(words[start:] for start in range(n)), strict=False))
    total = counts.total()
    return len(counts) / total if total else 0.0
