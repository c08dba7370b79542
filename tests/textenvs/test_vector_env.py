"""`TextGenVectorEnv`: lane i is the single environment seeded seed + i, and all is laid out as SyncVectorEnv does."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.textenvs.helpers import EOS, FIRST, Letters, Talk, Toy, assert_same, text_length
from textenvs import Example, RewardError, TextGenEnv, TextGenVectorEnv
from textenvs.vector_env import check_env_id

A = FIRST["a"]
MODES = [mode.value for mode in AutoresetMode]
PROMPTS = [f"{'abcdefgh'[i // 8]}{'abcdefgh'[i % 8] * (i % 5)}" for i in range(64)]
SETTINGS: list[dict[str, Any]] = [
    {"payout": "immediate"},
    {"payout": "sparse"},
    {"payout": {"delayed": 2}, "reward": {"length": 0.5, "sentiment": 1.0}},
    {"payout": "sparse", "reward": {"length": 0.5, "sentiment": 1.0}},
    {"min_new_tokens": 2, "stop": ["a", ". "]},
    {"action_mask": ["ab", "good"], "payout": "sparse"},
    {"task": Talk(), "action_mask": "task", "reward": text_length},
]


def make_pair(num_envs: int, mode: str, **kwargs: Any) -> tuple[SyncVectorEnv, TextGenVectorEnv]:
    """Gymnasium's own vector environment of our environments, and ours."""
    kwargs = {"task": Toy(train=PROMPTS), "max_new_tokens": 5, **kwargs}
    sync = SyncVectorEnv([lambda: TextGenEnv(**kwargs)] * num_envs, autoreset_mode=AutoresetMode(mode))
    return sync, TextGenVectorEnv(num_envs, autoreset_mode=mode, **kwargs)


def toy_envs(num_envs: int, **kwargs: Any) -> TextGenVectorEnv:
    return TextGenVectorEnv(num_envs, **{"task": Toy(train=PROMPTS), "reward": text_length, **kwargs})


def some_actions(rng: np.random.Generator, envs: Any) -> np.ndarray:
    """Random tokens, and EOS often enough that lanes end at different times."""
    shape = (envs.num_envs,)
    return np.where(rng.random(shape) < 0.2, EOS, rng.integers(envs.single_action_space.n, size=shape))


class TestAsSyncVectorEnv:
    @pytest.mark.parametrize("kwargs", SETTINGS, ids="+".join)
    @pytest.mark.parametrize("mode", MODES)
    def test_everything_that_is_returned(self, mode: str, kwargs: dict[str, Any]) -> None:
        sync, ours = make_pair(4, mode, **kwargs)
        assert sync.observation_space == ours.observation_space
        assert sync.action_space == ours.action_space
        assert_same(sync.reset(seed=11), ours.reset(seed=11), "reset")
        rng, ended = np.random.default_rng(0), 0
        for step in range(120):
            actions = some_actions(rng, ours)
            one, other = sync.step(actions), ours.step(actions)
            assert_same(one, other, f"step {step}")
            assert all(array in ours.observation_space[key] for key, array in other[0].items())
            over = other[2]
            ended += over.sum()
            if mode == "Disabled" and over.any():
                assert_same(
                    sync.reset(options={"reset_mask": over.copy()}),
                    ours.reset(options={"reset_mask": over.copy()}),
                    f"reset at {step}",
                )
        assert ended > 60

    @pytest.mark.parametrize("mode", MODES)
    def test_resets_with_masks_seeds_and_examples(self, mode: str) -> None:
        sync, ours = make_pair(3, mode, max_new_tokens=20)
        mask = np.array([True, False, True])
        for options, seed in (
            (None, [4, None, 9]),
            ({"reset_mask": mask}, None),
            ({"reset_mask": mask}, 30),
            ({"reset_mask": mask}, [7, 8, None]),
            ({"example": 3}, None),
            ({"reset_mask": mask, "example": 5}, None),
            ({"reset_mask": mask, "example": Example("ba")}, None),
            (None, None),
        ):
            if seed == [4, None, 9]:  # lane 1 has a stream to go on in
                assert_same(sync.reset(seed=0), ours.reset(seed=0))
            copies = [None if options is None else dict(options) for _ in range(2)]
            assert_same(
                sync.reset(seed=seed, options=copies[0]), ours.reset(seed=seed, options=copies[1]), str(options)
            )
            for action in (A, EOS if mode != "Disabled" else A):
                actions = np.array([action, A, A])
                assert_same(sync.step(actions), ours.step(actions), str(options))

    @pytest.mark.parametrize("mode", MODES)
    def test_make_vec_gives_the_native_one(self, mode: str) -> None:
        for given_mode in (mode, AutoresetMode(mode)):
            envs = gym.make_vec("TextGen-v0", num_envs=2, autoreset_mode=given_mode)
            assert isinstance(envs.unwrapped, TextGenVectorEnv)
            assert envs.metadata["autoreset_mode"] is envs.unwrapped.autoreset_mode is AutoresetMode(mode)
        assert "autoreset_mode" not in TextGenEnv.metadata

    def test_the_default_is_gymnasiums(self) -> None:
        assert toy_envs(1).autoreset_mode == AutoresetMode.NEXT_STEP


