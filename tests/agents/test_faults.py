"""What goes wrong outside of the training: the run ends with a message that says what to do, and --resume works."""

import errno
import json
import signal
from functools import partial

import pytest

import textenvs
from agents import checkpoints, run_folder
from agents.__main__ import main
from benchmarks.faults import RUN, outcome, start
from tests.agents.test_training import small_agent

SHORT = [*RUN, "--total-timesteps", "120", "--eval-during", "0"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What `SHORT` comes to when nothing happens."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    main([*SHORT, "--output", str(folder)])
    return outcome(folder)


def fails(words, code, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr().err
    assert stopped.value.code == code
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("number", "moment", "call", "code"),
    [(signal.SIGTERM, "update", 9, 143), (signal.SIGINT, "rollout", 20, 130), (signal.SIGTERM, "evaluation", 2, 143)],
)
def test_signals_end_a_run_that_goes_on(tmp_path, straight, number, moment, call, code):
    run = tmp_path / "run"
    process = start(
        [*SHORT, "--output", str(run)], moment=moment, call=call, fault=partial(signal.raise_signal, number)
    )
    process.join()
    assert process.exitcode == code
    assert checkpoints.numbers(run), "with a checkpoint"
    main(["train", "--resume", str(run)])
    assert outcome(run) == straight


class Flaky(textenvs.Reward):
    """A reward that raises after a while."""

    name = "flaky"
    broken = True

    scored = 0

    def score(self, example, response):
        Flaky.scored += 1
        if Flaky.broken and Flaky.scored > 50:
            raise KeyError("the table of words")
        return float(response.count("a"))


def test_a_reward_that_raises_in_mid_run(tmp_path, capsys):
    textenvs.register_reward("flaky_here", lambda: Flaky())
    words = [*SHORT, "--reward", "flaky_here", "--payout", "sparse", "--total-timesteps", "300"]
    Flaky.broken = True
    said = fails([*words, "--output", str(tmp_path / "run")], 1, capsys)
    assert "raised KeyError" in said
    assert "response:" in said
    assert f"Go on with: python -m agents train --resume {tmp_path / 'run'}" in said
    assert 0 < checkpoints.find(tmp_path / "run").timesteps < 300
    Flaky.broken = False
    main(["train", "--resume", str(tmp_path / "run")])
    main([*words, "--output", str(tmp_path / "straight")])
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path, straight, capsys, monkeypatch):
    run = tmp_path / "run"
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) > 25:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sync_file", full)
        said = fails([*SHORT, "--output", str(run)], 1, capsys)
    assert "No space left on device" in said
    assert "is whole. When there is room again" in said
    assert not (run / "checkpoints" / ".new").exists(), "the room that it took is free again"
    main(["train", "--resume", str(run)])
    assert outcome(run) == straight


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, number):
    def refuse(folder):
        raise OSError(number, "no")

    monkeypatch.setattr(run_folder, "FolderLock", refuse)
    with pytest.raises(OSError, match="Expected a run folder that can be written to"):
        small_agent().learn(10, folder=tmp_path)


def test_a_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert "error: " in fails([*SHORT, "--output", str(tmp_path / "run")], 2, capsys)
    with pytest.raises(OSError, match="Expected a run folder that can be written to"):
        small_agent().learn(10, folder=tmp_path / "run")


def test_a_folder_in_which_another_run_trains(tmp_path, capsys):
    run = tmp_path / "run"
    main([*SHORT, "--output", str(run)])
    capsys.readouterr()
    lock = run_folder.FolderLock(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}
    said = fails(["train", "--resume", str(run), "--total-timesteps", "200"], 2, capsys)
    assert "which process" in said
    assert "is using. Wait for it, stop it" in said
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert not changed, "nothing of the other run is touched"
    lock.release()
    main(["train", "--resume", str(run), "--total-timesteps", "200"])
    assert checkpoints.find(run).timesteps >= 200
    assert json.loads((run / "config.json").read_text())["total_timesteps"] == 200
