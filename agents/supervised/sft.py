"""Supervised fine-tuning: raise the log-probability of demonstrations. A warm start for reinforcement learning.

    loss = - mean over response tokens, EOS included, of log pi(a_t | s_t)

Source: the first stage of Ouyang et al. (2022), Training language models to follow instructions with human feedback,
arXiv:2203.02155, section 3.5.

What differs from the usual recipe: the demonstrations are the environment's own (its prompts, tokenised and cut as in
an episode, its budget, and its replies between several turns), so that the policy learns exactly the states that it
will act in; the loss is a mean over the response tokens of a batch, without prompts and replies; training stops when
the validation loss no longer falls, and the weights of the best epoch are kept; and the task's score of the policy's
own samples is measured beside the perplexity.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
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
from agents.files import sync_folder, write_json
from agents.locks import FolderLock
from agents.losses import masked_mean
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.supervised.configs import SFTConfig
from agents.training.checkpoints import rehearse
from agents.training.meter import Meter
from agents.training.metrics_log import MetricsLog
from agents.training.optimization import make_optimizer, optimizer_step, set_learning_rate
from textenvs import Example, Task, TextGenVectorEnv

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demonstrations:
    """Episodes that the policy did not write, laid out like those of a `Rollout`.

    Attributes:
        input_ids: `(batch, length)` int64, prompt and response, right-padded.
        positions: `(batch, time)` int64, the position of each response token in its row; 1 at padding.
        response_mask: `(batch, time)` bool, True at a response's tokens, EOS included.
    """

    input_ids: Tensor
    positions: Tensor
    response_mask: Tensor

    def __len__(self) -> int:
        """The number of demonstrations."""
        return len(self.input_ids)

    def select(self, rows: Tensor) -> Demonstrations:
        """Returns some of them, trimmed to the longest."""
        mask, positions = self.response_mask[rows], self.positions[rows]
        steps, length = max(int(mask.sum(dim=1).max()), 1), int(positions.max()) + 1
        return Demonstrations(self.input_ids[rows, :length], positions[:, :steps], mask[:, :steps])


def demonstrations(env: TextGenVectorEnv, limit: int | None = None) -> Demonstrations:
    """Makes demonstrations of an environment's examples: the task's own, or the examples' first references.

    Args:
        env: The environment, with the split to take the examples from.
        limit: The number of examples, from the split's first on; None: all.

    Returns:
        The demonstrations, on the CPU. One that is longer than the budget is cut, and then has no EOS; the log says how
        many there are.

    Raises:
        ValueError: If an example has neither a demonstration nor a reference, or the tokenizer cannot write responses.
    """
    encode_response: Callable[[str], list[int]] | None = getattr(env.tokenizer, "encode_response", None)
    if encode_response is None:
        raise ValueError(f"Expected a tokenizer with encode_response(text), got {env.tokenizer!r}, which has none")
    pool = env.setting.pool
    count = len(pool) if limit is None else min(limit, len(pool))
    if not count:
        raise ValueError(f"Expected examples to learn from, got task {env.task.name!r}, which has none in this split")
    episodes = [_episode(env, encode_response, index) for index in range(count)]
    num_cut = sum(ids[-1] != env.setting.turn_end_id for ids, _ in episodes)
    if num_cut:
        _LOG.warning(
            "%d of %d demonstrations are longer than max_new_tokens=%d, and were cut: they do not teach an end.",
            num_cut, count, env.setting.max_new_tokens,
        )  # fmt: skip
    length = max(len(ids) for ids, _ in episodes)
    steps = max(sum(is_response) for _, is_response in episodes)
    input_ids = np.full((count, length), env.tokenizer.pad_token_id, dtype=np.int64)
    positions, mask = np.ones((count, steps), dtype=np.int64), np.zeros((count, steps), dtype=np.bool_)
    for row, (ids, is_response) in enumerate(episodes):
        input_ids[row, : len(ids)] = ids
        of_response = np.flatnonzero(is_response)
        positions[row, : len(of_response)] = of_response
        mask[row, : len(of_response)] = True
    return Demonstrations(torch.from_numpy(input_ids), torch.from_numpy(positions), torch.from_numpy(mask))


def _episode(
    env: TextGenVectorEnv, encode_response: Callable[[str], list[int]], index: int
) -> tuple[list[int], list[bool]]:
    """The tokens of one example's episode, and for each of them: True if the agent would have written it."""
    task, pool = env.task, env.setting.pool
    example = pool.examples[index]
    demonstration = _demonstration(task, example)
    if pool.encoder.chat_template:
        demonstration = demonstration.lstrip(" ")  # the space that continues a prompt's line begins no message
    # A demonstration of several turns has one on each line; the environment's replies come between them.
    turns = demonstration.split("\n") if task.max_turns > 1 else [demonstration]
    ids = pool.prompts[index, : pool.lengths[index]].tolist()
    is_response = [False] * len(ids)
    budget = env.setting.max_new_tokens
    for number, turn in enumerate(turns, start=1):
        response = [*encode_response(turn), env.setting.turn_end_id][:budget]
        budget -= len(response)
        ids += response
        is_response += [True] * len(response)
        # There is no reply to the last turn, nor to one that used up the budget.
        reply = task.reply(example, turns[:number]) if budget and number < len(turns) else None
        if reply is None:
            break
        reply_ids = pool.encoder.encode_reply(reply)
        ids += reply_ids
        is_response += [False] * len(reply_ids)
    return ids, is_response


