"""What others put into the folder of a run, take away or change: the run goes on, and says what it cannot mend."""

import errno
import json
import logging
import math
import os
import shutil

import pytest
import torch

from agents import REINFORCE, SFTConfig, fine_tune, load
from agents.__main__ import main
from agents.evaluation import comparison_page
from agents.evaluation.evaluation import EvaluationPlan
from agents.locks import LOCK
from agents.supervised import reward_model
from agents.training import checkpoints, metrics_log, run_folder
from agents.training.checkpoints import SaveError
from agents.training.optimization import NonFiniteError
from benchmarks.robustness.kill_and_resume import RUN
from tests.agents.helpers import ECHO_KWARGS, lanes, make_policy, small_agent
from tests.helpers import locked_elsewhere

SMALL = {"num_envs": 4, "episodes_per_update": 4}

SHORT = ["--total-timesteps", "60"]

EVALUATED = EvaluationPlan(episodes=4, during=1)

pytestmark = pytest.mark.usefixtures("one_thread")


def make_agent(**settings):
    return REINFORCE(make_policy(), lanes(4), **SMALL, **settings)


def again(run, which="last"):
    return load(run, which, env=lanes(4), device="cpu")


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def fill(folder):
    (folder / "agent.json").write_text("{}")


def write(run, timesteps, keep=1):
    return checkpoints.write(run, fill, timesteps=timesteps, updates=timesteps, keep=keep)


# What others put among checkpoints ------------------------------------------------------------------------------------


