"""The contract that every registered id keeps, under every payout. A new id is held to it by being registered."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import textenvs
from textenvs.rewards import PAYOUTS

IDS = textenvs.list_envs(data=True)
NUMBERS: dict[str, Any] = {"every": 3, "delayed": 3, "shaped": {"gamma": 0.9}}
PAYOUT_SETTINGS: list[Any] = [{name: NUMBERS[name]} if name in NUMBERS else name for name in PAYOUTS]
INFO_KEYS = {"score", "response_length", "example"}
BUDGET = 12  # enough for words and sentences; the contract does not depend on it

pytestmark = pytest.mark.parametrize("env_id", IDS)
every_payout = pytest.mark.parametrize("payout", PAYOUT_SETTINGS, ids=str)


def make(env_id: str, **kwargs: Any) -> gym.Env:
    return gym.make(env_id, **{"max_new_tokens": BUDGET, **kwargs})


def random_action(env: gym.Env, rng: np.random.Generator) -> int:
    """Any token, and EOS often enough that some episodes end before their budget."""
    base: Any = env.unwrapped
    if rng.random() < 0.08:
        return int(base.tokenizer.eos_token_id)
    return int(rng.integers(base.tokenizer.vocab_size))


def play(env: gym.Env, seed: int, episodes: int = 2) -> list[tuple[Any, ...]]:
    """What an environment says in some episodes of random actions."""
    rng, said = np.random.default_rng(seed), []
    for episode in range(episodes):
        observation, info = env.reset(seed=seed if episode == 0 else None)
        said.append((observation, info))
        terminated = False
        while not terminated:
            observation, reward, terminated, truncated, info = env.step(random_action(env, rng))
            assert not truncated
            said.append((observation, reward, terminated, info))
    return said


def as_text(said: list[tuple[Any, ...]]) -> str:
    """All that was said, exactly: arrays with their bytes, numbers with all their digits."""
    plain = [
        tuple(
            {key: value.tobytes() if isinstance(value, np.ndarray) else value for key, value in part.items()}
            if isinstance(part, dict)
            else part
            for part in parts
        )
        for parts in said
    ]
    return repr(plain)


def test_gymnasium_check_env(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)  # every render mode has its own test below


def test_the_id_has_no_time_limit(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert spec.max_episode_steps is None  # it would cut an episode before its sparse reward is paid
    assert spec.vector_entry_point is not None


def test_spaces_types_and_keys(env_id: str) -> None:
    env = make(env_id)
    keys = None
    for *start, info in play(env, seed=1, episodes=3):
        observation = start[0]
        assert observation in env.observation_space
        assert {key: array.dtype for key, array in observation.items()} == {
            "input_ids": np.int32,
            "attention_mask": np.int8,
            "response_mask": np.int8,
        }
        keys = keys or set(info)
        assert set(info) == keys >= INFO_KEYS
        assert ("is_success" in info) == (env.unwrapped.setting.success_score is not None)
        assert all(type(value) in (float, bool, int) for value in info.values())
        if len(start) > 1:
            _, reward, terminated = start
            assert (type(reward), type(terminated)) == (float, bool)
            assert np.isfinite(reward)
        mask, response = observation["attention_mask"], observation["response_mask"]
        assert mask[0] == 1
        assert (np.diff(mask) <= 0).all(), "text first, then padding"
        assert (response <= mask).all()
        assert response.sum() == info["response_length"]
        assert (observation["input_ids"][mask == 0] == env.unwrapped.tokenizer.pad_token_id).all()


def test_a_seed_decides_everything(env_id: str) -> None:
    one, other = make(env_id), make(env_id)
    first = as_text(play(one, 3))
    as_text(play(other, 8))
    assert as_text(play(other, 3)) == first
    assert as_text(play(one, 4)) != first
    base: Any = one.unwrapped
    drawn = {one.reset(seed=seed)[1]["example"] for seed in range(40)}
    assert len(drawn) > 1 or len(base.setting.pool) == 1


def test_two_environments_in_one_process_do_not_touch(env_id: str) -> None:
    alone = as_text(play(make(env_id), seed=6))
    one, other = make(env_id), make(env_id, reward="length", payout="sparse")
    rng, said = np.random.default_rng(6), []
    for episode in range(2):
        said.append(one.reset(seed=6 if episode == 0 else None))
        over, other_over = False, True
        while not over:  # the other plays in between, and at other times ends
            if other_over:
                other.reset()
            token = random_action(one, rng)
            other_over = other.step(token)[2]
            observation, reward, over, _, info = one.step(token)
            said.append((observation, reward, over, info))
    assert as_text(said) == alone


@every_payout
def test_lane_i_is_a_single_environment_seeded_seed_plus_i(env_id: str, payout: Any) -> None:
    envs = gym.make_vec(env_id, num_envs=3, autoreset_mode="SameStep", max_new_tokens=BUDGET, payout=payout)
    singles = [make(env_id, payout=payout) for _ in range(3)]
    rng = np.random.default_rng(0)
    observations, infos = envs.reset(seed=20)
    expected = [single.reset(seed=20 + lane) for lane, single in enumerate(singles)]
    for _ in range(3 * BUDGET):
        assert all(array in envs.observation_space[key] for key, array in observations.items())
        for lane, (observation, info) in enumerate(expected):
            assert all((observations[key][lane] == array).all() for key, array in observation.items())
            assert all(infos[key][lane] == value for key, value in info.items())
        actions = np.array([random_action(single, rng) for single in singles])
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        assert not truncated.any()
        for lane, single in enumerate(singles):
            observation, reward, ended, _, info = single.step(actions[lane])
            assert (rewards[lane], terminated[lane]) == (reward, ended)
            if ended:
                assert all(infos["final_info"][key][lane] == value for key, value in info.items())
                observation, info = single.reset()
            expected[lane] = (observation, info)


@every_payout
def test_a_payout_pays_the_score(env_id: str, payout: Any) -> None:
    env, discount = make(env_id, payout=payout), 1.0
    if isinstance(payout, dict) and "shaped" in payout:
        discount = payout["shaped"]["gamma"]
    rng = np.random.default_rng(2)
    for episode in range(4):
        env.reset(seed=episode)
        paid, step, terminated = 0.0, 0, False
        while not terminated:
            _, reward, terminated, _, info = env.step(random_action(env, rng))
            paid += discount**step * reward
            step += 1
        base: Any = env.unwrapped
        score = base.setting.reward.score(base.example, base.response)
        assert info["score"] == pytest.approx(score, abs=1e-9)
        assert paid == pytest.approx(discount ** (step - 1) * score, abs=1e-9)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode(env_id: str, mode: AutoresetMode) -> None:
    envs = gym.make_vec(env_id, num_envs=2, autoreset_mode=mode, max_new_tokens=2)
    word = (envs.unwrapped.tokenizer.eos_token_id + 1) % envs.single_action_space.n
    envs.reset(seed=0)
    envs.step(np.array([word, word]))
    envs.reset(options={"reset_mask": np.array([False, True])})
    # The first lane has spent its budget: an end in every task, whereas EOS may only end a turn.
    observations, _, terminated, _, infos = envs.step(np.array([word, word]))
    assert terminated.tolist() == [True, False]
    assert ("final_obs" in infos) == (mode == AutoresetMode.SAME_STEP)
    assert observations["response_mask"][0].sum() == (0 if mode == AutoresetMode.SAME_STEP else 2)


@pytest.mark.parametrize("render_mode", ["ansi", "human", "rgb_array"])
def test_every_render_mode(env_id: str, render_mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = make(env_id, render_mode=render_mode)
    env.reset(seed=0)
    for _ in range(3):
        if env.step(random_action(env, np.random.default_rng(1)))[2]:
            break
    frame = env.render()
    if render_mode == "ansi":
        assert isinstance(frame, str)
        assert frame
    elif render_mode == "rgb_array":
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
    else:
        assert frame is None
        assert capsys.readouterr().out


def test_spec_goes_through_json(env_id: str) -> None:
    env = make(env_id, payout={"every": 8})
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert as_text(play(env, 1)) == as_text(play(again, 1))


def test_pickles(env_id: str) -> None:
    env = make(env_id)
    env.reset(seed=0)
    again = pickle.loads(pickle.dumps(env))
    assert as_text([env.step(5), env.reset()]) == as_text([again.step(5), again.reset()])
    envs = gym.make_vec(env_id, num_envs=2, max_new_tokens=BUDGET)
    envs.reset(seed=0)
    again = pickle.loads(pickle.dumps(envs))
    actions = np.array([5, 6])
    assert as_text([envs.step(actions), envs.reset()]) == as_text([again.step(actions), again.reset()])


def test_splits_share_no_prompt(env_id: str) -> None:
    seen: set[bytes] = set()
    for split in make(env_id).unwrapped.task.splits:
        try:
            pool: Any = make(env_id, split=split).unwrapped
        except ValueError as error:
            assert "has examples" in str(error)  # noqa: PT017 - a split may be empty, nothing else
            continue
        prompts = {row.tobytes() for row in pool.setting.pool.prompts}
        assert not prompts & seen
        seen |= prompts
    assert seen
