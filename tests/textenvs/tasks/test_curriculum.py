"""The curriculum: which level it is at after histories worked by hand, and what a seed decides beside it."""

import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textenvs
from textenvs import Example, Task
from textenvs.tasks import Levels
from textenvs.tasks.curriculum import Curriculum, CurriculumConfig
from textenvs.testing import check_reward, check_task, check_vector_env
from textenvs.tokenizer import decode

SMALL = {"copy": {"train": 8, "validation": 2, "test": 4, "shifted": 2}}
"""Copy with 8 examples a level: places 0 to 7 are level 1, 8 to 15 level 2, 16 to 23 level 3."""


def curriculum(levels: Any = (1, 1, 2, 3), **settings: Any) -> Curriculum:
    return Curriculum(levels, CurriculumConfig(**{"window": 4, "raise_at": 0.75, "success_at": 1.0, **settings}))


def told(made: Curriculum, *outcomes: tuple[int, float]) -> int:
    """The level after episodes, each an example's place and a score, with a reset after each."""
    for place, score in outcomes:
        made.record([place], [score])
        made.settle()
    return made.level


def test_three_of_four_successes_raise_the_level() -> None:
    made = curriculum()
    assert told(made, (0, 1.0), (1, 1.0), (0, 1.0)) == 1, "three successes, but no whole window"
    assert made.success_rate == 1.0
    assert told(made, (0, 0.9)) == 2
    assert made.success_rate is None, "the next level starts without a history"


def test_only_the_latest_window_counts() -> None:
    made = curriculum()
    assert told(made, (0, 0.0), (0, 0.0), (0, 1.0), (0, 1.0)) == 1
    assert told(made, (0, 1.0)) == 2, "the first failure is out of the window"


def test_episodes_of_easier_levels_do_not_count() -> None:
    made = curriculum()
    made.load_state_dict({"level": 2, "outcomes": []})
    assert told(made, *[(0, 1.0)] * 10) == 2
    assert told(made, *[(2, 1.0)] * 4) == 3


def test_the_highest_level_is_the_last() -> None:
    made = curriculum()
    made.load_state_dict({"level": 3, "outcomes": []})
    assert told(made, *[(3, 1.0)] * 9) == 3


def test_the_level_falls_only_where_it_may() -> None:
    fixed, moving = curriculum(), curriculum(lower_at=0.25)
    for made in (fixed, moving):
        made.load_state_dict({"level": 2, "outcomes": []})
    failures = [(2, 0.0)] * 4
    assert told(fixed, *failures) == 2
    assert told(moving, (2, 1.0), (2, 0.0), (2, 0.0), (2, 0.0)) == 2, "a quarter is not below a quarter"
    assert told(moving, (2, 0.0)) == 1
    assert told(moving, *[(0, 0.0)] * 9) == 1, "there is nothing below the first"


def test_draws_are_of_the_level_and_a_share_is_review() -> None:
    made = curriculum(np.repeat([1, 2, 4], 10), review=0.25)
    bits = np.random.default_rng(0).integers(0, 2**64, size=20_000, dtype=np.uint64)
    assert set(made.draw(bits)) == set(range(10))
    made.load_state_dict({"level": 4, "outcomes": []})
    places = made.draw(bits)
    counts = np.bincount(places, minlength=30) / len(bits)
    assert counts[20:].sum() == pytest.approx(0.75, abs=0.013)  # 4 standard errors
    np.testing.assert_allclose(counts[:20], 0.25 / 20, atol=0.0032)
    np.testing.assert_allclose(counts[20:], 0.75 / 10, atol=0.0075)


def test_state_goes_through_json() -> None:
    made, other = curriculum(), curriculum()
    told(made, *[(0, 1.0)] * 4, (2, 1.0), (2, 0.0))
    other.load_state_dict(json.loads(json.dumps(made.state_dict())))
    assert other.state_dict() == made.state_dict() == {"level": 2, "outcomes": [1, 0]}
    with pytest.raises(ValueError, match=r"Expected the state of a curriculum over levels \[1, 2, 3\], got"):
        made.load_state_dict({"level": 7, "outcomes": []})


def play(envs: gym.vector.VectorEnv, answers: list[str], steps: int) -> list[int]:
    """Write the answers to the lanes' examples, and give the examples that began, in order."""
    base: Any = envs.unwrapped
    infos = envs.reset(seed=3)[1]
    begun = infos["example"].tolist()
    for _ in range(steps):
        written = infos["response_length"]
        tokens = [
            [*base.tokenizer.encode_response(answers[place]), base.tokenizer.eos_token_id][int(at)]
            for place, at in zip(infos["example"], written, strict=True)
        ]
        _, _, terminated, _, infos = envs.step(np.array(tokens))
        begun += infos["example"][terminated].tolist()
    return begun


