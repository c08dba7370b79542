"""A run that is killed at any moment goes on to the numbers of the run that was not."""

import json
import os
import signal

import pytest

from agents.__main__ import main
from agents.training import checkpoints, run_folder
from benchmarks.robustness.kill_and_resume import RUN, outcome, start

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="SIGKILL"), pytest.mark.usefixtures("one_thread")]


def finished(argv, **fault):
    process = start(argv, **fault)
    process.join()
    return process.exitcode


def test_three_kills_in_one_run_change_nothing(tmp_path):
    """In the middle of a rollout with no checkpoint yet, of an update, and of writing a checkpoint."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    first = start([*RUN, "--output", str(straight)])
    assert finished([*RUN, "--output", str(killed)], moment="rollout", call=3) == -signal.SIGKILL
    assert not checkpoints.numbers(killed)
    resume = ["train", "--resume", str(killed)]
    assert finished(resume, moment="update", call=8) == -signal.SIGKILL
    reached = checkpoints.find(killed).timesteps
    assert 0 < reached < 300
    assert finished(resume, moment="checkpoint", call=12) == -signal.SIGKILL
    assert (killed / "checkpoints" / ".new").is_dir(), "one was being written"
    # What a power cut may leave of a log: rows that the checkpoint does not know, and half of one.
    with (killed / "metrics.jsonl").open("a") as log:
        log.write('{"timesteps": 299, "score": 1.0}\n{"timesteps": 300, "sco')
    assert finished(resume) == 0
    first.join()
    expected = outcome(straight)
    assert len(expected["metrics"]) > 5
    assert expected["metrics"][-1] != expected["metrics"][0]
    for name, value in outcome(killed).items():
        assert value == expected[name], name
    assert finished(resume) == 0, "a run that is over has nothing left to do"
    assert outcome(killed) == expected


def test_what_may_change_when_a_run_goes_on(tmp_path, capsys):
    run = tmp_path / "run"
    main([*RUN, "--output", str(run), "--max-seconds", "0"])
    capsys.readouterr()
    for words, message in (
        (["--gamma", "0.5"], "Expected --resume to go on with the run's own gamma, 1.0, got 0.5"),
        (["--seed", "8"], "the run's own seed, 7, got 8"),
        (["--output", "elsewhere"], "Expected --resume without --output"),
        (["--config", "elsewhere"], "Expected --resume without --config"),
    ):
        with pytest.raises(SystemExit):
            main(["train", "--resume", str(run), *words])
        assert message in " ".join(capsys.readouterr().err.split())
    main(["train", "--resume", str(run), "--total-timesteps", "40", "--max-seconds", "100"])
    assert checkpoints.find(run).timesteps >= 40
    assert json.loads((run / "config.json").read_text())["total_timesteps"] == 40
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path)])
    assert "which holds no config.json" in capsys.readouterr().err


def test_logs_are_cut_back_to_the_rows_that_count(tmp_path, caplog):
    log = tmp_path / "log.jsonl"
    run_folder.cut_back(log, lambda row: True)
    assert not log.exists()
    rows = [b'{"timesteps": 1, "text": "\xc3\xa9"}\n', b'{"timesteps": 2}\n', b'{"timesteps": 3}\n']
    for content, kept in (
        (b"".join(rows), 2),
        (rows[0] + rows[1][:-1], 1),
        (rows[0] + b"{", 1),
        (rows[0] + b"\0\0\0", 1),
        (rows[0] + b"[" * 100_000 + b"\n", 1),
        (b"{}\n", 0),
        (rows[2] + rows[0], 0),
        (b"", 0),
    ):
        log.write_bytes(content)
        run_folder.cut_back(log, lambda row: row["timesteps"] <= 2)
        assert log.read_bytes() == b"".join(rows[:kept])
        assert not caplog.text
        assert not (tmp_path / "log.jsonl.damaged").exists()


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"7\n", b"{}\n", b'{"timesteps": "1"}\n', b"[" * 100_000 + b"\n"])
def test_rows_that_are_damaged_in_the_middle_are_kept_apart_and_said(tmp_path, caplog, damage):
    log = tmp_path / "log.jsonl"
    rows = [b'{"timesteps": 1}\n', b'{"timesteps": 2}\n', b'{"timesteps": 3}\n']
    log.write_bytes(rows[0] + damage + rows[1] + rows[2])
    kept = run_folder.cut_back(log, lambda row: row["timesteps"] <= 2)
    assert kept == [{"timesteps": 1}, {"timesteps": 2}]
    assert log.read_bytes() == rows[0] + rows[1]
    assert (tmp_path / "log.jsonl.damaged").read_bytes() == damage
    assert "is damaged in line 2" in caplog.text
