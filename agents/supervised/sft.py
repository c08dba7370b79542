"""Supervised fine-tuning: raise the log-probability of demonstrations. A warm start for reinforcement learning.

    loss = - mean over response tokens, EOS included, of log pi(a_t | s_t)

Source: the first stage of Ouyang et al. (2022), Training language models to follow instructions with human feedback,
arXiv:2203.02155, section 3.5.

What differs from the usual recipe: the demonstrations are the environment's own (its prompts, tokenised and cut as in
an episode, its budget, and its replies between several turns), so that the policy learns exactly the states that it
will act in; the loss is a mean over the tokens of a batch, and prompts and replies have no part in it; training stops
when the validation loss no longer falls, and the weights of the best epoch are kept; and beside the perplexity stands
the task's score, of the policy's own samples.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.collector import make_env
from agents.distributed import processes
from agents.evaluation.evaluation import evaluate
from agents.losses import masked_mean
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.supervised.configs import SFTConfig
from agents.training.meter import Meter
from agents.training.metrics_log import MetricsLog
from agents.training.optimization import make_optimizer, optimizer_step, set_learning_rate
from textenvs import Example, Task, TextGenVectorEnv


@dataclass(frozen=True)
class Demonstrations:
    """Episodes that somebody else has written, laid out like those of a `Rollout`.

    Attributes:
        input_ids: `(batch, length)` int64, prompt and response, right-padded.
        positions: `(batch, time)` int64, where in its row each token of a response stands; 1 at padding.
        response_mask: `(batch, time)` bool, True at a response's tokens, EOS included.
    """

    input_ids: Tensor
    positions: Tensor
    response_mask: Tensor

    def __len__(self) -> int:
        """How many there are."""
        return len(self.input_ids)

    def select(self, rows: Tensor) -> Demonstrations:
        """Some of them, trimmed to the longest."""
        mask, positions = self.response_mask[rows], self.positions[rows]
        steps, length = max(int(mask.sum(dim=1).max()), 1), int(positions.max()) + 1
        return Demonstrations(self.input_ids[rows, :length], positions[:, :steps], mask[:, :steps])


def demonstrations(env: TextGenVectorEnv, limit: int | None = None) -> Demonstrations:
    """What an environment's examples are to be answered with: the task's demonstrations, or their first references.

    Args:
        env: Its split, its prompts as they were cut, its tokenizer and its budget.
        limit: How many examples, from the split's first on; None: all.

    Returns:
        The demonstrations, on the CPU. One that is longer than the budget is cut, and then has no EOS.

    Raises:
        ValueError: If an example has neither a demonstration nor a reference, or the tokenizer cannot write responses.
    """
    encode: Callable[[str], list[int]] | None = getattr(env.tokenizer, "encode_response", None)
    if encode is None:
        raise ValueError(f"Expected a tokenizer with encode_response(text), got {env.tokenizer!r}, which has none")
    pool, budget = env.setting.pool, env.setting.max_new_tokens
    count = len(pool) if limit is None else min(limit, len(pool))
    if not count:
        raise ValueError(f"Expected examples to learn from, got task {env.task.name!r}, which has none in this split")
    rows: list[tuple[list[int], list[bool]]] = []  # an episode's tokens, and which of them the agent wrote
    for place in range(count):
        example, eos = pool.examples[place], env.tokenizer.eos_token_id
        answer = _answer(env.task, example)
        ids = pool.prompts[place, : pool.lengths[place]].tolist()
        mine = [False] * len(ids)
        # A demonstration of several turns has one a line; what the environment replies stands between them.
        turns = answer.split("\n") if env.task.max_turns > 1 else [answer]
        left = budget
        for number, turn in enumerate(turns, start=1):
            response = [*encode(turn), eos][:left]
            left -= len(response)
            reply = env.task.reply(example, turns[:number]) if left and number < len(turns) else None
            said = [] if reply is None else pool.encoder.encode_reply(reply)
            ids += response + said
            mine += [True] * len(response) + [False] * len(said)
            if reply is None:
                break
        rows.append((ids, mine))
    length, steps = max(len(ids) for ids, _ in rows), max(sum(mine) for _, mine in rows)
    input_ids = np.full((count, length), env.tokenizer.pad_token_id, dtype=np.int64)
    positions, mask = np.ones((count, steps), dtype=np.int64), np.zeros((count, steps), dtype=np.bool_)
    for row, (ids, mine) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        places = np.flatnonzero(mine)
        positions[row, : len(places)] = places
        mask[row, : len(places)] = True
    return Demonstrations(torch.from_numpy(input_ids), torch.from_numpy(positions), torch.from_numpy(mask))


def _answer(task: Task, example: Example) -> str:
    try:
        return task.demonstration(example)
    except NotImplementedError as error:
        if example.references:
            return example.references[0]
        raise ValueError(
            f"Expected task {task.name!r} to have demonstrations, or examples with references, got one with neither: "
            f"{example.prompt!r}"
        ) from error


def sft_loss(policy: Policy, data: Demonstrations, *, normalizer: Tensor | None = None) -> Tensor:
    """The mean negative log-prob of a batch's response tokens, `()`, with gradient.

    Args:
        policy: Whose log-probs.
        data: The batch, on any device.
        normalizer: What to divide by; None: the batch's own tokens.

    Returns:
        Nats a token.
    """
    device = policy.device
    mask = data.response_mask.to(device)
    tokens = mask.sum() if normalizer is None else normalizer

    def of_actions(now: ActionEvaluation, at: Places) -> Tensor:
        return -masked_mean(now.log_probs, mask[at], normalizer=tokens)

    return policy.loss(data.input_ids.to(device), data.positions.to(device), mask, of_actions, entropy=False)


@torch.no_grad()
def perplexity(policy: Policy, data: Demonstrations, *, micro_batch_size: int = 64) -> float:
    """The exponential of the mean negative log-prob of demonstrations' tokens.

    Args:
        policy: Whose.
        data: The demonstrations.
        micro_batch_size: Demonstrations per forward pass.

    Returns:
        The perplexity, at least 1. EOS counts.
    """
    tokens, total = data.response_mask.sum(), 0.0
    for rows in torch.arange(len(data)).split(micro_batch_size):
        total += float(sft_loss(policy, data.select(rows), normalizer=tokens))
    return math.exp(min(total, 700.0))  # finite, also where training has gone off the rails


def fine_tune(
    policy: Policy,
    env: str = "TextGen-v0",
    *,
    config: SFTConfig | None = None,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train a policy on an environment's demonstrations, in place.

    Args:
        policy: Who is trained. It ends with the weights of the epoch with the lowest validation loss.
        env: A registered id.
        config: The settings.
        seed: Of the order of the demonstrations, and of the episodes that are played for the score.
        env_kwargs: Arguments of the environment.
        folder: Where the policy, sft.json and metrics.jsonl go; None keeps nothing. A policy is written whenever it is
            the best so far, so a run that is stopped leaves one.
        on_epoch: Called with each row. Of several processes that train together, the first one alone calls it, writes
            and evaluates.

    Returns:
        A row for the start and for each epoch: `epoch`, `validation_perplexity`, `validation_score` (where it was asked
        for), and, for an epoch, `train_loss` (nats a token), `grad_norm`, `learning_rate` and `tokens_per_second`.

    Raises:
        ValueError: If the task has no demonstrations, or a folder holds another run.
    """
    config = (SFTConfig() if config is None else config).filled_in(policy.pretrained)
    first = processes.rank() == 0  # of several processes, the others only learn
    folder = Path(folder) if folder is not None and first else None
    if folder is not None and (folder / "metrics.jsonl").exists():
        raise ValueError(f"Expected a new folder for this run, got {str(folder)!r}, which holds another run")
    envs = {split: make_env(env, policy, **{**(env_kwargs or {}), "split": split}) for split in ("train", "validation")}
    train = demonstrations(envs["train"], config.demonstrations)
    validation = demonstrations(envs["validation"])
    optimizer = make_optimizer(policy, config)
    generator = torch.Generator().manual_seed(seed)
    log = None if folder is None else MetricsLog(folder)
    rows: list[dict[str, float]] = []
    best, since, weights = math.inf, 0, _weights(policy)
    try:
        for epoch in range(config.epochs + 1):
            row = {"epoch": float(epoch)}
            if epoch:
                row |= _epoch(policy, optimizer, train, config, generator, epoch - 1)
            if first:
                row["validation_perplexity"] = perplexity(policy, validation, micro_batch_size=config.micro_batch_size)
                if config.eval_episodes:
                    found = evaluate(policy, envs["validation"], config.eval_episodes, seed=seed)
                    row["validation_score"] = found.score
            row = processes.from_first(row)
            rows.append(row)
            if log is not None:
                log.write(epoch * int(train.response_mask.sum()), row)
            if on_epoch is not None and first:
                on_epoch(row)
            if row["validation_perplexity"] < best:
                best, since, weights = row["validation_perplexity"], 0, _weights(policy)
                if epoch:
                    policy.pretrained = True  # what reinforcement learning starts from is worth staying near
                if folder is not None:
                    _save(folder, policy, config, seed, env, env_kwargs, row)
            else:
                since += 1
                if since >= config.patience:
                    break
    finally:
        if log is not None:
            log.close()
        policy.model.load_state_dict(weights)
    return rows


