"""The command line: python -m agents train | sft | evaluate | compare | generate | reward-model --help."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
import tyro

from agents import (
    Agent,
    Algorithm,
    Evaluation,
    Policy,
    SFTConfig,
    checkpoints,
    collect,
    comparison_pages,
    fine_tune,
    load,
    preferences,
    processes,
    run_folder,
)
from agents.comparison import compare as compare_policies
from agents.comparison import named_sources
from agents.evaluation import EvaluationPlan
from agents.evaluation import evaluate as evaluate_policy
from agents.files import read_json, write_json, write_text
from agents.interrupts import Terminated
from agents.metrics import plot_learning_curve, read_metrics
from agents.processes import LostProcessError
from agents.rollout import make_env
from agents.sampling import Truncation
from agents.steps import NonFiniteError
from agents.training import start_policy
from textenvs import Example, RewardError, Task, TextGenVectorEnv, render
from textenvs.subcommands import chosen
from textenvs.tasks.base import check_split

CONFIG = "config.json"
"""Where a run keeps its options."""

_MAY_CHANGE = {
    "checkpoint_seconds",
    "device",
    "keep_checkpoints",
    "max_seconds",
    "samples",
    "total_timesteps",
    "wandb_project",
}
"""What may differ when a run goes on. total_timesteps stretches its schedules."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentArguments:
    """Which environment."""

    env: str = "TextGen-v0"
    """A registered id (python -m textenvs list shows them)."""
    reward: str | None = None
    """A reward's name, or JSON: '{"sentiment": 0.7, "length": 0.3}'. Default: the task's own."""
    payout: str = "immediate"
    """immediate, sparse, word, sentence, or JSON: '{"every": 8}', '{"delayed": 4}', '{"shaped": {"gamma": 0.99}}'."""
    max_new_tokens: int | None = None
    """Tokens an episode may spend. Default: the task's own."""
    curriculum: str | None = None
    """true, or JSON: '{"raise_at": 0.9, "lower_at": 0.3}': train on the task's levels from the easiest on, harder as
    the success rate rises, and evaluate on all of them. Default: the task's own level."""
    prompts: Path | None = None
    """A .jsonl or .txt file of texts to continue, in place of the environment's own task. Each text's first
    --prompt-tokens tokens become a prompt; a hash divides the prompts into train, validation and test."""
    prompt_field: str = "text"
    """The field of a .jsonl row that holds the text."""
    prompt_tokens: int = 16
    """How many tokens of each text in --prompts are kept as the prompt."""

    def kwargs(self) -> dict[str, Any]:
        """What `gym.make` gets."""
        kwargs: dict[str, Any] = {"payout": _name_or_json(self.payout)}
        if self.reward is not None:
            kwargs["reward"] = _name_or_json(self.reward)
        if self.max_new_tokens is not None:
            kwargs["max_new_tokens"] = self.max_new_tokens
        if self.curriculum is not None:
            try:
                kwargs["curriculum"] = json.loads(self.curriculum)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"Expected --curriculum to be true or JSON, got {self.curriculum[:200]!r}") from error
        if self.prompts is not None:
            settings = {"prompt": self.prompt_field, "prompt_tokens": self.prompt_tokens}
            kwargs["task"] = {"dataset": {"path": str(self.prompts), **settings}}
        return kwargs


