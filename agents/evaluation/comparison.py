"""Language models as policies, on the same prompts: which is better, by how much, and through which tokens.

Every model plays the same examples. Beside scores and their differences stands the **cumulative advantage** under a
reference policy's value function: the discounted sum of TD errors. At `gae_lambda = 0` it is the return minus what the
reference was expected to get from that prompt, and its terms show token by token where the difference came from.

The value function is fitted here (fitted_values.py), since a language model that was not trained by reinforcement
learning has none: ridge regression from the reference's hidden states to its own returns. It is cross-fitted over folds
of the prompts, so that no prompt's values come from that prompt's episodes (but for the choice of one penalty), and a
small set of prompts needs no second one beside it.

labels.py and paired_prompts.py hold what is measured on tasks with labels and with paired prompts alone;
comparison_page.py shows a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from agents.advantages import discounted_returns
from agents.collector import collect, make_env
from agents.evaluation.evaluation import Evaluation, confidence_interval, describe
from agents.evaluation.fitted_values import ReferenceValues
from agents.evaluation.labels import Labels, label_scores
from agents.evaluation.paired_prompts import Gap, score_gap
from agents.policy.policy import Policy
from agents.rollout import Rollout
from textenvs import Example, TextGenVectorEnv, make_tokenizer
from textenvs.arguments import check_choice, check_count
from textenvs.render import Segment
from textenvs.tokenizer import fingerprint


@dataclass(frozen=True)
class Difference:
    """A model minus the reference, on the same prompts.

    Attributes:
        mean: Mean over prompts of the difference of their mean scores.
        low: Lower end of its 95 % confidence interval, paired by prompt.
        high: Its upper end.
        wins: Share of prompts on which the model's mean score is higher.
        ties: Share on which the two are equal.
        by_prompt: The difference of each prompt, in the order of the split.
    """

    mean: float
    low: float
    high: float
    wins: float
    ties: float
    by_prompt: tuple[float, ...]


@dataclass(frozen=True)
class ModelResult:
    """The results of one model.

    Attributes:
        name: The model's name.
        evaluation: Scores, held-out metric, diversity, texts.
        normalised: The mean score from random, 0, to top, 1; None where the task or the settings have no scale.
        returns: Discounted return of each episode.
        difference: The difference to the reference; None for the reference itself.
        advantages: Cumulative advantage of each episode.
        token_advantages: Each token's share of it; None where the model has another tokenizer than the reference, whose
            values are then known for the prompt alone.
        folds: Mean score of each fold of the prompts.
        labels: How good the responses are as labels; None unless the task has labels.
        gap: The score gap between paired prompts; None unless the task has them.
    """

    name: str
    evaluation: Evaluation
    normalised: float | None
    returns: tuple[float, ...]
    difference: Difference | None
    advantages: tuple[float, ...] | None
    token_advantages: tuple[tuple[float, ...], ...] | None
    folds: tuple[float, ...]
    labels: Labels | None
    gap: Gap | None

    def segments(self, episode: int) -> list[Segment]:
        """One episode for `textenvs.render`, each token with its share of the cumulative advantage.

        Args:
            episode: Its index.

        Returns:
            The segments.

        Raises:
            ValueError: If the model has another tokenizer than the reference.
        """
        if self.token_advantages is None:
            raise ValueError(f"Expected a model with the reference's tokenizer, got {self.name!r}, which has another")
        advantages = iter(self.token_advantages[episode])
        return [
            replace(segment, reward=next(advantages)) if segment.kind == "response" else segment
            for segment in self.evaluation.segments(episode)
        ]

    def summary(self) -> dict[str, Any]:
        """The numbers, as JSON values, without the episodes."""
        summary: dict[str, Any] = {"name": self.name, **self.evaluation.summary(), "normalised": self.normalised}
        summary["return"] = float(np.mean(self.returns))
        summary["score_quantiles"] = np.quantile(self.evaluation.scores, (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
        summary["cumulative_advantage"] = None if self.advantages is None else float(np.mean(self.advantages))
        summary["folds"] = list(self.folds)
        summary["folds_deviation"] = float(np.std(self.folds, ddof=1)) if len(self.folds) > 1 else None
        for name in ("difference", "labels", "gap"):
            part = getattr(self, name)
            numbers = None if part is None else {key: value for key, value in vars(part).items() if key != "by_prompt"}
            summary[name] = numbers
        return summary


@dataclass(frozen=True)
class Comparison:
    """The results of `compare`.

    Attributes:
        env_id: The environment's id.
        split: The split whose examples were played.
        reference: The name of the model whose value function the advantages are under.
        gamma: The discount of returns and advantages.
        gae_lambda: 0: TD errors, and the cumulative advantage is the return minus V(s_0). Above 0 it is not.
        value_function: "fitted" or "head".
        explained_variance: Share of the variance of the reference's returns that its value function explains, over the
            states of its own episodes.
        models: The result of each model, in the order in which they were given.
    """

    env_id: str
    split: str
    reference: str
    gamma: float
    gae_lambda: float
    value_function: str
    explained_variance: float
    models: tuple[ModelResult, ...]

    def summary(self) -> dict[str, Any]:
        """The numbers, as JSON values, without the episodes."""
        settings = {name: value for name, value in vars(self).items() if name != "models"}
        return {**settings, "models": [model.summary() for model in self.models]}


def compare(
    models: Mapping[str, Policy],
    env: str,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    num_episodes: int = 300,
    split: str = "test",
    reference: str | None = None,
    gamma: float = 1.0,
    gae_lambda: float = 0.0,
    value_function: Literal["fitted", "head"] = "fitted",
    folds: int = 5,
    temperature: float = 1.0,
    deterministic: bool = False,
    seed: int = 0,
) -> Comparison:
    """Plays the same examples with every model, and compares.

    Args:
        models: Name to policy. Their tokenizers may differ; each plays with its own.
        env: A registered id.
        env_kwargs: Arguments of the environment.
        num_episodes: Episodes of each model: the split's examples from the first on, and again where they are fewer.
        split: The split whose examples are played.
        reference: The model that the others are compared with; None: the first one.
        gamma: Discount of returns, and of the advantages' sum.
        gae_lambda: Lambda of the advantages. 0 sums TD errors.
        value_function: "fitted": a ridge regression on the reference's states. "head": the reference's own value head,
            as reinforcement learning has trained it. To either is added the mean at each step of the part of the
            returns that it does not explain, cross-fitted over folds.
        folds: The number of parts that the prompts are divided into.
        temperature: The number that logits are divided by.
        deterministic: If True, the likeliest token is taken instead of a sample.
        seed: Seed of the sampling.

    Returns:
        The comparison. The same arguments give the same one.

    Raises:
        ValueError: If there is no model, or a name or number is out of range.
        ImportError: If the task has labels and scikit-learn is not installed.
    """
    if not models:
        raise ValueError("Expected at least one model to compare, got none")
    reference = next(iter(models)) if reference is None else reference
    if reference not in models:
        raise ValueError(f"Expected the reference to be one of {list(models)}, got {reference!r}")
    check_choice("value_function", value_function, ("fitted", "head"))
    check_count("num_episodes", num_episodes, least=2)
    envs = {name: make_env(env, policy, **{**(env_kwargs or {}), "split": split}) for name, policy in models.items()}
    games = _Games.of(envs[reference].setting.pool.examples, num_episodes, folds)
    rollouts = {
        name: games.play(policy, envs[name], temperature=temperature, deterministic=deterministic, seed=seed)
        for name, policy in models.items()
    }
    values = ReferenceValues.of(models[reference], rollouts[reference], value_function, games.fold_of, gamma)
    results = []
    for name, policy in models.items():
        same_tokenizer = fingerprint(policy.tokenizer) == fingerprint(models[reference].tokenizer)
        evaluation = describe(
            rollouts[name],
            policy,
            envs[name],
            reference=models[reference] if same_tokenizer else None,
            temperature=temperature,
        )
        returns, advantages, token_advantages = _cumulative_advantages(
            rollouts[name], values, gae_lambda, same_tokenizer
        )
        result = ModelResult(
            name=name,
            evaluation=evaluation,
            normalised=normalised_score(envs[name], evaluation.score, env_kwargs),
            returns=returns,
            difference=None if name == reference else games.difference(rollouts[name], rollouts[reference]),
            advantages=advantages,
            token_advantages=token_advantages,
            folds=games.fold_means(evaluation.scores, folds),
            labels=label_scores(games.examples, evaluation.responses),
            gap=score_gap(policy, envs[name], games.distinct_examples),
        )
        results.append(result)
    return Comparison(
        env_id=env,
        split=split,
        reference=reference,
        gamma=gamma,
        gae_lambda=gae_lambda,
        value_function=value_function,
        explained_variance=values.explained_variance,
        models=tuple(results),
    )


@dataclass(frozen=True)
class _Games:
    """The examples that every model plays, and how their prompts are grouped.

    Attributes:
        pool: The split's examples.
        rows: The example of each episode, its index in the pool.
        prompt_of: The number of each example's prompt: examples with equal prompts have equal numbers.
        fold_of: The fold of each example of the pool.
    """

    pool: Sequence[Example]
    rows: Sequence[int]
    prompt_of: Sequence[int]
    fold_of: Sequence[int]

    @classmethod
    def of(cls, pool: Sequence[Example], num_episodes: int, folds: int) -> _Games:
        """The pool's examples from the first on, and again where there are fewer than episodes."""
        rows = [episode % len(pool) for episode in range(num_episodes)]
        prompt_of = numbered([example.prompt for example in pool])
        num_prompts = max(prompt_of[row] for row in rows) + 1
        if not 2 <= folds <= num_prompts:
            raise ValueError(
                f"Expected folds in [2, {num_prompts}], as many as there are different prompts, got {folds}"
            )
        return cls(pool, rows, prompt_of, [prompt % folds for prompt in prompt_of])

    @property
    def examples(self) -> list[Example]:
        """The example of each episode."""
        return [self.pool[row] for row in self.rows]

    @property
    def distinct_examples(self) -> list[Example]:
        """The examples that are played, each once."""
        return self.examples[: len(self.pool)]

    def play(
        self, policy: Policy, env: TextGenVectorEnv, *, temperature: float, deterministic: bool, seed: int
    ) -> Rollout:
        """The episodes of one model."""
        return collect(
            env,
            policy,
            len(self.rows),
            seed=seed,
            temperature=temperature,
            deterministic=deterministic,
            generator=torch.Generator(policy.device).manual_seed(seed),
            examples=self.rows,
        )

    def fold_means(self, scores: Sequence[float], folds: int) -> tuple[float, ...]:
        """The mean score of each fold's episodes."""
        fold_of_episode = np.array([self.fold_of[row] for row in self.rows])
        return tuple(float(np.mean(np.array(scores)[fold_of_episode == fold])) for fold in range(folds))

    def difference(self, rollout: Rollout, reference: Rollout) -> Difference:
        """One model's scores minus another's, both averaged over the episodes of a prompt first."""
        by_prompt: dict[int, list[float]] = {}
        for row, score, other in zip(self.rows, rollout.scores.tolist(), reference.scores.tolist(), strict=True):
            by_prompt.setdefault(self.prompt_of[row], []).append(score - other)
        differences = np.array([np.mean(episodes) for _, episodes in sorted(by_prompt.items())])
        mean, low, high = confidence_interval(differences)
        return Difference(
            mean=mean,
            low=low,
            high=high,
            wins=float((differences > 0).mean()),
            ties=float((differences == 0).mean()),
            by_prompt=tuple(differences.tolist()),
        )