@settings(max_examples=15)
@given(seed=st.integers(0, 2**40), num_envs=st.integers(1, 5), setting=st.sampled_from(SETTINGS))
@pytest.mark.parametrize("mode", MODES)
def test_lane_i_is_a_single_environment_seeded_seed_plus_i(
    mode: str, seed: int, num_envs: int, setting: dict[str, Any]
) -> None:
    kwargs = {"task": Toy(train=PROMPTS), "max_new_tokens": 4, **setting}
    envs = TextGenVectorEnv(num_envs, autoreset_mode=mode, **kwargs)
    singles = [TextGenEnv(**kwargs) for _ in range(num_envs)]
    rng = np.random.default_rng(seed)
    observations, _ = envs.reset(seed=seed)
    expected: list[Any] = [single.reset(seed=seed + lane)[0] for lane, single in enumerate(singles)]
    over = np.zeros(num_envs, dtype=bool)
    for _ in range(25):
        for lane, row in enumerate(expected):
            for key in row:
                assert (observations[key][lane] == row[key]).all()
        actions = some_actions(rng, envs)
        observations, rewards, terminated, _, _ = envs.step(actions)
        for lane, single in enumerate(singles):
            if mode == "NextStep" and over[lane]:
                expected[lane], reward, ended = single.reset()[0], 0.0, False
            else:
                expected[lane], reward, ended, _, _ = single.step(actions[lane])
            assert (rewards[lane], terminated[lane]) == (reward, ended)
            over[lane] = ended
            if mode == "SameStep" and ended:
                expected[lane] = single.reset()[0]
        if mode == "Disabled" and over.any():
            observations, _ = envs.reset(options={"reset_mask": over.copy()})
            for lane in np.flatnonzero(over):
                expected[lane] = singles[lane].reset()[0]


class TestResetMask:
    def test_the_callers_dict_and_mask_are_left_alone(self) -> None:
        envs = toy_envs(3, autoreset_mode="Disabled")
        envs.reset(seed=0)
        mask = np.array([True, False, True])
        options = {"reset_mask": mask, "example": [1, 2]}
        envs.reset(options=options)
        assert list(options) == ["reset_mask", "example"]
        assert options["reset_mask"] is mask
        assert mask.tolist() == [True, False, True]

    def test_other_lanes_go_on(self) -> None:
        envs = toy_envs(3, autoreset_mode="Disabled")
        envs.reset(seed=0)
        before = envs.step(np.full(3, A))[0]
        after, infos = envs.reset(options={"reset_mask": np.array([False, True, False])})
        for key in before:
            assert (before[key][[0, 2]] == after[key][[0, 2]]).all()
        assert not after["response_mask"][1].any()
        assert infos["_score"].tolist() == [False, True, False]
        assert envs.step(np.full(3, A))[4]["response_length"].tolist() == [2, 1, 2]

    def test_an_example_for_each_lane_that_is_reset(self) -> None:
        envs = toy_envs(3)
        envs.reset(seed=0)
        _, infos = envs.reset(options={"reset_mask": np.array([True, False, True]), "example": [9, 10]})
        assert infos["example"].tolist() == [9, 0, 10]
        assert envs.reset(options={"example": np.array([1, 2, 3])})[1]["example"].tolist() == [1, 2, 3]

    def test_an_example_of_the_users_for_each_lane_that_is_reset(self) -> None:
        envs = toy_envs(3)
        envs.reset(seed=0)
        given = [Example("aa"), Example("b")]
        observations, infos = envs.reset(options={"reset_mask": np.array([True, False, True]), "example": given})
        assert infos["example"].tolist() == [-1, 0, -1]
        assert observations["attention_mask"].sum(axis=1)[[0, 2]].tolist() == [3, 2]
        assert [envs.get_attr("example")[lane] for lane in (0, 2)] == given
        with pytest.raises(ValueError, match="3 of either"):
            envs.reset(options={"example": given})

    @pytest.mark.parametrize(
        ("mask", "error", "message"),
        [
            ([True, False], TypeError, "array of bool"),
            (np.array([1, 0]), TypeError, "array of bool"),
            (np.array([True]), ValueError, r"shape \(2,\), got \(1,\)"),
            (np.array([False, False]), ValueError, "at least one lane"),
        ],
    )
    def test_bad_masks(self, mask: Any, error: type[Exception], message: str) -> None:
        envs = toy_envs(2)
        envs.reset(seed=0)
        with pytest.raises(error, match=message):
            envs.reset(options={"reset_mask": mask})

    def test_a_lane_that_has_not_begun(self) -> None:
        envs = toy_envs(2, autoreset_mode="Disabled")
        with pytest.raises(ResetNeeded):
            envs.step(np.array([A, A]))
        envs.reset(seed=0, options={"reset_mask": np.array([True, False])})
        with pytest.raises(ResetNeeded, match="in some lanes"):
            envs.step(np.array([A, A]))


