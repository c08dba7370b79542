"""Other people's algorithms in the same table: Stable-Baselines3's PPO and A2C, and TRL's GRPO and RLOO.

They keep their own defaults but for what makes the comparison fair or possible: gamma 1, as the scores are not
discounted; batches of about as many episodes as the bundled algorithms play an update; the same budget in tokens; and
for TRL, whose defaults are for models a thousand times as large, the step size of the bundled algorithms.

- `sb3_ppo` and `sb3_a2c` train the start model itself, through `agents.sb3.TransformerPolicy`. They read the whole text
  at every step, so their CPU-seconds say more about that than about the algorithm.
- `sb3_ppo_mlp` and `sb3_a2c_mlp` are SB3's own MLP on one-hot tokens (the last 8 where the vocabulary is large).
- `trl_grpo` and `trl_rloo` see the score of whole texts, through `textenvs.wrappers.score_function`: no payout
  reaches them, so both rows of a task are the same experiment. They need a tokenizer of Transformers, which the tiny
  alphabets of diagnostic tasks are not.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents import Policy
from agents.training.config import RunConfig
from agents.training.start_policy import start_policy
from benchmarks.learn.playing import Trained, Unavailable, played_scores, policy_scores
from benchmarks.learn.suite import Experiment
from textenvs.wrappers import MAX_ONE_HOT, VectorOneHotObservation, score_function

LANES = 64
BATCH = 128
"""Episodes between two updates, about: what the bundled algorithms play."""
LEARNING_RATE = RunConfig().filled_in(pretrained=True).learning_rate
"""TRL's: its own default, 1e-6, is for models a thousand times as large, and moves these ones by nothing."""


def train(name: str, experiment: Experiment, seed: int, settings: dict[str, Any], max_seconds: float | None) -> Trained:
    """Let an outside baseline learn.

    Args:
        name: One of `benchmarks.learn.contestants.OUTSIDE`.
        experiment: What it learns.
        seed: The seed.
        settings: For SB3's algorithm or TRL's config.
        max_seconds: See `benchmarks.learn.contestants.train`.

    Returns:
        The agent, trained.

    Raises:
        Unavailable: If its library is not installed, or the experiment is none that it can take part in.
    """
    if name.startswith("sb3"):
        try:
            import stable_baselines3  # noqa: F401 - whether it is there
        except ImportError as error:
            raise Unavailable('stable-baselines3 is not installed: pip install "textenvs[sb3]"') from error
        return _sb3(name, experiment, seed, settings, max_seconds)
    try:
        import trl  # noqa: F401 - whether it is there
    except ImportError as error:
        raise Unavailable("trl is not installed: pip install trl") from error
    return _trl(name, experiment, seed, settings, max_seconds)


class _Curve:
    """Episodes' scores as they end, in batches."""

    def __init__(self, budget: int, max_seconds: float | None) -> None:
        self.rows: list[tuple[int, float, float]] = []
        self.tokens = 0
        self._budget = budget
        self._scores: list[float] = []
        self._started, self._cpu = time.perf_counter(), time.process_time()
        self._max_seconds = max_seconds

    def add(self, tokens: int, scores: list[float]) -> bool:
        """Count them; returns whether the budget and the time are not used up."""
        self.tokens += tokens
        self._scores += scores
        if len(self._scores) >= BATCH:
            self.rows.append((self.tokens, time.process_time() - self._cpu, float(np.mean(self._scores))))
            self._scores = []
        return self.tokens < self._budget and not self.late

    @property
    def late(self) -> bool:
        """Whether the time is used up."""
        return self._max_seconds is not None and time.perf_counter() - self._started >= self._max_seconds


