"""python -m textenvs: what it prints, where, and with which exit code."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import textenvs
from tests.textenvs.datasets.helpers import write_public_data
from tests.textenvs.helpers import Letters, Talk, Toy, text_length
from textenvs import Example
from textenvs.__main__ import main
from textenvs.tasks.base import check_split


class Checked(Toy):
    """A toy that keeps the whole contract, splits that it does not know included."""

    name = "checked"

    def num_examples(self, split: str) -> int:
        check_split(split)
        return super().num_examples(split)

    def example(self, split: str, index: int) -> Example:
        check_split(split)
        return super().example(split, index)


class LowerCase(Letters):
    """Cannot write capitals."""

    def encode_response(self, text: str) -> list[int]:
        return super().encode_response(text.lower())


TOYS: dict[str, dict[str, Any]] = {
    "TextGenTest/Toy-v0": {"task": Checked(train=("abc", "d"), test=("x",)), "reward": text_length},
    "TextGenTest/Talk-v0": {"task": Talk(train=("d",), test=("x",)), "reward": text_length},
    "TextGenTest/Lower-v0": {"task": Checked(default_tokenizer=LowerCase()), "reward": text_length},
    "TextGenTest/Leaky-v0": {"task": Checked(train=("a", "b"), test=("b",)), "reward": text_length},
}


@pytest.fixture
def toys() -> Iterator[None]:
    """Ids of toy tasks."""
    for env_id, kwargs in TOYS.items():
        gym.register(
            env_id,
            entry_point="textenvs.env:TextGenEnv",
            vector_entry_point="textenvs.vector_env:TextGenVectorEnv",
            kwargs=dict(kwargs),
        )
    yield
    for env_id in TOYS:
        del gym.registry[env_id]


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "textenvs"]
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"\n    {name} " in help_text for name in ("list", "play", "check"))
    wrong = subprocess.run([*command, "play", "TextGn-v0"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "error: Environment `TextGn` doesn't exist. Did you mean: `TextGen`?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, str]]:
    """What `list` prints: id to column to cell."""
    assert main(["list", *arguments]) == 0
    table, _, rest = capsys.readouterr().out.partition("\n\n")
    assert "list --data" in rest
    head, *rows = table.splitlines()
    names = head.split()
    cells = [re.split(r"\s{2,}", row) for row in rows]
    assert all(len(row) == len(names) for row in cells)
    return {row[0]: dict(zip(names, row, strict=True)) for row in cells}


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    assert list(rows) == textenvs.list_envs()
    assert rows["TextGen/Chain-v0"] == {
        "id": "TextGen/Chain-v0", "vocabulary": "15", "prompt": "5", "budget": "5", "random": "0.217", "blind": "1",
        "demonstration": "1", "top": "1", "tests": "credit over actions: from a bandit to one late reward",
    }  # fmt: skip
    assert "±" in rows["TextGen-v0"]["random"]
    assert all(row["tests"] != "-" for row in rows.values())
    main(["list"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 160


def test_list_of_what_needs_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--data"]) == 0
    bundled, heading, table, remedy = capsys.readouterr().out.split("\n\n")
    assert "not part of the package" in heading
    assert "TEXTENVS_DATA" in remedy
    ids = [line.split()[0] for text in (bundled, table) for line in text.splitlines() if line.startswith("TextGen")]
    assert sorted(ids) == textenvs.list_envs(data=True)
    assert re.search(r"TextGen/GSM8K-v0 +GSM8K +numeric_answer +256 +TextGen/Arithmetic-v0 +computation", table)


def test_list_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    assert "with its 95 % interval" in " ".join(capsys.readouterr().out.split())


def test_list_long(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "--long")
    more = {key: rows["TextGen-v0"][key] for key in ("threshold", "task", "level", "reward", "payout", "held-out")}
    assert more == {
        "threshold": "0.903", "task": "stories", "level": "1 of 1", "reward": "mood",
        "payout": "immediate", "held-out": "vader",
    }  # fmt: skip
    assert rows["TextGen/Chain-v0"]["level"] == "3 of 6"


class TestPlay:
    def test_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = str(write_public_data(tmp_path) / "gsm8k")
        assert main(["play", "TextGen/GSM8K-v0", " 4", "--data", folder, "--split", "test", "--example", "1"]) == 0
        assert "score 1 (numeric_answer)" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(["play", "TextGen/Copy-v0", "a", "--data", folder])
        assert "with a task that reads data" in capsys.readouterr().err

    def test_a_text(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["play", "TextGenTest/Toy-v0", "ab", "--example", "0"]) == 0
        said = capsys.readouterr()
        assert said.out == ("abcab\n\npaid:  'a' +1  'b' +1\n\nreturn +2   score 2 (text_length)   tokens 3 of 4\n")
        assert not said.err

    def test_settings(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        settings = ["--payout", "sparse", "--reward", '{"length": {"target": 4}}', "--max-new-tokens", "9"]
        assert main(["play", "TextGenTest/Toy-v0", "a a ", *settings, "--seed", "3", "--split", "test"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("xa a \n")
        assert "paid:  <special> +0.5" in out  # two words of four
        assert "tokens 5 of 9" in out

    def test_what_is_lost_is_said(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["play", "TextGenTest/Toy-v0", "aaaabb"]) == 0
        said = capsys.readouterr()
        assert said.err == "The episode ended after 4 of 6 tokens; not written: 'bb'\n"
        assert "tokens 4 of 4" in said.out

    def test_what_is_lost_of_a_later_turn_is_said(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["play", "TextGenTest/Talk-v0", "a", "bbb", "--max-new-tokens", "4"]) == 0
        assert capsys.readouterr().err == "The episode ended after 2 of 3 tokens; not written: 'b'\n"

    def test_what_the_tokenizer_cannot_write_is_said(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["play", "TextGenTest/Lower-v0", "aB"]) == 0
        assert capsys.readouterr().err == "The tokenizer cannot write this; it wrote 'ab'\n"

    def test_asks_for_what_is_not_given(
        self, toys: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\n"))
        assert main(["play", "TextGenTest/Talk-v0"]) == 0  # three turns, and the input ends after two
        out = capsys.readouterr().out
        assert out.startswith("d\n> dadxy\n> dadxybdxyy\n> \ndadxybdxyy\n")
        assert "tokens 5 of 12" in out

    def test_a_text_for_each_turn(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["play", "TextGenTest/Talk-v0", "a", "b", "c"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("dadxybdxyyc\n")
        assert "return +6   score 6 " in out  # three letters, and a newline for the end of each turn

    def test_color(self, toys: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)

        def painted(color: str) -> bool:
            main(["play", "TextGenTest/Toy-v0", "a", "--color", color])
            return "\x1b[" in capsys.readouterr().out

        assert [painted(color) for color in ("always", "auto", "never")] == [True, False, False]
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert [painted(color) for color in ("always", "auto", "never")] == [True, True, False]
        monkeypatch.setenv("NO_COLOR", "1")
        assert [painted(color) for color in ("always", "auto", "never")] == [True, False, False]

    def test_a_reward_that_fails(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        gym.registry["TextGenTest/Toy-v0"].kwargs["reward"] = lambda example, response: float("nan")
        assert main(["play", "TextGenTest/Toy-v0", "a"]) == 1
        assert "gave nan" in capsys.readouterr().err


class TestCheck:
    def test_holds(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "TextGenTest/Toy-v0"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines] == [
            [name, "holds"] for name in ("check_env", "check_reward", "check_task", "check_vector_env")
        ]

    def test_says_what_does_not_hold_and_goes_on(self, toys: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "TextGenTest/Leaky-v0"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        assert "check_task        FAILED: AssertionError: Task 'checked': no prompt should be in two splits" in lines[2]
        assert lines[3] == "check_vector_env  holds"

    def test_without_hypothesis(
        self, toys: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "hypothesis", None)
        assert main(["check", "TextGenTest/Toy-v0"]) == 0
        assert "check_reward      skipped: check_reward draws its cases with Hypothesis" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: list | play | check"),
        (["sing"], "invalid choice: 'sing'"),
        (["play"], "the following arguments are required: id"),
        (
            ["check", "CartPole-v1"],
            "Expected the id of a text environment, got 'CartPole-v1', which makes a CartPoleVectorEnv",
        ),
        (["check", "no_such_module:A-v0"], "no_such_module"),
        (["play", "TextGen-v0", "a", "--payout", '{"every"'], "Expected --payout to be a name or JSON"),
        (["play", "TextGen-v0", "a", "--payout", "weekly"], "weekly"),
        (["play", "TextGen-v0", "a", "--reward", "lenght"], "Did you mean 'length'?"),
        (["play", "TextGen-v0", "a", "--split", "dev"], "Expected split to be 'train', 'validation'"),
        (["play", "TextGen-v0", "a", "--example", "-1"], "Expected options['example'] from 0"),
        (["play", "TextGen-v0", "a", "--max-new-tokens", "0"], "Expected max_new_tokens to be at least 1, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out