def _demonstration(task: Task, example: Example) -> str:
    """The task's demonstration of an example, or else the example's first reference."""
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
    """Computes the mean negative log-prob of a batch's response tokens.

    Args:
        policy: The policy under which the log-probs are.
        data: The batch, on any device.
        normalizer: The number of tokens to divide by; None: the batch's own.

    Returns:
        `()`, with gradient, in nats a token.
    """
    device = policy.device
    mask = data.response_mask.to(device)
    tokens = mask.sum() if normalizer is None else normalizer

    def of_actions(now: ActionEvaluation, at: Places) -> Tensor:
        return -masked_mean(now.log_probs, mask[at], normalizer=tokens)

    return policy.loss(data.input_ids.to(device), data.positions.to(device), mask, of_actions, entropy=False)


@torch.no_grad()
def perplexity(policy: Policy, data: Demonstrations, *, micro_batch_size: int = 64) -> float:
    """Computes the exponential of the mean negative log-prob of demonstrations' tokens.

    Args:
        policy: The policy under which the log-probs are.
        data: The demonstrations.
        micro_batch_size: Demonstrations per forward pass.

    Returns:
        The perplexity, at least 1. EOS counts.
    """
    tokens, total = data.response_mask.sum(), 0.0
    for rows in torch.arange(len(data)).split(micro_batch_size):
        total += float(sft_loss(policy, data.select(rows), normalizer=tokens))
    return math.exp(min(total, 700.0))  # finite, also where training has diverged


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
    """Trains a policy on an environment's demonstrations, in place.

    Args:
        policy: The policy. It ends with the weights of the epoch with the lowest validation loss.
        env: A registered id.
        config: The settings.
        seed: Seed of the order of the demonstrations, and of the episodes that are played for the score.
        env_kwargs: Arguments of the environment.
        folder: The folder of the policy, sft.json and metrics.jsonl; None keeps nothing. A policy is written whenever
            it is the best so far, so a run that is stopped leaves one.
        on_epoch: Called with each row. Where several processes train together, only the first one calls it, writes and
            evaluates.

    Returns:
        A row for the start and for each epoch: `epoch`, `validation_perplexity`, `validation_score` (where it was asked
        for), and, for an epoch, `train_loss` (nats a token), `grad_norm`, `learning_rate` and `tokens_per_second`.

    Raises:
        ValueError: If the task has no demonstrations, or a folder holds another run, or another process writes to it;
            or, before anything is played, if the policy would not be read back from its folder as it is.
        SaveError: If the folder cannot be written to.
    """
    config = (SFTConfig() if config is None else config).filled_in(policy.pretrained)
    first = processes.rank() == 0  # of several processes, the others only learn
    if folder is None or not first:
        return _fine_tune(policy, env, config, seed, env_kwargs, None, on_epoch)
    folder = Path(folder)
    _check_new(folder)  # before the lock's file is made in a folder that is somebody's
    with FolderLock(folder):
        _check_new(folder)
        return _fine_tune(policy, env, config, seed, env_kwargs, folder, on_epoch)


def _check_new(folder: Path) -> None:
    if (folder / "metrics.jsonl").exists():
        raise ValueError(f"Expected a new folder for this run, got {str(folder)!r}, which holds another run")


