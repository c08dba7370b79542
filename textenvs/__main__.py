"""The command line of the environments: python -m textenvs list | play | check | canaries --help."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Container, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env

from textenvs import RewardError, TextGenEnv, list_envs, render
from textenvs.overview import data_overview, make_env, overview
from textenvs.setting import Setting
from textenvs.subcommands import replace_unprintable
from textenvs.testing import check_reward, check_task, check_vector_env, search
from textenvs.testing.canaries import CANARIES, canary_scores
from textenvs.tokenizer import decode
from textenvs.wrappers import TextAction, response_encoder

_LIST = """Show every id: the size of its vocabulary; the tokens of its longest prompt; the tokens that an episode may
write; the score of random tokens (exactly, or with its 95 % interval), that of the best constant that a search has
found (blind), that of the demonstrations and the best score there is, on the test split; and the skill that it tests.
With --long also: the score from which it counts as solved; its task and level; its reward and payout; and the held-out
metric, a second score that training never sees."""

_DATA = """Give the data as data="path/to/it", or set TEXTENVS_DATA to a folder with a sub-folder for each set, or
install the library that reads the Hugging Face Hub: pip install "textenvs[data]". gym.make(ID) says how to get it."""

_PLAY = """Write a response yourself. The text is cut into tokens, each is a step, and EOS ends it. Then the episode is
shown, with the reward of each token. The text is taken as it is: begin it with a space where a word begins."""

_CHECK = """Hold an environment to its contract: Gymnasium's check_env on it, and textenvs.testing's check_reward on its
reward, check_task on its task and check_vector_env on its vector version. The exit code is 1 if one fails."""

_CANARIES = """Score degenerate responses beside the demonstrations: a row an id, a column a canary, each cell the mean
score, with ! where it is not clearly below the demonstrations', and then the exit code is 1. Ids whose task has no
demonstrations are left out. With --search: the mean scores of the best texts that a search has found, with their share
of the range from random tokens (0) to demonstrations (1); ! marks what clearly beats the demonstrations. Blind is one
text for all prompts of a kind, unread the best that needs no score of its prompt, and oracle what reads nothing but the
score."""

_NUMBERS = ("vocabulary", "prompt", "budget", "random", "blind", "demonstration", "top", "threshold", "level")
_LONG = ("threshold", "task", "level", "reward", "payout", "held-out")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The words behind the program's name; None reads them from the process.

    Returns:
        The exit code: 0, or 1 if a check failed or a reward raised.

    Raises:
        SystemExit: With code 2 if the arguments are wrong, and 0 after --help.
    """
    replace_unprintable()
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        code: int = given.run(given)
    except RewardError as error:
        print(render.visible(f"{parser.prog}: {error}"), file=sys.stderr)
        return 1
    except (gym.error.Error, ValueError, TypeError, ImportError) as error:
        parser.error(render.visible(str(error)))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m textenvs", description="Token-level text environments.")
    commands = parser.add_subparsers(required=True, metavar="list | play | check | canaries")
    listing = commands.add_parser("list", help="show every id", description=_LIST)
    listing.add_argument("--data", action="store_true", help="show the ids over public data sets, too")
    listing.add_argument("--long", action="store_true", help="show more columns")
    listing.set_defaults(run=_list)
    play = commands.add_parser("play", help="write a response yourself", description=_PLAY)
    _add_id(play)
    play.add_argument(
        "text", nargs="*", metavar="TEXT", help="the response, or one for each turn. Default: you are asked for it"
    )
    play.add_argument("--reward", help="a reward's name, or JSON. Default: the environment's own")
    play.add_argument("--payout", help="""a payout's name, or JSON: '{"every": 8}'. Default: the environment's own""")
    play.add_argument("--max-new-tokens", type=int, help="tokens an episode may write. Default: the environment's own")
    play.add_argument(
        "--data", help="the data of an id that needs some: a file, a folder or a hub id. Default: TEXTENVS_DATA"
    )
    play.add_argument("--split", default="train", help="train, validation, test or shifted. Default: %(default)s")
    play.add_argument("--example", type=int, help="the example's index in the split. Default: one is drawn")
    play.add_argument("--seed", type=int, help="seed of the draw. Default: a new one each time")
    play.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: %(default)s")
    play.set_defaults(run=_play)
    check = commands.add_parser("check", help="hold an environment to its contract", description=_CHECK)
    _add_id(check)
    check.set_defaults(run=_check)
    canaries = commands.add_parser("canaries", help="score degenerate responses", description=_CANARIES)
    canaries.add_argument("ids", nargs="*", metavar="ID", help="ids from `list`. Default: all of them")
    canaries.add_argument("--reward", help="a reward's name, or JSON. Default: each environment's own")
    canaries.add_argument("--examples", type=int, default=32, help="examples an id. Default: %(default)s")
    canaries.add_argument("--search", action="store_true", help="search for more of them")
    canaries.add_argument("--budget", type=int, default=20_000, help="texts a search scores. Default: %(default)s")
    canaries.add_argument("--seed", type=int, default=0, help="seed of a search. Default: %(default)s")
    canaries.set_defaults(run=_canaries)
    return parser


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="an id from `list`, or your own: module_that_registers_it:MyEnv-v0")