@dataclass(frozen=True, kw_only=True)
class Train(EnvironmentArguments):
    """Train a language model in an environment."""

    algorithm: str = "ppo"
    """ppo, actor_critic, reinforce or best_of_n. Its settings are the options below."""
    config: Path | None = None
    """A JSON or YAML file with any of these options, written with underscores; what the command line says wins. A run
    leaves one, config.json, which makes the same run again."""
    model: str = "tiny"
    """tiny (the bundled model, or a fresh small one where the environment has another vocabulary), a folder of a
    Transformers model, an id on the Hugging Face hub, or a new model with random weights, as JSON:
    '{"model_type": "t5", "d_model": 64}'."""
    init: Path | None = None
    """Start from the policy of a run, of sft or of train, in place of --model."""
    lora: int | None = None
    """Train LoRA adapters of this rank in place of the model, which stays and is the reference."""
    freeze: str | None = None
    """Leave untrained: the embeddings and this many first layers, or parameters of this pattern ("model.*.mlp.*")."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What passes compute in. Weights and their updates are in float32 either way."""
    gradient_checkpointing: bool = False
    """Compute layers again for the gradient rather than keep what they computed: slower, in much less memory."""
    compile: bool = False
    """Compile the step of a rollout, on a CPU with a C++ compiler, in ten seconds or more. On CUDA the step is recorded
    as CUDA graphs and launched ahead of its observation, which has not run on a GPU yet."""
    total_timesteps: int = 400_000
    """Tokens to play in all."""
    max_seconds: float | None = None
    """Stop training after this many seconds, if the tokens are not played by then."""
    output: Path | None = None
    """The run's folder. Default: runs/ and a name made of the algorithm, the environment and the time."""
    seed: int = 0
    """Decides everything that is random."""
    resume: Path | None = None
    """Go on with the run in this folder from its last whole checkpoint, to the numbers that it would have come to
    without the stop. Its options are in its config.json."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the last checkpoints stay, beside the one with the best validation score."""
    eval_episodes: int = 300
    """Episodes of an evaluation: on validation and test before and after, on validation in between."""
    eval_during: int = 4
    """Evaluations between the first and the last, evenly over the run."""
    eval_temperature: float | None = None
    """What logits are divided by in evaluations. Default: as in training."""
    eval_deterministic: bool = False
    """Evaluate with the likeliest token at every step instead of a sample."""
    eval_top_k: int | None = None
    """Evaluate with the k likeliest tokens alone."""
    eval_top_p: float | None = None
    """Evaluate with the likeliest tokens alone, whose probabilities add up to this."""
    eval_min_p: float | None = None
    """Evaluate with tokens alone that have at least this share of the likeliest one's probability."""
    samples: int = 4
    """Continuations to show, before and after."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    wandb_project: str | None = None
    """Also log to this Weights & Biases project."""
    bonuses: str | None = None
    """What is paid beside the score, as JSON: '{"novelty": 0.1, "diversity": {"over": "batch", "weight": 0.2}}'."""


@dataclass(frozen=True, kw_only=True)
class SFT(EnvironmentArguments):
    """Train a language model on an environment's demonstrations: a warm start for reinforcement learning."""

    model: str = "tiny"
    """As for train: tiny, a folder, or a hub id."""
    output: Path | None = None
    """The run's folder. Default: runs/ and a name made of the environment and the time."""
    seed: int = 0
    """Of the order of the demonstrations, and of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    settings: tyro.conf.OmitArgPrefixes[SFTConfig] = field(default_factory=SFTConfig)


@dataclass(frozen=True, kw_only=True)
class Evaluate(EnvironmentArguments):
    """Mean score of a run or a model on held-out examples, with a 95 % confidence interval."""

    run: Path | None = None
    """A run's folder. It is evaluated in its own environment; options for the environment change that one, and --env
    takes another."""
    checkpoint: str = "last"
    """Which checkpoint of --run: last, best (by validation score) or a number."""
    model: str = "tiny"
    """What to evaluate where there is no --run: tiny, a folder of a model or of sft, or a hub id."""
    split: Literal["train", "validation", "test", "shifted"] = "test"
    """Which examples."""
    episodes: int = 300
    """How many."""
    temperature: float | None = None
    """What logits are divided by. Default: with a run, as in its training; else 1."""
    deterministic: bool = False
    """The likeliest token at every step instead of a sample."""
    top_k: int | None = None
    """Sample from the k likeliest tokens alone."""
    top_p: float | None = None
    """Sample from the likeliest tokens alone, whose probabilities add up to this."""
    min_p: float | None = None
    """Sample from tokens alone that have at least this share of the likeliest one's probability."""
    seed: int = 0
    """Of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    output: Path | None = None
    """A .jsonl file to write, with a row for each episode."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Compare(EnvironmentArguments):
    """Play the same prompts with several models, and say which is better, by how much and through which tokens."""

    models: tuple[str, ...]
    """Two or more: tiny, folders of models, of sft or of train, hub ids; NAME=FOLDER gives one a name."""
    reference: str | None = None
    """The name of the model that the others are compared with. Default: the first one."""
    split: Literal["train", "validation", "test", "shifted"] = "test"
    """Which examples."""
    episodes: int = 300
    """Episodes of each model."""
    gamma: float = 1.0
    """Discount of returns and of cumulative advantages."""
    gae_lambda: float = 0.0
    """0: the cumulative advantage sums TD errors, and is the return minus V of the prompt. Above 0: later tokens weigh
    more, by (1 - lambda^(k+1)) / (1 - lambda)."""
    value_function: Literal["fitted", "head"] = "fitted"
    """The reference's value function: fitted to its episodes, or the value head that reinforcement learning trained."""
    folds: int = 5
    """How many parts the prompts are divided into, for the spread and for fitting values."""
    temperature: float | None = None
    """What logits are divided by. Default: as in the training of the runs among the models; else 1."""
    deterministic: bool = False
    """The likeliest token at every step instead of a sample."""
    output: Path | None = None
    """Where comparison.html, its pictures and comparison.json go. Default: runs/ and a name made of the time."""
    seed: int = 0
    """Of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Print continuations."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to continue. None: prompts of TextGen-v0's test split."""
    run: Path | None = None
    """A run's folder, of train or of sft."""
    checkpoint: str = "last"
    """Which checkpoint of --run: last, best (by validation score) or a number."""
    model: str = "tiny"
    """Who writes where there is no --run: tiny, a folder of a model or of a run, or a hub id."""
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 3
    """Continuations of each prompt."""
    max_new_tokens: int = 32
    """Tokens of each."""
    temperature: float | None = None
    """What logits are divided by. Default: with a run, as in its training; else 1."""
    deterministic: bool = False
    """The likeliest token at every step instead of a sample."""
    top_k: int | None = None
    """Sample from the k likeliest tokens alone."""
    top_p: float | None = None
    """Sample from the likeliest tokens alone, whose probabilities add up to this."""
    min_p: float | None = None
    """Sample from tokens alone that have at least this share of the likeliest one's probability."""
    seed: int = 0
    """Of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """Train a preference model from pairs of responses, and measure it on pairs that were held out.

    The folder that it writes is a reward: {"preference": {"model": FOLDER}}, or "dpo" with --method dpo.
    """

    pairs: Path
    """A .jsonl file: an object with prompt, chosen and rejected a line. A hash of the prompt divides them into train
    (80 %), validation (10 %) and test (10 %)."""
    prompt_field: str = "prompt"
    """The field that holds the prompt."""
    chosen_field: str = "chosen"
    """The field that holds the preferred response, without the prompt."""
    rejected_field: str = "rejected"
    """The field that holds the other."""
    model: str = "tiny"
    """What to start from: tiny, a folder of a Transformers model, or an id on the Hugging Face hub."""
    output: Path = Path("reward-model")
    """The folder to write."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    json: bool = False
    """Print one JSON object instead of lines."""


