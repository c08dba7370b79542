"""The only training loop: play, compare with the start model, learn, report.

    collect -> log-probs of the reference -> bonuses -> the algorithm's update -> metrics

Update number n of a run seeded s draws everything (examples, actions, order of minibatches) from (s, n) alone, so a
run that is resumed from a checkpoint sees what it would have seen without the stop.

`Algorithm` stands here too: it makes agents, and an agent follows it, so each needs the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from agents.bonuses import Bonuses
from agents.distributed import processes
from agents.distributed.learner import make_learner
from agents.evaluation.evaluation import Evaluation, EvaluationPlan, demonstration_score
from agents.evaluation.verdict import too_equal
from agents.locks import FolderLock
from agents.policy.policy import Policy
from agents.rollout import Rollout, gather, reference_log_probs
from agents.training import agent_state, checkpoints, env_arguments, report
from agents.training.agent_state import AgentState
from agents.training.config import RunConfig
from agents.training.observation import check_observation
from agents.training.optimization import (
    NonFiniteError,
    make_optimizer,
    set_learning_rate,
    skipped_in_a_row,
    skipped_steps,
)
from agents.training.player import Player
from agents.training.progress_bar import ProgressBar
from agents.training.run_folder import KnownRun, RunFolder, last_checkpoint
from agents.training.schedules import config_in_force
from agents.training.signals import Interrupts
from agents.training.start_policy import start_policy
from textenvs import TextGenVectorEnv, make_reward
from textenvs.arguments import check_count, check_path
from textenvs.rewards import make_payout

_LOG = logging.getLogger(__name__)

Update = Callable[[Policy, torch.optim.Optimizer, Rollout, Any, torch.Generator], dict[str, float]]
"""From the policy that is trained, its optimiser, a batch of episodes, the config and a source of randomness to metrics
of the update."""

Prepare = Callable[["Agent", Rollout], Rollout]
"""From the agent and a batch of episodes to the batch that its update gets."""


@dataclass(frozen=True)
class Algorithm:
    """A learning algorithm: a name, a config and an update. Calling it makes an agent.

    Attributes:
        name: Its name in checkpoints and on the command line.
        config: Its config class, a frozen dataclass that inherits `RunConfig`.
        update: `update(policy, optimizer, rollout, config, generator) -> metrics`.
        prepare: `prepare(agent, rollout) -> rollout`, called before each update, for what an update cannot do: play in
            the agent's environment, or keep something from one update to the next in `agent.carried`.
        known: Every algorithm by its name, so that checkpoints of it can be loaded.

    Raises:
        ValueError: If the name is taken.

    Example:
        agent = PPO("tiny", "TextGen-v0", seed=0, gae_lambda=0.9)
    """

    name: str
    config: type[RunConfig]
    update: Update
    prepare: Prepare | None = None
    known: ClassVar[dict[str, Algorithm]] = {}

    def __post_init__(self) -> None:
        """Adds it to `known`.

        Raises:
            ValueError: If the name is taken.
        """
        if self.name in self.known:
            taken = self.known[self.name].update
            raise ValueError(
                f"Expected a new algorithm name, got {self.name!r}, which is taken by the one with update "
                f"{taken.__module__}.{taken.__qualname__}: choose another name"
            )
        self.known[self.name] = self

    def __call__(
        self,
        policy: Policy | str | Path | Mapping[str, Any] = "tiny",
        env: str | gym.Env[Any, Any] | TextGenVectorEnv = "TextGen-v0",
        *,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> Agent:
        """Makes an agent of this algorithm.

        Args:
            policy: A policy, whose weights training changes, or what `Policy.from_pretrained` takes. "tiny" is the
                bundled language model where the environment speaks its tokenizer by default, and otherwise a small
                model with random weights. A dict is the config of a new model, as `Policy.from_config` takes it.
            env: A registered id, or an environment without wrappers whose tokenizer is the policy's.
            seed: Decides everything that is random.
            env_kwargs: Arguments of the environment, with an id.
            policy_kwargs: Arguments of `Policy.adapt`, where the policy is made here: `{"lora": 8}`, say.
            device: Where a policy that is made here goes.
            **settings: Fields of the config.

        Returns:
            The agent.

        Raises:
            TypeError: If a setting is unknown.
            ValueError: If a value is out of range, or policy and environment do not fit, or come in the other order.
        """
        seed = check_count("seed", seed, least=0)
        if isinstance(policy, (gym.Env, gym.vector.VectorEnv)) or (
            isinstance(policy, str) and policy in gym.registry and not Path(policy).exists()
        ):
            raise ValueError(
                f"Expected a policy first and then an environment, got the environment {policy!r:.200} first: "
                f"{self.name}('tiny', 'TextGen-v0'), say"
            )
        if not isinstance(policy, Policy):
            policy = start_policy(policy, env, env_kwargs, seed=seed, device=device).adapt(**(policy_kwargs or {}))
        elif policy_kwargs:
            raise ValueError("Expected policy_kwargs with a policy's name, got them with a policy: call its adapt()")
        return Agent(self, policy, env, self.config.of(settings), seed=seed, env_kwargs=env_kwargs)

    def load(
        self,
        folder: str | Path,
        which: str | int = "last",
        *,
        env: Any = None,
        env_kwargs: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> Agent:
        """Loads an agent of this algorithm from a run's folder, as `agents.load` does for any algorithm.

        Args:
            folder: The folder of a run, or of one of its checkpoints.
            which: Which checkpoint of a run: "last", "best" or a number.
            env: Another environment than the saved one.
            env_kwargs: Arguments of the environment, laid over the saved ones.
            device: Where to put the policy; None chooses.

        Returns:
            The agent.

        Raises:
            ValueError: If there is no checkpoint, or it is damaged, or of another algorithm.
        """
        agent = load(folder, which, env=env, env_kwargs=env_kwargs, device=device)
        if agent.algorithm is not self:
            raise ValueError(
                f"Expected a run of {self.name} in {str(folder)!r}, got one of {agent.algorithm.name}: agents.load() "
                "takes any"
            )
        return agent


class Agent:
    """A policy, an environment and an algorithm. Made by `PPO(...)`, `ActorCritic(...)` or `REINFORCE(...)`.

    Args:
        algorithm: The algorithm.
        policy: The policy that is trained: its weights change, in place. Where the config asks for another critic than
            it has, `agent.policy` is a second policy over the same weights, with that critic.
        env: A registered id, or an environment.
        config: The algorithm's config.
        seed: Decides everything that is random.
        env_kwargs: Arguments of the environment, with an id.
        reference: The policy that KL is measured to; None takes a copy of `policy` as it is now.

    Attributes:
        policy: The policy that plays and is trained.
        config: The settings, with what was left open (`None`) filled in, see `OptimizerConfig.filled_in`.
        player: Plays the episodes.
        learner: The policy that updates are made with, and its optimiser: cut over the processes, if there are several.
        timesteps: Tokens played so far.
        updates: Updates made so far.
        seconds: Seconds that they took.
        carried: Values kept from one update to the next beside weights and optimiser: JSON values, saved with them.
        bonuses: The payments beside the score, and what they remember.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        policy: Policy,
        env: str | gym.Env[Any, Any] | TextGenVectorEnv,
        config: RunConfig,
        *,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        reference: Policy | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.reference = policy.frozen_copy() if reference is None else reference
        critic = getattr(config, "critic", None)  # an algorithm without the setting takes the critic that there is
        self.policy = policy if critic is None else policy.with_critic(critic)
        self.seed = check_count("seed", seed, least=0)
        self.carried: dict[str, Any] = {}
        self.player = Player(self.policy, env, env_kwargs, config, self.carried)
        self.env_id, self.env_kwargs = self.player.env_id, self.player.env_kwargs
        self._model_digests = env_arguments.model_digests(self.env_kwargs)  # of what was read just now
        payout = make_payout(self.env.setting.payout, 1, policy.tokenizer)
        env_arguments.check_fits(self.env, payout, config)
        self.config = config = config.filled_in(self.reference.pretrained, payout.at_once)
        if not self.reference.pretrained:
            _LOG.info(
                "The start model has random weights: kl_coef %s, entropy_coef %s, learning_rate %s",
                *(config.kl_coef, config.entropy_coef, config.learning_rate),
            )
        self.learner = make_learner(self.policy, partial(make_optimizer, config=config))
        self.timesteps = 0
        self.updates = 0
        self.seconds = 0.0
        self.bonuses = Bonuses(config.bonuses, self.reference, seed)
        self._is_consistent = True  # False from the first change that an update makes to its last
        self._saved_state: tuple[int, int | None] | None = None  # the state that the last checkpoint holds
        self._is_reloadable = False  # True once the policy was saved and loaded, and is the same
        self._run_folders: dict[Path, KnownRun] = {}  # folders that hold this agent's own run
        # Random weights at no price: nobody asks how far they have moved, and a fifth of the time is saved.
        self._compares = bool(
            self.reference.pretrained or config.kl_coef or config.kl_target is not None or config.bonuses
        )
        held_out = self.env.task.held_out_reward
        self._held_out = None if held_out is None else make_reward(held_out)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of what is trained."""
        return self.learner.optimizer

    @property
    def env(self) -> TextGenVectorEnv:
        """The lanes that are trained in."""
        return self.player.env

    def make_env(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        """Makes lanes of the agent's environment, with the policy's tokenizer, for `collect` and `evaluate`.

        A reward or a curriculum that changes over the run is as it is now.

        Args:
            num_envs: Number of lanes.
            **changes: Environment arguments to change, `split="test"` say.

        Returns:
            A vector environment that leaves resets to its user.

        Raises:
            ValueError: If the agent was made with lanes that have no id to make others from.
        """
        return self.player.make_env(num_envs, **changes)

    # The loop --------------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: float,
        *,
        folder: str | Path | None = None,
        evaluation: EvaluationPlan | None = None,
        progress_bar: bool = False,
        checkpoint_seconds: float = 300.0,
        keep_checkpoints: int = 2,
        max_seconds: float | None = None,
        wandb_project: str | None = None,
        on_update: Callable[[dict[str, float]], None] | None = None,
        on_evaluation: Callable[[int, str, Evaluation], None] | None = None,
    ) -> Agent:
        """Trains until that many tokens have been played, counting those of earlier calls.

        With a folder, the run survives whatever ends it: `load(folder).learn(...)` with the same arguments resumes from
        the last checkpoint, and comes to the same numbers.

        Args:
            total_timesteps: Tokens (actions) in all; the update that crosses the mark is finished. Schedules reach
                their end there.
            folder: Where checkpoints, logs and samples go, see `agents.training.run_folder`; None keeps nothing. A new
                one, or the run's own: one that this agent was loaded from, or has learned or saved in before.
            evaluation: When to evaluate, and how; None: never.
            progress_bar: If True, one is shown.
            checkpoint_seconds: Seconds between checkpoints. One is also written when an evaluation is the best so far,
                at the end, at Ctrl-C and at an error.
            keep_checkpoints: Number of the last ones that stay, beside the one with the best validation score.
            max_seconds: Stop after this many seconds of training.
            wandb_project: Also log to this Weights & Biases project.
            on_update: Called with each row of metrics.
            on_evaluation: Called with the tokens played, the split and the evaluation.

        Returns:
            The agent itself.

        Raises:
            KeyboardInterrupt: At Ctrl-C, when the update under way is finished and the checkpoint is written. A second
                Ctrl-C does not wait for the update.
            Terminated: At SIGTERM, SIGHUP and SIGUSR1, likewise: a SystemExit.
            RewardError: If the reward fails; what was learned before is in the checkpoint.
            NonFiniteError: If loss or gradient are NaN or infinite too often in a row, or in all of the last update.
            SaveError: If a checkpoint cannot be written; the one before is whole.
            ValueError: If the folder holds another run, or another process writes to it or has trained in it since this
                agent was loaded, or a number is out of range; or, before the first update, if a checkpoint would not be
                read back as the same policy.
            TypeError: If a number is not whole.
        """
        if isinstance(total_timesteps, float) and total_timesteps.is_integer():  # 1e6
            total_timesteps = int(total_timesteps)
        total_timesteps = check_count("total_timesteps", total_timesteps)
        keep_checkpoints = check_count("keep_checkpoints", keep_checkpoints)
        is_first = processes.rank() == 0  # of several processes, the others only play and learn
        started = saved = time.perf_counter()
        with (
            self._open(check_path("folder", folder), wandb_project)
            if folder is not None and is_first
            else nullcontext() as run,
            ProgressBar(total_timesteps, self.timesteps, shown=progress_bar and is_first) as bar,
            Interrupts() as interrupts,
        ):
            # A checkpoint of a policy in pieces takes all processes: it is written only if all of them leave the loop.
            leaves_together = not self.learner.is_cut
            row: dict[str, float] = {}
            finished = False
            if run is not None:
                self._rehearse(run.path)
            try:
                while True:
                    now = time.perf_counter()
                    late = max_seconds is not None and now - started >= max_seconds
                    due = now - saved >= checkpoint_seconds
                    over, signalled, save = processes.largest([int(late), interrupts.requested, int(due)])
                    leaves_together |= signalled > 0
                    interrupts.answer(signalled)
                    ended = over > 0 or self.timesteps >= total_timesteps
                    improved = False
                    if evaluation is not None:
                        with interrupts.at_once():
                            improved = self._evaluate(evaluation, total_timesteps, ended, run, on_evaluation)
                    if improved or save:
                        self._save(run, keep_checkpoints)
                        saved = now
                    if ended:
                        leaves_together = True
                        # Steps that are skipped change nothing. An update of no others has gone wrong, and ends here.
                        finished = row.get("skipped", 0.0) < 1.0
                        break
                    row = self._iterate(self.timesteps / total_timesteps)
                    if run is not None:
                        run.write_metrics(self.timesteps, row)
                    if on_update is not None and is_first:
                        on_update({"timesteps": self.timesteps, **row})
                    bar.show(self.timesteps, row)
            finally:
                if leaves_together:
                    self._save(run, keep_checkpoints, finished=finished)
                else:
                    _LOG.warning("No checkpoint is written: it takes all processes, and not all of them have stopped.")
        if not finished:
            raise NonFiniteError(
                f"Expected finite losses and gradients, got NaN or infinity in every step of the last update: the last "
                f"{skipped_in_a_row(self.optimizer)} were skipped. What was learned before them is in the last "
                "checkpoint, if there was one. Lower learning_rate or max_grad_norm, or look at what the reward pays",
                torch.empty(0, dtype=torch.int64),
            )
        return self

    def _iterate(self, progress: float) -> dict[str, float]:
        """Makes one update: plays, compares with the reference, learns, and reports.

        Args:
            progress: Share of the run's tokens that are played, for the schedules.

        Returns:
            The row of metrics.
        """
        started = time.perf_counter()
        env_seed, playing_generator, generator = self._randomness()
        reward = self.env.setting.reward
        reward.update(progress=progress)
        self._is_consistent = self.env.curriculum is None  # it counts episodes while they are played
        rollout = self.player.play(env_seed, playing_generator)
        played = time.perf_counter()
        rollout = gather(self._compare(rollout))
        self._is_consistent = False
        if self.updates == 0 and "evaluated" not in self.carried and processes.rank() == 0:
            demonstration = demonstration_score(self.env, rollout.examples.tolist(), self.policy.tokenizer)
            self._warn_if_too_equal(rollout.scores.tolist(), rollout.responses(self.policy), demonstration)
        rollout, paid = self.bonuses.pay(rollout, self.policy)
        row = report.describe(
            rollout, self.policy, self.env, self._held_out, carried=self.carried, timesteps=self.timesteps
        )
        reward.update(scores=rollout.part_scores)  # after `describe`, which says what these episodes were scored with
        described = time.perf_counter()
        learned = self._learn_from(rollout, row.get("kl", 0.0), progress, generator)
        ended = time.perf_counter()
        self.policy.pretrained = True  # what starts from it later has a start model to stay near
        self.updates += 1
        self.timesteps += rollout.num_tokens
        self.seconds += ended - started
        self._is_consistent = True
        times = {
            "tokens_per_second": rollout.num_tokens / (ended - started),
            "seconds_policy": rollout.seconds["policy"],
            "seconds_environment": rollout.seconds["environment"],
            "seconds_score": rollout.seconds["score"],
            "seconds_reference": described - played,
            "seconds_update": ended - described,
        }
        return {**row, **paid, **learned, **times}

    def _randomness(self) -> tuple[int, torch.Generator, torch.Generator]:
        """Draws an update's randomness: the seed of its lanes, and generators for sampling and for learning."""
        drawn = np.random.SeedSequence([self.seed, self.updates]).generate_state(2, np.uint64)
        env_seed, policy_seed = (int(number) >> 1 for number in drawn)  # torch takes seeds below 2^63
        generator = torch.Generator(self.policy.device).manual_seed(policy_seed)
        if processes.count() == 1:
            return env_seed, generator, generator
        # Processes sample with generators of their own; what is drawn while learning is the same in all of them.
        drawn = np.random.SeedSequence([self.seed, self.updates, processes.rank()]).generate_state(1, np.uint64)
        return env_seed, torch.Generator(self.policy.device).manual_seed(int(drawn[0]) >> 1), generator

    def _compare(self, rollout: Rollout) -> Rollout:
        """Adds the log-probs of the reference where anything asks for them, and records the policy's own again."""
        settings: dict[str, Any] = {
            "temperature": self.config.temperature,
            "micro_batch_size": self.config.micro_batch_size,
        }
        if self.config.recompute_log_probs:
            again = reference_log_probs(self.policy, rollout, **settings)
            rollout = replace(rollout, log_probs=again, sampler_log_probs=rollout.log_probs)
        if self._compares:
            rollout = replace(rollout, ref_log_probs=reference_log_probs(self.reference, rollout, **settings))
        return rollout

    def _learn_from(self, rollout: Rollout, kl: float, progress: float, generator: torch.Generator) -> dict[str, float]:
        """Makes the algorithm's update.

        Args:
            rollout: The episodes of all processes.
            kl: Nats an episode to the start model.
            progress: Share of the run's tokens that are played.
            generator: Source of the update's randomness, in the same state in every process.

        Returns:
            The update's metrics, and what schedules and controllers gave it.
        """
        config = config_in_force(self.config, progress, kl * len(rollout) / rollout.num_tokens, self.carried)
        learning_rate = set_learning_rate(self.optimizer, config, progress)
        if self.algorithm.prepare is not None:
            rollout = self.algorithm.prepare(self, rollout)
        self.learner.begin_update()
        try:
            metrics = self.algorithm.update(self.learner.policy, self.optimizer, rollout, config, generator)
        except NonFiniteError as error:
            raise report.with_episodes(error, rollout, self.policy, self.env, self.updates + 1) from error
        self.learner.publish()
        return {
            **metrics,
            "kl_coef": config.kl_coef or 0.0,
            "entropy_coef": config.entropy_coef or 0.0,
            "learning_rate": learning_rate,
            "skipped_steps": float(skipped_steps(self.optimizer)),
        }

    # Playing and evaluating ------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Mapping[str, NDArray[Any]],
        state: None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        *,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[np.int64] | int, None]:
        """Chooses the next token of an observation, or of each of a batch, as in Stable-Baselines3.

        Args:
            observation: An observation of `TextGenEnv` or of `TextGenVectorEnv`.
            state: For Stable-Baselines3's `evaluate_policy`; there is none.
            episode_start: Likewise, and not read: an observation is the whole episode so far.
            deterministic: If True, the likeliest token instead of a sample.
            action_masks: Tokens that may be taken, `info["action_mask"]` of the environment, as in sb3-contrib.

        Returns:
            A token id, or `(lanes,)` of them, and None (there is no hidden state).

        Raises:
            TypeError: If the observation is no mapping.
            ValueError: If it is not one of an environment with the policy's tokenizer.
        """
        check_observation(observation, self.policy.tokenizer.vocab_size)
        single = np.ndim(observation["input_ids"]) == 1
        batch = {key: np.asarray(value)[None] for key, value in observation.items()} if single else observation
        masks = np.asarray(action_masks)[None] if single and action_masks is not None else action_masks
        actions = self.policy.predict(
            batch, temperature=self.config.temperature, deterministic=deterministic, action_masks=masks
        )
        return (int(actions[0]) if single else actions), None

    def evaluate(self, num_episodes: int = 300, *, split: str = "validation", **settings: Any) -> Evaluation:
        """Scores the policy on examples that it did not train on, with KL to the start model.

        Args:
            num_episodes: Number of episodes.
            split: Which examples.
            **settings: Arguments of `agents.evaluate`.

        Returns:
            The evaluation.
        """
        settings = {"temperature": self.config.temperature, "reference": self.reference, **settings}
        return self.player.evaluate(num_episodes, split=split, **settings)

    def _evaluate(
        self,
        plan: EvaluationPlan,
        total_timesteps: int,
        ended: bool,
        run: RunFolder | None,
        on_evaluation: Callable[[int, str, Evaluation], None] | None,
    ) -> bool:
        """Evaluates where it is due. Returns True if the validation score is the best of the run so far."""
        last = self.carried.get("evaluated", {})
        before = last["timesteps"] / total_timesteps if last else None
        due = plan.splits(self.timesteps / total_timesteps, before, ended=ended)
        splits = [split for split in due if split in self.env.setting.splits]  # a handful of prompts has but one
        sampling = plan.sampling(self.config.temperature)
        score = 0.0
        for split in splits if processes.rank() == 0 else ():
            result = self.evaluate(plan.episodes, split=split, **sampling)
            if self.updates == 0 and split == splits[0]:
                self._warn_if_too_equal(result.scores, result.responses, result.demonstration)
            if run is not None:
                run.write_evaluation(self.timesteps, split, result, {"episodes": plan.episodes, **sampling})
            if on_evaluation is not None:
                on_evaluation(self.timesteps, split, result)
            if split == "validation":
                score = result.score
        if not splits:
            return False
        if "validation" not in splits:
            self.carried["evaluated"] = {"timesteps": self.timesteps, "score": None}
            return False
        score = float(processes.from_first(score))
        best = max(score, float(last.get("best", score)))
        # In one assignment: a signal may come before it, and then the evaluation is made again, or after it.
        self.carried["evaluated"] = {"timesteps": self.timesteps, "score": score, "best": best}
        return score >= best

    def _warn_if_too_equal(
        self, scores: Sequence[float], responses: Sequence[str], demonstration: float | None
    ) -> None:
        """Says before tokens are spent where the start model's scores hardly differ."""
        warning = too_equal(scores, responses, demonstration)
        if warning is not None:
            _LOG.warning("%s", warning)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, keep: int = 2) -> Path:
        """Writes a checkpoint: everything that `load` needs, as safetensors and JSON.

        A stop at any moment leaves a whole one, see `agents.training.checkpoints`. Under FSDP and DeepSpeed it takes
        all processes.

        Args:
            folder: The run's folder.
            keep: Number of the last ones that stay, beside the one with the best validation score.

        Returns:
            The checkpoint's path.

        Raises:
            SaveError: If it cannot be written.
            ValueError: If the policy cannot be read back as the same one.
        """
        folder = check_path("folder", folder)
        with FolderLock(folder) if processes.rank() == 0 else nullcontext():
            self._rehearse(folder)
            return self._write_checkpoint(folder, keep, {})

    def _write_checkpoint(self, folder: Path, keep: int, rows: Mapping[str, int]) -> Path:
        """Writes a checkpoint at which the logs have so many rows. The folder's lock is held."""
        evaluated = self.carried.get("evaluated", {})
        path = checkpoints.write(
            folder,
            self._write_state,
            timesteps=self.timesteps,
            updates=self.updates,
            score=evaluated["score"] if evaluated.get("timesteps") == self.timesteps else None,
            rows=rows,
            keep=keep,
        )
        self._run_folders[folder.resolve()] = KnownRun(int(path.name), rows)
        return path

    def _rehearse(self, folder: Path) -> None:
        """Saves and loads the policy, once, so that what cannot be kept is said before it costs anything."""
        if not self._is_reloadable and not self.learner.is_cut:
            checkpoints.rehearse(folder / checkpoints.FOLDER, self.policy.save_pretrained)
            self._is_reloadable = True

    def _write_state(self, folder: Path) -> None:
        """Writes the files of a checkpoint."""
        tensors, numbers = checkpoints.flatten_optimizer(self.optimizer)
        state = AgentState(
            algorithm=self.algorithm.name,
            config=self.config.to_dict(),
            seed=self.seed,
            env_id=self.env_id,
            **env_arguments.saved(self.env_kwargs),
            data_digest=env_arguments.data_digest(self.env.task),
            model_digests=self._model_digests,
            timesteps=self.timesteps,
            updates=self.updates,
            seconds=self.seconds,
            carried=self.carried,
            reward=self.env.setting.reward.state_dict(),
            curriculum=None if self.env.curriculum is None else self.env.curriculum.state_dict(),
            optimizer=numbers,
        )
        state.write(folder, policy=self.policy, reference=self.reference, tensors=tensors, bonuses=self.bonuses)

    def _restore_state(self, folder: Path, state: AgentState, *, is_other_env: bool, changed: set[str]) -> None:
        """Continues from a checkpoint, see `agent_state.restore_env`."""
        self._is_reloadable = True  # as it has just been
        agent_state.restore_tensors(folder, state, self.optimizer, self.bonuses)
        self.timesteps, self.updates, self.seconds = state.timesteps, state.updates, state.seconds
        self.carried.update(state.carried)
        agent_state.restore_env(self.env, state, is_other=is_other_env, changed=changed)
        self.player.limit_lanes()

    def _save(self, run: RunFolder | None, keep: int, *, finished: bool = False) -> None:
        """Writes a checkpoint of this very state, unless there is one, or the state is that of the middle of an update.

        The first process has the run's folder, and writes. Of the others each hands over its piece, if it has one.
        While steps are being skipped, only the end of the run is written.
        """
        state = (self.updates, self.carried.get("evaluated", {}).get("timesteps"))
        is_skipping = skipped_in_a_row(self.optimizer) > 0 and not finished
        if run is None:
            if self.learner.is_cut and self._is_consistent and not is_skipping and state != self._saved_state:
                checkpoints.flatten_optimizer(self.optimizer)
                self._saved_state = state
        elif not self._is_consistent:
            _LOG.warning("The update under way is lost: the run resumes from the last checkpoint in %s.", run.path)
        elif run.logged != self.timesteps:
            _LOG.warning("No checkpoint is written: the last row of the logs in %s could not be.", run.path)
        elif is_skipping:
            _LOG.warning("No checkpoint is written: the last steps were skipped for NaN or infinity.")
        elif state != self._saved_state:
            self._write_checkpoint(run.path, keep, run.sync())
            self._saved_state = state

    def _open(self, folder: Path, wandb_project: str | None) -> RunFolder:
        """Opens the folder of this agent's run, or a new one."""
        evaluated = self.carried.get("evaluated", {}).get("timesteps", -1)
        known = self._run_folders.get(folder.resolve())
        run = RunFolder(folder, timesteps=self.timesteps, evaluated=evaluated, known=known, wandb_project=wandb_project)
        self._run_folders.setdefault(folder.resolve(), KnownRun())
        return run


