"""The views: what stands in each column, the text, a response as one action, and a score as a reward function."""

import pickle
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeAwareObservation, TimeLimit
from hypothesis import given
from hypothesis import strategies as st

from tests.textenvs.helpers import (
    BOS,
    E_ACUTE,
    EOS,
    FIRST,
    SPECIAL,
    Letters,
    Talk,
    Toy,
    assert_same,
    constant,
    ids,
    text_length,
)
from textenvs import Example, RewardError, TextGenEnv, TextGenVectorEnv, make_tokenizer
from textenvs.wrappers import (
    MAX_ONE_HOT,
    AnyText,
    FlatIdsObservation,
    MultiDiscreteObservation,
    OneHotObservation,
    TextAction,
    TextObservation,
    VectorFlatIdsObservation,
    VectorMultiDiscreteObservation,
    VectorOneHotObservation,
    VectorTextAction,
    VectorTextObservation,
    score_function,
)

A, B, C, D = (FIRST[letter] for letter in "abcd")
NONE = Letters().vocab_size
VIEWS = [
    (FlatIdsObservation, VectorFlatIdsObservation),
    (MultiDiscreteObservation, VectorMultiDiscreteObservation),
    (OneHotObservation, VectorOneHotObservation),
]
every_view = pytest.mark.parametrize(("view", "vector_view"), VIEWS, ids=["ids", "discrete", "one-hot"])


def toy_env(**kwargs: Any) -> TextGenEnv:
    return TextGenEnv(**{"task": Toy(), "reward": text_length, **kwargs})


def toy_envs(num_envs: int = 3, **kwargs: Any) -> TextGenVectorEnv:
    return TextGenVectorEnv(num_envs, **{"task": Toy(), "reward": text_length, **kwargs})


class Bilingual(Letters):
    """Writes "é" as a whole, which its pieces split in two."""

    def encode_response(self, text: str) -> list[int]:
        return [token for letter in text for token in (E_ACUTE if letter == "é" else ids(letter))]