def reward_model(arguments: Any) -> None:
    """Train a preference model, say how good it is, and save it."""
    folder: Path = arguments.output
    device = _start_processes(arguments.device, pieces=False)
    if processes.rank() == 0 and (folder / preferences.RECORD).exists():
        raise ValueError(f"Expected a new folder for this model, got {str(folder)!r}, which holds another")
    splits = preferences.split_pairs(
        preferences.load_pairs(
            arguments.pairs,
            prompt=arguments.prompt_field,
            chosen=arguments.chosen_field,
            rejected=arguments.rejected_field,
        )
    )
    policy = Policy.from_pretrained(_model(arguments.model), device=device)
    config: preferences.PreferenceConfig = arguments.config
    sizes = ", ".join(f"{len(pairs):,} {split}" for split, pairs in splits.items())
    if not arguments.json:
        print(f"{config.method} on {arguments.model}, {policy.device}; pairs: {sizes}")

    def show(row: dict[str, float]) -> None:
        if not arguments.json:
            shown = (
                f"loss {row['loss']:.4f}  validation: accuracy {row['accuracy']:.3f}  log-loss {row['log_loss']:.4f}"
            )
            print(f"  epoch {row['epoch']:.0f}: {shown}", flush=True)

    trained = preferences.train(policy, splits["train"], splits["validation"], config, on_epoch=show)
    if processes.rank() > 0:
        return
    found = None
    if splits["test"]:
        margins = preferences.margins(policy, splits["test"], trained)
        found = preferences.evaluate_margins(margins, trained.temperature)
    preferences.save(folder, policy, trained, found)
    if arguments.json:
        print((folder / preferences.RECORD).read_text(encoding="utf-8"), end="")
        return
    print(f"  epoch {trained.epoch} is kept; temperature {trained.temperature:.3f}")
    if found is not None:
        print(
            f"test: accuracy {found.accuracy:.3f} [{found.accuracy_low:.3f}, {found.accuracy_high:.3f}]  "
            f"log-loss {found.log_loss:.4f}, calibrated {found.calibrated_log_loss:.4f}  "
            f"ECE {found.ece:.3f}, calibrated {found.calibrated_ece:.3f}  ({found.pairs} pairs)"
        )
    name = "dpo" if config.method == "dpo" else "preference"
    print(f"Use it: --reward '{json.dumps({name: {'model': str(folder)}})}'")


