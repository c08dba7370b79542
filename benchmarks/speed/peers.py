"""Other ways to do a rollout and an update, measured beside ours in the same process.

- `generate`: Transformers' own, with its dynamic or its static cache. No environment, no reward, no log-probs.
- a bare loop: a hand-written rollout on Transformers' dynamic cache, with inverse CDF sampling and log-probs, and a
  hand-written PPO update over whole padded batches, with all its logits in memory. No environment, random rewards.
- the floor: the matrix products of a decode step alone, as PyTorch computes them.
- SB3's PPO with the same transformer as its policy, through `agents.sb3`.

TRL runs in a process of its own: `trl_peer.py`.
"""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from agents.policy.chunked_log_probs import linear_log_probs
from agents.sb3 import TextGenVecEnv, TransformerPolicy
from benchmarks.speed.shapes import Shape, Written, make_model, make_policy, word_tokenizer
from benchmarks.speed.timing import Case


def prompts(shape: Shape, count: int) -> Tensor:
    """Draws `(count, prompt)` random tokens."""
    return torch.randint(3, shape.vocab_size, (count, shape.prompt), generator=torch.Generator().manual_seed(0))


def written_tokens(rows: Tensor, prompt: int) -> int:
    """Counts the tokens written after the prompts in `(batch, length)` rows: EOS counts, and nothing after it."""
    responses = rows[:, prompt:]
    return int(((responses == 0).long().cumsum(1) - (responses == 0).long() == 0).sum())