class TestTokens:
    def test_a_place_means_the_same_whatever_the_length_of_the_prompt(self) -> None:
        env = FlatIdsObservation(toy_env())
        short, _ = env.reset(options={"example": 1})  # "d"
        assert short.tolist() == [-1, -1, BOS, D, -1, -1, -1, -1]
        assert env.step(A)[0].tolist() == [-1, -1, BOS, D, A, -1, -1, -1]
        long, _ = env.reset(options={"example": 0})  # "abc"
        assert long.tolist() == [BOS, A, B, C, -1, -1, -1, -1]
        for token in (A, SPECIAL, B):
            seen = env.step(token)[0]
        assert seen.tolist() == [BOS, A, B, C, A, SPECIAL, B, -1]
        assert env.step(EOS)[0].tolist() == [BOS, A, B, C, A, SPECIAL, B, EOS]
        assert seen.dtype == np.float32

    def test_the_latest_tokens(self) -> None:
        env = FlatIdsObservation(toy_env(), last=3)
        assert env.reset(options={"example": 1})[0].tolist() == [-1, BOS, D]
        assert env.step(A)[0].tolist() == [BOS, D, A]
        assert env.step(B)[0].tolist() == [D, A, B]

    def test_padding_is_no_token_even_where_pad_is_eos(self) -> None:
        env = FlatIdsObservation(toy_env(tokenizer=Letters(pad_is_eos=True)))
        assert env.reset(options={"example": 1})[0].tolist()[4:] == [-1] * 4
        assert env.step(EOS)[0].tolist()[4:] == [EOS, -1, -1, -1]

    def test_replies_stand_where_they_were_said(self) -> None:
        env = FlatIdsObservation(toy_env(task=Talk(), max_new_tokens=4))
        env.reset(options={"example": 1})
        env.step(A)
        assert env.step(EOS)[0].tolist()[:9] == [-1, -1, BOS, D, A, EOS, D, FIRST["x"], FIRST["y"]]

    def test_multi_discrete(self) -> None:
        env = MultiDiscreteObservation(toy_env(), last=3)
        assert env.observation_space == gym.spaces.MultiDiscrete([NONE + 1] * 3)
        assert env.reset(options={"example": 1})[0].tolist() == [NONE, BOS, D]

    def test_one_hot(self) -> None:
        env = OneHotObservation(toy_env(), last=3)
        seen = env.reset(options={"example": 1})[0].reshape(3, NONE)
        assert seen.sum(axis=1).tolist() == [0, 1, 1]
        assert seen[1:].argmax(axis=1).tolist() == [BOS, D]

    def test_one_hot_has_a_largest_size(self) -> None:
        OneHotObservation(gym.make("TextGen-v0"), last=MAX_ONE_HOT // 1024)
        with pytest.raises(
            ValueError, match=r"at most 65536 numbers .* got 66560: 65 tokens times .* of 1024\. Take a"
        ):
            OneHotObservation(gym.make("TextGen-v0"), last=65)
        with pytest.raises(ValueError, match="at most 65536 numbers"):
            VectorOneHotObservation(gym.make_vec("TextGen-v0", num_envs=2), last=65)

    @every_view
    @pytest.mark.parametrize("last", [None, 5])
    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_the_vector_version_is_the_single_one_in_each_lane(
        self, view: Any, vector_view: Any, last: int | None, mode: AutoresetMode
    ) -> None:
        ours = vector_view(toy_envs(autoreset_mode=mode, task=Talk(), copy=False), last=last)
        sync = SyncVectorEnv([lambda: view(toy_env(task=Talk()), last=last)] * 3, autoreset_mode=mode)
        assert ours.observation_space == sync.observation_space
        assert ours.single_observation_space == sync.single_observation_space
        rng = np.random.default_rng(0)
        one, other = ours.reset(seed=3)[0], sync.reset(seed=3)[0]
        finals = 0
        for _ in range(60):
            assert one in ours.observation_space
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
            actions = np.where(rng.random(3) < 0.3, EOS, rng.integers(NONE, size=3))
            one, _, over, _, infos = ours.step(actions)
            other, _, _, _, expected = sync.step(actions)
            assert ("final_obs" in infos) == ("final_obs" in expected)
            for lane in np.flatnonzero(over) if "final_obs" in infos else ():
                finals += 1
                assert infos["final_obs"][lane] in ours.single_observation_space
                assert np.array_equal(infos["final_obs"][lane], expected["final_obs"][lane])
            if mode == AutoresetMode.DISABLED and over.any():
                one = ours.reset(options={"reset_mask": over.copy()})[0]
                other = sync.reset(options={"reset_mask": over.copy()})[0]
        assert (finals > 5) == (mode == AutoresetMode.SAME_STEP)

    @every_view
    def test_what_it_shows_stays(self, view: Any, vector_view: Any) -> None:
        envs = vector_view(toy_envs(copy=False))
        first, _ = envs.reset(seed=0)
        kept = first.copy()
        envs.step(np.array([A, B, C]))
        assert np.array_equal(first, kept)

    @pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")  # it is, and is checked as it is
    @every_view
    def test_contract(self, view: Any, vector_view: Any) -> None:
        check_env(view(toy_env(), last=4), skip_render_check=True)
        env = view(gym.make("TextGen-v0", max_new_tokens=4), last=6)
        again = gym.make(EnvSpec.from_json(env.spec.to_json()))
        assert np.array_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])
        copied = pickle.loads(pickle.dumps(env))
        assert np.array_equal(env.step(7)[0], copied.step(7)[0])

    @every_view
    def test_refuses(self, view: Any, vector_view: Any) -> None:
        with pytest.raises(TypeError, match=r"an environment of textenvs, got .*CartPole"):
            view(gym.make("CartPole-v1"))
        with pytest.raises(TypeError, match="wrap each of its environments"):
            vector_view(SyncVectorEnv([toy_env]))
        with pytest.raises(TypeError, match="whose observations are tokens, got observations in Box"):
            view(FlatIdsObservation(toy_env()))
        with pytest.raises(ValueError, match="last to be at least 1, got 0"):
            view(toy_env(), last=0)
        with pytest.raises(TypeError, match="last to be a whole number"):
            vector_view(toy_envs(), last=2.5)

    @given(
        prompt=st.text("abc", max_size=3),
        tokens=st.lists(st.integers(0, NONE - 1).filter(lambda token: token != EOS), max_size=3),
    )
    def test_nothing_is_lost(self, prompt: str, tokens: list[int]) -> None:
        env = FlatIdsObservation(toy_env())
        seen, _ = env.reset(options={"example": Example(prompt)})
        for token in tokens:
            seen = env.step(token)[0]
        assert seen[:4][seen[:4] >= 0].tolist() == [BOS, *ids(prompt)]
        assert seen[4:][seen[4:] >= 0].tolist() == tokens

    def test_the_budget_comes_back_with_the_time(self) -> None:
        env = TimeAwareObservation(TimeLimit(FlatIdsObservation(toy_env(), last=2), 4))
        env.reset(seed=0)
        assert env.step(A)[0].shape == (3,)