def _list(given: argparse.Namespace) -> int:
    data_ids = [env_id for env_id in list_envs(data=True) if env_id not in list_envs()]
    rows = [{name: _shown(value) for name, value in overview(env_id).items()} for env_id in list_envs()]
    names = [name for name in rows[0] if given.long or name not in _LONG]
    table = [tuple(names), *(tuple(row[name] for name in names) for row in rows)]
    _print_table(table, right=[column for column, name in enumerate(names) if name in _NUMBERS])
    if given.data:
        print("\nOver public data sets, whose data is not part of the package:\n")
        head = ("id", "data set", "reward", "budget", "bundled twin", "tests")
        sets = [tuple(_shown(fact) for fact in data_overview(env_id).values()) for env_id in data_ids]
        _print_table([head, *sets], right=[3])
        print(f"\n{_DATA}")
    else:
        print(f"\n{len(data_ids)} more need data that is not part of the package: python -m textenvs list --data")
    return 0


def _play(given: argparse.Namespace) -> int:
    settings = {"split": given.split, "render_mode": "ansi"}
    for name in ("reward", "payout", "max_new_tokens", "data"):
        value = getattr(given, name)
        if value is not None:
            settings[name] = _name_or_json(name, value) if isinstance(value, str) else value
    base = make_env(given.id, **settings)
    env = TextAction(base)
    options = None if given.example is None else {"example": given.example}
    env.reset(seed=given.seed, options=options)
    color = given.color == "always" or (given.color == "auto" and render.takes_colors())
    turns, is_interactive = iter(given.text), not given.text
    total, terminated = 0.0, False
    while not terminated:
        text = next(turns, None)
        if text is None:
            text = _ask(base, color) if is_interactive else ""
        before = base.lanes.response_length[0]
        _, reward, terminated, _, info = env.step(text)
        total += reward
        _warn_of_losses(base, text, int(info["response_length"] - before))
    segments = render.lane_segments(base.lanes, 0)
    print(render.ansi(segments, color=color))
    paid = [segment for segment in segments if segment.reward]
    if paid:
        print("\npaid:  " + "  ".join(f"{_token_text(segment)} {segment.reward:+.3g}" for segment in paid))
    score = info["score"]
    print(f"\nreturn {total:+.4g}   score {score:.4g} ({base.setting.reward.name})   "
          f"tokens {info['response_length']} of {base.setting.max_new_tokens}")  # fmt: skip
    return 0


def _token_text(segment: render.Segment) -> str:
    return "<special>" if segment.special else repr(segment.text)


def _ask(env: TextGenEnv, color: bool) -> str:
    """Asks the person for a text. The end of the input counts as an empty one."""
    print(render.ansi(render.lane_segments(env.lanes, 0), color=color))
    try:
        return input("> ")
    except EOFError:
        print()
        return ""


def _warn_of_losses(env: TextGenEnv, text: str, written: int) -> None:
    """Warns of the parts of a text that did not become part of the response."""
    ids = response_encoder(env.tokenizer)(text)
    if decode(env.tokenizer, ids) != text:
        print(f"The tokenizer cannot write this; it wrote {decode(env.tokenizer, ids)!r}", file=sys.stderr)
    if written < len(ids):
        lost = decode(env.tokenizer, ids[written:])
        print(f"The episode ended after {written} of {len(ids)} tokens; not written: {lost!r}", file=sys.stderr)