def train(arguments: Any) -> None:
    """Train, and show what was learned."""
    device = _start_processes(arguments.device, pieces=True)
    folder, agent = (_start if arguments.resume is None else _go_on)(arguments, device)
    parameters = sum(one.numel() for one in agent.policy.parameters())
    where = f"{agent.policy.device}, {parameters:,} parameters"
    print(f"{agent.algorithm.name} on {arguments.env} ({agent.env.task.name}), {where}")
    if not agent.reference.pretrained:
        of = agent.config
        print(f"random weights: kl_coef {of.kl_coef}, entropy_coef {of.entropy_coef}, learning_rate {of.learning_rate}")
    plan = EvaluationPlan(
        episodes=arguments.eval_episodes,
        during=arguments.eval_during,
        temperature=arguments.eval_temperature,
        deterministic=arguments.eval_deterministic,
        top_k=arguments.eval_top_k,
        top_p=arguments.eval_top_p,
        min_p=arguments.eval_min_p,
    )

    def show(timesteps: int, split: str, found: Evaluation) -> None:
        print(_line(f"{split} at {timesteps:,}", found), flush=True)

    try:
        agent.learn(
            arguments.total_timesteps,
            folder=folder,
            evaluation=plan,
            progress_bar=True,
            checkpoint_seconds=arguments.checkpoint_seconds,
            keep_checkpoints=arguments.keep_checkpoints,
            max_seconds=arguments.max_seconds,
            wandb_project=arguments.wandb_project,
            on_evaluation=show,
        )
    except (KeyboardInterrupt, Terminated) as stop:
        if processes.rank() == 0:
            print(f"\nStopped. {_goes_on(folder)}", file=sys.stderr)
        raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else stop.code) from None
    except (RewardError, NonFiniteError, LostProcessError, torch.OutOfMemoryError, OSError) as error:
        print(render.visible(f"\n{error}\n{_goes_on(folder)}"), file=sys.stderr)
        raise SystemExit(1) from error
    if processes.rank() > 0:
        return
    if "parted_at" in agent.memory:
        print(f"Mind: from {agent.memory['parted_at']:,} tokens on, the held-out metric fell while the score rose.")
    _write_results(folder, agent, arguments.samples)


def _start_processes(device: str | None, *, pieces: bool) -> str | None:
    """Join the other processes, where there are some. The first one talks."""
    device = processes.start(device, pieces=pieces)
    if processes.rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
    return device


def _goes_on(folder: Path) -> str:
    """What is left of a run that has stopped, and what to do."""
    known = checkpoints.listed(folder)
    left = f"The checkpoint of {known[-1].timesteps:,} tokens is in {folder}" if known else "There is no checkpoint yet"
    return f"{left}. Go on with: python -m agents train --resume {folder}"


def _start(arguments: Any, device: str | None) -> tuple[Path, Agent]:
    """A new run: its folder, with the options in it, and its agent."""
    folder = arguments.output or Path("runs") / (
        f"{arguments.algorithm}-{arguments.env.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    if processes.rank() > 0:  # it neither looks into the folder nor writes there
        return folder, _new_agent(arguments, device)
    run_folder.check_new(folder, goes_on=f"--resume {folder}", files=(CONFIG,))
    agent = _new_agent(arguments, device)
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder / CONFIG, arguments, agent)
    return folder, agent


