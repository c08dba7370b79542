"""The writer of results, and the table of commands."""

import json

import numpy as np
import pytest
import torch

from benchmarks.__main__ import COMMANDS, about, main
from benchmarks.records import Ledger, command_line, heading, machine, write
from tests.helpers import locked_elsewhere


def page(rows):
    return f"{len(rows)} rows\n"


def test_a_ledger_goes_on_where_an_earlier_command_stopped(tmp_path):
    first = Ledger(tmp_path / "new" / "found", page)
    assert (first.rows, first.done("who", "seed")) == ([], set())
    first.add({"who": "a", "seed": 0, "score": 0.5})
    first.add({"who": "a", "seed": 1, "score": 0.25}, {"who": "b", "seed": 0, "score": 1.0})
    again = Ledger(tmp_path / "new" / "found", page)
    assert again.rows == first.rows
    assert again.done("who", "seed") == {("a", 0), ("a", 1), ("b", 0)}
    again.add({"who": "b", "seed": 1, "score": 0.0})
    lines = (tmp_path / "new" / "found.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [0.5, 0.25, 1.0, 0.0]
    assert (tmp_path / "new" / "found.md").read_text() == "4 rows\n"


def test_results_belong_to_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.records.time.monotonic", iter(range(100)).__next__)  # nobody waits
    results = {"command": "", "machine": {}}
    with locked_elsewhere(tmp_path / "found.lock"):
        for write_them in (lambda: Ledger(tmp_path / "found", page), lambda: write(tmp_path / "found", results, "")):
            with pytest.raises(ValueError, match=r"no other command writes, got .*, which process"):
                write_them()
        assert [path.name for path in tmp_path.iterdir()] == ["found.lock"]
    write(tmp_path / "found", results, "")
    Ledger(tmp_path / "found", page).close()


def test_a_ledger_goes_on_after_a_stop_in_the_middle_of_a_line(tmp_path):
    file = tmp_path / "found.jsonl"
    file.write_text('{"seed": 0}\n{"seed": 1, "sc')
    ledger = Ledger(tmp_path / "found", page)
    assert ledger.rows == [{"seed": 0}]
    ledger.add({"seed": 1}, {"seed": 2})
    again = Ledger(tmp_path / "found", page)
    assert again.rows == ledger.rows == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert file.read_text().splitlines()[1:] == ['{"seed": 1, "sc', '{"seed": 1}', '{"seed": 2}']


def test_the_commands_say_what_they_measure(monkeypatch, capsys):
    assert all(len(about(name)) > 20 for name in COMMANDS)
    monkeypatch.setattr("sys.argv", ["benchmarks", "lern"])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "  learn        Trains agents on a suite" in shown
    assert "got 'lern'. Did you mean 'learn'?" in shown


def test_a_measurement_says_which_command_made_it_where_and_with_what(tmp_path, capsys):
    command = command_line("fuzz", ["--output", "two words"])
    assert command == "python -m benchmarks fuzz --output 'two words'"
    results = {"command": command, "machine": machine("torch"), "rows": [1]}
    page_ = "\n".join(heading("Title", results, "A note."))
    write(tmp_path / "new" / "found", results, page_)
    assert json.loads((tmp_path / "new" / "found.json").read_text()) == results
    assert (tmp_path / "new" / "found.md").read_text() == page_
    assert capsys.readouterr().out == page_ + "\n"
    for part in ("# Title", f"    {command}", f"numpy {np.__version__}", f"torch {torch.__version__}", "A note."):
        assert part in page_
    with pytest.raises(ValueError, match=r"a command and a machine, got none of \['machine'\]"):
        write(tmp_path / "found", {"command": command}, "")