def _cumulative_advantages(
    rollout: Rollout, values: ReferenceValues, gae_lambda: float, same_tokenizer: bool
) -> tuple[tuple[float, ...], tuple[float, ...] | None, tuple[tuple[float, ...], ...] | None]:
    """The returns of a model's episodes, their cumulative advantages, and each token's share of these.

    The reference's values are those of its own tokens. For a model with another tokenizer they are known for the prompt
    alone, which the reference has read in its own way. That is enough for the sum of TD errors, but not for the shares.
    """
    to_go = discounted_returns(rollout.rewards, rollout.response_mask, gamma=values.gamma)
    returns: NDArray[np.float64] = to_go[:, 0].double().cpu().numpy()
    totals: NDArray[np.float64] | None = None
    shares = None
    if same_tokenizer:
        totals, by_token = values.advantages(rollout, gae_lambda)
        lengths = rollout.response_mask.sum(dim=1).tolist()
        shares = tuple(tuple(row[:length]) for row, length in zip(by_token.tolist(), lengths, strict=True))
    elif gae_lambda == 0:
        totals = returns - values.first_values
    return tuple(returns.tolist()), None if totals is None else tuple(totals.tolist()), shares


def numbered(prompts: Sequence[str]) -> list[int]:
    """Numbers prompts from 0 on, in the order in which they first come: equal prompts have equal numbers.

    Example:
        >>> numbered(["a", "b", "a", "c"])
        [0, 1, 0, 2]
    """
    numbers: dict[str, int] = {}
    return [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]


SCALE_FREE = frozenset({"task", "payout", "split", "render_mode", "copy"})
"""Arguments of an environment that leave a task's scale as it is."""


def normalised_score(env: TextGenVectorEnv, score: float, env_kwargs: Mapping[str, Any] | None = None) -> float | None:
    """Scales a mean score: random is 0, and top 1.

    Args:
        env: The environment that it was made in.
        score: The mean.
        env_kwargs: The arguments, beside the tokenizer, that the environment was made with.

    Returns:
        The normalised score; None where the environment's reward, tokenizer, budget or masks are not the task's own,
        or the task's scale is not known.
    """
    tokenizer = make_tokenizer(env.task.default_tokenizer)
    if not SCALE_FREE.issuperset(env_kwargs or {}) or fingerprint(tokenizer) != fingerprint(env.tokenizer):
        return None
    scale = env.task.reference_scores(env.setting.split)
    return None if scale is None else scale.normalised(score)
