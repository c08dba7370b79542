"""Checkpoints are whole or not there; what is damaged, foreign or hostile is refused, and the one before it used."""

import json
import logging
import os
import re

import pytest
import safetensors
import torch

from agents import REINFORCE, load
from agents.training import checkpoints
from agents.training.agent_state import AgentState
from agents.training.checkpoints import CheckpointError, SaveError
from tests.agents.helpers import change, lanes, make_policy

SMALL = {"num_envs": 4, "episodes_per_update": 4}


def make_agent(seed=0):
    return REINFORCE(make_policy(), lanes(4), seed=seed, **SMALL)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def fill(folder):
    (folder / "agent.json").write_text("{}")


def write(run, timesteps, score=None, keep=2):
    return checkpoints.write(run, fill, timesteps=timesteps, updates=timesteps, score=score, keep=keep)


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for timesteps, score in ((1, 0.1), (2, 0.9), (3, None), (4, 0.5), (5, None)):
        write(tmp_path, timesteps, score)
    assert names(tmp_path) == ["00002", "00004", "00005"]
    assert checkpoints.find(tmp_path).timesteps == 5
    assert checkpoints.find(tmp_path, "best").timesteps == 2
    assert checkpoints.find(tmp_path, 4).score == 0.5
    assert checkpoints.find(tmp_path, "4").score == 0.5
    write(tmp_path, 6, 0.9)
    assert names(tmp_path) == ["00005", "00006"], "of two equals the later one is the best"
    for which in (3, "first", True, "-1"):
        with pytest.raises(CheckpointError, match=r"'best' or one of number 5 \(5 tokens\), number 6 .6 tokens, val"):
            checkpoints.find(tmp_path, which)


def test_without_a_score_there_is_no_best(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="with a validation score"):
        checkpoints.find(tmp_path, "best")


@pytest.mark.parametrize("moment", ["fill", "sync_file", "write_json", "replace", "_prune"])
def test_a_stop_at_any_moment_of_writing_leaves_a_whole_one(tmp_path, monkeypatch, moment):
    write(tmp_path, 1, keep=1)

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        if moment != "fill":
            patch.setattr(os if moment == "replace" else checkpoints, moment, kill)
        with pytest.raises(Killed):
            checkpoints.write(tmp_path, kill if moment == "fill" else fill, timesteps=2, updates=2, keep=1)
    found = checkpoints.find(tmp_path)
    assert found.timesteps == (2 if moment == "_prune" else 1)
    write(tmp_path, 3, keep=1)
    assert len(names(tmp_path)) == 1, "what was left behind is swept up"
    assert checkpoints.find(tmp_path).timesteps == 3


@pytest.mark.parametrize("damage", ["shorter", "longer", "other", "missing", "manifest", "empty manifest"])
def test_a_damaged_one_is_refused_and_the_one_before_it_used(tmp_path, caplog, damage):
    agent = make_agent()
    agent.save(tmp_path)
    agent._iterate(0.0)
    last = agent.save(tmp_path)
    file = last / "policy" / "model.safetensors"
    whole = file.read_bytes()
    if damage == "shorter":
        file.write_bytes(whole[:-1])
    elif damage == "longer":
        file.write_bytes(whole + b"\0")
    elif damage == "other":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    else:
        manifest = (last / "manifest.json").read_text()
        (last / "manifest.json").write_text(manifest[: 0 if damage == "empty manifest" else 40])
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, env=lanes(4), device="cpu").updates == 0
    assert "Passing over a checkpoint" in caplog.text
    assert str(last) in caplog.text
    with pytest.raises(CheckpointError):
        load(tmp_path, 2, env=lanes(4), device="cpu")
    with pytest.raises(CheckpointError):
        load(last, env=lanes(4), device="cpu")


