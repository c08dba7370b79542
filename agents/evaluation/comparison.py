"""Language models as policies, on the same prompts: which is better, by how much, and through which tokens.

Every model plays the same examples. Beside scores and their differences stands the **cumulative advantage** under a
reference policy's value function: the discounted sum of TD errors, which at `gae_lambda = 0` is the return minus what
the reference was expected to get from that prompt, and which says token by token where the difference came from.

The value function is fitted here, since a language model that was not trained by reinforcement learning has none: ridge
regression from the reference's hidden states to its own returns. It is cross-fitted over folds of the prompts, so
that no prompt's values come from that prompt's episodes (but for the choice of one price), and a small set of prompts
needs no other one beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from agents.advantages import discounted_returns
from agents.collector import collect, make_env
from agents.evaluation.evaluation import Evaluation, confidence_interval, describe
from agents.evaluation.fitted_values import ReferenceValues
from agents.policy.policy import Policy
from textenvs import Example, Task, TextGenVectorEnv, make_tokenizer
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
class Labels:
    """How good responses are as class labels, for tasks whose examples have `metadata["label"]`.

    Attributes:
        accuracy: Share of the responses that are the label.
        precision: Mean over labels of the share of a label's responses that are right; 0 for one never given.
        recall: Mean over labels of the share of a label's examples that got it.
        f1: Mean over labels of the harmonic mean of the two.
        invalid: Share of the responses that are no label at all. They count as wrong.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    invalid: float


@dataclass(frozen=True)
class Gap:
    """What exchanging one name or group word in the prompt does to the score, with the likeliest token at every step.

    Attributes:
        pairs: How many pairs of prompts.
        mean: Mean of the absolute difference of the two scores. No sampling, so a model that does not look at the word
            has 0.
        low: Lower end of its 95 % confidence interval.
        high: Its upper end.
        changed: Share of pairs whose responses differ in more than the word.
        by_word: For each word that was exchanged: the mean score with it minus that with its counterpart.
    """

    pairs: int
    mean: float
    low: float
    high: float
    changed: float
    by_word: dict[str, float]


