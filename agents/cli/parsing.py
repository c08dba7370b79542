"""From the words of a command line to the options of a command.

`train` has the settings of its algorithm among its options, so two of its words are read before the others:
--algorithm, and --config or --resume, whose file may name the algorithm. Only then is the algorithm imported, and torch
with it. A plain `train --help` does without, and shows what all algorithms share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

import agents
from agents.cli.options import EnvironmentArguments, Evaluate, Train
from agents.files import read_json
from agents.training.config import RunConfig
from textenvs.arguments import check_path, did_you_mean
from textenvs.files import read_text

CONFIG = "config.json"
"""The file in a run's folder that holds its options."""


def parse(prog: str, options: type[Any], words: Sequence[str]) -> Any:
    """The options of a command.

    Args:
        prog: The words before them, `python -m agents train` say.
        options: The command's class in `agents.cli.options`.
        words: The words after the command.

    Returns:
        An instance of the class. That of `train` has `settings`, the config of its algorithm.

    Raises:
        ValueError: If a value is out of range, or a file cannot be read.
        TypeError: If a config file has an unknown option.
        SystemExit: For --help, and for words that are no options of the command.
    """
    _check_paths(options, words)
    if options is Train:
        return _parse_train(prog, words)
    arguments = _cli(options, words, prog)
    if isinstance(arguments, Evaluate):
        return replace(arguments, given=_given_environment_options(words))
    return arguments


def _check_paths(options: type[Any], words: Sequence[str]) -> None:
    """Raises a ValueError for a path that is empty: `--output "$RUN"` of a shell that knows no RUN, say."""
    for option in fields(options):
        if "Path" in str(option.type) and _option(words, name := f"--{option.name.replace('_', '-')}") is not None:
            check_path(name, _option(words, name))


def _cli(
    options: type[Any], words: Sequence[str], prog: str, *, default: Any = None, description: str | None = None
) -> Any:
    """Reads a command line. In --help, the options that commands share stand in groups, below the command's own.

    Each base class of a command is a group. Tyro makes one of a field whose type is a dataclass, so the command is read
    as a class that has such a field for each base, and none of the fields that it inherits from them.
    """
    command = options if options.__module__ == Train.__module__ else Train
    groups = {base.__name__.removesuffix("Arguments"): base for base in command.__bases__}
    grouped = {name: {option.name for option in fields(base)} - set(command.__annotations__)
               for name, base in groups.items()}  # fmt: skip
    parts: list[tuple[str, Any, Any]] = []
    for name, base in groups.items():
        part: Any = _without(base, {option.name for option in fields(base)} - grouped[name])
        values = {option: getattr(default, option) for option in grouped[name]} if default is not None else {}
        parts.append((name, Annotated[part, tyro.conf.OmitArgPrefixes], field(default_factory=partial(part, **values))))
    flat = {option for names in grouped.values() for option in names}
    nested: Any = _without(options, flat, parts)
    own = {} if default is None else {option.name: getattr(default, option.name) for option in fields(options)}
    read = tyro.cli(
        nested,
        args=list(words),
        prog=prog,
        default=None if default is None else nested(**{name: own[name] for name in own if name not in flat}),
        description=description or options.__doc__,
        config=(tyro.conf.SuppressFixed,),
    )
    inherited = {option: getattr(getattr(read, name), option) for name in groups for option in grouped[name]}
    return options(**{option.name: getattr(read, option.name) for option in fields(options)} | inherited)


def _without(base: type[Any], names: set[str], more: Sequence[tuple[str, Any, Any]] = ()) -> type[Any]:
    """A dataclass like another, in which some fields are no options, and with more fields."""
    types = get_type_hints(base)
    fixed: Any = tyro.conf.Fixed
    hidden: list[tuple[str, Any, Any]] = [
        (option.name, fixed[types[option.name]], field(default=option.default))
        for option in fields(base)
        if option.name in names
    ]
    made = make_dataclass(base.__name__, [*hidden, *more], bases=(base,), frozen=True, kw_only=True)
    made.__doc__ = base.__doc__
    return made


def _given_environment_options(words: Sequence[str]) -> frozenset[str]:
    """The names of the options for the environment that a command line gives."""
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    return frozenset(given & {option.name for option in fields(EnvironmentArguments)})


# Training -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Help(Train):
    """The options that `train --help` shows."""

    settings: tyro.conf.OmitArgPrefixes[RunConfig]