def _go_on(arguments: Any, device: str | None) -> tuple[Path, Agent]:
    """A run that was stopped: its folder, and its agent as the last whole checkpoint has it, or as it started."""
    folder: Path = arguments.resume
    if arguments.output is not None:
        raise ValueError(f"Expected --resume without --output: a run goes on in its own folder, {str(folder)!r}")
    saved = _read_config(folder / CONFIG)
    given = {**arguments.settings.to_dict(), **_options(arguments)}
    for name, value in given.items():
        if name not in _MAY_CHANGE and name in saved and _plain(saved[name]) != _plain(value):
            raise ValueError(
                f"Expected --resume to go on with the run's own {name}, {saved[name]!r}, got {value!r}: only "
                f"{', '.join(sorted(_MAY_CHANGE))} may change. For a new run with other settings: --config and --init"
            )
    if processes.rank() == 0:
        run_folder.FolderLock(folder).release()  # refuses a folder in use before anything in it is touched
    agent = load(folder, device=device) if checkpoints.numbers(folder) else _new_agent(arguments, device)
    if processes.rank() == 0:
        if not checkpoints.numbers(folder):
            run_folder.begin_again(folder)
        _write_config(folder / CONFIG, arguments, agent)
    return folder, agent


def _new_agent(arguments: Any, device: str | None) -> Agent:
    settings = arguments.settings.to_dict()
    if arguments.bonuses is not None:
        settings["bonuses"] = _name_or_json(arguments.bonuses)
    if arguments.init is not None:
        source: Any = _policy_folder(arguments.init)
    else:
        given = _name_or_json(arguments.model)
        source = _model(given) if isinstance(given, str) else given
    policy_kwargs = {
        "lora": arguments.lora,
        "freeze": int(arguments.freeze) if (arguments.freeze or "").isdecimal() else arguments.freeze,
        "precision": arguments.precision,
        "gradient_checkpointing": arguments.gradient_checkpointing,
        "compile": arguments.compile,
    }
    return Algorithm.known[arguments.algorithm](
        source,
        arguments.env,
        seed=arguments.seed,
        env_kwargs=arguments.kwargs(),
        policy_kwargs=policy_kwargs,
        device=device,
        **settings,
    )


def _policy_folder(run: Path, which: str = "last") -> Path:
    """Where a run, of sft or of train, keeps its policy; of train, that of a checkpoint."""
    if not (checkpoints.numbers(run) or (run / checkpoints.MANIFEST).is_file()):
        for place in (run / "policy", run):
            if (place / "policy.json").is_file() or (place / "model.safetensors").is_file():
                return place
    try:
        return checkpoints.find(run, which).path / "policy"
    except ValueError as error:
        raise ValueError(f"Expected the folder of a run, with a policy in it, got {str(run)!r}: {error}") from error


def _model(source: str) -> str | Path:
    """What `Policy.from_pretrained` takes: a model's name or folder as it is, the policy of a run's folder."""
    folder = Path(source)
    holds_run = checkpoints.numbers(folder) or (folder / "policy" / "policy.json").is_file()
    return _policy_folder(folder) if holds_run else source


def _temperature_of(source: str | Path) -> float | None:
    """The temperature that a policy was trained at, where it lies in a checkpoint of a run."""
    file = Path(source).parent / "agent.json"
    return float(read_json(file)["config"]["temperature"]) if file.is_file() else None


def _write_config(file: Path, arguments: Train, agent: Agent) -> None:
    """Every option as it is in force, for `--config` and `--resume`."""
    write_json(file, {**_options(arguments), **agent.config.to_dict()})


def _options(arguments: Train) -> dict[str, Any]:
    """The options as JSON values. Folders of runs are left out: another run needs another."""
    without = ("config", "output", "resume")
    plain = {one.name: getattr(arguments, one.name) for one in fields(Train) if one.name not in without}
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in plain.items()}


def _plain(value: Any) -> Any:
    """An option as both a config file and the command line have it: paths as text, JSON read."""
    if isinstance(value, Path):
        return str(value.absolute())
    return _name_or_json(value) if isinstance(value, str) else value


