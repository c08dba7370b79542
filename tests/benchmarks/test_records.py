"""What measurements share: results that grow run by run, and what a token costs."""

import json

import pytest
import torch

from benchmarks.__main__ import COMMANDS, about, main
from benchmarks.records import PRODUCTS, Ledger, heading, kernel_speeds, machine
from benchmarks.speed.timing import costs_section


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


def test_a_ledger_goes_on_after_a_stop_in_the_middle_of_a_line(tmp_path):
    file = tmp_path / "found.jsonl"
    file.write_text('{"seed": 0}\n{"seed": 1, "sc')
    ledger = Ledger(tmp_path / "found", page)
    assert ledger.rows == [{"seed": 0}]
    ledger.add({"seed": 1}, {"seed": 2})
    again = Ledger(tmp_path / "found", page)
    assert again.rows == ledger.rows == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert file.read_text().splitlines()[1:] == ['{"seed": 1, "sc', '{"seed": 1}', '{"seed": 2}']


def test_costs_stand_beside_the_other_s_in_microseconds():
    costs = [
        {"what": "lanes", "value": value, "who": who, "steps_per_second": 1e6 / cost}
        for value, who, cost in ((32, "ours", 3), (32, "other", 9), (8, "ours", 5), (8, "other", 7))
    ]
    lines = costs_section(costs, "other")
    assert "Microseconds of the processor a token, ours / other:" in lines
    assert lines[-4:-1] == ["| lanes | 8 | 32 |", "| --- | --- | --- |", "|  | 5 / 7 | 3 / 9 |"]


def test_tables_of_speed_name_the_speed_of_matrix_products(monkeypatch):
    """Of both libraries, and on one thread, however many there are."""
    threads = torch.get_num_threads()
    speeds = kernel_speeds(0.001)
    assert torch.get_num_threads() == threads
    assert list(speeds) == [f"{rows} x {inputs} x {outputs}" for rows, inputs, outputs in PRODUCTS]
    for found in speeds.values():
        assert len(found) == 1 + torch.backends.mkldnn.is_available()
        assert all(0.1 < speed < 1e5 for speed in found.values())
    assert "gflops" not in machine()
    monkeypatch.setattr("benchmarks.records.kernel_speeds", lambda: {"1 x 2 x 3": {"MKL": 83.4, "oneDNN": 68.6}})
    text = "\n".join(heading("Speed", {"command": "c", "machine": machine("torch"), "rounds": 1}))
    assert "GFLOP/s" in text
    assert "1 x 2 x 3: MKL 83, oneDNN 69." in text


def test_the_commands_say_what_they_measure(monkeypatch, capsys):
    assert all(len(about(name)) > 20 for name in COMMANDS)
    monkeypatch.setattr("sys.argv", ["benchmarks", "lern"])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "  learn        Train agents on a suite" in shown
    assert "got 'lern'. Did you mean 'learn'?" in shown