def _sb3(name: str, experiment: Experiment, seed: int, settings: dict[str, Any], max_seconds: float | None) -> Trained:
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback

    from agents.sb3 import TextGenVecEnv, TransformerPolicy

    mlp = name.endswith("_mlp")
    policy = start_policy(experiment.model, experiment.env, experiment.kwargs, seed=seed, device="cpu")
    made = gym.make_vec(
        experiment.env, num_envs=LANES, autoreset_mode="SameStep", tokenizer=policy.tokenizer, **experiment.kwargs
    )
    steps, last = made.unwrapped.setting.max_new_tokens, None
    if mlp:
        columns = made.single_observation_space["input_ids"].shape[0]
        vocabulary = policy.tokenizer.vocab_size
        last = 8 if columns * vocabulary > MAX_ONE_HOT else None
        made = VectorOneHotObservation(made, last=last)
    envs = TextGenVecEnv(made)
    envs.seed(seed)
    curve = _Curve(experiment.tokens, max_seconds)

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            scores = [
                info["score"] for info, over in zip(self.locals["infos"], self.locals["dones"], strict=True) if over
            ]
            curve.add(LANES, scores)
            return not curve.late  # SB3 would not train on a rollout that it was told to stop in

    n_steps = max(1, steps * BATCH // LANES)
    common: dict[str, Any] = {"seed": seed, "device": "cpu", "gamma": 1.0}
    if name.startswith("sb3_ppo"):
        common |= {"n_steps": n_steps, "batch_size": n_steps * LANES // 4}
    config = {**common, **settings}
    algorithm = stable_baselines3.PPO if name.startswith("sb3_ppo") else stable_baselines3.A2C
    if mlp:
        agent = algorithm("MlpPolicy", envs, **config)
    else:
        agent = algorithm(TransformerPolicy, envs, policy_kwargs={"model": policy}, **config)
    agent.learn(experiment.tokens, callback=Watch())
    config = {key: value for key, value in config.items() if key != "device"}
    if not mlp:
        return Trained(policy_scores(policy, experiment, seed), curve.tokens, curve.rows, config)

    scores = played_scores(
        experiment,
        lambda seen: agent.predict(seen, deterministic=False)[0],
        lambda lanes: VectorOneHotObservation(lanes, last=last),
        policy.tokenizer,
    )
    return Trained(scores, curve.tokens, curve.rows, {**config, "last": last})


def _trl(name: str, experiment: Experiment, seed: int, settings: dict[str, Any], max_seconds: float | None) -> Trained:
    import transformers
    import trl
    from datasets import Dataset

    if experiment.model == "tiny":
        policy = start_policy("tiny", experiment.env, experiment.kwargs, seed=seed, device="cpu")
        if not policy.pretrained:
            raise Unavailable("TRL needs a tokenizer of Transformers, and this task's alphabet is none")
    else:
        policy = Policy.from_pretrained(experiment.model, device="cpu")
    envs = gym.make(experiment.env, tokenizer=policy.tokenizer, **experiment.kwargs)
    if envs.unwrapped.task.max_turns > 1:
        raise Unavailable("TRL's trainers take one response, and this task has several turns")
    score = score_function(envs)
    budget = envs.unwrapped.setting.max_new_tokens
    curve = _Curve(experiment.tokens, max_seconds)
    go_on = True

    def reward(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        nonlocal go_on
        found = score(prompts, completions, **columns)
        go_on = curve.add(sum(map(len, completion_ids)), found)
        return found

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            control.should_training_stop = not go_on
            return control

    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(Path(folder) / "start")
        model = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "start", dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "start", padding_side="left")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        config: dict[str, Any] = {
            "per_device_train_batch_size": BATCH, "num_generations": 8, "max_completion_length": budget,
            "max_steps": max(1, experiment.tokens), "seed": seed, "temperature": 1.0,
            "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", **settings,
        }  # fmt: skip
        trainer_class, config_class = (
            (trl.GRPOTrainer, trl.GRPOConfig) if name == "trl_grpo" else (trl.RLOOTrainer, trl.RLOOConfig)
        )
        trainer = trainer_class(
            model=model,
            reward_funcs=reward,
            args=config_class(
                output_dir=folder, use_cpu=True, bf16=False, report_to=[], logging_strategy="no", save_strategy="no",
                disable_tqdm=True, **config,
            ),
            train_dataset=Dataset.from_list(score.rows()),
            processing_class=tokenizer,
            callbacks=[Stop()],
        )  # fmt: skip
        trainer.train()
        trainer.model.save_pretrained(Path(folder) / "end")
        tokenizer.save_pretrained(Path(folder) / "end")
        trained = Policy.from_pretrained(Path(folder) / "end", device="cpu")
    return Trained(policy_scores(trained, experiment, seed, policy), curve.tokens, curve.rows, config)