def _epoch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    train: Demonstrations,
    config: SFTConfig,
    generator: torch.Generator,
    before: int,
) -> dict[str, float]:
    """One pass over the demonstrations in random order."""
    meter, started = Meter(), time.perf_counter()
    batches = torch.randperm(len(train), generator=generator).split(config.batch_size)
    rate = 0.0

    def loss_of(tokens: Tensor, part: Tensor, found: Meter) -> Tensor:
        loss = sft_loss(policy, train.select(part), normalizer=tokens)
        found.add_shares(tokens, train.response_mask[part].sum() / tokens, {"train_loss": loss})
        return loss

    for number, batch in enumerate(batches):
        rate = set_learning_rate(optimizer, config, (before + number / len(batches)) / config.epochs)
        optimizer_step(optimizer, batch, partial(loss_of, train.response_mask[batch].sum()), config, meter)
    speed = int(train.response_mask.sum()) / (time.perf_counter() - started)
    return {**meter.means(), "learning_rate": rate, "tokens_per_second": speed}


def _weights(policy: Policy) -> dict[str, Tensor]:
    return copy.deepcopy(policy.model.state_dict())


def _save(
    folder: Path,
    policy: Policy,
    config: SFTConfig,
    seed: int,
    env: str,
    env_kwargs: Mapping[str, Any] | None,
    row: dict[str, float],
) -> None:
    policy.save_pretrained(folder / "policy")
    kwargs = {key: value if _is_json(value) else repr(value) for key, value in (env_kwargs or {}).items()}
    state = {"config": config.to_dict(), "seed": seed, "env": env, "env_kwargs": kwargs, "best": row}
    (folder / "sft.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