class TestText:
    def test_prompt_and_response(self) -> None:
        env = TextObservation(toy_env())
        assert env.reset(options={"example": 0})[0] == "abc"
        assert env.step(FIRST["good"])[0] == "abcgood"
        assert env.step(SPECIAL)[0] == "abcgood"
        assert env.step(E_ACUTE[0])[0] == "abcgood"  # half a character
        page, *_ = env.step(E_ACUTE[1])
        assert page == "abcgoodé"
        assert page in env.observation_space

    def test_the_space_that_a_tokenizer_puts_first_is_not_shown(self) -> None:
        class Spaced(Letters):
            def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
                return super().encode_batch([f" {text}" for text in texts])

        env = TextObservation(toy_env(tokenizer=Spaced()))
        assert env.reset(options={"example": 0})[0] == "abc"
        assert env.step(FIRST[" "])[0] == "abc "
        envs = VectorTextObservation(toy_envs(2, tokenizer=Spaced()))
        assert envs.reset(options={"example": 0})[0] == ("abc", "abc")

    def test_replies(self) -> None:
        env = TextObservation(toy_env(task=Talk()))
        env.reset(options={"example": 1})
        env.step(A)
        assert env.step(EOS)[0] == "dadxy"

    def test_the_space_is_any_text_that_is_not_too_long(self) -> None:
        space = AnyText(3, "ab")
        assert all(text in space for text in ("", "abc", "漢字é"))
        assert all(other not in space for other in ("abcd", 3, None))
        assert all(space.sample() in space for _ in range(20))
        env = TextObservation(gym.make("TextGen-v0"))
        tokenizer = make_tokenizer("stories")
        longest = max(range(1024), key=lambda token: len(tokenizer.pieces[token]))
        env.reset(seed=0)
        for _ in range(32):
            page = env.step(longest)[0]
        assert page in env.observation_space

    @pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
    def test_contract(self) -> None:
        check_env(TextObservation(toy_env()), skip_render_check=True)
        env = TextObservation(gym.make("TextGen-v0"))
        again = gym.make(EnvSpec.from_json(env.spec.to_json()))
        assert env.reset(seed=1)[0] == again.reset(seed=1)[0]
        assert pickle.loads(pickle.dumps(env)).step(7)[0] == env.step(7)[0]

    def test_in_gymnasiums_vector_environments(self) -> None:
        envs = SyncVectorEnv([lambda: TextAction(TextObservation(toy_env()))] * 2, autoreset_mode="SameStep")
        pages, _ = envs.reset(seed=0, options={"example": 0})
        assert pages == ("abc", "abc")
        _, rewards, terminated, _, infos = envs.step(("ab", "a"))
        assert rewards.tolist() == [2, 1]
        assert terminated.all()
        assert infos["final_obs"].tolist() == ["abcab", "abca"]