def _fine_tune(
    policy: Policy,
    env: str,
    config: SFTConfig,
    seed: int,
    env_kwargs: Mapping[str, Any] | None,
    folder: Path | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> list[dict[str, float]]:
    """Trains, and writes into the folder, whose lock is held. In all processes but the first there is none."""
    first = processes.rank() == 0
    if folder is not None:
        rehearse(folder, policy.save_pretrained)
    envs = {"train": make_env(env, policy, **{**(env_kwargs or {}), "split": "train"})}
    # A handful of examples is for training alone, and then they decide which epoch is the best, too.
    held_out = "validation" if "validation" in envs["train"].setting.splits else "train"
    envs["validation"] = make_env(env, policy, **{**(env_kwargs or {}), "split": held_out})
    train = demonstrations(envs["train"], config.demonstrations)
    validation = demonstrations(envs["validation"])
    optimizer = make_optimizer(policy, config)
    generator = torch.Generator().manual_seed(seed)
    log = None if folder is None else MetricsLog(folder)
    rows: list[dict[str, float]] = []
    best, epochs_since, weights = math.inf, 0, _weights(policy)
    try:
        for epoch in range(config.epochs + 1):  # epoch 0 is the start model
            row = {"epoch": float(epoch)}
            if epoch:
                row |= _train_epoch(policy, optimizer, train, config, generator, epoch - 1)
            if first:
                row["validation_perplexity"] = perplexity(policy, validation, micro_batch_size=config.micro_batch_size)
                if config.eval_episodes:
                    evaluation = evaluate(policy, envs["validation"], config.eval_episodes, seed=seed)
                    row["validation_score"] = evaluation.score
            row = processes.from_first(row)
            rows.append(row)
            if log is not None:
                log.write(epoch * int(train.response_mask.sum()), row)
            if on_epoch is not None and first:
                on_epoch(row)
            if row["validation_perplexity"] < best:
                best, epochs_since, weights = row["validation_perplexity"], 0, _weights(policy)
                if epoch:
                    policy.pretrained = True  # reinforcement learning stays near a policy that has learned something
                if folder is not None:
                    _save(folder, policy, config, seed, env, env_kwargs, row)
            else:
                epochs_since += 1
                if epochs_since >= config.patience:
                    break
    finally:
        if log is not None:
            log.close()
        policy.model.load_state_dict(weights)
    return rows


def _train_epoch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    train: Demonstrations,
    config: SFTConfig,
    generator: torch.Generator,
    epochs_before: int,
) -> dict[str, float]:
    """Trains on all demonstrations once, in random order, and returns metrics."""
    meter, started = Meter(), time.perf_counter()
    batches = torch.randperm(len(train), generator=generator).split(config.batch_size)
    rate = 0.0

    def loss_of(tokens: Tensor, rows: Tensor, metrics: Meter) -> Tensor:
        loss = sft_loss(policy, train.select(rows), normalizer=tokens)
        metrics.add_shares(tokens, train.response_mask[rows].sum() / tokens, {"train_loss": loss})
        return loss

    for number, batch in enumerate(batches):
        rate = set_learning_rate(optimizer, config, (epochs_before + number / len(batches)) / config.epochs)
        optimizer_step(optimizer, batch, partial(loss_of, train.response_mask[batch].sum()), config, meter)
    speed = int(train.response_mask.sum()) / (time.perf_counter() - started)
    return {**meter.means(), "learning_rate": rate, "tokens_per_second": speed}


def _weights(policy: Policy) -> dict[str, Tensor]:
    """A copy of the policy's weights."""
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
    """Writes the policy, and a record of how it was trained. A stop while it is written leaves the one before."""
    fresh, old = folder / ".policy.new", folder / ".policy.old"
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    policy.save_pretrained(fresh)
    if (folder / "policy").exists():
        os.replace(folder / "policy", old)
    os.replace(fresh, folder / "policy")
    sync_folder(folder)
    shutil.rmtree(old, ignore_errors=True)
    kwargs = {key: value if _is_json(value) else repr(value) for key, value in (env_kwargs or {}).items()}
    state = {"config": config.to_dict(), "seed": seed, "env": env, "env_kwargs": kwargs, "best": row}
    write_json(folder / "sft.json", state)


def _is_json(value: Any) -> bool:
    """True if JSON can hold a value."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
