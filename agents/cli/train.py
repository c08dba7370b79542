"""`python -m agents train`: train a policy, with checkpoints, evaluations and a folder that tells of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from agents import Agent, Algorithm, Evaluation, load
from agents.cli.options import (
    EnvironmentArguments,
    _line,
    _model,
    _name_or_json,
    _option,
    _policy_folder,
    _start_processes,
)
from agents.distributed import processes
from agents.distributed.processes import LostProcessError
from agents.evaluation.evaluation import EvaluationPlan
from agents.files import read_json, write_json
from agents.training import checkpoints, run_folder
from agents.training.metrics_log import plot_learning_curve, read_metrics
from agents.training.optimization import NonFiniteError
from agents.training.signals import Terminated
from textenvs import RewardError, render

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
    if "alarm_at" in agent.carried:
        print(f"Mind: from {agent.carried['alarm_at']:,} tokens on, the held-out metric fell while the score rose.")
    _write_results(folder, agent, arguments.samples)


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
    run_folder.check_new(folder, resume_with=f"--resume {folder}", files=(CONFIG,))
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
