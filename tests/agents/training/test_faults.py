"""Faults outside of the training: the run ends with a message that says what to do, and --resume works."""

import errno
import json
import logging
import os
import signal
import sys
from functools import partial
from typing import ClassVar

import pytest
import torch

import textenvs
from agents import PPO, load, locks
from agents.__main__ import main
from agents.training import checkpoints, player
from agents.training.signals import Terminated
from benchmarks.robustness.kill_and_resume import RUN, outcome, start
from tests.agents.helpers import make_policy, small_agent
from tests.helpers import locked_elsewhere, slow_but

SHORT = [*RUN, "--total-timesteps", "120", "--eval-during", "0"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, one_thread):
    """The outcome of `SHORT` when nothing happens."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    main([*SHORT, "--output", str(folder)])
    return outcome(folder)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(words, code, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr().err
    assert stopped.value.code == code
    assert "Traceback" not in said
    return said


def hang_up():
    """Closes the terminal, and the system says so: what is printed from now on raises OSError."""
    other_end, terminal = os.openpty()
    for descriptor in (1, 2):
        os.dup2(terminal, descriptor)
    os.close(terminal)
    os.close(other_end)
    signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize(
    ("fault", "moment", "call", "code"),
    slow_but(
        {("SIGTERM", "update", 9, 143)},
        [
            ("SIGTERM", "update", 9, 143),
            ("SIGINT", "rollout", 20, 130),
            ("SIGTERM", "evaluation", 2, 143),
            ("SIGUSR1", "rollout", 20, 138),
            ("SIGUSR1", "evaluation", 2, 138),
            ("SIGHUP", "update", 9, 129),
            ("closed terminal", "update", 9, 129),
        ],
    ),
)
def test_signals_end_a_run_that_goes_on(tmp_path, straight, fault, moment, call, code):
    run = tmp_path / "run"
    act = hang_up if fault == "closed terminal" else partial(signal.raise_signal, getattr(signal, fault))
    process = start([*SHORT, "--output", str(run)], moment=moment, call=call, fault=act)
    process.join()
    assert process.exitcode == code
    assert checkpoints.numbers(run), "with a checkpoint"
    main(["train", "--resume", str(run)])
    assert outcome(run) == straight


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_schedulers_warning_may_come_twice(tmp_path, number):
    """The shell and the terminal both send SIGHUP; Slurm sends --signal to the job and to its steps."""
    updates = []

    def warn(row):
        updates.append(row)
        if len(updates) == 2:
            signal.raise_signal(number)
            signal.raise_signal(number)

    with pytest.raises(Terminated) as stopped:
        small_agent().learn(1_000, folder=tmp_path, on_update=warn)
    assert stopped.value.code == 128 + number
    assert checkpoints.find(tmp_path).updates == len(updates) == 2
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_nohup_keeps_a_run_from_ending(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        agent = small_agent().learn(60, on_update=lambda row: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert agent.timesteps >= 60


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


@pytest.fixture
def little_memory(monkeypatch):
    """An accelerator with room for two lanes, which it says when the third step is taken."""
    original, tried = player.collect, []

    def collect(env, *args, **kwargs):
        tried.append(env.num_envs)
        step, steps = env.step, []

        def step_with_less(actions):
            steps.append(actions)
            if env.num_envs > 2 and len(steps) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return step(actions)

        with monkeypatch.context() as patch:
            patch.setattr(env, "step", step_with_less)
            return original(env, *args, **kwargs)

    monkeypatch.setattr(player, "collect", collect)
    return tried


def copyist(num_envs):
    return PPO(make_policy(), "TextGen/Copy-v0", seed=5, num_envs=num_envs, episodes_per_update=8)


def test_no_memory_to_play_halves_the_lanes(tmp_path, little_memory, caplog):
    """From 8 to 2. Then the run is one that began with two lanes, and its checkpoint goes on so."""
    with caplog.at_level(logging.WARNING):
        agent = copyist(8).learn(1, folder=tmp_path)
    assert little_memory == [8, 4, 2]
    assert "Out of memory with 8 lanes: from now on there are 4." in caplog.text
    assert "Out of memory with 4 lanes: from now on there are 2." in caplog.text
    few = copyist(2).learn(1)
    assert agent.timesteps == few.timesteps
    for one, other in zip(agent.policy.parameters(), few.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    little_memory.clear()
    load(tmp_path, device="cpu").learn(agent.timesteps + 1)
    assert little_memory == [2], "it is remembered"


def test_no_memory_to_evaluate_halves_the_lanes(monkeypatch):
    agent = copyist(8)
    expected = copyist(4).evaluate(6)
    original = player.evaluate

    def evaluate(policy, env, *args, **kwargs):
        if env.num_envs > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(policy, env, *args, **kwargs)

    monkeypatch.setattr(player, "evaluate", evaluate)
    assert agent.evaluate(6).summary() == expected.summary()
    assert agent.env.num_envs == 4


def test_no_memory_for_one_lane_ends_the_run(tmp_path, capsys, monkeypatch):
    def collect(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(player, "collect", collect)
    said = fails([*SHORT, "--output", str(tmp_path / "run")], 1, capsys)
    assert "Expected memory to play 1 episodes side by side, got none" in said
    assert f"Go on with: python -m agents train --resume {tmp_path / 'run'}" in said


class Windows:
    """Its locks: of bytes, and a second one is refused."""

    LK_NBLCK = 2
    held: ClassVar[set[int]] = set()

    @classmethod
    def locking(cls, descriptor, mode, count):
        assert (mode, count) == (cls.LK_NBLCK, 1)
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        if place in cls.held:
            raise PermissionError(errno.EACCES, "Permission denied")
        cls.held.add(place)


def test_the_lock_of_windows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Windows)
    lock = locks.FolderLock(tmp_path)
    owner = (tmp_path / "run.lock").read_text()
    assert owner.startswith(f"process {os.getpid()} on ")
    assert max(Windows.held) >= len(owner), "the text can be read"
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_holdings", {})  # as in another process
        with pytest.raises(ValueError, match=f"which process {os.getpid()} on .* is using"):
            locks.FolderLock(tmp_path)
    lock.release()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, number):
    def refuse(file, *args):
        raise OSError(number, "no")

    monkeypatch.setattr(locks.FileLock, "_open", refuse)
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
    with locked_elsewhere(run / "run.lock") as process:
        before = contents(run)
        said = fails(["train", "--resume", str(run), "--total-timesteps", "200"], 2, capsys)
        assert f"which process {process} on elsewhere is using. Wait for it, stop it" in said
        assert contents(run) == before, "nothing of the other run is touched"
    main(["train", "--resume", str(run), "--total-timesteps", "200"])
    assert checkpoints.find(run).timesteps >= 200
    assert json.loads((run / "config.json").read_text())["total_timesteps"] == 200