TEXTS = ["", "a", "abba", "good good", "stop", "b. c", "abcdefghij"]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"payout": "sparse", "reward": {"length": 0.5, "sentiment": 1.0}},
        {"stop": "b", "min_new_tokens": 3, "max_new_tokens": 8},
        {"task": Talk(), "payout": {"delayed": 2}},
    ],
    ids="+".join,
)
class TestVectorsOfTexts:
    """Both text wrappers over all lanes at once give what Gymnasium makes of one of each a lane."""

    def test_text_actions(self, settings: dict[str, Any], mode: AutoresetMode) -> None:
        kwargs = {"max_new_tokens": 6, **settings}
        ours = VectorTextObservation(VectorTextAction(toy_envs(autoreset_mode=mode, copy=False, **kwargs)))
        sync = SyncVectorEnv([lambda: TextAction(TextObservation(toy_env(**kwargs)))] * 3, autoreset_mode=mode)
        for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
            assert getattr(ours, name) == getattr(sync, name)
        assert_same(ours.reset(seed=3), sync.reset(seed=3))
        rng, lengths = np.random.default_rng(0), set()
        for step in range(40):
            texts = tuple(TEXTS[place] for place in rng.integers(len(TEXTS), size=3))
            one, other = ours.step(texts), sync.step(texts)
            assert_same(one, other, f"step {step}")
            assert one[0] in ours.observation_space
            lengths |= set(one[4]["response_length"].tolist())
            if mode == AutoresetMode.DISABLED and one[2].any():
                options = {"reset_mask": one[2].copy()}
                assert_same(ours.reset(options=dict(options)), sync.reset(options=dict(options)), f"reset at {step}")
        if mode != AutoresetMode.SAME_STEP:
            assert len(lengths) > 3  # lanes waited for each other

    def test_text_observations(self, settings: dict[str, Any], mode: AutoresetMode) -> None:
        kwargs = {"max_new_tokens": 6, **settings}
        ours = VectorTextObservation(toy_envs(autoreset_mode=mode, copy=False, **kwargs))
        sync = SyncVectorEnv([lambda: TextObservation(toy_env(**kwargs))] * 3, autoreset_mode=mode)
        assert_same(ours.reset(seed=3), sync.reset(seed=3))
        rng = np.random.default_rng(0)
        for step in range(60):
            actions = np.where(rng.random(3) < 0.2, EOS, rng.integers(NONE, size=3))
            one, other = ours.step(actions), sync.step(actions)
            assert_same(one, other, f"step {step}")
            if mode == AutoresetMode.DISABLED and one[2].any():
                options = {"reset_mask": one[2].copy()}
                assert_same(ours.reset(options=dict(options)), sync.reset(options=dict(options)), f"reset at {step}")


