"""`python -m agents train`: trains a policy, with checkpoints, evaluations and a folder that tells of the run."""

from __future__ import annotations

import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from agents import Agent, Algorithm, Evaluation, load
from agents.cli.console import evaluation_line, join_processes, owned
from agents.cli.options import Train, name_or_json
from agents.cli.parsing import CONFIG, read_config
from agents.cli.sources import absolute_data, model_source, policy_folder
from agents.distributed import processes
from agents.distributed.processes import LostProcessError
from agents.evaluation.evaluation import EvaluationPlan
from agents.evaluation.verdict import verdict, yardsticks
from agents.files import check_empty, write_json
from agents.locks import LOCK
from agents.training import checkpoints, run_folder
from agents.training.metrics_log import plot_learning_curve, read_metrics
from agents.training.optimization import NonFiniteError
from agents.training.signals import Terminated
from textenvs import RewardError, render

_CHANGEABLE = {
    "checkpoint_seconds",
    "device",
    "keep_checkpoints",
    "max_seconds",
    "samples",
    "total_timesteps",
    "wandb_project",
}
"""The options that may differ when a run is resumed. total_timesteps stretches its schedules."""


def run(arguments: Any) -> None:
    """Trains, and shows what was learned."""
    device = join_processes(arguments.device, pieces=True)
    folder = _folder(arguments)
    with owned(folder, _check_new if arguments.resume is None else None):
        _train(arguments, folder, device)


def _train(arguments: Any, folder: Path, device: str | None) -> None:
    """Makes or loads the agent, trains it, and writes the results."""
    agent = (_start if arguments.resume is None else _resume)(arguments, folder, device)
    parameters = sum(weight.numel() for weight in agent.policy.parameters())
    policy = f"{agent.policy.device}, {parameters:,} parameters"
    print(render.visible_line(f"{agent.algorithm.name} on {arguments.env} ({agent.env.task.name}), {policy}"))
    if not agent.reference.pretrained:
        config = agent.config
        print(
            f"random weights: kl_coef {config.kl_coef}, entropy_coef {config.entropy_coef}, "
            f"learning_rate {config.learning_rate}"
        )
    lacking = [split for split in ("validation", "test") if split not in agent.env.setting.splits]
    if lacking and arguments.eval_episodes > 0:
        print(f"No evaluations on {' and '.join(lacking)}: the task has no examples there")
    plan = (
        None
        if arguments.eval_episodes == 0
        else EvaluationPlan(
            episodes=arguments.eval_episodes,
            during=arguments.eval_during,
            temperature=arguments.eval_temperature,
            deterministic=arguments.eval_deterministic,
            top_k=arguments.eval_top_k,
            top_p=arguments.eval_top_p,
            min_p=arguments.eval_min_p,
        )
    )

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
            on_evaluation=_print_evaluation,
        )
    except (KeyboardInterrupt, Terminated) as stop:
        if processes.rank() == 0:
            print(f"\nStopped. {_how_to_resume(folder)}", file=sys.stderr)
        raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else stop.code) from None
    except (RewardError, NonFiniteError, LostProcessError, torch.OutOfMemoryError, OSError) as error:
        print(render.visible(f"\n{error}\n{_how_to_resume(folder)}"), file=sys.stderr)
        raise SystemExit(1) from error
    if processes.rank() > 0:
        return
    if "alarm_at" in agent.carried:
        print(f"Warning: from {agent.carried['alarm_at']:,} tokens on, the held-out metric fell while the score rose.")
    is_evaluated = plan is not None and "test" in agent.env.setting.splits
    _write_results(folder, agent, arguments.samples, is_evaluated=is_evaluated)


def _print_evaluation(timesteps: int, split: str, evaluation: Evaluation) -> None:
    print(evaluation_line(f"{split} at {timesteps:,}", evaluation), flush=True)


def _how_to_resume(folder: Path) -> str:
    """A message of what is kept of a run that has stopped, and of the command that continues it."""
    written = checkpoints.listed(folder)
    kept = "There is no checkpoint yet"
    if written:
        kept = f"The checkpoint of {written[-1].timesteps:,} tokens is in {folder}"
    return f"{kept}. Go on with: python -m agents train --resume {folder}"


def _folder(arguments: Any) -> Path:
    """The run's folder: a new one, or that of --resume."""
    if arguments.resume is None:
        name = f"{arguments.algorithm}-{arguments.env.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
        return arguments.output or Path("runs") / name
    if arguments.output is not None:
        raise ValueError(
            f"Expected --resume without --output: a run goes on in its own folder, {str(arguments.resume)!r}"
        )
    resumed: Path = arguments.resume
    return resumed


def _check_new(folder: Path) -> None:
    run_folder.check_new(folder, resume_with=f"--resume {folder}", files=(CONFIG,))
    check_empty(folder, but=(LOCK,))


def _start(arguments: Any, folder: Path, device: str | None) -> Agent:
    """The agent of a new run, whose options are then in its folder."""
    agent = _new_agent(arguments, device)
    if processes.rank() == 0:
        _write_config(folder, arguments, agent)
    return agent