def test_an_environment_moves_through_the_levels() -> None:
    envs = gym.make_vec(
        "TextGen/Copy-v0", num_envs=3, autoreset_mode="SameStep", task=SMALL, curriculum={"window": 6, "review": 0.0}
    )
    base: Any = envs.unwrapped
    answers = [base.task.demonstration(example) for example in base.setting.pool.examples]
    begun = play(envs, answers, 60)
    levels = [1 + place // 8 for place in begun]
    assert levels == sorted(levels), "right answers only: the level never falls"
    assert set(levels) == {1, 2, 3}
    assert levels.count(1) == 6 + 2, "six successes fill the window; the two other lanes had begun by then"
    assert base.curriculum.level == 3
    envs.reset(seed=0)
    assert base.curriculum.level == 3, "a seed decides what is drawn, and not the level"


def test_failures_stay_at_the_first_level() -> None:
    envs = gym.make_vec("TextGen/Copy-v0", num_envs=2, autoreset_mode="SameStep", task=SMALL, curriculum={"window": 4})
    begun = play(envs, [""] * 24, 40)
    assert max(begun) < 8


def test_at_one_level_lane_i_is_a_single_environment() -> None:
    settings: dict[str, Any] = {"task": SMALL, "curriculum": {"window": 1000}}
    envs = gym.make_vec("TextGen/Copy-v0", num_envs=3, **settings)
    singles = [gym.make("TextGen/Copy-v0", **settings) for _ in range(3)]
    for each in (envs, *singles):
        each.unwrapped.curriculum.load_state_dict({"level": 2, "outcomes": []})
    for seed in (5, None, None):
        infos = envs.reset(seed=seed)[1]
        alone = [one.reset(seed=None if seed is None else seed + lane)[1] for lane, one in enumerate(singles)]
        assert infos["example"].tolist() == [info["example"] for info in alone]


def test_examples_that_the_user_names_do_not_count() -> None:
    env = gym.make("TextGen/Copy-v0", task=SMALL, curriculum={"window": 1})
    base: Any = env.unwrapped
    for _ in range(3):
        env.reset(seed=0, options={"example": 0})
        for token in (*base.tokenizer.encode_response(base.example.references[0]), base.tokenizer.eos_token_id):
            info = env.step(token)[4]
        assert info["is_success"]
    env.reset()
    assert base.curriculum.level == 1


def test_a_group_never_has_two_levels() -> None:
    envs = gym.make_vec(
        "TextGen/Copy-v0", num_envs=2, group_size=2, task=SMALL, autoreset_mode="Disabled", curriculum={"window": 1}
    )
    base: Any = envs.unwrapped
    _, infos = envs.reset(seed=0)
    base.curriculum.record(infos["example"][:1], [1.0])  # the first lane succeeds and begins anew, the other plays on
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert base.curriculum.level == 1
    envs.reset()
    assert base.curriculum.level == 2


def test_it_pickles_and_its_spec_goes_through_json() -> None:
    env = gym.make("TextGen/Copy-v0", task=SMALL, curriculum={"window": 7})
    env.unwrapped.curriculum.load_state_dict({"level": 3, "outcomes": [1]})
    assert pickle.loads(pickle.dumps(env)).unwrapped.curriculum.state_dict() == {"level": 3, "outcomes": [1]}
    again: Any = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert again.curriculum.config.window == 7


@pytest.mark.parametrize("settings", [True, {}])
def test_no_settings_are_the_defaults(settings: Any) -> None:
    base: Any = gym.make("TextGen/Copy-v0", task=SMALL, curriculum=settings).unwrapped
    assert base.curriculum.config == CurriculumConfig(success_at=base.task.success_score)
    assert (base.curriculum.level, base.curriculum.levels, len(base.setting.pool)) == (1, (1, 2, 3), 24)


@pytest.mark.parametrize("settings", [None, False])
def test_no_curriculum(settings: Any) -> None:
    assert gym.make("TextGen/Copy-v0", task=SMALL, curriculum=settings).unwrapped.curriculum is None


def test_other_splits_have_all_levels_and_no_curriculum() -> None:
    base: Any = gym.make("TextGen/Copy-v0", task=SMALL, curriculum=True, split="test").unwrapped
    assert base.curriculum is None
    assert [example.metadata["level"] for example in base.setting.pool.examples] == [1] * 4 + [2] * 4 + [3] * 4
    assert gym.make("TextGen/Copy-v0", split="test").unwrapped.curriculum is None


def test_a_users_examples_with_a_level_are_enough() -> None:
    class Mine(Task):
        name = "mine"
        default_reward = "exact_match"

        def num_examples(self, split: str) -> int:
            return 4

        def example(self, split: str, index: int) -> Example:
            return Example(f"{split} {index}", ("yes",), {"level": 4 - index})

    base: Any = gym.make("TextGen-v0", task=Mine(), curriculum={"success_at": 1.0}).unwrapped
    base.reset(seed=0)
    assert base.curriculum.levels == (1, 2, 3, 4)
    assert base.example.metadata["level"] == 1
    with pytest.raises(ValueError, match="Expected a curriculum to know which score is a success"):
        gym.make("TextGen-v0", task=Mine(), curriculum=True)


def test_wrong_settings_say_so() -> None:
    for settings, error, message in (
        ({"raise_at": 1.5}, ValueError, r"raise_at in \(0, 1\], got 1.5"),
        ({"lower_at": 0.9}, ValueError, r"lower_at, below raise_at=0.8, in \[0, 0.8\), got 0.9"),
        ({"window": 0}, ValueError, "window to be at least 1, got 0"),
        ({"review": 1.0}, ValueError, r"review in \[0, 1\), got 1.0"),
        ({"raise": 1.0}, TypeError, "Expected settings of the curriculum from"),
        ({"raise_at": "high"}, TypeError, "raise_at to be a number, got 'high'"),
        (0.8, TypeError, "Expected curriculum to be True, None or a dict of settings, got 0.8"),
    ):
        with pytest.raises(error, match=message):
            gym.make("TextGen/Copy-v0", curriculum=settings)
    with pytest.raises(ValueError, match="Expected a task with levels for a curriculum"):
        gym.make("TextGen-v0", curriculum=True)


@pytest.mark.parametrize("name", ["copy", "brackets", "chain", "password"])
def test_all_levels_of_a_task_keep_the_contract(name: str) -> None:
    sizes = {"train": 60, "validation": 20, "test": 60, "shifted": 20}
    task = Levels({name: sizes})
    check_task(task)
    examples = [task.example("train", index) for index in range(0, task.num_examples("train"), 37)]
    reward, tokenizer = textenvs.make_reward(task.default_reward), textenvs.make_tokenizer(task.default_tokenizer)
    check_reward(reward, tokenizer, examples)
    for example in examples:
        level = example.metadata["level"]
        alone = textenvs.make_task({name: {"level": level}})
        expected = textenvs.make_reward(alone.default_reward)
        text = task.demonstration(example)[:-1]
        assert reward.score(example, text) == expected.score(example, text)


def test_the_random_score_of_all_levels_is_exact() -> None:
    """Password: a word of 2, 3 or 4 letters and EOS, out of 15 tokens each, two of which (BOS, EOS) print nothing."""
    task = Levels({"password": {"test": 10}})
    found = task.reference_scores("test")
    assert found is not None
    alone = textenvs.make_task({"password": {"level": 3, "test": 10}}).reference_scores("test")
    assert found.random > alone.random  # the shorter passwords are easier to hit
    assert found.random < 1 / 15**2


def test_levels_by_name() -> None:
    task = textenvs.make_task({"levels": {"task": "copy", "lowest": 2}})
    assert {task.example("train", index).metadata["level"] for index in (0, 1023, 1024, 2047)} == {2, 3}
    assert task.default_max_new_tokens == 25
    for arguments, message in (
        ({"task": "stories"}, "Expected a task with several levels, got 'stories'"),
        ({"task": {"copy": {"level": 2}}}, "Expected a task without 'level'"),
        ({"task": "copy", "lowest": 3, "highest": 2}, "Expected highest to be at least lowest=3, got 2"),
        ({"task": "copy", "highest": 4}, "from 1 to 3, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            textenvs.make_task({"levels": arguments})


def test_a_conversation_replies_by_its_level() -> None:
    sizes = {"train": 4, "validation": 4, "test": 4, "shifted": 4}
    task = Levels({"translate": {"interactive": True, **sizes}})
    env: Any = gym.make("TextGen-v0", task=task, curriculum={"success_at": 0.9}, max_new_tokens=40).unwrapped
    env.reset(seed=0)
    for token in (*env.tokenizer.encode_response(" Der"), env.tokenizer.eos_token_id):
        observation, *_ = env.step(token)
    assert "Not yet: it ends" not in (text := decode(env.tokenizer, observation["input_ids"].tolist()))
    assert "Not yet: word" in text
    assert env.response == " Der\n"


def test_check_vector_env() -> None:
    gym.register("Test/Levels-v0", entry_point="textenvs.env:TextGenEnv",
                 vector_entry_point="textenvs.vector_env:TextGenVectorEnv",
                 kwargs={"task": {"levels": {"task": SMALL}}})  # fmt: skip
    try:
        check_vector_env("Test/Levels-v0")
    finally:
        gym.registry.pop("Test/Levels-v0")


def test_numbers_of_numpy() -> None:
    """They come from grids and configs, and end up in metadata and checkpoints, which are JSON."""
    assert told(curriculum(window=np.int64(2)), (0, 1.0), (1, 1.0)) == 2
    task = textenvs.make_task({"copy": {"level": np.int64(2), "train": np.int32(8)}})
    assert (type(task.level), task.num_examples("train")) == (int, 8)
    json.dumps(task.example("train", 0).metadata)
    mixed = Levels("copy", lowest=np.int64(1), highest=np.int64(2))
    assert {type(mixed.example("train", index).metadata["level"]) for index in range(0, 400, 50)} == {int}
