"""Examples are shared by environments, lanes and rewards: nothing that gets one can change it for the others."""

import copy
import json
import pickle

import pytest

from textenvs import Example, Reward, RewardError, Task, TextGenEnv
from textenvs.example import editable, frozen

GIVEN = {"mood": "happy", "words": ["a", {"b": 1}]}


class Greedy(Reward):
    """A score that takes what it reads."""

    name = "greedy"

    def score(self, example, response):
        return float(example.metadata["words"].pop() == "a")


def test_a_frozen_example_equals_the_plain_one_and_refuses_every_change():
    example = frozen(Example("Hi", ["x"], GIVEN))
    assert example == Example("Hi", ("x",), GIVEN)
    assert json.loads(json.dumps(example.metadata)) == GIVEN
    words = example.metadata["words"]
    for change in (
        lambda: example.metadata.update(mood="sad"),
        lambda: example.metadata.pop("mood"),
        lambda: example.metadata.setdefault("more", 1),
        lambda: example.metadata.__setitem__("mood", "sad"),
        lambda: example.metadata.__ior__({"mood": "sad"}),
        lambda: words.append("c"),
        lambda: words.__iadd__(["c"]),
        lambda: words.sort(),
        lambda: words[1].clear(),
        lambda: words[1].__delitem__("b"),
    ):
        with pytest.raises(TypeError, match="change a copy of it"):
            change()
    assert example.metadata == GIVEN


@pytest.mark.parametrize(
    "copied",
    [editable, copy.deepcopy, lambda example: pickle.loads(pickle.dumps(example))],
    ids=["editable", "deepcopy", "pickle"],
)
def test_a_copy_may_be_changed(copied):
    example = frozen(Example("Hi", (), GIVEN))
    other = copied(example)
    other.metadata["words"][1]["b"] = 2
    other.metadata["words"].append("c")
    assert (type(other.metadata), type(other.metadata["words"])) == (dict, list)
    assert example.metadata == GIVEN
    assert copy.copy(example.metadata) == dict(example.metadata) == example.metadata.copy() == GIVEN


@pytest.mark.parametrize("payout", ["sparse", "immediate"])
def test_a_function_that_edits_its_example_changes_no_later_call(payout):
    def wants_mood(example, response):
        return float(example.metadata.pop("mood", None) is not None)

    env = TextGenEnv(reward=wants_mood, payout=payout, max_new_tokens=2)
    for _ in range(2):
        env.reset(options={"example": 0})
        assert [env.step(17)[4]["score"], env.step(18)[4]["score"]][-1] == 1
    other = TextGenEnv()
    other.reset(options={"example": 0})
    assert "mood" in other.example.metadata
    mine = Example("Once", (), {"mood": "happy"})
    env.reset(options={"example": mine})
    env.step(17)
    assert mine.metadata == {"mood": "happy"}


def test_a_reward_class_that_edits_its_example_is_told():
    env = TextGenEnv(reward=Greedy(), max_new_tokens=2)
    env.reset(options={"example": Example("Once", (), {"words": ["a"]})})
    with pytest.raises(RewardError, match="change a copy of it"):
        env.step(17)


class Forgetful(Task):
    """A task that edits what it is asked about."""

    name = "forgetful"
    default_reward = "length"
    max_turns = 2

    def num_examples(self, split):
        return 1 if split == "train" else 0

    def example(self, split, index):
        return Example("Once", (), {"left": 1})

    def reply(self, example, turns):
        example.metadata["left"] -= 1
        return " and then?"

    max_reply_tokens = 8


def test_a_task_that_edits_its_example_is_told():
    env = TextGenEnv(Forgetful(), max_new_tokens=4)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="change a copy of it"):
        env.step(env.tokenizer.eos_token_id)