def put_strays(folder, number):
    """What file managers, editors, NFS, Jupyter and people leave; `number` is that of the next checkpoint."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    for name in (".DS_Store", ".nfs000000000001", ".agent.json.swp", "notes.txt", f"{number:05d}", ".00001"):
        (folder / name).write_text("precious")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "precious").write_text("precious")
    (folder / f"{number + 1:05d}").mkdir()
    (folder / f"{number + 2:05d}").symlink_to(outside)
    (folder / ".new").symlink_to(outside)
    (folder / ".trial").write_text("precious")
    (folder / "latest").symlink_to(folder / "nowhere")
    return {path: path.lstat().st_ino for path in [*folder.iterdir(), *outside.iterdir()]}


def test_strays_among_checkpoints_are_left_and_end_neither_a_run_nor_a_resume(tmp_path, caplog):
    agent = make_agent().learn(8, folder=tmp_path, checkpoint_seconds=0)
    last = checkpoints.numbers(tmp_path)[-1]
    folder = tmp_path / "checkpoints"
    own = set(folder.iterdir())
    strays = {path: inode for path, inode in put_strays(folder, last + 1).items() if path not in own}
    agent.learn(agent.timesteps + 1, folder=tmp_path, checkpoint_seconds=0)  # a run that goes on
    assert "Left alone in" in caplog.text
    assert ".DS_Store" in caplog.text
    assert checkpoints.find(tmp_path).number == last + 4, "the next number that nothing has"
    resumed = again(tmp_path)
    assert resumed.timesteps == agent.timesteps
    resumed.learn(agent.timesteps + 1, folder=tmp_path, checkpoint_seconds=0)
    assert checkpoints.find(tmp_path).timesteps > agent.timesteps
    assert len(checkpoints.numbers(tmp_path)) == 2, "the old ones are removed as ever"
    for path, inode in strays.items():
        assert path.lstat().st_ino == inode
        assert path.is_dir() or path.is_symlink() or path.read_text() == "precious"


def test_only_folders_that_hold_a_checkpoint_are_checkpoints(tmp_path):
    for name in ("00001", "1", "000000001", "12345678901234567890", "00002.left", "²"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert checkpoints.numbers(tmp_path) == []
    (tmp_path / "checkpoints" / "00001" / "agent.json").touch()
    assert checkpoints.numbers(tmp_path) == [1], "a damaged one is one"
    assert write(tmp_path, 1).name == "12345678901234567891"


def test_what_somebody_put_inside_a_checkpoint_outlives_it(tmp_path, caplog):
    first = write(tmp_path, 1)
    (first / "policy").mkdir()
    (first / "policy" / "notes.txt").write_text("precious")
    (first / "elsewhere").symlink_to(tmp_path)
    write(tmp_path, 2)
    left = tmp_path / "checkpoints" / "00001.left"
    assert (left / "policy" / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in left.iterdir()) == ["elsewhere", "policy"]
    assert "Kept in" in caplog.text
    assert "policy/notes.txt" in caplog.text
    assert checkpoints.numbers(tmp_path) == [2]


def test_files_that_nfs_keeps_open_are_removed_the_next_time(tmp_path, monkeypatch, caplog):
    first = write(tmp_path, 1)
    (first / ".nfs0001").touch()
    write(tmp_path, 2)
    assert (tmp_path / "checkpoints" / ".00001").is_dir()
    (tmp_path / "checkpoints" / ".00001" / ".nfs0001").unlink()  # as the system does it
    write(tmp_path, 3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00003"]
    # A folder of an earlier process that cannot be removed yet is in nobody's way.
    (tmp_path / "checkpoints" / ".new").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", lambda *args, **kwargs: None)
        write(tmp_path, 4)
    assert checkpoints.find(tmp_path).timesteps == 4
    assert not caplog.text


# The logs -------------------------------------------------------------------------------------------------------------


def test_there_is_no_checkpoint_past_a_row_that_could_not_be_written(tmp_path, monkeypatch, caplog):
    """The row does not fit on the disk, and a moment later there is room for a checkpoint."""
    straight, run = tmp_path / "straight", tmp_path / "run"
    make_agent().learn(80, folder=straight, checkpoint_seconds=0)
    original, written = metrics_log.MetricsLog.write, []

    def full(self, timesteps, row):
        written.append(timesteps)
        if len(written) == 3:
            self._file.write('{"timesteps"')
            self._file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, timesteps, row)

    with monkeypatch.context() as patch:
        patch.setattr(metrics_log.MetricsLog, "write", full)
        with pytest.raises(OSError, match="No space left"):
            make_agent().learn(80, folder=run, checkpoint_seconds=0)
    assert "No checkpoint is written: the last row" in caplog.text
    assert checkpoints.find(run).timesteps == written[1]
    again(run).learn(80, folder=run, checkpoint_seconds=0)
    scores = [[(row["timesteps"], row["score"]) for row in rows(folder)] for folder in (straight, run)]
    assert scores[0] == scores[1]


def test_a_second_ctrl_c_between_an_update_and_its_row(tmp_path, monkeypatch):
    def interrupted(self, timesteps, row):
        raise KeyboardInterrupt

    make_agent().learn(1, folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(metrics_log.MetricsLog, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path).learn(40, folder=tmp_path)
    assert checkpoints.find(tmp_path).updates == 1


def test_rows_that_are_lost_are_said_when_the_run_goes_on(tmp_path, caplog):
    make_agent().learn(80, folder=tmp_path)
    log = tmp_path / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert checkpoints.find(tmp_path).rows == {"metrics.jsonl": len(lines), "evaluations.jsonl": 0}
    again(tmp_path).learn(1, folder=tmp_path)
    assert caplog.text == "", "nothing is missing"
    log.write_text("".join(lines[1:-1]))
    agent = again(tmp_path)
    agent.learn(agent.timesteps + 1, folder=tmp_path)
    assert f"has {len(lines) - 2} of the {len(lines)} rows that it had" in caplog.text
    caplog.clear()
    again(tmp_path).learn(1, folder=tmp_path)
    assert caplog.text == "", "it was said, and the rows since are all there"
    log.unlink()
    again(tmp_path).learn(1, folder=tmp_path)
    assert f"has 0 of the {len(lines) - 1} rows" in caplog.text


@pytest.mark.parametrize("damage", ["samples", "an episode", "half an episode", "row", "log"])
def test_evaluations_that_are_lost_are_said_before_the_training(tmp_path, caplog, damage):
    small_agent().learn(1, folder=tmp_path, evaluation=EVALUATED)
    file, log = tmp_path / "samples" / "test-000000000000.jsonl", tmp_path / "evaluations.jsonl"
    episodes, lines = (path.read_text().splitlines(keepends=True) for path in (file, log))
    assert run_folder.read_evaluation(tmp_path, "test", 0).episodes == 4
    if damage == "samples":
        shutil.rmtree(file.parent)
    elif damage == "row":
        log.write_text("".join(line for line in lines if json.loads(line)["split"] != "test"))
    elif damage == "log":
        log.unlink()
    else:
        file.write_text("".join(episodes)[: -len(episodes[-1]) if damage == "an episode" else -9])
    played = []

    def on_update(row):
        played.append(caplog.text)

    agent = load(tmp_path)
    agent.learn(agent.timesteps + 1, folder=tmp_path, on_update=on_update)
    expected = {"samples": "its episodes, test-000000000000.jsonl, are gone"}
    assert expected.get(damage, "rows that it had" if damage in ("row", "log") else "it is damaged: ") in played[0]
    with pytest.raises(ValueError, match="Expected an evaluation on test at 0 tokens"):
        run_folder.read_evaluation(tmp_path, "test", 0)


def test_metrics_are_read_past_a_damaged_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"timesteps": 1}\n\xff\n{"timesteps": 2, "kl": null}\n{"timesteps": 3}')
    first, second = metrics_log.read_metrics(tmp_path / "metrics.jsonl")
    assert first == {"timesteps": 1}
    assert math.isnan(second["kl"])


# One owner ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_another_process_has_trained_in_since_it_was_loaded(tmp_path):
    make_agent().learn(1, folder=tmp_path)
    one, other = again(tmp_path), again(tmp_path)
    one.learn(40, folder=tmp_path)
    before = rows(tmp_path)
    with pytest.raises(ValueError, match="with checkpoint 1 as its last, got 2: another process has trained in it"):
        other.learn(80, folder=tmp_path)
    assert rows(tmp_path) == before
    one.learn(80, folder=tmp_path)
    back = again(tmp_path, which=2)  # an earlier checkpoint is a choice, and not a race
    back.learn(back.timesteps + 1, folder=tmp_path)
    assert rows(tmp_path)[-1]["timesteps"] == back.timesteps


@pytest.mark.parametrize("begin", ["learn", "save", "load and learn"])
def test_a_folder_that_belongs_to_another_process(tmp_path, begin):
    if begin == "load and learn":
        make_agent().learn(1, folder=tmp_path)
    agent = again(tmp_path) if begin == "load and learn" else make_agent()
    with locked_elsewhere(tmp_path / LOCK) as process:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=f"which process {process} on elsewhere is using"):
            agent.save(tmp_path) if begin == "save" else agent.learn(80, folder=tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    agent.save(tmp_path)


WRITERS = {
    "train": ["train"],
    "sft": ["sft"],
    "reward-model": ["reward-model", "--pairs", "pairs.jsonl"],
    "compare": ["compare", "--models", "tiny", "tiny"],
}


@pytest.mark.parametrize("command", WRITERS)
def test_every_command_that_writes_a_folder_takes_its_lock_before_anything_else(tmp_path, capsys, command):
    with locked_elsewhere(tmp_path / LOCK) as process:
        before = (tmp_path / LOCK).read_bytes()
        with pytest.raises(SystemExit) as stopped:
            main([*WRITERS[command], "--output", str(tmp_path)])
        assert stopped.value.code == 2
        assert f"which process {process} on elsewhere is using" in capsys.readouterr().err
        assert os.listdir(tmp_path) == [LOCK]
        assert (tmp_path / LOCK).read_bytes() == before


def test_every_function_that_writes_a_folder_takes_its_lock(tmp_path):
    policy = make_policy()
    with locked_elsewhere(tmp_path / LOCK):
        for write_into in (
            lambda folder: fine_tune(policy, "TextGen-v0", env_kwargs=ECHO_KWARGS, folder=folder),
            lambda folder: reward_model.save(folder, policy, None),
            lambda folder: comparison_page.write(None, folder),
        ):
            with pytest.raises(ValueError, match="is using"):
                write_into(tmp_path)
    assert os.listdir(tmp_path) == [LOCK]


def test_a_stop_while_sft_writes_its_policy_leaves_the_one_before(tmp_path, monkeypatch):
    policy, config = make_policy(), SFTConfig(epochs=1, eval_episodes=0)

    class Killed(BaseException):
        pass

    def kill(self, folder):
        folder.mkdir()
        (folder / "policy.json").write_text("{")
        raise Killed

    def stop_the_next_one(row):
        if row["epoch"] == 1:
            monkeypatch.setattr(type(policy), "save_pretrained", kill)

    settings = {"config": config, "env_kwargs": ECHO_KWARGS, "on_epoch": stop_the_next_one}
    with pytest.raises(Killed):
        fine_tune(policy, "TextGen-v0", folder=tmp_path, **settings)
    assert type(policy).from_pretrained(tmp_path / "policy", device="cpu").tokenizer.vocab_size == 10


def test_a_folder_that_was_removed_and_begun_anew_by_another_process(tmp_path):
    run = tmp_path / "run"

    def replace(row):  # but for TensorBoard's files, whose thread writes at a time of its own
        for name in ("metrics.jsonl", LOCK):
            (run / name).unlink()
        shutil.rmtree(run / "checkpoints")
        (run / LOCK).touch()

    with pytest.raises(SaveError, match=r"another run\.lock has taken the place of its own"):
        make_agent().learn(1, folder=run, on_update=replace)
    assert sorted(os.listdir(run)) == [LOCK, "tensorboard"], "nothing is written among the files of the second run"


def test_a_lock_that_was_removed_is_made_again_and_the_run_goes_on(tmp_path):
    make_agent().learn(1, folder=tmp_path, on_update=lambda row: (tmp_path / LOCK).unlink())
    assert (tmp_path / LOCK).exists()
    assert again(tmp_path).updates == 1


def test_a_folder_that_is_not_a_runs_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(SystemExit):
        main([*RUN, "--output", str(tmp_path)])
    assert "which holds 'thesis.tex'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*RUN, "--model", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")])
    assert "nowhere" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


# config.json ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory, one_thread):
    run = tmp_path_factory.mktemp("begun") / "run"
    main([*RUN, "--output", str(run), "--max-seconds", "0", "--eval-episodes", "0"])
    return run


@pytest.fixture
def run(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value"), [("gamma", 0.5), ("env", "TextGen/Brackets-v0"), ("eval_episodes", 9), ("lora", 4)]
)
def test_edits_of_config_json_that_would_be_ignored_are_said(run, capsys, name, value):
    file = run / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, name: value}))
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(run)])
    expected = f"the run's own {name}, {config[name]!r}, got {value!r} in '{file}': only checkpoint_seconds"
    assert expected in " ".join(capsys.readouterr().err.split())
    assert json.loads(file.read_text())[name] == value, "the edit is still there"
    del config[name]
    if name == "eval_episodes":  # whose value was not the default
        file.write_text(json.dumps(config))
        with pytest.raises(SystemExit):
            main(["train", "--resume", str(run)])
        assert f"the run's own {name}" in capsys.readouterr().err, "also where it is gone"


def test_edits_of_what_may_change_have_an_effect(run):
    file = run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_seconds": None, "total_timesteps": 40}))
    main(["train", "--resume", str(run)])
    assert checkpoints.find(run).timesteps >= 40


def test_a_run_without_a_checkpoint_begins_with_the_edited_options(run):
    for number in checkpoints.numbers(run):
        shutil.rmtree(run / "checkpoints" / f"{number:05d}")
    file = run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "gamma": 0.5}))
    main(["train", "--resume", str(run)])
    assert json.loads((checkpoints.find(run).path / "agent.json").read_text())["config"]["gamma"] == 0.5


def test_the_end_of_a_run_whose_first_evaluation_was_deleted(tmp_path, capsys):
    run = tmp_path / "run"
    main([*RUN, "--output", str(run), "--total-timesteps", "1", "--eval-during", "0"])
    shutil.rmtree(run / "samples")
    main(["train", "--resume", str(run), "--total-timesteps", "60"])
    assert "its episodes, test-000000000000.jsonl, are gone. There are no samples" in capsys.readouterr().out
    assert json.loads((run / "summary.json").read_text())["timesteps"] >= 60


# Steps that are skipped -----------------------------------------------------------------------------------------------


def break_steps(monkeypatch, is_broken):
    """Makes the gradient of some optimiser steps, counted from 1, not a number."""
    clip, steps = torch.nn.utils.clip_grad_norm_, []

    def broken(parameters, *args, **kwargs):
        steps.append(1)
        norm = clip(parameters, *args, **kwargs)
        return norm * math.nan if is_broken(len(steps)) else norm

    monkeypatch.setattr("agents.training.optimization.nn.utils.clip_grad_norm_", broken)
    return steps


def test_a_run_whose_every_step_was_skipped_ends_with_an_error(tmp_path, monkeypatch, caplog):
    steps = break_steps(monkeypatch, lambda number: True)
    with pytest.raises(NonFiniteError, match=r"in every step of the last update: the last \d+ were skipped"):
        make_agent().learn(60, folder=tmp_path)
    assert 1 < len(steps) <= 10, "fewer than max_skipped_steps"
    assert "No checkpoint is written" in caplog.text


def test_the_command_ends_with_another_status_then(tmp_path, monkeypatch, capsys):
    break_steps(monkeypatch, lambda number: True)
    with pytest.raises(SystemExit) as stopped:
        main([*RUN, "--output", str(tmp_path / "run"), "--eval-episodes", "0", "--checkpoint-seconds", "300", *SHORT])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "got NaN or infinity in every step of the last update" in said
    assert "There is no checkpoint yet" in said


def test_a_last_step_that_was_skipped_among_others_is_no_reason_to_lose_the_run(tmp_path, monkeypatch):
    agent = make_agent(minibatch_size=2) if "minibatch_size" in REINFORCE.config.__dataclass_fields__ else small_agent()
    steps = break_steps(monkeypatch, lambda number: number % 2 == 0)
    agent.learn(1, folder=tmp_path, checkpoint_seconds=logging.INFO)
    assert len(steps) % 2 == 0
    assert checkpoints.find(tmp_path).updates == 1
