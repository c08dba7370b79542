"""Other people's algorithms in the same table.

They are Stable-Baselines3's PPO and A2C, sb3-contrib's MaskablePPO, and TRL's GRPO and RLOO. They keep their own
defaults, except for settings that make the comparison fair or possible: gamma is 1, as scores are not discounted; a
batch has about as many episodes as an update of the bundled algorithms; the budget in tokens is the same; and TRL,
whose default is for models a thousand times as large, gets the step size of the bundled algorithms.

- `sb3_ppo`, `sb3_a2c` and `sb3_maskable_ppo` train the start policy itself, through `agents.sb3`. They read the whole
  text at every step, so their CPU-seconds say more about that than about the algorithm. `sb3_maskable_ppo` alone can
  play an environment that masks actions.
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
from benchmarks.learn.playing import Curve, Trained, Unavailable, make_start_policy, played_scores, policy_scores
from benchmarks.learn.suite import Experiment
from textenvs.wrappers import MAX_ONE_HOT, VectorOneHotObservation, score_function

OUTSIDE = (
    "sb3_ppo", "sb3_a2c", "sb3_maskable_ppo", "sb3_ppo_mlp", "sb3_a2c_mlp", "trl_grpo", "trl_rloo",
)  # fmt: skip
LANES = 64
BATCH = 128
"""About how many episodes lie between two updates, as in the bundled algorithms."""
LEARNING_RATE = RunConfig().filled_in(pretrained=True).learning_rate
"""TRL's. With its own default, 1e-6, models of this size do not move."""


def train(name: str, experiment: Experiment, seed: int, settings: dict[str, Any], max_seconds: float | None) -> Trained:
    """Trains an outside baseline.

    Args:
        name: One of `OUTSIDE`.
        experiment: The experiment.
        seed: The seed.
        settings: Settings of SB3's algorithm or TRL's config.
        max_seconds: Training stops after this many seconds; None: no limit.

    Returns:
        The agent, trained.

    Raises:
        Unavailable: If its library is not installed, or it cannot take part in the experiment.
    """
    if name.startswith("sb3"):
        try:
            import stable_baselines3  # noqa: F401 - looks whether it is there
        except ImportError as error:
            raise Unavailable('stable-baselines3 is not installed: pip install "textenvs[sb3]"') from error
        return _sb3(name, experiment, seed, settings, max_seconds)
    try:
        import trl  # noqa: F401 - looks whether it is there
    except ImportError as error:
        raise Unavailable("trl is not installed: pip install trl") from error
    return _trl(name, experiment, seed, settings, max_seconds)


class _Progress:
    """The training curve of a baseline, and its budget.

    Args:
        budget: Tokens.
        max_seconds: Seconds, or None.

    Attributes:
        curve: A point for each batch of episodes.
        tokens: Tokens so far.
    """

    def __init__(self, budget: int, max_seconds: float | None) -> None:
        self.curve: Curve = []
        self.tokens = 0
        self._budget = budget
        self._scores: list[float] = []
        self._started, self._cpu = time.perf_counter(), time.process_time()
        self._max_seconds = max_seconds

    def add(self, tokens: int, scores: list[float]) -> bool:
        """Counts tokens and the scores of episodes that ended. Returns True while budget and time are left."""
        self.tokens += tokens
        self._scores += scores
        if len(self._scores) >= BATCH:
            self.curve.append((self.tokens, time.process_time() - self._cpu, float(np.mean(self._scores))))
            self._scores = []
        return self.tokens < self._budget and not self.late

    @property
    def late(self) -> bool:
        """True if the time is used up."""
        return self._max_seconds is not None and time.perf_counter() - self._started >= self._max_seconds


def _sb3_classes(name: str) -> tuple[Any, Any]:
    """Returns the algorithm and the policy class of a name."""
    import stable_baselines3

    from agents.sb3 import TransformerPolicy

    if name == "sb3_maskable_ppo":
        try:
            from sb3_contrib import MaskablePPO

            from agents.sb3 import MaskableTransformerPolicy
        except ImportError as error:
            raise Unavailable("sb3-contrib is not installed: pip install sb3-contrib") from error
        return MaskablePPO, MaskableTransformerPolicy
    algorithm = stable_baselines3.PPO if name.startswith("sb3_ppo") else stable_baselines3.A2C
    return algorithm, "MlpPolicy" if name.endswith("_mlp") else TransformerPolicy