def sft(arguments: SFT) -> None:
    """Train on demonstrations, and say how it went after each epoch."""
    folder = arguments.output or Path("runs") / (
        f"sft-{arguments.env.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    device = _start_processes(arguments.device, pieces=False)
    source = _model(arguments.model)
    policy = start_policy(source, arguments.env, arguments.kwargs(), seed=arguments.seed, device=device)

    def show(row: dict[str, float]) -> None:
        parts = [f"epoch {row['epoch']:.0f}: perplexity {row['validation_perplexity']:.3f}"]
        if "validation_score" in row:
            parts.append(f"score {row['validation_score']:+.3f}")
        print("  ".join(parts) + "  (validation)", flush=True)

    rows = fine_tune(
        policy,
        arguments.env,
        config=arguments.settings,
        seed=arguments.seed,
        env_kwargs=arguments.kwargs(),
        folder=folder,
        on_epoch=show,
    )
    best = min(rows, key=lambda row: row["validation_perplexity"])
    print(f"The policy of epoch {best['epoch']:.0f} is in {folder}; go on with python -m agents train --init {folder}")


def _write_results(folder: Path, agent: Agent, samples: int) -> None:
    """The picture, the samples and the summary of a finished run."""
    title = f"{agent.algorithm.name} on {agent.env_id} ({agent.env.task.name}), seed {agent.seed}"
    plot_learning_curve(read_metrics(folder / run_folder.METRICS), folder / "learning_curve.png", title)
    before, after = (run_folder.read_evaluation(folder, "test", place) for place in (0, agent.timesteps))
    summary = {
        "before": before.summary(),
        "after": after.summary(),
        "seconds": agent.seconds,
        "timesteps": agent.timesteps,
    }
    write_json(folder / "summary.json", summary)
    scale = max((abs(one) for row in after.token_rewards + before.token_rewards for one in row), default=0.0) or 1.0
    shown, pages = [render.legend()], []
    for episode in range(min(samples, after.episodes)):
        for label, evaluation in (("before", before), ("after", after)):
            segments = evaluation.segments(episode)
            shown.append(f"{label:>6} {evaluation.scores[episode]:+.3f}  {render.ansi(segments, scale=scale)}")
            pages.append(f"<p>{label} {evaluation.scores[episode]:+.3f}<br>{render.html(segments, scale=scale)}</p>")
    print("\n\n".join(shown) + "\n")
    page = "<!doctype html><meta charset=utf-8><title>Samples</title>" + "\n".join(pages)
    (folder / "samples.html").write_text(page, encoding="utf-8")
    print(f"{agent.seconds:.0f} s of training. Curve, samples, metrics and checkpoints: {folder}")


def evaluate(arguments: Evaluate, said: Container[str]) -> None:
    """Print how good a run or a model is.

    Args:
        arguments: The options.
        said: Which options for the environment the command line gives.
    """
    if arguments.run is not None:
        agent = _load_run(arguments.run, arguments, said)
        # As many lanes as the run has: the numbers are then those of its own evaluations.
        env = agent.make_env(agent.config.num_envs, split=arguments.split)
        policy, reference, name, own = agent.policy, agent.reference, agent.env_id, agent.config.temperature
    else:
        if checkpoints.numbers(Path(arguments.model)):
            raise ValueError(
                f"Expected --model with the folder of a model, got {arguments.model!r}, which is the folder of a run: "
                f"--run {arguments.model} evaluates it in its own environment, with --env in another"
            )
        policy, reference = Policy.from_pretrained(_model(arguments.model), device=arguments.device), None
        env = make_env(arguments.env, policy, split=arguments.split, **arguments.kwargs())
        name, own = arguments.env, 1.0
    temperature = own if arguments.temperature is None else arguments.temperature
    found = evaluate_policy(
        policy,
        env,
        arguments.episodes,
        reference=reference,
        temperature=temperature,
        deterministic=arguments.deterministic,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    if arguments.output is not None:
        write_text(arguments.output, "".join(json.dumps(row) + "\n" for row in found.samples()))
    if arguments.json:
        where = {"env": name, "task": env.task.name, "split": arguments.split, "temperature": temperature}
        print(json.dumps({**where, **found.summary()}))
    else:
        print(_line(f"{name} ({env.task.name}), {arguments.split}", found))


def _load_run(run: Path, arguments: Evaluate, said: Container[str]) -> Agent:
    """A run's agent, in its own environment as far as the options do not say otherwise."""
    if not checkpoints.numbers(run) and (run / "sft.json").is_file():
        raise ValueError(
            f"Expected --run with the folder of a run of train, got {str(run)!r}, which is one of sft: --model {run}"
        )
    changes = arguments.kwargs()
    if "payout" not in said:
        del changes["payout"]
    env = arguments.env if "env" in said else None
    if env is not None:
        found = checkpoints.find(run, arguments.checkpoint).path
        if env == read_json(found / "agent.json")["env_id"]:
            env = None
    return load(run, arguments.checkpoint, env=env, env_kwargs=changes, device=arguments.device)


def _said(argv: Sequence[str]) -> set[str]:
    """Which options for the environment a command line gives."""
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    return given & {one.name for one in fields(EnvironmentArguments)}


def compare(arguments: Compare) -> None:
    """Print the comparison of some models, and write its page."""
    places = {name: _model(source) for name, source in named_sources(arguments.models).items()}
    temperature = arguments.temperature
    if temperature is None:
        trained = {name: own for name, place in places.items() if (own := _temperature_of(place)) is not None}
        if len(set(trained.values())) > 1:
            raise ValueError(f"Expected --temperature for runs that were trained at different ones, {trained}")
        temperature = next(iter(trained.values()), 1.0)
    policies = {}
    for name, place in places.items():
        policies[name] = start_policy(
            place, arguments.env, arguments.kwargs(), seed=arguments.seed, device=arguments.device
        )
    found = compare_policies(
        policies,
        arguments.env,
        env_kwargs=arguments.kwargs(),
        num_episodes=arguments.episodes,
        split=arguments.split,
        reference=arguments.reference,
        gamma=arguments.gamma,
        gae_lambda=arguments.gae_lambda,
        value_function=arguments.value_function,
        folds=arguments.folds,
        temperature=temperature,
        deterministic=arguments.deterministic,
        seed=arguments.seed,
    )
    folder = arguments.output or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    command = f"python -m agents compare --env {arguments.env} --models {' '.join(arguments.models)}"
    page = comparison_pages.write(found, folder, command=command)
    if arguments.json:
        print(json.dumps(found.summary()))
    else:
        print(f"{comparison_pages.as_text(found)}\n\nThe page, with the tokens: {page}")


class _Prompts(Task):
    """A few prompts, given by hand."""

    name = "prompts"
    default_reward = "length"

    def __init__(self, prompts: Sequence[str]) -> None:
        self._prompts = prompts

    def num_examples(self, split: str) -> int:
        check_split(split)
        return len(self._prompts) if split == "train" else 0

    def example(self, split: str, index: int) -> Example:
        check_split(split)
        return Example(self._prompts[index])


def generate(arguments: Generate) -> None:
    """Print continuations of prompts."""
    if arguments.run is not None:
        source: str | Path = _policy_folder(arguments.run, arguments.checkpoint)
    else:
        source = _model(arguments.model)
    policy = Policy.from_pretrained(source, device=arguments.device)
    temperature = arguments.temperature
    if temperature is None:
        own = _temperature_of(source)
        temperature = 1.0 if own is None else own
    prompts = list(arguments.prompt)
    if not prompts:
        task = gym.make("TextGen-v0").unwrapped.task  # type: ignore[attr-defined]
        prompts = [task.example("test", index).prompt for index in range(3)]
    examples = [index for index in range(len(prompts)) for _ in range(arguments.number)]
    env = TextGenVectorEnv(
        min(len(examples), 64),
        task=_Prompts(prompts),
        payout="sparse",
        tokenizer=policy.tokenizer,
        max_new_tokens=arguments.max_new_tokens,
        autoreset_mode="Disabled",
    )
    rollout = collect(
        env,
        policy,
        len(examples),
        temperature=temperature,
        deterministic=arguments.deterministic,
        generator=torch.Generator(policy.device).manual_seed(arguments.seed),
        examples=examples,
        truncation=Truncation.of(arguments.top_k, arguments.top_p, arguments.min_p),
    )
    for place, response in zip(examples, rollout.responses(policy), strict=True):
        segments = [render.Segment(prompts[place], "prompt"), render.Segment(response, "response")]
        print(render.ansi(segments), end="\n\n")


def _line(label: str, found: Evaluation) -> str:
    parts = [f"{label:>10}: score {found.score:+.3f} [{found.score_low:+.3f}, {found.score_high:+.3f}]"]
    if found.held_out is not None:
        interval = f"[{found.held_out_low:+.3f}, {found.held_out_high:+.3f}]"
        parts.append(f"{found.held_out_name} {found.held_out:+.3f} {interval}")
    if found.kl is not None:
        parts.append(f"KL {found.kl:.2f}")
    parts.append(f"distinct-2 {found.distinct_2:.3f}")
    parts.append(f"length {found.response_length:.1f}")
    return "  ".join(parts) + f"  ({found.episodes} episodes)"


def _name_or_json(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a name or JSON, got {text[:200]!r}, which could not be read: {error}") from error


def _option(argv: Sequence[str], name: str) -> str | None:
    """What the command line says of one option, which decides what the others are."""
    found = None
    for place, word in enumerate(argv):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name and place + 1 < len(argv):
            found = argv[place + 1]
    return found


def _read_config(file: Path) -> dict[str, Any]:
    """Options from a JSON or YAML file, paths and JSON values as the command line has them."""
    if file.suffix in (".yaml", ".yml"):
        yaml: Any = import_module("yaml")
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"Expected {str(file)!r} to hold YAML, but it could not be read: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"Expected {str(file)!r} to hold a mapping of options, got {type(given).__name__}")
    else:
        given = read_json(file)
    for name in ("reward", "payout", "curriculum"):
        if isinstance(given.get(name), (dict, list, bool)):
            given[name] = json.dumps(given[name])
    for name in ("init", "output", "prompts"):
        if given.get(name) is not None:
            given[name] = Path(given[name])
    return {key: value for key, value in given.items() if key != "config"}


def _train_arguments(argv: Sequence[str]) -> Any:
    """`Train` with the settings of the algorithm that the command line names."""
    file, resumed = _option(argv, "--config"), _option(argv, "--resume")
    if resumed is not None:
        if file is not None:
            raise ValueError("Expected --resume without --config: a run goes on with its own options")
        if not (Path(resumed) / CONFIG).is_file():
            raise ValueError(f"Expected --resume with the folder of a run, got {resumed!r}, which holds no {CONFIG}")
        file = str(Path(resumed) / CONFIG)
    given = {} if file is None else _read_config(Path(file))
    name = _option(argv, "--algorithm") or given.get("algorithm", "ppo")
    if name not in Algorithm.known:
        raise ValueError(f"Expected --algorithm to be one of {sorted(Algorithm.known)}, got {name!r}")
    config: Any = Algorithm.known[name].config
    own = {one.name for one in fields(Train)}
    flat: Any = Annotated[config, tyro.conf.OmitArgPrefixes]  # its fields are options of their own: --gamma
    whole: Any = make_dataclass("Train", [("settings", flat)], bases=(Train,), frozen=True, kw_only=True)
    settings = config.of({key: value for key, value in given.items() if key not in own})
    if isinstance(given.get("bonuses"), dict):  # on the command line they are JSON
        given["bonuses"] = json.dumps(given["bonuses"])
    return tyro.cli(
        whole,
        args=list(argv),
        default=whole(settings=settings, **{key: value for key, value in given.items() if key in own}),
        description=Train.__doc__,
        prog="python -m agents train",
    )


def _reward_model_arguments(argv: Sequence[str]) -> Any:
    """`RewardModel` with the settings of the training beside its own."""
    flat: Any = Annotated[preferences.PreferenceConfig, tyro.conf.OmitArgPrefixes]
    whole: Any = make_dataclass("RewardModel", [("config", flat)], bases=(RewardModel,), frozen=True, kw_only=True)
    return tyro.cli(whole, args=list(argv), description=RewardModel.__doc__, prog="python -m agents reward-model")


_FAILURES = (
    RewardError, NonFiniteError, LostProcessError, ValueError, TypeError, ImportError, OSError, gym.error.Error,
)  # fmt: skip
"""What a command ends with a message for, in place of a traceback."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        argv: The words after `python -m agents`; None takes those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": lambda rest: train(_train_arguments(rest)),
        "sft": lambda rest: sft(tyro.cli(SFT, args=rest, prog="python -m agents sft")),
        "evaluate": lambda rest: evaluate(tyro.cli(Evaluate, args=rest, prog="python -m agents evaluate"), _said(rest)),
        "compare": lambda rest: compare(tyro.cli(Compare, args=rest, prog="python -m agents compare")),
        "generate": lambda rest: generate(tyro.cli(Generate, args=rest, prog="python -m agents generate")),
        "reward-model": lambda rest: reward_model(_reward_model_arguments(rest)),
    }
    kinds = (Train, SFT, Evaluate, Compare, Generate, RewardModel)
    lines = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in zip(commands, kinds, strict=True)}
    command = commands[chosen("python -m agents", lines, words)]
    try:
        command(words[1:])
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except _FAILURES as error:
        print(render.visible(f"error: {error}"), file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