def _parse_train(prog: str, words: Sequence[str]) -> Any:
    """`Train` with the settings of the algorithm that the command line, or the file that it names, names."""
    file, resumed = _option(words, "--config"), _option(words, "--resume")
    if resumed is not None:
        if file is not None:
            raise ValueError("Expected --resume without --config: a run goes on with its own options")
        if not (Path(resumed) / CONFIG).is_file():
            raise ValueError(f"Expected --resume with the folder of a run, got {resumed!r}, which holds no {CONFIG}")
        file = str(Path(resumed) / CONFIG)
    name = _option(words, "--algorithm")
    if file is None and name is None and {"-h", "--help"}.intersection(words):
        about = (
            f"{Train.__doc__}\n\nAll algorithms share these options. {prog} --algorithm NAME --help shows those of an "
            "algorithm, too."
        )
        return _cli(_Help, words, prog, default=_Help(settings=RunConfig()), description=about)
    given = {} if file is None else read_config(Path(file))
    as_read = None if file is None else dict(given)
    name = name or given.get("algorithm", "ppo")
    name, published = _algorithm(str(name))
    given = {**published, **given}
    config: Any = agents.Algorithm.known[name].config
    train_options = {option.name for option in fields(Train)}
    flat: Any = Annotated[config, tyro.conf.OmitArgPrefixes]  # its fields are options of their own: --gamma
    train: Any = make_dataclass("Train", [("settings", flat)], bases=(Train,), frozen=True, kw_only=True)
    settings = config.of({key: value for key, value in given.items() if key not in train_options})
    if isinstance(given.get("bonuses"), dict):  # on the command line they are JSON
        given["bonuses"] = json.dumps(given["bonuses"])
    default = train(settings=settings, **{key: value for key, value in given.items() if key in train_options})
    arguments = _cli(train, words, prog, default=default, description=Train.__doc__)
    return replace(arguments, algorithm=name, as_read=as_read)


def _algorithm(name: str) -> tuple[str, Mapping[str, Any]]:
    """The algorithm of a name and, where that is a published one, the settings that it stands for.

    It may be written like its class: "PPO", "ActorCritic", "best-of-n", "Dr-GRPO".
    """
    known = [*agents.Algorithm.known, *agents.PUBLISHED]
    names = {known_name.replace("_", ""): known_name for known_name in known}
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in names:
        hint = did_you_mean(name.lower(), known)
        raise ValueError(f"Expected --algorithm to be one of {sorted(known)}, got {name!r}.{hint}")
    name = names[plain]
    if name in agents.Algorithm.known:
        return name, {}
    return agents.PUBLISHED[name].algorithm, agents.PUBLISHED[name].settings


def _option(words: Sequence[str], name: str) -> str | None:
    """The value of one option on a command line, the last one where it stands there twice."""
    value = None
    for position, word in enumerate(words):
        if word.startswith(f"{name}="):
            value = word.partition("=")[2]
        elif word == name and position + 1 < len(words):
            value = words[position + 1]
    return value


def read_config(file: Path) -> dict[str, Any]:
    """The options in a file, each as the command line has it.

    Args:
        file: A JSON or YAML file.

    Returns:
        Name to value.

    Raises:
        ValueError: If the file cannot be read, or holds no mapping.
        ImportError: If it is YAML, and there is no library that reads it.
    """
    if file.suffix in (".yaml", ".yml"):
        given = _read_yaml(file)
        if not isinstance(given, dict):
            raise ValueError(f"Expected {str(file)!r} to hold a mapping of options, got {type(given).__name__}")
    else:
        given = read_json(file)
    for name in ("reward", "payout", "curriculum", "chat_template", "stop", "task", "data", "references"):
        if isinstance(given.get(name), (dict, list, bool)):
            given[name] = json.dumps(given[name])
    for name in ("init", "output"):
        if given.get(name) is not None:
            given[name] = check_path(name, given[name])
    return {key: value for key, value in given.items() if key != "config"}


_YAML_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
"""A number of YAML 1.2 (section 10.3.2), which JSON's numbers are, too."""


def _read_yaml(file: Path) -> Any:
    """Reads a YAML file. Numbers are those of YAML 1.2, in which 1e-4 is one: PyYAML would take it for a text."""
    yaml: Any = import_module("yaml")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # a class of its own: resolvers are kept by class
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _YAML_FLOAT, "-+.0123456789")
    # A date would become an object that no option is: `output: 2026-11-30` is a name.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    try:
        return yaml.load(read_text(file), Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"Expected {str(file)!r} to hold YAML, but it could not be read: {error}") from error