class TestTextAction:
    def test_one_step_is_a_whole_response(self) -> None:
        plain, env = toy_env(max_new_tokens=8), TextAction(toy_env(max_new_tokens=8))
        plain.reset(options={"example": 0})
        env.reset(options={"example": 0})
        observation, reward, terminated, truncated, info = env.step("abba")
        for token in [*ids("abba"), EOS]:
            expected = plain.step(token)
        assert all(np.array_equal(observation[key], array) for key, array in expected[0].items())
        assert (reward, terminated, truncated, info) == (4.0, True, False, expected[4])
        assert type(reward) is float

    @pytest.mark.parametrize("payout", ["immediate", "sparse", {"every": 3}, {"delayed": 2}, "word"])
    def test_its_reward_is_the_score_under_every_payout(self, payout: Any) -> None:
        env = TextAction(toy_env(payout=payout, max_new_tokens=8))
        env.reset(seed=0)
        _, reward, _, _, info = env.step("a bc")
        assert reward == info["score"] == 4.0

    def test_a_score_that_an_empty_response_has(self) -> None:
        env = TextAction(toy_env(reward=constant))
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step("")
        assert (reward, terminated, info["response_length"]) == (1.0, True, 1)

    def test_what_the_budget_does_not_hold_is_not_written(self) -> None:
        env = TextAction(toy_env())
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step("aaaaaaaa")
        assert (reward, terminated, info["response_length"]) == (4.0, True, 4)

    def test_a_stop_sequence_ends_it(self) -> None:
        env = TextAction(toy_env(stop="b", max_new_tokens=8))
        env.reset(seed=0)
        assert env.step("abcc")[1] == 2.0
        assert env.unwrapped.response == "ab"

    def test_a_special_token_in_the_text_does_not_end_it(self) -> None:
        env = TextAction(TextGenEnv("stories", reward="length"))
        env.reset(seed=0)
        env.step(" one <eos> two")
        assert env.unwrapped.response == " one <eos> two"

    def test_a_least_length_is_filled_with_eos(self) -> None:
        env = TextAction(toy_env(min_new_tokens=3, max_new_tokens=8))
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step("a")
        assert (reward, terminated, info["response_length"]) == (1.0, True, 4)

    def test_a_turn_is_a_step(self) -> None:
        env = TextAction(TextObservation(toy_env(task=Talk())))
        env.reset(options={"example": 1})
        page, reward, terminated, _, _ = env.step("ab")
        assert (page, reward, terminated) == ("dabdxy", 3.0, False)  # the end of a turn is a newline in the score
        assert env.step("b")[2] is False
        page, reward, terminated, _, info = env.step("c")
        assert (terminated, info["score"]) == (True, 7.0)
        with pytest.raises(ResetNeeded):
            env.step("d")

    def test_one_text_a_lane(self) -> None:
        envs = VectorTextAction(toy_envs(2))
        with pytest.raises(ResetNeeded, match="in some lanes"):
            envs.step(("a", "b"))
        envs.reset(seed=0)
        for texts in (("a",), "ab", ("a", "b", "c")):
            with pytest.raises(ValueError, match="Expected 2 texts, one a lane"):
                envs.step(texts)
        with pytest.raises(TypeError, match="an action to be a text, got 5 of type int"):
            envs.step(("a", 5))
        _, rewards, terminated, _, infos = envs.step(("ab", ""))  # what went wrong before wrote nothing
        assert rewards.tolist() == [2.0, 0.0]
        assert terminated.tolist() == [True, True]
        assert infos["response_length"].tolist() == [3, 1]

    def test_the_vector_version_refuses(self) -> None:
        with pytest.raises(TypeError, match=r"a TextGenVectorEnv itself, got .*CartPole"):
            VectorTextAction(gym.make_vec("CartPole-v1", num_envs=2))
        with pytest.raises(TypeError, match="wrap each of its environments in TextAction"):
            VectorTextAction(SyncVectorEnv([toy_env]))
        with pytest.raises(TypeError, match="Put other wrappers around this one"):
            VectorTextAction(VectorTextObservation(toy_envs()))
        with pytest.raises(TypeError, match="whose observations are tokens"):
            VectorTextObservation(VectorTextObservation(toy_envs()))

    def test_a_pickle_of_the_vector_version_goes_on(self) -> None:
        envs = VectorTextObservation(VectorTextAction(toy_envs(2, task=Talk(), autoreset_mode="SameStep")))
        envs.reset(seed=0)
        envs.step(("a", "b"))
        again = pickle.loads(pickle.dumps(envs))
        for texts in (("ab", "stop"), ("", "good"), ("b", "a")):
            assert_same(envs.step(texts), again.step(texts))

    def test_characters_of_several_tokens(self) -> None:
        env = TextAction(toy_env(task=Toy(default_tokenizer=Bilingual())))
        env.reset(seed=0)
        assert env.step("é")[1] == 1.0
        assert env.unwrapped.response == "é"

    def test_refuses(self) -> None:
        env = TextAction(toy_env())
        with pytest.raises(ResetNeeded, match="No episode has begun"):
            env.step("a")
        env.reset(seed=0)
        with pytest.raises(TypeError, match="an action to be a text, got 5 of type int"):
            env.step(5)
        with pytest.raises(TypeError, match=r"textenvs, got .*CartPole"):
            TextAction(gym.make("CartPole-v1"))
        with pytest.raises(TypeError, match="whose actions are tokens"):
            TextAction(env)
        mute = Letters()
        mute.encode_response = None
        with pytest.raises(ValueError, match="encode_response"):
            TextAction(toy_env(tokenizer=mute))

    def test_contract(self) -> None:
        env = TextAction(gym.make("TextGen-v0"))
        env.reset(seed=0)
        assert env.action_space.sample() in env.action_space
        assert env.step(" The end.")[2]
        again = gym.make(EnvSpec.from_json(env.spec.to_json()))
        assert type(again) is TextAction

    def test_a_demonstration_scores_what_the_task_says(self) -> None:
        env = TextAction(TextObservation(gym.make("TextGen-v0", payout="sparse")))
        for index in range(5):
            page, _ = env.reset(options={"example": index})
            base = env.unwrapped
            response = base.task.demonstration(base.example)
            after, reward, *_ = env.step(response)
            assert after == page + response
            assert reward == pytest.approx(base.setting.reward.score(base.example, response))


def numbered(example: Example, response: str) -> float:
    split, index = example.references[0].split(" ")
    return len(response) + 10.0 * int(index) + 100.0 * (split == "test")