class TestGroups:
    def test_lanes_of_a_group_draw_the_same_examples_whenever_they_end(self) -> None:
        envs = toy_envs(6, group_size=3, autoreset_mode="SameStep")
        drawn: list[list[int]] = [[example] for example in envs.reset(seed=5)[1]["example"]]
        rng = np.random.default_rng(0)
        for _ in range(60):
            _, _, terminated, _, infos = envs.step(some_actions(rng, envs))
            for lane in np.flatnonzero(terminated):
                drawn[lane].append(infos["example"][lane])
        shortest = min(map(len, drawn))
        assert shortest > 10
        first, second = ({tuple(row[:shortest]) for row in drawn[start : start + 3]} for start in (0, 3))
        assert len(first) == len(second) == 1
        assert first != second

    def test_group_g_is_the_single_environment_seeded_seed_plus_g(self) -> None:
        kwargs = {"task": Toy(train=PROMPTS)}
        envs, single = toy_envs(4, group_size=2), TextGenEnv(**kwargs)
        examples = [envs.reset(seed=3)[1]["example"], envs.reset()[1]["example"]]
        for group in range(2):
            expected = [single.reset(seed=3 + group)[1]["example"], single.reset()[1]["example"]]
            assert [row[2 * group] for row in examples] == expected

    def test_a_reset_of_all_lanes_brings_groups_together(self) -> None:
        kwargs = {"task": Toy(train=PROMPTS)}
        envs, single = toy_envs(4, group_size=2, autoreset_mode="Disabled"), TextGenEnv(**kwargs)
        expected = [single.reset(seed=3)[1]["example"], *(single.reset()[1]["example"] for _ in range(3))]
        envs.reset(seed=3)
        mask = np.array([True, False, False, False])
        masked = [envs.reset(options={"reset_mask": mask})[1]["example"] for _ in range(2)]
        assert [row[0] for row in masked] == expected[1:3]
        joined = envs.reset()[1]["example"]
        assert joined[:2].tolist() == [expected[3]] * 2  # the first that neither lane has had
        assert joined[2] == joined[3] == [single.reset(seed=4), single.reset()][1][1]["example"]

    def test_a_reset_of_masked_lanes_leaves_each_at_its_own_episode(self) -> None:
        """As agents reset lanes that end at different times: the n-th episodes of a group match."""
        envs = toy_envs(2, group_size=2, autoreset_mode="Disabled", task=Toy(train=PROMPTS))
        drawn: list[list[int]] = [[example] for example in envs.reset(seed=3)[1]["example"]]
        for mask in ([True, False], [True, True], [False, True]):
            _, infos = envs.reset(options={"reset_mask": np.array(mask)})
            for lane in np.flatnonzero(mask):
                drawn[lane].append(infos["example"][lane])
        assert drawn[0] == drawn[1]

    @pytest.mark.parametrize(("num_envs", "group_size"), [(5, 2), (2, 4)])
    def test_groups_that_do_not_fit(self, num_envs: int, group_size: int) -> None:
        with pytest.raises(ValueError, match=f"multiple of group_size={group_size}, got {num_envs}"):
            toy_envs(num_envs, group_size=group_size)