def test_another_version_is_refused(tmp_path):
    path = write(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match=r"Expected a checkpoint of format 3 in .*, got 99: use the version"):
        checkpoints.find(tmp_path)
    old = tmp_path / "old" / "checkpoint"
    old.mkdir(parents=True)
    (old / "agent.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="got one of format 1"):
        checkpoints.find(tmp_path / "old")
    with pytest.raises(CheckpointError, match="Expected the folder of a run"):
        load(tmp_path / "nowhere")


def test_contents_that_do_not_fit_are_refused(tmp_path):
    checkpoint = make_agent().save(tmp_path)
    change(checkpoint, algorithm="nobody")
    with pytest.raises(ValueError, match="checkpoint of one of"):
        load(tmp_path, env=lanes(4))
    change(checkpoint, algorithm="reinforce", optimizer={})
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path, env=lanes(4))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"a\0b": {}}},
        {"files": {"a" * 5000: {}}},
        {"files": {"loop": {}}},
        {"files": {"pipe": {"bytes": 0, "sha256": ""}}},
        {"files": {"content.txt": 7}},
        {"files": []},
        {"timesteps": -1},
        {"timesteps": 1e3},
        {"score": float("nan")},
        {"score": True},
        None,
    ],
    ids=str,
)
def test_manifests_that_somebody_else_wrote(tmp_path, changes):
    path = write(tmp_path, 1)
    (path / "loop").symlink_to("loop")
    os.mkfifo(path / "pipe")
    file = path / "manifest.json"
    if changes is None:
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        checkpoints.find(tmp_path)


def test_states_that_do_not_fit_are_refused(tmp_path):
    agent = make_agent()
    checkpoint = agent.save(tmp_path)
    state = json.loads((checkpoint / "agent.json").read_text())
    tensors, numbers = checkpoints.flatten_optimizer(agent.optimizer)
    for wrong in ({"numbers": {"999.step": 1.0}}, {"numbers": {"x": 1}}, {"groups": []}, {"groups": [{"lr": "x"}]}):
        with pytest.raises(ValueError, match="Expected"):
            checkpoints.restore_optimizer(agent.optimizer, tensors, {**numbers, **wrong})
    with pytest.raises(ValueError, match=r"in shape \("):
        checkpoints.restore_optimizer(agent.optimizer, {"0.exp_avg": torch.zeros(3, 1, 7)}, numbers)
    agent._iterate(0.0)
    tensors, numbers = checkpoints.flatten_optimizer(agent.optimizer)
    checkpoints.restore_optimizer(agent.optimizer, tensors, numbers)
    with pytest.raises(ValueError, match="same entries of the optimiser's state for all parameters"):
        checkpoints.restore_optimizer(agent.optimizer, dict(list(tensors.items())[1:]), numbers)
    for name, value in (("timesteps", "many"), ("config", []), ("carried", None), ("seconds", float("inf"))):
        (checkpoint / "agent.json").write_text(json.dumps({**state, name: value}))
        with pytest.raises(ValueError, match=rf"Expected {name} in .*agent.json' as a run writes it"):
            AgentState.read(checkpoint)


@pytest.mark.parametrize("settings", [{"config": {"gamma": 7}}, {"config": {"no_such": 1}}, {"seed": -1}], ids=str)
def test_settings_that_cannot_be_are_an_error_that_names_the_checkpoint(tmp_path, settings):
    agent = REINFORCE(make_policy(), "TextGen/Stories-v0", **SMALL)
    checkpoint = agent.save(tmp_path)
    change(checkpoint, **settings)
    with pytest.raises(
        ValueError, match=rf"Expected a checkpoint in '{re.escape(str(checkpoint))}' that can be loaded"
    ):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "policy/../../outside.txt", "link"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name):
    run = tmp_path / "run"
    path = write(run, 1)
    (tmp_path / "outside.txt").write_text("secret")
    (run / "checkpoints" / "outside.txt").write_text("secret")
    (path / "link").symlink_to(tmp_path / "outside.txt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = checkpoints.fingerprint(tmp_path / "outside.txt")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="which leaves it"):
        checkpoints.find(run)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), safetensors.SafetensorError("No space left on device")]
)
def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch, error):
    """Safetensors reports it as an error of its own."""
    agent = make_agent()
    agent.save(tmp_path)
    agent._iterate(0.0)

    def full(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("agents.training.agent_state.save_file", full)
        with pytest.raises(SaveError, match=r"No space left.*The one before, of 0 tokens, is whole.*--resume"):
            agent.save(tmp_path)
    assert names(tmp_path) == ["00001"], "nothing is left of the one that failed"
    assert load(tmp_path, env=lanes(4), device="cpu").updates == 0
    agent.save(tmp_path)
    assert load(tmp_path, env=lanes(4), device="cpu").updates == 1


def test_an_adapters_base_does_not_go_with_an_old_checkpoint(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[agents,lora]'")
    agent = REINFORCE(make_policy().adapt(lora=2), lanes(4), **SMALL)
    for _ in range(4):
        agent.save(tmp_path, keep=1)
        agent = load(tmp_path, env=lanes(4), device="cpu")
    assert names(tmp_path) == ["00004"]