class TestScoreFunction:
    def test_as_trl_calls_it(self) -> None:
        score = score_function(toy_env(reward=numbered))
        assert score.__name__ == "numbered"
        prompts = ("abc", "d", "")
        assert score.rows() == [{"prompt": text, "split": "train", "example": i} for i, text in enumerate(prompts)]
        rows = score.rows()
        prompts, examples = [row["prompt"] for row in rows], [row["example"] for row in rows]
        completions = ["xx", "", "xyz"]
        more = {"completion_ids": [[1], [2], [3]], "trainer_state": None}
        assert score(prompts=prompts, completions=completions, example=examples, **more) == [2.0, 10.0, 23.0]
        assert score(prompts, completions) == [2.0, 10.0, 23.0]
        assert all(type(value) is float for value in score(prompts, completions))

    def test_conversations(self) -> None:
        score = score_function(toy_env(reward=numbered))
        prompts = [[{"role": "system", "content": "Be brief"}, {"role": "user", "content": "d"}]]
        assert score(prompts, [[{"role": "assistant", "content": "abc"}]]) == [13.0]
        with pytest.raises(TypeError, match="a text or a list of messages"):
            score([3], ["a"])

    def test_from_an_id_an_environment_or_a_setting(self) -> None:
        by_id = score_function("TextGen-v0", reward="length", split="test")
        env = gym.make("TextGen-v0", reward="length", split="test")
        rows = by_id.rows()[:3]
        assert rows == score_function(env.unwrapped.setting).rows()[:3] == score_function(env).rows()[:3]
        assert by_id([row["prompt"] for row in rows], [" one two three"] * 3) == pytest.approx([0.15] * 3)
        with pytest.raises(TypeError, match=r"settings with an id alone, got \['reward'\]"):
            score_function(env, reward="length")
        with pytest.raises(TypeError, match="environment of textenvs"):
            score_function("CartPole-v1")

    def test_a_task_of_several_turns_has_no_whole_text(self) -> None:
        with pytest.raises(ValueError, match="task of one turn, got 'dialogue', which has up to 6"):
            score_function("TextGen/Dialogue-v0")

    def test_other_splits(self) -> None:
        score = score_function(toy_env(reward=numbered))
        assert score.rows("test") == [
            {"prompt": text, "split": "test", "example": i} for i, text in enumerate(("x", "yz"))
        ]
        columns = {"example": [1, 1], "split": ["test", "train"]}
        assert score(["yz", "d"], ["a", "bc"], **columns) == [111.0, 12.0]
        assert score(["yz"], ["a"]) == [111.0]
        with pytest.raises(ValueError, match=r"a split that has examples, \['test', 'train'\], got 'validation'"):
            score.rows("validation")

    def test_prompts_are_cut_as_the_environment_cuts_them(self) -> None:
        env = toy_env(task=Toy(train=("abcde", "ab")), max_prompt_length=3, truncation_side="right", reward=numbered)
        score = score_function(env)
        assert [row["prompt"] for row in score.rows()] == ["ab", "ab"]  # BOS is one of the three
        env = toy_env(task=Toy(train=("abcde", "ab")), max_prompt_length=3, reward=numbered)
        score = score_function(env)
        assert [row["prompt"] for row in score.rows()] == ["cde", "ab"]
        assert score(["ab", "cde"], ["", "x"]) == [10.0, 1.0]

    def test_refuses_to_guess(self) -> None:
        score = score_function(toy_env(task=Toy(train=("a", "b", "a")), reward=numbered))
        with pytest.raises(ValueError, match="of one example of task 'toy', got 'c', which none has"):
            score(["c"], ["x"])
        with pytest.raises(ValueError, match="of one example of task 'toy', got 'a', which several have"):
            score(["a"], ["x"])
        assert score(["a"], ["x"], example=[2]) == [21.0]
        with pytest.raises(ValueError, match="Expected completions for 2 prompts, got 1"):
            score(["a", "b"], ["x"])
        with pytest.raises(ValueError, match="Expected example for 1 prompts, got 2"):
            score(["b"], ["x"], example=[1, 2])

    def test_a_reward_that_fails_never_counts_as_zero(self) -> None:
        score = score_function(toy_env(reward=lambda example, response: float("nan")))
        with pytest.raises(RewardError):
            score(["d"], ["x"])