class TestCopy:
    def test_copies_stay_and_views_follow(self) -> None:
        for copy in (True, False):
            envs = toy_envs(2, copy=copy)
            observations, _ = envs.reset(seed=0)
            before = {key: array.copy() for key, array in observations.items()}
            after = envs.step(np.array([A, A]))[0]
            assert all((observations[key] == before[key]).all() for key in before) is copy
            assert (after["input_ids"] is observations["input_ids"]) is not copy

    def test_both_say_the_same(self) -> None:
        one, other = (toy_envs(3, copy=copy, autoreset_mode="SameStep") for copy in (True, False))
        assert_same(one.reset(seed=0), other.reset(seed=0))
        rng = np.random.default_rng(0)
        for _ in range(40):
            actions = some_actions(rng, one)
            assert_same(one.step(actions), other.step(actions))

    def test_final_observations_are_never_views(self) -> None:
        envs = toy_envs(2, copy=False, autoreset_mode="SameStep")
        envs.reset(seed=0)
        final = envs.step(np.array([EOS, A]))[4]["final_obs"][0]
        kept = {key: array.copy() for key, array in final.items()}
        for _ in range(5):
            envs.step(np.array([A, A]))
        assert_same(final, kept)

    def test_infos_rewards_and_flags_are_the_callers(self) -> None:
        envs = toy_envs(2, autoreset_mode="NextStep")
        envs.reset(seed=0)
        _, rewards, terminated, truncated, infos = envs.step(np.array([EOS, A]))
        for array in (rewards, terminated, truncated, infos["score"], infos["_score"]):
            array[:] = 1
        _, rewards, terminated, _, infos = envs.step(np.array([A, A]))
        assert rewards.tolist() == [0.0, 1.0]
        assert terminated.tolist() == [False, False]
        assert infos["score"].tolist() == [0.0, 2.0]
        assert infos["response_length"].tolist() == [0, 2]


def test_idle_lanes_wait_for_their_reset() -> None:
    envs = toy_envs(3, autoreset_mode="Disabled", max_new_tokens=4)
    envs.reset(seed=0)
    before = envs.step(np.array([EOS, A, A]))
    for action in (A, -7, 10**9):  # whatever an idle lane is told
        observations, rewards, terminated, _, infos = envs.step(np.array([action, A, A]))
        assert (rewards[0], terminated[0]) == (0.0, True)
        assert infos["response_length"][0] == 1
        for key in observations:
            assert (observations[key][0] == before[0][key][0]).all()
    assert terminated.tolist() == [True, True, True]
    observations, rewards, terminated, _, _ = envs.step(np.array([A, A, A]))  # all idle
    assert rewards.tolist() == [0.0] * 3
    assert terminated.all()