def _check(given: argparse.Namespace) -> int:
    setting: Setting = make_env(given.id).setting
    examples = setting.pool.examples[:4]
    checks: list[tuple[str, Callable[[], None]]] = [
        ("check_env", lambda: check_env(make_env(given.id), skip_render_check=True)),
        ("check_reward", lambda: check_reward(setting.reward, setting.tokenizer, examples)),
        ("check_task", lambda: check_task(setting.task, setting.tokenizer, setting.reward)),
        ("check_vector_env", lambda: check_vector_env(given.id)),
    ]
    failures = [_failed(name, check) for name, check in checks]  # a list, so that every check runs
    return int(any(failures))


def _canaries(given: argparse.Namespace) -> int:
    reward = None if given.reward is None else _name_or_json("reward", given.reward)
    if given.search:
        return _search(given, reward)
    rows: list[tuple[str, ...]] = [("id", "reward", "demonstration", *CANARIES)]
    alive: list[str] = []
    for env_id in given.ids or list_envs():
        setting = make_env(env_id, **({} if reward is None else {"reward": reward})).setting
        try:
            result = canary_scores(setting.task, setting.reward, num_examples=given.examples)
        except ValueError as error:
            print(render.visible(f"{env_id}: {error}"), file=sys.stderr)
            continue
        cells = [
            "-" if name not in result.scores else f"{result.scores[name]:.3f}{'!' if name in result.alive else ' '}"
            for name in CANARIES
        ]
        rows.append((env_id, result.reward, f"{result.demonstration:.3f} ", *cells))
        alive += [f"{env_id}, {name}: {result.responses[name]!r}" for name in result.alive]
    _print_table(rows, right=range(2, len(rows[0])))
    if alive:
        print("\nNot clearly below the demonstrations:\n  " + "\n  ".join(alive))
    return int(bool(alive))


def _search(given: argparse.Namespace, reward: Any) -> int:
    rows: list[tuple[str, ...]] = [("id", "reward", "random", "demonstration", "blind", "unread", "oracle")]
    texts: list[str] = []
    beaten = False
    for env_id in given.ids or list_envs():
        try:
            result = search(env_id, reward=reward, budget=given.budget, num_examples=given.examples, seed=given.seed)
        except ValueError as error:
            if given.ids:
                raise
            print(f"{env_id}: {error}", file=sys.stderr)
            continue
        shown = (result.blind, result.best, result.oracle)
        cells = [
            "-" if finding is None
            else f"{finding.score:.3f} {result.share(finding.score):4.0%}{'!' if finding.beats else ' '}"
            for finding in shown
        ]  # fmt: skip
        rows.append((env_id, result.reward, f"{result.random:.3f}", f"{result.demonstration:.3f}", *cells))
        texts += [
            f"{env_id}, {finding.strategy}{f', {kind}' if kind else ''}: {text!r}"
            for finding in (result.blind, *(other for other in result.beating if other is not result.blind))
            for kind, text in finding.texts.items()
        ]
        beaten = beaten or bool(result.beating)
    _print_table(rows, right=range(2, len(rows[0])))
    if texts:
        print("\nThe best constants, and all that beats the demonstrations:\n  " + "\n  ".join(texts))
    return int(beaten)


def _print_table(rows: Sequence[tuple[str, ...]], right: Container[int]) -> None:
    """Prints columns as wide as their widest cell; those in `right` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _failed(name: str, check: Callable[[], None]) -> bool:
    """Runs one check and prints its verdict; returns True if it failed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check()
            verdict = "holds"
        except ImportError as error:
            verdict = f"skipped: {error}"
        except Exception as error:  # an environment may raise anything, and the other checks still run
            verdict = f"FAILED: {type(error).__name__}: {error}"
    print(f"{name:<16}  {verdict}")
    for warning in caught:
        print(f"{'':16}  warning: {warning.message}")
    return verdict.startswith("FAILED")


def _name_or_json(name: str, text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected --{name.replace('_', '-')} to be a name or JSON, got {text[:200]!r}: {error}"
        ) from error


def _shown(setting: Any) -> str:
    if setting is None:
        return "-"
    return setting if isinstance(setting, str) else json.dumps(setting, default=repr)


if __name__ == "__main__":
    sys.exit(main())