def _resume(arguments: Any, folder: Path, device: str | None) -> Agent:
    """The agent of a run that was stopped, as in the last complete checkpoint, or as it started."""
    config = folder / CONFIG
    if processes.rank() == 0 and read_config(config) != arguments.as_read:
        raise ValueError(
            f"Expected {str(config)!r} as it was when this command began, but another process has changed it: try again"
        )
    has_checkpoint = bool(checkpoints.numbers(folder))
    # A run that has begun goes on with the options that it began with. What config.json says may have been edited.
    options = folder / checkpoints.FOLDER / checkpoints.OPTIONS
    own = read_config(options if has_checkpoint and options.is_file() else config)
    for name, value in {**arguments.settings.to_dict(), **_options(arguments)}.items():
        if name not in _CHANGEABLE and name in own and _comparable(own[name]) != _comparable(value):
            edited = f" in {str(config)!r}" if _comparable(arguments.as_read.get(name)) == _comparable(value) else ""
            raise ValueError(
                f"Expected --resume to go on with the run's own {name}, {own[name]!r}, got {value!r}{edited}: only "
                f"{', '.join(sorted(_CHANGEABLE))} may change. For a new run with other settings: --config and --init"
            )
    agent = (
        load(folder, device=device, data_changed=arguments.data_changed)
        if has_checkpoint
        else _new_agent(arguments, device)
    )
    if processes.rank() == 0:
        if not has_checkpoint:
            run_folder.begin_again(folder)
        _write_config(folder, arguments, agent)
    return agent


def _new_agent(arguments: Any, device: str | None) -> Agent:
    """The agent that the options ask for, before its first update."""
    settings = arguments.settings.to_dict()
    if arguments.bonuses is not None:
        settings["bonuses"] = name_or_json(arguments.bonuses)
    if arguments.init is not None:
        source: Any = policy_folder(arguments.init)
    else:
        given = name_or_json(arguments.model)
        source = model_source(given) if isinstance(given, str) else given
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
        env_kwargs=arguments.env_kwargs(),
        policy_kwargs=policy_kwargs,
        device=device,
        **settings,
    )


def _write_config(folder: Path, arguments: Train, agent: Agent) -> None:
    """Writes every option, defaults filled in, for `--config` and `--resume`; twice, so that edits are noticed."""
    options = {**_options(arguments), **agent.config.to_dict()}
    write_json(folder / CONFIG, options)  # first: with it alone a run can be resumed
    (folder / checkpoints.FOLDER).mkdir(exist_ok=True)
    write_json(folder / checkpoints.FOLDER / checkpoints.OPTIONS, options)


def _options(arguments: Train) -> dict[str, Any]:
    """The options as JSON values. Folders of runs are left out: another run needs another."""
    left_out = ("as_read", "config", "data_changed", "output", "resume")
    values = {option.name: getattr(arguments, option.name) for option in fields(Train) if option.name not in left_out}
    values["data"] = absolute_data(values["data"])
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in values.items()}


def _comparable(value: Any) -> Any:
    """An option in the form in which a config file's and the command line's are equal: paths as text, JSON read."""
    if isinstance(value, Path):
        return str(value.absolute())
    return name_or_json(value) if isinstance(value, str) else value


def _write_results(folder: Path, agent: Agent, samples: int, *, is_evaluated: bool) -> None:
    """Writes the picture, the samples and the summary of a finished run, and prints the samples."""
    title = f"{agent.algorithm.name} on {agent.env_id} ({agent.env.task.name}), seed {agent.seed}"
    spent = {"seconds": agent.seconds, "timesteps": agent.timesteps}
    curve, lines = folder / "learning_curve.png", yardsticks(agent.env, "test")
    compared, missing = None, ""
    if is_evaluated:
        try:
            compared = [run_folder.read_evaluation(folder, "test", timesteps) for timesteps in (0, agent.timesteps)]
        except ValueError as error:  # somebody has removed it, which was said when the run went on
            missing = f"{error}. There are no samples from before and after. "
    if compared is not None:
        lines["start model"] = compared[0].score
        if compared[0].demonstration is not None:
            lines["demonstrations"] = compared[0].demonstration
    held_out_name = None if compared is None else compared[0].held_out_name
    plot_learning_curve(
        read_metrics(folder / run_folder.METRICS), curve, title, lines=lines, held_out_name=held_out_name
    )
    if compared is None:
        write_json(folder / "summary.json", spent)
        print(missing or f"{agent.seconds:.0f} s of training. ", end="")
        print(f"Curve, metrics and checkpoints: {folder}")
        return
    before, after = compared
    outcome = verdict(before, after)
    write_json(
        folder / "summary.json",
        {"verdict": outcome, "before": before.summary(), "after": after.summary(), **spent},
    )
    rewards = [reward for episode in after.token_rewards + before.token_rewards for reward in episode]
    scale = max(map(abs, rewards), default=0.0) or 1.0  # the reward at full colour
    color = render.takes_colors()
    printed, paragraphs = [render.legend(color=color)], []
    for episode in range(min(samples, after.episodes)):
        for label, evaluation in (("before", before), ("after", after)):
            segments = evaluation.segments(episode)
            score = f"{evaluation.scores[episode]:+.3f}"
            printed.append(f"{label:>6} {score}  {render.ansi(segments, scale=scale, color=color)}")
            paragraphs.append(f"<p>{label} {score}<br>{render.html(segments, scale=scale)}</p>")
    print("\n\n".join(printed) + "\n")
    page = "<!doctype html><meta charset=utf-8><title>Samples</title>" + "\n".join(paragraphs)
    (folder / "samples.html").write_text(page, encoding="utf-8")
    print(f"{agent.seconds:.0f} s of training. Curve, samples, metrics and checkpoints: {folder}")
    print(outcome)
