"""The data of a run: found again from every folder, told apart from other data, and enough if it is a handful."""

import json
from pathlib import Path

import numpy as np
import pytest

from agents import PPO, Policy, load
from agents.__main__ import main
from agents.evaluation.evaluation import EvaluationPlan
from agents.supervised.configs import SFTConfig
from agents.supervised.sft import fine_tune
from agents.training import checkpoints, env_arguments
from tests.agents.helpers import make_policy
from textenvs import load_dataset

STORIES = [f"Story {number} of a dog" for number in range(100)]
OTHERS = [f"Quite another text number {number}" for number in range(100)]
SMALL = {"num_envs": 2, "episodes_per_update": 2, "device": "cpu"}
WORDS = ["--num-envs", "2", "--episodes-per-update", "2", "--max-new-tokens", "2", "--samples", "1", "--device", "cpu"]


def trained(task, folder="run"):
    agent = PPO("tiny", "TextGen-v0", env_kwargs={"task": task, "max_new_tokens": np.int64(2)}, **SMALL)
    return agent.learn(4, folder=folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(texts, file="p.txt"):
    Path(file).write_text("\n".join(texts))


def test_a_run_finds_its_data_from_another_folder(here, tmp_path, monkeypatch):
    write(STORIES)
    trained({"dataset": {"data": Path("p.txt")}})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write(OTHERS)
    agent = load(here / "run")
    assert agent.env_kwargs == {"task": {"dataset": {"data": str(here / "p.txt")}}, "max_new_tokens": 2}
    assert agent.env.task.example("train", 0).prompt.startswith("Story")
    agent.learn(agent.timesteps + 4, folder=here / "run")
    (here / "p.txt").unlink()
    with pytest.raises(ValueError, match=r"here/p\.txt'.*there is no such file|No such file"):
        load(here / "run")


def test_other_data_under_the_same_name_is_an_error(here):
    write(STORIES)
    trained({"dataset": {"data": "p.txt"}})
    write(OTHERS)
    message = r"Expected the data in '.*here/p\.txt' that the run in 'run' was trained on .*data_changed=True"
    with pytest.raises(ValueError, match=message):
        load("run")
    agent = load("run", data_changed=True)
    assert agent.env.task.example("train", 0).prompt.startswith("Quite")
    agent.learn(agent.timesteps + 4, folder="run")
    load("run")  # from now on, this is the run's data
    write(STORIES)
    with pytest.raises(ValueError, match="Expected the data"):
        load("run")
    chosen = load("run", env_kwargs={"task": {"dataset": {"data": "p.txt"}}})  # the user's choice
    assert chosen.env.task.example("train", 0).prompt.startswith("Story")


def test_a_task_object_that_is_passed_again_has_the_same_data(here):
    write(STORIES)
    trained(load_dataset("p.txt"))
    load("run", env_kwargs={"task": load_dataset(STORIES)})
    with pytest.raises(ValueError, match="Expected the data that the run in 'run' was trained on"):
        load("run", env_kwargs={"task": load_dataset(OTHERS)})
    load("run", env_kwargs={"task": load_dataset(OTHERS)}, data_changed=True)


def test_the_command_line_goes_on_with_changed_data(here, capsys):
    write(STORIES)
    words = [*WORDS, "--eval-episodes", "4", "--eval-during", "0", "--data", "p.txt", "--total-timesteps", "4"]
    words += ["--prompt-tokens", "40"]
    main(["train", *words, "--output", "run"])
    write(OTHERS)
    for command in (["train", "--resume", "run", "--total-timesteps", "8"], ["evaluate", "--run", "run"]):
        more = [] if command[0] == "train" else ["--episodes", "4", "--device", "cpu"]
        with pytest.raises(SystemExit):
            main([*command, *more])
        assert "--data-changed" in " ".join(capsys.readouterr().err.split())
    main(["evaluate", "--run", "run", "--episodes", "4", "--device", "cpu", "--data-changed"])
    main(["train", "--resume", "run", "--total-timesteps", "8", "--data-changed"])
    main(["train", "--resume", "run", "--total-timesteps", "12"])
    assert checkpoints.find(Path("run")).timesteps >= 12


def test_models_of_rewards_are_found_from_another_folder(here):
    (here / "judge").mkdir()
    reward = {
        "sum": [{"preference": {"model": "judge"}}, {"dpo": {"model": "owner/name", "reference": "tiny"}}, "bleu"]
    }
    # No bundled name and no id on the Hub is taken for a folder.
    (here / "tiny").mkdir()
    _, kwargs = env_arguments.described("CartPole-v1", {"reward": reward}, make_policy().tokenizer)
    assert kwargs["reward"]["sum"][0] == {"preference": {"model": str(here / "judge")}}
    assert kwargs["reward"]["sum"][1:] == reward["sum"][1:]


def test_numbers_of_numpy_are_saved():
    given = {"max_new_tokens": np.int64(6), "payout": {"every": np.int32(2)}, "stop": np.array(["a"]), "reward": len}
    assert env_arguments.saved(given) == {
        "env_kwargs": {"max_new_tokens": 6, "payout": {"every": 2}, "stop": ["a"]},
        "env_objects": ["reward"],
    }


@pytest.mark.parametrize("more", [[], ["--eval-episodes", "0"], ["--eval-during", "0"]])
def test_a_handful_of_prompts_can_be_trained_on(here, more, capsys):
    write(["Once upon a time", "There was a dog", "A cat sat down"])
    main(["train", "--data", "p.txt", "--total-timesteps", "8", "--output", "run", *WORDS, *more])
    says_so = "No evaluations on validation and test: the task has no examples there" in capsys.readouterr().out
    assert says_so == ("--eval-episodes" not in more)
    assert json.loads(Path("run/summary.json").read_text())["timesteps"] >= 8
    assert load("run").env.task.num_examples("train") == 3


def test_a_test_split_without_a_validation_split_is_evaluated(here):
    write(STORIES, "train.txt")
    write(OTHERS, "test.txt")
    task = {"dataset": {"data": {"train": "train.txt", "test": "test.txt"}}}
    agent = PPO("tiny", "TextGen-v0", env_kwargs={"task": task, "max_new_tokens": 2}, **SMALL)
    evaluated = []
    agent.learn(
        8,
        folder="run",
        evaluation=EvaluationPlan(episodes=4),
        on_evaluation=lambda timesteps, split, _: evaluated.append((timesteps, split)),
    )
    assert evaluated == [(0, "test"), (agent.timesteps, "test")]
    assert [checkpoint.score for checkpoint in checkpoints.listed(Path("run"))] == [None]


def test_a_warm_start_on_a_handful_of_examples():
    task = load_dataset([{"text": "Once upon", "a": " a time"}, {"text": "There was", "a": " a dog"}], references="a")
    env_kwargs = {"task": task, "max_new_tokens": 4}
    assert len(fine_tune(make_policy(), config=SFTConfig(epochs=1, eval_episodes=2), env_kwargs=env_kwargs)) == 2


def test_another_model_in_the_folder_of_a_reward_is_an_error(here):
    """Of a preference model and of a classifier's tokenizer alike: all that is read counts, and a README does not."""
    other, judge = Policy.fresh("stories", seed=1, device="cpu"), Policy.fresh("stories", seed=0, device="cpu")
    record = {"format": 1, "method": "bradley_terry", "temperature": 1.0, "config": {}}
    judge.save_pretrained("judge")
    Path("judge/preference.json").write_text(json.dumps(record))
    reward = {"sum": [{"preference": {"model": "judge"}}, "length"]}
    agent = PPO("tiny", "TextGen-v0", env_kwargs={"reward": reward, "max_new_tokens": 2}, **SMALL)
    agent.learn(4, folder="run")
    Path("judge/README.md").write_text("It is a judge.")
    load("run")
    other.save_pretrained("judge")
    message = r"Expected the model in '.*here/judge' that the reward of the run in 'run' read .*data_changed=True"
    with pytest.raises(ValueError, match=message):
        load("run")
    load("run", env_kwargs={"reward": "length"})  # the user's choice
    agent = load("run", data_changed=True)
    agent.learn(agent.timesteps + 4, folder="run")
    load("run")  # from now on, this is the run's judge
    Path("judge/preference.json").write_text(json.dumps({**record, "temperature": 2.0}))
    with pytest.raises(ValueError, match="Expected the model in"):
        load("run")
