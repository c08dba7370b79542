"""Cases that take turns, ratios, and tables of speed."""

import pytest
import torch

from benchmarks.records import machine
from benchmarks.speed import timing
from benchmarks.speed.timing import PRODUCTS, costs_section, kernel_speeds, speed_heading


def test_a_case_takes_whole_plays_and_counts_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def play() -> None:
        clock[0] += 2.0

    monkeypatch.setattr(timing.time, "process_time", lambda: clock[0])
    case = timing.Case({"kind": "native"}, play, steps=100)
    assert timing.take_turns([case], rounds=3, seconds=5.0) == [
        {"kind": "native", "steps_per_second": 50.0, "least": 50.0, "most": 50.0}
    ]
    assert clock[0] == 4 * 3 * 2.0  # 3 plays make a turn of at least 5 s; a turn to warm up, and 3 that count


def test_ratios_are_taken_within_a_round():
    case, base = timing.Case({}, lambda: None), timing.Case({}, lambda: None)
    for speed, base_speed in ((1.0, 2.0), (8.0, 4.0), (3.0, 1.0)):
        case.record(12, 12 / speed, 1.0)
        base.record(12, 12 / base_speed, 1.0)
    assert timing.ratio(case, base) == {"median": 2.0, "least": 0.5, "most": 3.0}


def test_costs_stand_beside_the_other_s_in_microseconds():
    costs = [
        {"what": "lanes", "value": value, "who": who, "steps_per_second": 1e6 / cost}
        for value, who, cost in ((32, "ours", 3), (32, "other", 9), (8, "ours", 5), (8, "other", 7))
    ]
    lines = costs_section(costs, "other")
    assert "Microseconds of the processor a token, ours / other:" in lines
    assert lines[-4:-1] == ["| lanes | 8 | 32 |", "| --- | --- | --- |", "|  | 5 / 7 | 3 / 9 |"]


def test_matrix_products_are_measured_on_one_thread_for_both_libraries():
    threads = torch.get_num_threads()
    speeds = kernel_speeds(0.001)
    assert torch.get_num_threads() == threads
    assert list(speeds) == [f"{rows} x {inputs} x {outputs}" for rows, inputs, outputs in PRODUCTS]
    for by_library in speeds.values():
        assert len(by_library) == 1 + torch.backends.mkldnn.is_available()
        assert all(0.1 < speed < 1e5 for speed in by_library.values())


def test_tables_of_speed_name_the_speed_of_matrix_products():
    about = {**machine("torch"), "gflops": {"1 x 2 x 3": {"MKL": 83.4, "oneDNN": 68.6}}}
    text = "\n".join(speed_heading("Speed", {"command": "c", "machine": about, "rounds": 1}))
    assert "GFLOP/s" in text
    assert "1 x 2 x 3: MKL 83, oneDNN 69." in text
    assert f"torch {torch.__version__}" in text
    assert "gflops" not in text