@dataclass(frozen=True)
class ModelResult:
    """What one model did.

    Attributes:
        name: What the model is called.
        evaluation: Scores, held-out metric, diversity, texts.
        normalised: The mean score from random, 0, to top, 1; None where the task or the settings have no scale.
        returns: Discounted return of each episode.
        difference: To the reference; None for the reference itself.
        advantages: Cumulative advantage of each episode.
        token_advantages: What each token adds to it; None where the model has another tokenizer than the reference,
            whose values then are known of the prompt alone.
        folds: Mean score of each fold of the prompts.
        labels: Of tasks with labels.
        gap: Of tasks with paired prompts.
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
            episode: Which one.

        Returns:
            The segments.

        Raises:
            ValueError: If the model has another tokenizer than the reference.
        """
        if self.token_advantages is None:
            raise ValueError(f"Expected a model with the reference's tokenizer, got {self.name!r}, which has another")
        segments = iter(self.token_advantages[episode])
        return [
            replace(one, reward=next(segments)) if one.kind == "response" else one
            for one in self.evaluation.segments(episode)
        ]

    def summary(self) -> dict[str, Any]:
        """The numbers, as JSON values, without the episodes."""
        found: dict[str, Any] = {"name": self.name, **self.evaluation.summary(), "normalised": self.normalised}
        found["return"] = _mean(self.returns)
        found["score_quantiles"] = np.quantile(self.evaluation.scores, (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
        found["cumulative_advantage"] = None if self.advantages is None else _mean(self.advantages)
        found["folds"] = list(self.folds)
        found["folds_deviation"] = float(np.std(self.folds, ddof=1)) if len(self.folds) > 1 else None
        for name in ("difference", "labels", "gap"):
            part = getattr(self, name)
            found[name] = None if part is None else {k: v for k, v in vars(part).items() if k != "by_prompt"}
        return found


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        env_id: The environment's id.
        split: Whose examples were played.
        reference: The name of the model whose value function the advantages are under.
        gamma: The discount of returns and advantages.
        gae_lambda: 0: TD errors, and the cumulative advantage is the return minus V(s_0). Above 0 it is not.
        value_function: "fitted" or "head".
        explained_variance: Of the reference's returns by its value function, over the states of its own episodes.
        models: A result each, in the order they were given.
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
        plain = {name: value for name, value in vars(self).items() if name != "models"}
        return {**plain, "models": [model.summary() for model in self.models]}


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
    """Play the same examples with every model, and compare.

    Args:
        models: Name to policy. Their tokenizers may differ; each plays with its own.
        env: A registered id.
        env_kwargs: Arguments of the environment.
        num_episodes: Episodes of each model: the split's examples from the first on, and again where they are fewer.
        split: Whose examples.
        reference: The model that the others are compared with; None: the first one.
        gamma: Discount of returns, and of the advantages' sum.
        gae_lambda: Of the advantages. 0 sums TD errors.
        value_function: "fitted": a ridge regression on the reference's states. "head": the reference's own value head,
            as reinforcement learning has trained it. Either is added to the mean at each step of what it leaves of the
            returns, and cross-fitted over folds.
        folds: How many parts the prompts are divided into.
        temperature: What logits are divided by.
        deterministic: The likeliest token instead of a sample.
        seed: Of the sampling.

    Returns:
        The comparison. The same arguments give the same one.

    Raises:
        ValueError: If there is no model, or a name or number is out of range.
        ImportError: If the task has labels and scikit-learn is not installed.
    """
    if not models:
        raise ValueError("Expected at least one model to compare, got none")
    chosen = next(iter(models)) if reference is None else reference
    if chosen not in models:
        raise ValueError(f"Expected the reference to be one of {list(models)}, got {chosen!r}")
    if value_function not in ("fitted", "head"):
        raise ValueError(f"Expected value_function 'fitted' or 'head', got {value_function!r}")
    if num_episodes < 2:
        raise ValueError(f"Expected num_episodes to be at least 2, got {num_episodes}")
    envs = {name: make_env(env, policy, **{**(env_kwargs or {}), "split": split}) for name, policy in models.items()}
    pool = envs[chosen].setting.pool
    places = [episode % len(pool) for episode in range(num_episodes)]
    prompts = numbered([example.prompt for example in pool.examples])
    num_prompts = max(prompts[place] for place in places) + 1
    if not 2 <= folds <= num_prompts:
        raise ValueError(f"Expected folds in [2, {num_prompts}], as many as there are different prompts, got {folds}")
    fold_of = [prompt % folds for prompt in prompts]
    examples = [pool.examples[place] for place in places]
    rollouts = {
        name: collect(
            envs[name],
            policy,
            num_episodes,
            seed=seed,
            temperature=temperature,
            deterministic=deterministic,
            generator=torch.Generator(policy.device).manual_seed(seed),
            examples=places,
        )
        for name, policy in models.items()
    }
    valued = ReferenceValues.of(models[chosen], rollouts[chosen], value_function, fold_of, gamma)
    found = []
    for name, policy in models.items():
        rollout, played = rollouts[name], envs[name]
        same = fingerprint(policy.tokenizer) == fingerprint(models[chosen].tokenizer)
        evaluation = describe(
            rollout, policy, played, reference=models[chosen] if same else None, temperature=temperature
        )
        returns = discounted_returns(rollout.rewards, rollout.response_mask, gamma=gamma)[:, 0].double().cpu().numpy()
        advantages: NDArray[np.float64] | None = None
        shares = None
        if same:
            totals, by_token = valued.advantages(rollout, gae_lambda)
            advantages = totals
            lengths = rollout.response_mask.sum(dim=1).tolist()
            shares = tuple(tuple(row[:length]) for row, length in zip(by_token.tolist(), lengths, strict=True))
        elif gae_lambda == 0:  # then only the value of the prompt counts, which the reference has read in its own way
            advantages = returns - valued.first_values
        found.append(
            ModelResult(
                name=name,
                evaluation=evaluation,
                normalised=normalised_score(played, evaluation.score, env_kwargs),
                returns=tuple(returns.tolist()),
                difference=None
                if name == chosen
                else _difference(
                    evaluation.scores, rollouts[chosen].scores.tolist(), [prompts[place] for place in places]
                ),
                advantages=None if advantages is None else tuple(advantages.tolist()),
                token_advantages=shares,
                folds=tuple(
                    float(np.mean([evaluation.scores[i] for i, place in enumerate(places) if fold_of[place] == fold]))
                    for fold in range(folds)
                ),
                labels=label_scores(examples, evaluation.responses),
                gap=_gap(policy, played, examples[: len(pool)]),
            )
        )
    return Comparison(
        env_id=env,
        split=split,
        reference=chosen,
        gamma=gamma,
        gae_lambda=gae_lambda,
        value_function=value_function,
        explained_variance=valued.explained_variance,
        models=tuple(found),
    )


# Scales, labels and pairs ---------------------------------------------------------------------------------------------


SCALE_FREE = frozenset({"task", "payout", "split", "render_mode", "copy"})
"""Arguments of an environment that leave a task's scale as it is."""


def normalised_score(env: TextGenVectorEnv, score: float, env_kwargs: Mapping[str, Any] | None = None) -> float | None:
    """A mean score from random, 0, to top, 1.

    Args:
        env: The environment that it was made in.
        score: The mean.
        env_kwargs: The arguments, beside the tokenizer, that the environment was made with.

    Returns:
        The normalised score; None where the environment's reward, tokenizer, budget or masks are not the task's own,
        or nobody has worked out the task's scale.
    """
    own = make_tokenizer(env.task.default_tokenizer)
    if not SCALE_FREE.issuperset(env_kwargs or {}) or fingerprint(own) != fingerprint(env.tokenizer):
        return None
    scores = env.task.reference_scores(env.setting.split)
    return None if scores is None else scores.normalised(score)


def label_scores(examples: Sequence[Example], responses: Sequence[str]) -> Labels | None:
    """Accuracy, and precision, recall and F1 as means over labels.

    A response is the label that its last line spells, without white space at its ends.

    Args:
        examples: What each response answers.
        responses: The texts.

    Returns:
        The scores, or None: not every example's `metadata["label"]` is its reference, so that responses are no labels.

    Raises:
        ImportError: If there are labels and scikit-learn is not installed.
    """
    labels = [example.metadata.get("label") for example in examples]
    answers = [example.references[0].strip() if example.references else None for example in examples]
    known = sorted({answer for answer in answers if answer is not None})
    if not known or labels != answers:
        return None
    try:
        from sklearn.metrics import precision_recall_fscore_support
    except ImportError as error:
        raise ImportError(
            'scikit-learn is needed to judge labels. Install it with: pip install "textenvs[benchmarks]"'
        ) from error
    given = [response.strip().rsplit("\n", 1)[-1].strip() for response in responses]
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, given, labels=known, average="macro", zero_division=0
    )
    return Labels(
        accuracy=float(np.mean([one == other for one, other in zip(labels, given, strict=True)])),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        invalid=float(np.mean([one not in known for one in given])),
    )


class _Given(Task):
    """A task's own examples, and others like them, as the only split."""

    name = "given"

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._task = task
        self._examples = examples
        for name in (
            "default_reward", "default_max_new_tokens", "default_tokenizer", "max_prompt_tokens", "truncation_side",
            "success_score", "held_out_reward", "max_turns", "max_reply_tokens",
        ):  # fmt: skip
            setattr(self, name, getattr(task, name))

    def num_examples(self, split: str) -> int:
        return len(self._examples) if split == "test" else 0

    def example(self, split: str, index: int) -> Example:
        return self._examples[index]

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        return self._task.allowed(example, turns)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        return self._task.reply(example, turns)

    def replies(self, example: Example) -> Iterable[str]:
        return self._task.replies(example)


def _gap(policy: Policy, env: TextGenVectorEnv, examples: Sequence[Example]) -> Gap | None:
    """The score gap between paired prompts; None where the task has no pairs."""
    pairs = [(one, other) for one in examples if (other := env.task.counterpart(one)) is not None]
    if not pairs:
        return None
    setting, encoder = env.setting, env.setting.pool.encoder
    lanes = TextGenVectorEnv(
        min(2 * len(pairs), 64),
        task=_Given(env.task, [one for pair in pairs for one in pair]),
        reward=setting.reward,
        payout="sparse",
        tokenizer=policy.tokenizer,
        max_new_tokens=setting.max_new_tokens,
        split="test",
        max_prompt_length=encoder.max_length,
        truncation_side=encoder.truncation_side,
        min_new_tokens=setting.min_new_tokens,
        stop=setting.stop,
        action_mask=setting.action_mask,
        chat_template=encoder.chat_template,
        autoreset_mode="Disabled",
        copy=False,
    )
    rollout = collect(lanes, policy, 2 * len(pairs), seed=0, deterministic=True, examples=range(2 * len(pairs)))
    scores = rollout.scores.double().cpu().numpy().reshape(-1, 2)
    responses = rollout.responses(policy)
    gaps: dict[str, list[float]] = {}
    changed = []
    for place, (pair, (first, second)) in enumerate(zip(pairs, scores.tolist(), strict=True)):
        word, exchanged = _exchanged(pair[0].prompt, pair[1].prompt)
        gaps.setdefault(word, []).append(first - second)
        gaps.setdefault(exchanged, []).append(second - first)
        changed.append(responses[2 * place].replace(word, exchanged) != responses[2 * place + 1])
    mean, low, high = confidence_interval(np.abs(scores[:, 0] - scores[:, 1]))
    return Gap(
        pairs=len(pairs),
        mean=mean,
        low=low,
        high=high,
        changed=float(np.mean(changed)),
        by_word={word: float(np.mean(found)) for word, found in sorted(gaps.items())},
    )


def _exchanged(prompt: str, other: str) -> tuple[str, str]:
    """The first words in which two prompts differ, without their punctuation."""
    for one, two in zip(prompt.split(), other.split(), strict=False):
        if one != two:
            return one.strip(".,:;!?'\""), two.strip(".,:;!?'\"")
    return "", ""


def numbered(prompts: Sequence[str]) -> list[int]:
    """A number for each prompt, from 0 on in the order they first come: equal prompts have equal numbers.

    Example:
        >>> numbered(["a", "b", "a", "c"])
        [0, 1, 0, 2]
    """
    numbers: dict[str, int] = {}
    return [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]


def _difference(scores: Sequence[float], reference: Sequence[float], prompts: Sequence[int]) -> Difference:
    """The means of each prompt, compared."""
    by_prompt: dict[int, list[float]] = {}
    for prompt, one, other in zip(prompts, scores, reference, strict=True):
        by_prompt.setdefault(prompt, []).append(one - other)
    found = np.array([np.mean(row) for _, row in sorted(by_prompt.items())])
    mean, low, high = confidence_interval(found)
    return Difference(
        mean=mean,
        low=low,
        high=high,
        wins=float((found > 0).mean()),
        ties=float((found == 0).mean()),
        by_prompt=tuple(found.tolist()),
    )


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers))


def named_sources(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model of a command line.

    Args:
        models: Names or folders, or `name=folder`, at least two.

    Returns:
        Name to source: what stands before "=", or the last part of the path that is not a checkpoint's.

    Raises:
        ValueError: If two have the same name, or there are not two.
    """
    if len(models) < 2:
        raise ValueError(f"Expected at least two models to compare, got {list(models)}: see evaluate for one alone")
    found: dict[str, str] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not equals or "/" in name:
            source = model
            parts = [
                part for part in Path(model).parts if part not in ("checkpoints", "policy") and not part.isdecimal()
            ]
            name = parts[-1] if parts else model
        if name in found:
            raise ValueError(f"Expected names that differ, got {name!r} twice: write NAME={source}")
        found[name] = source
    return found