class TestBadInput:
    @pytest.mark.parametrize(
        ("actions", "error", "message"),
        [
            (np.array([1.0, 2.0]), TypeError, "whole numbers, got an array of float64"),
            (np.array([True, False]), TypeError, "array of bool"),
            (np.array([1]), ValueError, r"shape \(2,\), one a lane, got \(1,\)"),
            (np.array([[1], [2]]), ValueError, r"got \(2, 1\)"),
            (np.array([1, Letters().vocab_size]), ValueError, f"got {Letters().vocab_size}"),
            (np.array([-1, 0]), ValueError, "got -1"),
            (5, ValueError, r"got \(\)"),
        ],
    )
    def test_actions(self, actions: Any, error: type[Exception], message: str) -> None:
        envs = toy_envs(2)
        envs.reset(seed=0)
        with pytest.raises(error, match=message):
            envs.step(actions)
        assert envs.step(np.array([A, A]))[4]["response_length"].tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"num_envs": 0}, ValueError, "num_envs to be at least 1"),
            ({"num_envs": 2.0}, TypeError, "num_envs to be a whole number"),
            ({"autoreset_mode": "Never"}, ValueError, "to be 'NextStep', 'SameStep' or 'Disabled', got 'Never'"),
            ({"group_size": 0}, ValueError, "group_size to be at least 1"),
        ],
    )
    def test_constructor(self, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            TextGenVectorEnv(**{"num_envs": 2, "task": Toy(), **arguments})

    def test_an_argument_that_there_is_not(self) -> None:
        message = (
            r"^TextGenVectorEnv.__init__\(\) got an unexpected keyword argument 'n_envs'\. "
            r"Expected arguments from \['num_envs', 'task', .*'render_mode', 'data'\]\. Did you mean 'num_envs'\?"
        )
        with pytest.raises(TypeError, match=message):
            gym.make_vec("textenvs:TextGen-v0", n_envs=4)
        message = (
            r"^TextGenEnv.__init__\(\) got an unexpected keyword argument 'rewad'\. "
            r"Expected arguments from \['task', 'reward', .*'render_mode', 'data'\]\. Did you mean 'reward'\?"
        )
        with pytest.raises(TypeError, match=message):
            gym.make("textenvs:TextGen-v0", rewad=3)

    def test_seeds_for_other_lanes(self) -> None:
        with pytest.raises(ValueError, match="one seed a lane, 2 of them, got 3"):
            toy_envs(2).reset(seed=[1, 2, 3])

    @pytest.mark.parametrize(
        ("seed", "error", "message"),
        [
            ([-1, 2], ValueError, "a lane's seed to be at least 0, got -1"),
            ([1.7, 2], TypeError, "a lane's seed to be a whole number of at least 0, got 1.7"),
            ([None, True], TypeError, "a lane's seed to be a whole number of at least 0, got True"),
            (["3", 2], TypeError, "a lane's seed to be a whole number of at least 0, got '3'"),
            (-1, gym.error.Error, "greater or equal to zero"),
            (1.7, gym.error.Error, "integer"),
        ],
    )
    def test_seeds_that_are_none(self, seed: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            toy_envs(2).reset(seed=seed)

    def test_examples_for_other_lanes(self) -> None:
        with pytest.raises(ValueError, match="one index, one Example, or 2 of either"):
            toy_envs(2).reset(seed=0, options={"example": [1, 2, 3]})

    def test_a_reward_that_fails_in_one_lane(self) -> None:
        def broken(example: Example, response: str) -> float:
            return float("nan") if example.prompt == "ab" else 0.0

        envs = toy_envs(2, reward=broken, task=Toy(train=("ab", "cd")))
        envs.reset(seed=0, options={"example": [1, 0]})
        with pytest.raises(RewardError, match=r"'broken' gave nan(?s:.*)prompt='ab'(?s:.*)response: 'good'"):
            envs.step(np.array([A, FIRST["good"]]))


def test_two_environments_in_one_process_do_not_touch() -> None:
    alone, one, other = (toy_envs(2, autoreset_mode="SameStep") for _ in range(3))
    assert_same(alone.reset(seed=1), one.reset(seed=1))
    other.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = some_actions(rng, alone)
        other.step(actions[::-1].copy())
        assert_same(alone.step(actions), one.step(actions))


@pytest.mark.parametrize("mode", MODES)
def test_a_pickle_goes_on_in_the_middle_of_episodes(mode: str) -> None:
    envs = gym.make_vec(
        "TextGen-v0", num_envs=3, max_new_tokens=6, autoreset_mode=mode, reward={"sentiment": 1, "length": 1}
    )
    envs.reset(seed=0)
    envs.step(np.array([40, EOS, 41]))
    again = pickle.loads(pickle.dumps(envs))
    for step in range(9):
        assert_same(envs.step(np.arange(40, 43) + step), again.step(np.arange(40, 43) + step))
    assert_same(envs.reset(), again.reset())


def test_infos_do_not_grow() -> None:
    envs = toy_envs(2, autoreset_mode="NextStep")
    _, infos = envs.reset(seed=0)
    keys = list(infos)
    for step in range(12):
        assert list(envs.step(np.array([A, EOS if step % 3 == 0 else A]))[4]) == keys


class TestLanesAsEnvironments:
    def test_it_reads_as_sync_vector_env_does(self) -> None:
        sync, ours = make_pair(3, "NextStep", reward=text_length, render_mode="ansi")
        for envs in (sync, ours):
            envs.reset(seed=0)
            envs.step(np.array([A, FIRST["good"], EOS]))
        for name in ("response", "example", "render", "tokenizer", "task", "observation_space", "action_space"):
            assert [repr(one) for one in sync.call(name)] == [repr(one) for one in ours.call(name)], name
        for name in ("response", "render_mode"):
            assert sync.get_attr(name) == ours.get_attr(name)
        for theirs, mine in zip(sync.get_attr("metadata"), ours.get_attr("metadata"), strict=True):
            assert {**theirs, "autoreset_mode": None} == {**mine, "autoreset_mode": None}  # Gymnasium 1.2 writes it in
        assert_same(sync.call("action_masks"), ours.call("action_masks"))
        with pytest.raises(AttributeError):
            ours.call("no_such_thing")

    def test_it_sets_as_sync_vector_env_does(self) -> None:
        for envs in make_pair(2, "NextStep"):
            envs.set_attr("label", ["one", "two"])
            assert envs.get_attr("label") == ("one", "two")
            envs.set_attr("label", "both")
            assert envs.get_attr("label") == ("both", "both")
            with pytest.raises(ValueError, match=r"[Gg]ot .?3"):
                envs.set_attr("label", [1, 2, 3])

    def test_a_lane_moves_with_its_view_and_its_view_with_it(self) -> None:
        envs = toy_envs(3, autoreset_mode="Disabled")
        envs.reset(seed=0)
        view = envs._lane_views()[1]
        assert view.step(A)[1] == 1.0
        envs.step(np.full(3, FIRST["good"]))
        assert [view.response, *envs.responses] == ["agood", "good", "agood", "good"]
        observation, _ = view.reset(seed=9)
        single = toy_envs(1)
        assert (single.reset(seed=9)[0]["input_ids"][0] == observation["input_ids"]).all()
        assert envs.responses == ("good", "", "good")


class TestActionMasks:
    def test_a_row_a_lane(self) -> None:
        envs = toy_envs(2, action_mask=["ab", "b"])
        with pytest.raises(ResetNeeded):
            envs.action_masks()
        envs.reset(seed=0)
        infos = envs.step(np.array([A, FIRST["b"]]))[4]
        assert (infos["action_mask"].dtype, infos["action_mask"].shape) == (np.int8, (2, Letters().vocab_size))
        assert [np.flatnonzero(row).tolist() for row in infos["action_mask"]] == [[FIRST["b"]], [EOS]]
        assert (envs.action_masks() == (infos["action_mask"] == 1)).all()
        assert envs.action_masks().dtype == bool

    def test_without_one_everything_is_allowed(self) -> None:
        envs = toy_envs(2)
        envs.reset(seed=0)
        assert envs.action_masks().all()
        assert envs.action_masks().shape == (2, Letters().vocab_size)


def test_a_vector_environment_that_was_never_seeded_seeds_its_lanes() -> None:
    drawn = {tuple(toy_envs(4).reset()[1]["example"]) for _ in range(4)}
    assert len(drawn) > 1
    assert max(len(set(examples)) for examples in drawn) > 1  # lanes differ, too


class TestRender:
    def test_a_picture_of_each_lane(self) -> None:
        envs = toy_envs(2, render_mode="ansi")
        envs.reset(seed=0, options={"example": [1, 2]})
        envs.step(np.array([FIRST["good"], A]))
        texts = envs.render()
        assert isinstance(texts, tuple)
        assert ["good" in text for text in texts] == [True, False]
        assert envs.responses == ("good", "a")

    def test_rgb_array(self) -> None:
        envs = toy_envs(2, render_mode="rgb_array")
        envs.reset(seed=0)
        frames = envs.render()
        assert [frame.dtype for frame in frames] == [np.uint8, np.uint8]

    def test_human(self, capsys: pytest.CaptureFixture[str]) -> None:
        envs = toy_envs(2, render_mode="human")
        envs.reset(seed=0, options={"example": [8, 16]})
        assert envs.render() is None
        assert len(capsys.readouterr().out.splitlines()) == 2

    def test_without_a_mode_it_warns(self) -> None:
        envs = toy_envs(1)
        envs.reset(seed=0)
        with pytest.warns(UserWarning, match="No render_mode was given"):
            assert envs.render() is None


def test_an_id_is_of_a_text_environment() -> None:
    for env_id in ("TextGen-v0", "textenvs:TextGen/Copy-v0", "TextGen/Copy"):
        check_env_id(env_id)
    check_env_id("TextGen-v9")  # that it is not registered is for gym.make to say
    for env_id in ("CartPole-v1", "CartPole", "gymnasium:CartPole-v1"):
        with pytest.raises(ValueError, match=f"id of a text environment, got '{env_id}', which makes a CartPoleV"):
            check_env_id(env_id)