def _sb3(name: str, experiment: Experiment, seed: int, settings: dict[str, Any], max_seconds: float | None) -> Trained:
    from stable_baselines3.common.callbacks import BaseCallback

    from agents.sb3 import TextGenVecEnv

    if "action_mask" in experiment.env_kwargs and name != "sb3_maskable_ppo":
        raise Unavailable("of Stable-Baselines3's algorithms sb3_maskable_ppo alone masks actions")
    algorithm, policy_class = _sb3_classes(name)
    mlp = policy_class == "MlpPolicy"
    policy = make_start_policy(experiment, seed)
    lanes = gym.make_vec(
        experiment.env, num_envs=LANES, autoreset_mode="SameStep", tokenizer=policy.tokenizer, **experiment.kwargs
    )
    steps, last = lanes.unwrapped.setting.max_new_tokens, None
    if mlp:
        columns = lanes.single_observation_space["input_ids"].shape[0]
        last = 8 if columns * policy.tokenizer.vocab_size > MAX_ONE_HOT else None
        lanes = VectorOneHotObservation(lanes, last=last)
    envs = TextGenVecEnv(lanes)
    envs.seed(seed)
    progress = _Progress(experiment.tokens, max_seconds)

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            scores = [
                info["score"] for info, over in zip(self.locals["infos"], self.locals["dones"], strict=True) if over
            ]
            progress.add(LANES, scores)
            return not progress.late  # SB3 would not train on a rollout that it was told to stop in

    config: dict[str, Any] = {"seed": seed, "device": "cpu", "gamma": 1.0}
    if "ppo" in name:
        n_steps = max(1, steps * BATCH // LANES)
        config |= {"n_steps": n_steps, "batch_size": n_steps * LANES // 4}
    config |= settings
    policy_kwargs = None if mlp else {"model": policy}
    agent = algorithm(policy_class, envs, policy_kwargs=policy_kwargs, **config)
    agent.learn(experiment.tokens, callback=Watch())
    config = {key: value for key, value in config.items() if key != "device"}
    if not mlp:
        return Trained(policy_scores(policy, experiment, seed), progress.tokens, progress.curve, config)
    scores = played_scores(
        experiment,
        lambda seen: agent.predict(seen, deterministic=False)[0],
        lambda test_lanes: VectorOneHotObservation(test_lanes, last=last),
        policy.tokenizer,
    )
    return Trained(scores, progress.tokens, progress.curve, {**config, "last": last})


def _trl(name: str, experiment: Experiment, seed: int, settings: dict[str, Any], max_seconds: float | None) -> Trained:
    import transformers
    import trl
    from datasets import Dataset

    policy = make_start_policy(experiment, seed)
    if experiment.folder is None and not policy.pretrained:
        raise Unavailable("TRL needs a tokenizer of Transformers, and this task's alphabet is none")
    env = gym.make(experiment.env, tokenizer=policy.tokenizer, **experiment.kwargs)
    if env.unwrapped.task.max_turns > 1:
        raise Unavailable("TRL's trainers take one response, and this task has several turns")
    score = score_function(env)
    progress = _Progress(experiment.tokens, max_seconds)
    unfinished = True

    def reward(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        nonlocal unfinished
        scores = score(prompts, completions, **columns)
        unfinished = progress.add(sum(map(len, completion_ids)), scores)
        return scores

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            control.should_training_stop = not unfinished
            return control

    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(Path(folder) / "start")
        model = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "start", dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "start", padding_side="left")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        config: dict[str, Any] = {
            "per_device_train_batch_size": BATCH, "num_generations": 8,
            "max_completion_length": env.unwrapped.setting.max_new_tokens, "max_steps": max(1, experiment.tokens),
            "seed": seed, "temperature": 1.0, "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant",
            **settings,
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
    return Trained(policy_scores(trained, experiment, seed, policy), progress.tokens, progress.curve, config)
