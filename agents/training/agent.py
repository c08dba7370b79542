"""The only training loop, and what it leaves behind.

    collect -> log-probs of the reference -> the algorithm's update -> metrics

Update number n of a run seeded s draws everything (examples, actions, order of minibatches) from (s, n) alone, so a
run that goes on from a checkpoint sees what it would have seen without the stop.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.bonuses import Bonuses
from agents.collector import collect, make_env
from agents.distributed import deepspeed, fsdp, processes
from agents.evaluation.evaluation import Evaluation, EvaluationPlan, distinct_n, evaluate, held_out_scores, prompt_texts
from agents.files import read_json
from agents.policy.policy import Policy
from agents.rollout import Rollout, gather, reference_log_probs
from agents.training import checkpoints, env_arguments
from agents.training.alarm import parted
from agents.training.config import RunConfig, whole_number
from agents.training.optimization import (
    NonFiniteError,
    make_optimizer,
    set_learning_rate,
    skipped_in_a_row,
    skipped_steps,
)
from agents.training.run_folder import RunFolder, check_new
from agents.training.schedules import adapted_kl_coef, limited_kl_coef, schedule
from agents.training.signals import Interrupts
from agents.training.start_policy import start_policy
from textenvs import Reward, TextGenVectorEnv, make_reward
from textenvs.rewards import make_payout

ALARM_WINDOW = 20
"""Updates over which the score and the held-out metric are compared."""


_LOG = logging.getLogger(__name__)


T = TypeVar("T")


Update = Callable[[Policy, torch.optim.Optimizer, Rollout, Any, torch.Generator], dict[str, float]]


Prepare = Callable[["Agent", Rollout], Rollout]


@dataclass(frozen=True)
class Algorithm:
    """A learning algorithm: a name, a config and an update. Calling it makes an agent.

    Attributes:
        name: What checkpoints and the command line call it.
        config: Its config class, a frozen dataclass that inherits `RunConfig`.
        update: `update(policy, optimizer, rollout, config, generator) -> metrics`.
        prepare: `prepare(agent, rollout) -> rollout`, called before each update, for what an update cannot do: play in
            the agent's environment, or remember something from one update to the next in `agent.carried`.

    Example:
        agent = PPO("tiny", "TextGen-v0", seed=0, gae_lambda=0.9)
    """

    name: str
    config: type[RunConfig]
    update: Update
    prepare: Prepare | None = None
    known: ClassVar[dict[str, Algorithm]] = {}

    def __post_init__(self) -> None:
        """Make it known by its name, so that checkpoints of it can be loaded."""
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
        """An agent of this algorithm.

        Args:
            policy: A policy, or what `Policy.from_pretrained` takes. "tiny" is the bundled language model where the
                environment speaks its tokenizer by default, and else a small model with random weights. A dict is the
                config of a new model, see `Policy.from_config`.
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
        seed = whole_number("seed", seed)
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
        """An agent of this algorithm from a run's folder: `agents.load`, which takes that of any.

        Args:
            folder: See `agents.load`, as for the other arguments.
            which: Which checkpoint.
            env: Another environment.
            env_kwargs: Arguments of the environment.
            device: Where to put the policy.

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
        algorithm: Which algorithm.
        policy: Who is trained.
        env: A registered id, or an environment.
        config: The algorithm's config.
        seed: Decides everything that is random.
        env_kwargs: Arguments of the environment, with an id.
        reference: The policy that KL is measured to; None takes a copy of `policy` as it is now.

    Attributes:
        config: The settings, with what was left open (`None`) filled in, see `OptimizerConfig.filled_in`.
        timesteps: Tokens played so far.
        updates: Updates made so far.
        seconds: Seconds that they took.
        memory: What is carried from one update to the next beside weights and optimiser: JSON values, saved with them.
        bonuses: What is paid beside the score, and what that remembers.
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
        self.policy = policy
        self.reference = policy.frozen_copy() if reference is None else reference
        if (critic := getattr(config, "critic", None)) is not None:  # what an algorithm without the setting has stays
            policy.critic = policy.separate_critic() if critic == "separate" else None
        self.seed = whole_number("seed", seed)
        self.env_id, self.env_kwargs = env_arguments.described(env, env_kwargs, policy.tokenizer)
        if isinstance(env, TextGenVectorEnv):
            if env.group_size != config.group_size:
                raise ValueError(
                    f"Expected an environment with the config's group_size={config.group_size}, got {env.group_size}"
                )
            self.env = env
        else:
            self.env = self._new_env(self._own(config.num_envs, "num_envs"), group_size=config.group_size)
        payout = make_payout(self.env.setting.payout, 1, policy.tokenizer)
        if payout.gamma is not None and payout.gamma != config.gamma:
            raise ValueError(
                f"Expected the agent's gamma to be the shaped payout's, {payout.gamma}, got {config.gamma}: shaping "
                "leaves the best policy as it is only where the two agree"
            )
        self.config = config = config.filled_in(self.reference.pretrained, payout.at_once)
        if not self.reference.pretrained:
            _LOG.info(
                "The start model has random weights: kl_coef %s, entropy_coef %s, learning_rate %s",
                *(config.kl_coef, config.entropy_coef, config.learning_rate),
            )
        if self.env.curriculum is not None and config.episodes_per_update < self.env.num_envs:
            raise ValueError(  # lanes that idle in a rollout would count as failures
                f"Expected episodes_per_update to be at least num_envs={self.env.num_envs} with a curriculum, got "
                f"{config.episodes_per_update}"
            )
        if self.env.curriculum is not None and processes.count() > 1:
            raise ValueError("Expected one process with a curriculum, whose level all lanes share, got several")
        plan = fsdp.wanted()
        self._learner = policy if plan is None else fsdp.shard(policy, plan)
        in_zero = deepspeed.wanted()
        if in_zero:
            self._learner = copy.deepcopy(policy)
        self.optimizer = make_optimizer(self._learner, config)
        if in_zero:
            self.optimizer = deepspeed.Zero(self._learner, self.optimizer)
        self.timesteps = 0
        self.updates = 0
        self.carried: dict[str, Any] = {}
        self.seconds = 0.0
        self._whole = True  # False from the first change that an update makes to its last
        self._saved: tuple[int, int | None] | None = None  # which state the last checkpoint holds
        self._folders: set[Path] = set()  # its own run's
        self.bonuses = Bonuses(config.bonuses, self.reference, seed)
        # Random weights at no price: nobody asks how far they have moved, and a fifth of the time is saved.
        self._compares = bool(
            self.reference.pretrained or config.kl_coef or config.kl_target is not None or config.bonuses
        )
        held_out = self.env.task.held_out_reward
        self._held_out = None if held_out is None else make_reward(held_out)

    def _own(self, whole: int, name: str) -> int:
        """This process's part of a number that all processes share."""
        if whole % processes.count():
            raise ValueError(f"Expected {name} to be a multiple of the {processes.count()} processes, got {whole}")
        return whole // processes.count()

    def make_env(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        """Lanes of the agent's environment, with the policy's tokenizer, for `collect` and `evaluate`.

        A reward or a curriculum that changes over the run is as it is now.

        Args:
            num_envs: How many lanes.
            **changes: Environment arguments to change, `split="test"` say.

        Returns:
            A vector environment that leaves resets to its user.

        Raises:
            ValueError: If the agent was made with lanes that have no id to make others from.
        """
        envs = self._new_env(num_envs, **changes)
        if "reward" not in changes:
            envs.setting.reward.load_state_dict(self.env.setting.reward.state_dict())
        if envs.curriculum is not None and self.env.curriculum is not None and "curriculum" not in changes:
            envs.curriculum.load_state_dict(self.env.curriculum.state_dict())
        return envs

    def _new_env(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        if self.env_id is None:
            raise ValueError(env_arguments.NO_ID)
        return make_env(self.env_id, self.policy, num_envs, **{**self.env_kwargs, **changes})

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
        """Train until that many tokens have been played, counting those of earlier calls.

        With a folder, the run survives whatever ends it: `load(folder).learn(...)` with the same arguments goes on from
        the last checkpoint to the same numbers.

        Args:
            total_timesteps: Tokens (actions) in all; the update that crosses the mark is finished. Schedules reach
                their end there.
            folder: Where checkpoints, logs and samples go, see `agents.training.run_folder`; None keeps nothing. A new
            one, or
                the run's own: one that this agent was loaded from, or has learned or saved in before.
            evaluation: When to evaluate, and how; None: never.
            progress_bar: Show one.
            checkpoint_seconds: Seconds between checkpoints. One is also written when an evaluation is the best so far,
                at the end, at Ctrl-C and at an error.
            keep_checkpoints: How many of the last ones stay, beside the one with the best validation score.
            max_seconds: Stop after this many seconds of training.
            wandb_project: Also log to this Weights & Biases project.
            on_update: Called with each row of metrics.
            on_evaluation: Called with the tokens played, the split and the evaluation.

        Returns:
            The agent itself.

        Raises:
            KeyboardInterrupt: At Ctrl-C, when the update under way is finished and the checkpoint is written. A second
                Ctrl-C does not wait for the update.
            Terminated: At SIGTERM, likewise: a SystemExit.
            RewardError: If the reward fails; what was learned before is in the checkpoint.
            NonFiniteError: If loss or gradient are NaN or infinite too often in a row.
            SaveError: If a checkpoint cannot be written; the one before is whole.
            ValueError: If the folder holds another run, or another process trains in it, or a number is out of range.
        """
        whole = isinstance(total_timesteps, float) and total_timesteps.is_integer()  # 1e6
        total_timesteps = whole_number("total_timesteps", int(total_timesteps) if whole else total_timesteps, least=1)
        keep_checkpoints = whole_number("keep_checkpoints", keep_checkpoints, least=1)
        first = processes.rank() == 0  # of several processes, the others only play and learn
        if folder is not None and first and Path(folder).resolve() not in self._folders:
            check_new(Path(folder), goes_on=f"agents.load({str(folder)!r})")
        started = saved = time.perf_counter()
        with (
            self._open(Path(folder), wandb_project) if folder is not None and first else nullcontext() as run,
            _progress(total_timesteps, self.timesteps, progress_bar and first) as bar,
            Interrupts() as interrupts,
        ):
            leaves_together = not self._is_sharded
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
                        break
                    row = self._iterate(self.timesteps / total_timesteps)
                    if run is not None:
                        run.write_metrics(self.timesteps, row)
                    if on_update is not None and first:
                        on_update({"timesteps": self.timesteps, **row})
                    _show(bar, self.timesteps, row)
            finally:
                if leaves_together:
                    self._save(run, keep_checkpoints)
                else:  # the optimiser is in pieces, and who has the others may be gone
                    _LOG.warning("No checkpoint is written: it takes all processes, and not all of them have stopped.")
        return self

    @property
    def _is_sharded(self) -> bool:
        """Whether what is trained is cut over several processes."""
        return self._learner is not self.policy

    def _open(self, folder: Path, wandb_project: str | None) -> RunFolder:
        evaluated = self.carried.get("evaluated", {}).get("timesteps", -1)
        run = RunFolder(folder, timesteps=self.timesteps, evaluated=evaluated, wandb_project=wandb_project)
        self._folders.add(folder.resolve())
        return run

    def _save(self, run: RunFolder | None, keep: int) -> None:
        """A checkpoint of this very state, unless there is one, or the state is that of the middle of an update.

        The first process has the run's folder, and writes. Of the others each hands over its piece, if it has one.
        """
        state = (self.updates, self.carried.get("evaluated", {}).get("timesteps"))
        if run is None:
            if self._is_sharded and self._whole and not skipped_in_a_row(self.optimizer) and state != self._saved:
                checkpoints.flatten_optimizer(self.optimizer)
                self._saved = state
        elif not self._whole:
            _LOG.warning("The update under way is lost: the run goes on from the last checkpoint in %s.", run.path)
        elif skipped_in_a_row(self.optimizer):
            _LOG.warning("No checkpoint is written: the last steps were skipped for NaN or infinity.")
        elif state != self._saved:
            run.sync()
            self.save(run.path, keep=keep)
            self._saved = state

    def _evaluate(
        self,
        plan: EvaluationPlan,
        total_timesteps: int,
        ended: bool,
        run: RunFolder | None,
        on_evaluation: Callable[[int, str, Evaluation], None] | None,
    ) -> bool:
        """Evaluate where it is due. Returns whether the validation score is the best of the run so far."""
        last = self.carried.get("evaluated", {})
        before = last["timesteps"] / total_timesteps if last else None
        splits = plan.splits(self.timesteps / total_timesteps, before, ended=ended)
        sampling = plan.sampling(self.config.temperature)
        score = 0.0
        for split in splits if processes.rank() == 0 else ():
            found = self.evaluate(plan.episodes, split=split, **sampling)
            if run is not None:
                run.write_evaluation(self.timesteps, split, found, {"episodes": plan.episodes, **sampling})
            if on_evaluation is not None:
                on_evaluation(self.timesteps, split, found)
            if split == "validation":
                score = found.score
        if not splits:
            return False
        score = float(processes.from_first(score))
        best = max(score, float(last.get("best", score)))
        # In one assignment: a signal may come before it, and then the evaluation is made again, or after it.
        self.carried["evaluated"] = {"timesteps": self.timesteps, "score": score, "best": best}
        return score >= best

    def _iterate(self, progress: float) -> dict[str, float]:
        """One update: play, compare with the reference, learn, and say how it went.

        Args:
            progress: Share of the run's tokens that are played, for the schedules.
        """
        started = time.perf_counter()
        env_seed, policy_seed = (
            int(one) for one in np.random.SeedSequence([self.seed, self.updates]).generate_state(2, np.uint64) >> 1
        )
        generator = torch.Generator(self.policy.device).manual_seed(policy_seed)
        config = self.config
        reward = self.env.setting.reward
        reward.update(progress=progress)
        self._whole = self.env.curriculum is None  # it counts episodes while they are played
        rollout = self._with_memory(partial(self._play, env_seed, generator), lambda: self.env.num_envs)
        played = time.perf_counter()
        if self._compares:
            ref_log_probs = reference_log_probs(
                self.reference, rollout, temperature=config.temperature, micro_batch_size=config.micro_batch_size
            )
            rollout = replace(rollout, ref_log_probs=ref_log_probs)
        rollout = gather(rollout)
        self._whole = False
        rollout, paid = self.bonuses.pay(rollout, self.policy)
        row = {**self._describe(rollout), **paid}
        reward.update(scores=rollout.part_scores)  # after `_describe`, which says what these episodes were scored with
        described = time.perf_counter()
        config = self._config_in_force(progress, row.get("kl", 0.0) * len(rollout) / rollout.num_tokens)
        learning_rate = set_learning_rate(self.optimizer, config, progress)
        if self.algorithm.prepare is not None:
            rollout = self.algorithm.prepare(self, rollout)
        if fsdp.is_sharded(self._learner.parameters()) and self.policy.device.type != "cpu":
            fsdp.give_up(self.policy)
        try:
            row.update(self.algorithm.update(self._learner, self.optimizer, rollout, config, generator))
        except NonFiniteError as error:
            raise self._explained(error, rollout) from error
        if self._is_sharded:
            fsdp.fill(self.policy, self._learner)
        ended = time.perf_counter()
        self.policy.pretrained = True  # what starts from it later has a start model to stay near
        self.updates += 1
        self.timesteps += rollout.num_tokens
        self.seconds += ended - started
        self._whole = True
        row.update(
            {
                "kl_coef": config.kl_coef or 0.0,
                "entropy_coef": config.entropy_coef or 0.0,
                "learning_rate": learning_rate,
                "skipped_steps": float(skipped_steps(self.optimizer)),
                "tokens_per_second": rollout.num_tokens / (ended - started),
                "seconds_policy": rollout.seconds["policy"],
                "seconds_environment": rollout.seconds["environment"],
                "seconds_score": rollout.seconds["score"],
                "seconds_reference": described - played,
                "seconds_update": ended - described,
            }
        )
        return row

    def _play(self, env_seed: int, generator: torch.Generator) -> Rollout:
        """This process's episodes of one update."""
        if processes.count() > 1:  # each plays with its own; what is drawn in the update is the same in all
            own = np.random.SeedSequence([self.seed, self.updates, processes.rank()]).generate_state(1, np.uint64)
            generator = torch.Generator(self.policy.device).manual_seed(int(own[0] >> 1))
        before = generator.get_state()
        try:
            return collect(
                self.env,
                self.policy,
                self._own(self.config.episodes_per_update, "episodes_per_update"),
                seed=env_seed + processes.rank() * self._own(self.config.num_envs, "num_envs"),
                temperature=self.config.temperature,
                generator=generator,
            )
        except torch.OutOfMemoryError:
            generator.set_state(before)  # it begins again
            raise

    def _with_memory(self, play: Callable[[], T], lanes: Callable[[], int]) -> T:
        """What `play` returns, which has so many lanes; half as many for as long as there is no memory for them."""
        level = None if self.env.curriculum is None else self.env.curriculum.state_dict()
        while True:
            try:
                return play()
            except torch.OutOfMemoryError as error:
                reason = str(error)  # and not on from here: the error holds on to what fills the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve_lanes(lanes(), reason)
            if self.env.curriculum is not None and level is not None:  # what was played in vain does not count
                self.env.curriculum.load_state_dict(level)

    def _halve_lanes(self, before: int, reason: str) -> None:
        """From now on, half as many episodes side by side, in play and in evaluations."""
        config = self.config
        lanes = before // 2
        if self.env_id is None or lanes == 0 or (config.group_size > 1 and lanes % config.group_size):
            raise torch.OutOfMemoryError(
                f"Expected memory to play {before} episodes side by side, got none, and they cannot be halved: lower "
                f"max_new_tokens or num_envs, or use bfloat16 or a smaller model ({reason})"
            )
        _LOG.warning("Out of memory with %d lanes: from now on there are %d.", before, lanes)
        self.carried["lanes"] = lanes
        self._limit_lanes()

    @property
    def _lanes(self) -> int:
        """How many episodes there is memory for side by side, as far as is known."""
        return int(self.carried.get("lanes", self.config.num_envs))

    def _limit_lanes(self) -> None:
        """Keep to what there is memory for."""
        if self._lanes < self.env.num_envs and self.env_id is not None:
            self.env = self.make_env(self._lanes, group_size=self.config.group_size)

    def _explained(self, error: NonFiniteError, rollout: Rollout) -> NonFiniteError:
        """The error, with the batch that it came up in."""
        responses = rollout.responses(self.policy)
        examples = rollout.examples[error.rows].tolist()
        shown = prompt_texts(self.env, examples[:1])[0]
        return NonFiniteError(
            f"{error}, in update {self.updates + 1}. The minibatch has {len(examples)} episodes, of the examples "
            f"{str(examples[:8])[1:-1]}{', ...' if len(examples) > 8 else ''}; the first: {shown!r} -> "
            f"{responses[int(error.rows[0])]!r}. The last checkpoint is from before. Lower learning_rate or "
            "max_grad_norm, or look at what the reward pays there",
            error.rows,
        )

    def _config_in_force(self, progress: float, kl: float) -> RunConfig:
        """The config with every schedule at its present number. Algorithms see plain constants.

        Args:
            progress: Share of the run's tokens that are played.
            kl: Nats a token to the start model, of the batch that is about to be learned from.
        """
        config = self.config
        kl_coef = config.kl_coef or 0.0
        if config.kl_target is not None:
            kl_coef = self.carried["kl_coef"] = adapted_kl_coef(
                self.carried.get("kl_coef", kl_coef), kl, config.kl_target
            )
        elif config.kl_limit is not None:
            kl_coef = limited_kl_coef(kl_coef, kl, config.kl_limit)
        factor = schedule(config.entropy_schedule or "constant", progress, config.entropy_final)
        return replace(config, kl_coef=kl_coef, entropy_coef=(config.entropy_coef or 0.0) * factor)

    def _describe(self, rollout: Rollout) -> dict[str, float]:
        """What a rollout looks like, before anything is learned from it."""
        mask, episodes = rollout.response_mask, len(rollout)
        responses = rollout.responses(self.policy)
        row = {
            "score": float(rollout.scores.mean()),
            "episode_return": float((rollout.rewards * mask).sum() / episodes),
            "response_length": rollout.num_tokens / episodes,
            "distinct_2": distinct_n(responses),
        }
        if rollout.ref_log_probs is not None:
            row["kl"] = float(rollout.kl("k1").sum() / episodes)
        if self._held_out is not None:
            pool = self.env.setting.pool
            examples = [pool.examples[place] for place in rollout.examples.tolist()]
            found = held_out_scores(self._held_out, examples, responses, self.policy.tokenizer)
            row["held_out"] = float(found.mean())
            row["alarm"] = self._alarm(row["score"], row["held_out"])
        if (curriculum := self.env.curriculum) is not None:
            row["level"] = float(curriculum.level)
            row["success_rate"] = 0.0 if curriculum.success_rate is None else curriculum.success_rate
        row.update({f"score/{name}": float(scores.mean()) for name, scores in rollout.part_scores.items()})
        row.update({f"reward/{name}": value for name, value in self.env.setting.reward.changing.items()})
        return row

    def _alarm(self, score: float, held_out: float) -> float:
        """1 while the score rises and the held-out metric falls, 0 otherwise. Says so the first time."""
        watched = self.carried["watched"] = [*self.carried.get("watched", []), [score, held_out]][-ALARM_WINDOW:]
        scores, metrics = zip(*watched, strict=True)
        if not parted(scores, metrics, window=ALARM_WINDOW):
            return 0.0
        if "parted_at" not in self.carried:
            self.carried["parted_at"] = self.timesteps
            _LOG.warning(
                "At %s tokens the score rises while the held-out metric falls: the policy may be learning to please "
                "the score and not to write well. Look at samples; a guard, a larger kl_coef or fewer tokens may help.",
                f"{self.timesteps:,}",
            )
        return 1.0

    def predict(
        self,
        observation: Mapping[str, NDArray[Any]],
        state: None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        *,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[np.int64] | int, None]:
        """The next token of an observation, or of a batch of them. As in Stable-Baselines3.

        Args:
            observation: What `TextGenEnv` gives, or `TextGenVectorEnv`.
            state: For Stable-Baselines3's `evaluate_policy`; there is none.
            episode_start: Likewise, and not read: an observation is the whole episode so far.
            deterministic: The likeliest token instead of a sample.
            action_masks: What may be taken, `info["action_mask"]` of the environment, as in sb3-contrib.

        Returns:
            A token id, or `(lanes,)` of them, and None (there is no hidden state).

        Raises:
            TypeError: If the observation is no mapping.
            ValueError: If it is none of an environment with the policy's tokenizer.
        """
        _check_observation(observation, self.policy.tokenizer.vocab_size)
        single = np.ndim(observation["input_ids"]) == 1
        batch = {key: np.asarray(value)[None] for key, value in observation.items()} if single else observation
        masks = np.asarray(action_masks)[None] if single and action_masks is not None else action_masks
        actions = self.policy.predict(
            batch, temperature=self.config.temperature, deterministic=deterministic, action_masks=masks
        )
        return (int(actions[0]) if single else actions), None

    def evaluate(self, num_episodes: int = 300, *, split: str = "validation", **settings: Any) -> Evaluation:
        """Score the policy on examples that it did not train on, with KL to the start model.

        Args:
            num_episodes: How many episodes.
            split: Which examples.
            **settings: See `agents.evaluation.evaluate`.

        Returns:
            The evaluation.
        """
        settings = {"temperature": self.config.temperature, "reference": self.reference, **settings}
        return self._with_memory(
            lambda: evaluate(self.policy, self.make_env(self._lanes, split=split), num_episodes, **settings),
            lambda: self._lanes,
        )

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, keep: int = 2) -> Path:
        """Write a checkpoint: everything that `load` needs, as safetensors and JSON.

        There is a whole one at any moment: see `agents.training.checkpoints`. Under FSDP and DeepSpeed it takes all
        processes.

        Args:
            folder: The run's folder.
            keep: How many of the last ones stay, beside the one with the best validation score.

        Returns:
            The checkpoint's path.

        Raises:
            SaveError: If it cannot be written.
        """
        evaluated = self.carried.get("evaluated", {})
        self._folders.add(Path(folder).resolve())
        return checkpoints.write(
            Path(folder),
            self._fill,
            timesteps=self.timesteps,
            updates=self.updates,
            score=evaluated["score"] if evaluated.get("timesteps") == self.timesteps else None,
            keep=keep,
        )

    def _fill(self, folder: Path) -> None:
        """The files of a checkpoint."""
        self.policy.save_pretrained(folder / "policy")
        if not self.reference.is_adapters_off:  # which the policy brings along
            self.reference.save_pretrained(folder / "reference")
        tensors, numbers = checkpoints.flatten_optimizer(self.optimizer)
        save_file(tensors, folder / "optimizer.safetensors")
        save_file(self.bonuses.state_dict(), folder / "bonuses.safetensors")
        state = {
            "algorithm": self.algorithm.name,
            "config": self.config.to_dict(),
            "seed": self.seed,
            "env_id": self.env_id,
            **env_arguments.saved(self.env_kwargs),
            "timesteps": self.timesteps,
            "updates": self.updates,
            "seconds": self.seconds,
            "carried": self.carried,
            "reward": self.env.setting.reward.state_dict(),
            "curriculum": None if self.env.curriculum is None else self.env.curriculum.state_dict(),
            "optimizer": numbers,
        }
        (folder / "agent.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def _check_observation(observation: Any, vocab_size: int) -> None:
    """Raise unless this is an observation, or a batch of them, over a vocabulary of that size."""
    names = ("input_ids", "attention_mask", "response_mask")
    if not isinstance(observation, Mapping):
        raise TypeError(
            f"Expected an observation, a mapping with {', '.join(names)}, got {type(observation).__name__}: pass what "
            "reset and step of a textenvs environment return first"
        )
    if missing := [name for name in names if name not in observation]:
        raise ValueError(f"Expected an observation with {', '.join(names)}, got none of {', '.join(missing)}")
    shapes = {name: np.shape(observation[name]) for name in names}
    if len(set(shapes.values())) > 1 or len(shapes["input_ids"]) not in (1, 2):
        raise ValueError(f"Expected arrays (length,) or (lanes, length), of one shape, got {shapes}")
    ids = np.asarray(observation["input_ids"])
    if ids.dtype.kind not in "iu" or (ids.size and (ids.min() < 0 or ids.max() >= vocab_size)):
        shown = f"{ids.min()} to {ids.max()}" if ids.dtype.kind in "iu" else f"{ids.dtype}"
        raise ValueError(
            f"Expected input_ids in [0, {vocab_size}), the ids of the policy's tokenizer, got {shown}: make the "
            "environment with tokenizer=agent.policy.tokenizer"
        )


def load(
    folder: str | Path,
    which: str | int = "last",
    *,
    env: Any = None,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Agent:
    """An agent from a run's folder, ready to predict, to be evaluated or to learn on.

    Args:
        folder: What `Agent.save` or `Agent.learn` wrote, the run or one of its checkpoints.
        which: Which checkpoint of a run: "last", "best" (by validation score) or a number. Where the last is damaged,
            the one before it is taken, with a warning.
        env: Another environment than the saved one, with `env_kwargs` alone. Where its reward has the parts of the
            saved one's, their schedules and normalisers go on. A curriculum begins anew.
        env_kwargs: Arguments of the environment, laid over the saved ones: needed for those that no checkpoint can
            hold, a function as the reward, say.
        device: Where to put the policy; None chooses.

    Returns:
        The agent.

    Raises:
        ValueError: If there is no checkpoint, or it is damaged, of another version or of an unknown algorithm; or if
            an argument of the environment is missing.
    """
    found = checkpoints.find(folder, which).path
    state = read_json(found / "agent.json")
    try:
        name = state["algorithm"]
        if name not in Algorithm.known:
            raise ValueError(
                f"Expected a checkpoint of one of {sorted(Algorithm.known)}, got {name!r}: import the module that "
                "defines it first"
            )
        algorithm = Algorithm.known[name]
        given = dict(env_kwargs or {})
        same = env is None
        if same:
            env, env_kwargs = env_arguments.restored(state, given, folder)
        reference: Policy | None = None
        if (found / "reference").is_dir():
            reference = Policy.from_pretrained(found / "reference", device=device)
            reference.requires_grad_(False)
        agent = Agent(
            algorithm,
            Policy.from_pretrained(found / "policy", device=device),
            env,
            algorithm.config.of(_meant(state["config"])),
            seed=state["seed"],
            env_kwargs=env_kwargs,
            reference=reference,
        )
        tensors = load_file(found / "optimizer.safetensors")
        checkpoints.restore_optimizer(agent.optimizer, tensors, state["optimizer"])
        agent.timesteps, agent.updates, agent.seconds = state["timesteps"], state["updates"], state["seconds"]
        agent.carried = state["carried"]
        agent.bonuses.load_state_dict(load_file(found / "bonuses.safetensors"))
        _restore_reward(
            agent.env.setting.reward, state["reward"], required=same and not given.keys() & {"reward", "task"}
        )
        if same and not given.keys() & {"curriculum", "task"} and agent.env.curriculum is not None:
            agent.env.curriculum.load_state_dict(state["curriculum"])
        agent._limit_lanes()
        agent._folders.add((found.parent.parent if found.parent.name == checkpoints.FOLDER else found).resolve())
    except (KeyError, OSError, SafetensorError) as error:
        raise ValueError(f"Expected a whole checkpoint in {str(found)!r}, but it is damaged: {error!r}") from error
    return agent


def _meant(settings: dict[str, Any]) -> dict[str, Any]:
    """A saved config as it was meant: kl_target moved no price of 0, and is refused with one now."""
    return {**settings, "kl_target": None} if settings.get("kl_coef") == 0 else settings


def _restore_reward(reward: Reward, state: dict[str, Any], *, required: bool) -> None:
    """Schedules and normalisers go on, unless the user has chosen another reward."""
    fresh = reward.state_dict()
    try:
        reward.load_state_dict(state)
    except ValueError:
        if required:
            raise
        reward.load_state_dict(fresh)


def _progress(total: int, done: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit="token", unit_scale=True, disable=not shown, dynamic_ncols=True)


_SHOWN = {
    "score": "score",
    "level": "level",
    "held_out": "held-out",
    "alarm": "alarm",
    "kl": "KL",
    "entropy": "entropy",
    "response_length": "length",
    "distinct_2": "distinct-2",
    "tokens_per_second": "tokens/s",
}


def _show(bar: Any, timesteps: int, row: dict[str, float]) -> None:
    shown = {label: f"{row[name]:.4g}" for name, label in _SHOWN.items() if name in row}
    bar.set_postfix(shown, refresh=False)
    bar.update(timesteps - bar.n)