def generate(model: Any, shape: Shape, episodes: int, static: bool = False) -> Callable[[], int]:
    """Returns a function that writes batches of as many rows as there are lanes, until it has so many episodes.

    Args:
        model: A Transformers model.
        shape: Number of lanes, and their budget.
        episodes: Episodes of a call.
        static: If True, with the static cache, not compiled.

    Returns:
        The function, which returns the number of tokens.
    """
    ids = prompts(shape, shape.lanes)
    settings: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True} if static else {}
    if shape.min_new_tokens:
        settings["min_new_tokens"] = shape.min_new_tokens

    def play() -> int:
        total = 0
        for _ in range(-(-episodes // shape.lanes)):
            rows = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=shape.new_tokens,
                **settings,
            )
            total += written_tokens(rows, shape.prompt)
        return total

    return play


@torch.no_grad()
def bare_rollout(model: Any, value_head: nn.Linear, ids: Tensor, new_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Writes responses in a hand-written loop over Transformers' dynamic cache.

    Args:
        model: A Transformers model that never draws EOS.
        value_head: A linear layer from hidden states to one number.
        ids: `(batch, prompt)` prompts of one length.
        new_tokens: Tokens to write.

    Returns:
        `(batch, prompt + new_tokens)` rows, and `(batch, new_tokens)` log-probs and values.
    """
    cache, rows, log_probs, values, new = DynamicCache(), [ids], [], [], ids
    for _ in range(new_tokens):
        hidden = model.model(input_ids=new, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        logs = torch.log_softmax(model.lm_head(hidden).float(), dim=-1)
        cdf = logs.exp().cumsum(-1)
        new = torch.searchsorted(cdf, torch.rand(len(cdf), 1) * cdf[:, -1:], right=True).clamp_(max=logs.shape[1] - 1)
        rows.append(new)
        log_probs.append(logs.gather(1, new))
        values.append(value_head(hidden))
    return torch.cat(rows, 1), torch.cat(log_probs, 1), torch.cat(values, 1)


class BareLoop:
    """PPO as written by hand: full logits, whole padded batches, four epochs of four minibatches.

    Args:
        shape: The model, and the number of lanes.
        episodes: Episodes of each iteration.
        chunked: If True, the head of the update is `chunked_log_probs.py`, in place of a log-softmax of all logits.
    """

    def __init__(self, shape: Shape, episodes: int, chunked: bool = False) -> None:
        self.shape, self.episodes, self.chunked = shape, episodes, chunked
        self.model = make_model(shape)
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.value_head = nn.Linear(shape.width, 1)
        self.parameters = [*self.model.parameters(), *self.value_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, eps=1e-5, fused=True)

    def iteration(self) -> int:
        """Writes a batch and learns from it. Returns the number of tokens."""
        shape = self.shape
        ids = prompts(shape, shape.lanes)
        parts = [
            bare_rollout(self.model, self.value_head, ids, shape.new_tokens)
            for _ in range(-(-self.episodes // shape.lanes))
        ]
        rows, old, values = (torch.cat(part) for part in zip(*parts, strict=True))
        self.update(rows, old, values, torch.randn_like(old))
        return old.numel()

    def update(self, rows: Tensor, old: Tensor, values: Tensor, rewards: Tensor) -> None:
        """Does four epochs of PPO.

        Args:
            rows: `(batch, length)` whole episodes, all of one length.
            old: `(batch, time)` log-probs of the actions, which end the rows.
            values: `(batch, time)` values of the states before them.
            rewards: `(batch, time)` rewards.
        """
        steps = old.shape[1]
        size = max(1, len(rows) // 4)
        with torch.no_grad():
            reference = torch.cat([self._log_probs(self.reference, part, steps)[0] for part in rows.split(size)])
            rewards = rewards - 0.01 * (old - reference)
            returns = rewards.flip(1).cumsum(1).flip(1)
            advantages = returns - values
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(4):
            for part in torch.randperm(len(rows)).split(size):
                log_probs, entropies, hidden = self._log_probs(self.model, rows[part], steps)
                ratio = (log_probs - old[part]).exp()
                gain = torch.min(ratio * advantages[part], ratio.clamp(0.8, 1.2) * advantages[part]).mean()
                error = 0.5 * (self.value_head(hidden)[..., 0] - returns[part]).pow(2).mean()
                (-gain + 0.5 * error - 0.01 * entropies.mean()).backward()
                nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()

    def _log_probs(self, model: Any, rows: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        hidden = model.model(input_ids=rows, use_cache=False).last_hidden_state[:, -steps - 1 : -1]
        taken = rows[:, -steps:]
        if self.chunked:
            head = model.lm_head
            flat = hidden.reshape(-1, hidden.shape[-1])
            log_probs, entropies = linear_log_probs(flat, head.weight, head.bias, taken.reshape(-1))
            return log_probs.view_as(taken), entropies.view_as(taken), hidden
        logs = torch.log_softmax(model.lm_head(hidden), dim=-1)
        return logs.gather(2, taken[..., None])[..., 0], -(logs.exp() * logs).sum(-1), hidden


def floor(model: Any, shape: Shape) -> Callable[[], int]:
    """Returns a function that does the matrix products of a response's decode steps, and nothing else."""
    weights = [layer.weight.detach() for layer in model.modules() if isinstance(layer, nn.Linear)]
    inputs = [torch.randn(shape.lanes, weight.shape[1]) for weight in weights]

    @torch.no_grad()
    def play() -> int:
        for _ in range(shape.new_tokens):
            for x, weight in zip(inputs, weights, strict=True):
                nn.functional.linear(x, weight)
        return shape.lanes * shape.new_tokens

    return play


def sb3_iteration(shape: Shape, episodes: int) -> Callable[[], int]:
    """Returns a function that does an iteration of Stable-Baselines3's PPO with the same transformer.

    It reads the whole text at every step.
    """
    import stable_baselines3

    policy = make_policy(shape)
    envs = TextGenVecEnv(
        "TextGen-v0",
        num_envs=shape.lanes,
        task=Written(shape),
        reward="sentiment",
        payout="immediate",
        tokenizer=policy.tokenizer,
        max_new_tokens=shape.new_tokens,
    )
    tokens = episodes * shape.new_tokens
    agent = stable_baselines3.PPO(
        TransformerPolicy,
        envs,
        policy_kwargs={"model": policy},
        n_steps=tokens // shape.lanes,
        batch_size=tokens // 4,
        n_epochs=4,
        learning_rate=1e-5,
        gamma=1.0,
        device="cpu",
    )

    def play() -> int:
        agent.learn(tokens, reset_num_timesteps=False)
        return tokens

    return play


class TrlCase(Case):
    """A trainer of TRL in a process of its own, which does one iteration each time it is asked.

    Args:
        labels: The columns that tell it from other cases.
        python: The interpreter of an environment that has TRL.
        algorithm: "ppo", "grpo" or "rloo".
        shape: The model, and the number of lanes.
        episodes: Episodes of each iteration.

    Attributes:
        version: TRL's version.
        added_mb: Memory that the iterations so far have added, in MB.
    """

    def __init__(self, labels: dict[str, Any], python: Path, algorithm: str, shape: Shape, episodes: int) -> None:
        super().__init__(labels, play=lambda: None)
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        word_tokenizer(shape.vocab_size).save(str(folder / "tokenizer.json"))
        task = Written(shape)
        spec = {
            "algorithm": algorithm,
            "config": {**shape.config.to_diff_dict(), "model_type": shape.config.model_type},
            "eos_bias": make_model(shape).lm_head.bias[0].item(),
            "folder": str(folder),
            "prompts": [task.example("train", index).prompt for index in range(512)],
            "episodes": episodes,
            "new_tokens": shape.new_tokens,
            "min_new_tokens": shape.min_new_tokens,
            "lanes": shape.lanes,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        script = Path(__file__).with_name("trl_peer.py")
        self._errors = (folder / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [str(python), str(script), str(folder / "spec.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.version = self._answer()["version"]
        self.added_mb = 0.0
        self._warm = False

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        self._errors.seek(0)
        raise RuntimeError(f"Expected an answer of TRL, got none: {self._errors.read()[-2000:]}")

    def turn(self, seconds: float) -> None:
        """Does one iteration. The first only warms up."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.added_mb = answer["added_mb"]
        if self._warm:
            self.record(answer["tokens"], answer["processor"], answer["clock"])
        self._warm = True

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self._errors.close()
        self._folder.cleanup()