def load(
    folder: str | Path,
    which: str | int = "last",
    *,
    env: Any = None,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str | None = None,
    data_changed: bool = False,
) -> Agent:
    """Loads an agent from a run's folder, ready to predict, to be evaluated or to learn on.

    Args:
        folder: The folder of a run, which `Agent.save` or `Agent.learn` wrote, or one of its checkpoints.
        which: Which checkpoint of a run: "last", "best" (by validation score) or a number. Where the last is damaged,
            the one before it is taken, with a warning.
        env: Another environment than the saved one, with `env_kwargs` alone. Where its reward has the parts of the
            saved one's, their schedules and normalisers are continued. A curriculum begins anew.
        env_kwargs: Arguments of the environment, laid over the saved ones: needed for those that no checkpoint can
            hold, a function as the reward, say.
        device: Where to put the policy; None chooses.
        data_changed: If True, goes on with other data than the run was trained on under the same name, or with another
            model in a folder that its reward reads.

    Returns:
        The agent.

    Raises:
        ValueError: If there is no checkpoint, or it is damaged, of another version or of an unknown algorithm; or if
            an argument of the environment is missing, or its data or a model of its reward is not the run's.
    """
    folder = check_path("folder", folder)
    run = checkpoints.run_of(folder)
    last = last_checkpoint(run)  # before it is read: `learn` refuses a run that has gone on since
    checkpoint = checkpoints.find(folder, which)
    path = checkpoint.path
    try:
        state = AgentState.read(path)
        if state.algorithm not in Algorithm.known:
            raise ValueError(
                f"Expected a checkpoint of one of {sorted(Algorithm.known)}, got {state.algorithm!r}: import the "
                "module that defines it first"
            )
        algorithm = Algorithm.known[state.algorithm]
        changed = set(env_kwargs or {})
        is_other_env = env is not None
        played, played_kwargs = env, env_kwargs
        if not is_other_env:
            played, played_kwargs = env_arguments.restored(
                state.env_id, state.env_kwargs, state.env_objects, env_kwargs or {}, folder
            )
        policy, reference = agent_state.read_policies(path, device)
        config = algorithm.config.of(state.config)
        agent = Agent(algorithm, policy, played, config, seed=state.seed, env_kwargs=played_kwargs, reference=reference)
        has_other_data = is_other_env or ("task" in changed and "task" not in state.env_objects)
        if not has_other_data and not data_changed:
            env_arguments.check_data(agent.env.task, state.data_digest, agent.env_kwargs, folder)
        if not is_other_env and not data_changed and "reward" not in changed:
            env_arguments.check_models(agent._model_digests, state.model_digests, folder)
        agent._restore_state(path, state, is_other_env=is_other_env, changed=changed)
        agent._run_folders[run.resolve()] = KnownRun(last, checkpoint.rows)
    except (KeyError, IndexError, AttributeError, RecursionError, OverflowError, OSError, SafetensorError) as error:
        raise ValueError(f"Expected a whole checkpoint in {str(path)!r}, but it is damaged: {error!r}") from error
    except (ValueError, TypeError, gym.error.Error) as error:
        if env is not None or env_kwargs or str(folder) in str(error):
            raise
        raise ValueError(f"Expected a checkpoint in {str(path)!r} that can be loaded, got: {error}") from error
    return agent
