"""`python -m agents evaluate`: the mean score of a policy on held-out examples."""

from __future__ import annotations

from pathlib import Path

from agents import Agent, Policy, load
from agents.cli.console import evaluation_line
from agents.cli.options import Evaluate
from agents.cli.sources import model_source
from agents.collector import make_env
from agents.evaluation.evaluation import evaluate
from agents.files import read_json, to_json, write_text
from agents.training import checkpoints


def run(arguments: Evaluate) -> None:
    """Prints how good a run or a model is."""
    if arguments.run is not None:
        agent = _load_run(arguments.run, arguments)
        # As many lanes as the run has: the numbers are then those of its own evaluations.
        env = agent.make_env(agent.config.num_envs, split=arguments.split)
        policy, reference, env_id = agent.policy, agent.reference, agent.env_id
        default_temperature = agent.config.temperature
    else:
        if checkpoints.numbers(Path(arguments.model)):
            raise ValueError(
                f"Expected --model with the folder of a model, got {arguments.model!r}, which is the folder of a run: "
                f"--run {arguments.model} evaluates it in its own environment, with --env in another"
            )
        policy, reference = Policy.from_pretrained(model_source(arguments.model), device=arguments.device), None
        env = make_env(arguments.env, policy, split=arguments.split, **arguments.env_kwargs())
        env_id, default_temperature = arguments.env, 1.0
    temperature = default_temperature if arguments.temperature is None else arguments.temperature
    evaluation = evaluate(
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
        write_text(arguments.output, "".join(to_json(row) + "\n" for row in evaluation.samples()))
    if arguments.json:
        header = {"env": env_id, "task": env.task.name, "split": arguments.split, "temperature": temperature}
        print(to_json({**header, **evaluation.summary()}))
    else:
        print(evaluation_line(f"{env_id} ({env.task.name}), {arguments.split}", evaluation))


def _load_run(folder: Path, arguments: Evaluate) -> Agent:
    """The agent of a run, in the run's own environment but for what the command line says."""
    if not checkpoints.numbers(folder) and (folder / "sft.json").is_file():
        raise ValueError(
            f"Expected --run with the folder of a run of train, got {str(folder)!r}, which is one of sft: "
            f"--model {folder}"
        )
    env_kwargs = arguments.env_kwargs()
    if "payout" not in arguments.given:
        del env_kwargs["payout"]
    if not arguments.given & {"task", "prompt", "references", "template", "prompt_tokens"}:
        env_kwargs.pop("task", None)  # --data alone is other data of the run's own task
    env = arguments.env if "env" in arguments.given else None
    if env is not None:
        checkpoint = checkpoints.find(folder, arguments.checkpoint).path
        if env == read_json(checkpoint / "agent.json")["env_id"]:
            env = None  # `load` keeps the arguments of the run's environment only where it is given no other
    return load(
        folder,
        arguments.checkpoint,
        env=env,
        env_kwargs=env_kwargs,
        device=arguments.device,
        data_changed=arguments.data_changed,
    )
