"""`TextGenEnv`: what Gymnasium and the libraries built on it expect, and what bad input gets to hear."""

import inspect
import json
import pickle
import re
import subprocess
import sys
from dataclasses import fields
from enum import IntEnum
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import textenvs
from tests.textenvs.helpers import BOS, EOS, FIRST, PAD, SPECIAL, Letters, Talk, Toy, constant, ids, text_length
from textenvs import Example, RewardError, TextGenEnv, TextGenVectorEnv, encoder_decoder
from textenvs.render import lane_segments
from textenvs.setting import EnvArguments

A = FIRST["a"]


def toy_env(**kwargs: Any) -> TextGenEnv:
    return TextGenEnv(**{"task": Toy(), "reward": text_length, **kwargs})


def play(env: gym.Env, seed: int, episodes: int = 3) -> list[Any]:
    """Everything that an environment says in some episodes under the same actions."""
    rng = np.random.default_rng(seed)
    said = [env.reset(seed=seed)]
    for _ in range(episodes):
        over = False
        while not over:
            step = env.step(rng.integers(env.action_space.n))
            said.append(step)
            over = step[2]
        said.append(env.reset())
    return said


def same(one: Any, other: Any) -> bool:
    """Equal in value, type and dtype, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class TestOtherLibraries:
    @pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
    def test_gymnasium_check_env(self, render_mode: str | None) -> None:
        check_env(gym.make("TextGen-v0", render_mode=render_mode).unwrapped)  # warnings are errors here

    def test_stable_baselines3_check_env(self) -> None:
        checker = pytest.importorskip("stable_baselines3.common.env_checker")
        checker.check_env(gym.make("TextGen-v0"))
        checker.check_env(gym.make("TextGen-v0").unwrapped)

    def test_stable_baselines3_ppo_trains_without_an_adapter(self) -> None:
        sb3 = pytest.importorskip("stable_baselines3")
        env = gym.make("TextGen-v0", max_new_tokens=4)
        model = sb3.PPO("MultiInputPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
        before = [parameter.clone() for parameter in model.policy.parameters()]
        model.learn(16)
        assert any((old != new).any() for old, new in zip(before, model.policy.parameters(), strict=True))
        action, _ = model.predict(env.reset(seed=0)[0])
        env.step(action)

    def test_sb3_contrib_maskable_ppo_keeps_to_the_mask(self) -> None:
        contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
        env = gym.make("TextGen-v0", action_mask=[" a b", " b"], max_new_tokens=6)
        model = contrib.MaskablePPO(
            "MultiInputPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu", seed=0
        )
        model.learn(64)
        observation, info = env.reset(seed=0)
        terminated = False
        while not terminated:
            action, _ = model.predict(observation, action_masks=env.unwrapped.action_masks())
            assert info["action_mask"][action] == 1
            observation, _, terminated, _, info = env.step(action)
        assert env.unwrapped.response in (" a b", " b")

    @pytest.mark.parametrize("family", ["Llama", "GPT2"])
    def test_the_observation_goes_into_a_transformers_model(self, family: str) -> None:
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        envs = gym.make_vec("TextGen-v0", num_envs=2, max_new_tokens=4)
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 1024}
        if family == "Llama":
            sizes["intermediate_size"] = 8
        config = getattr(transformers, f"{family}Config")(bos_token_id=1, eos_token_id=2, **sizes)
        assert envs.single_action_space.n <= sizes["vocab_size"]
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config)
        model.eval()
        envs.reset(seed=0)
        observation = envs.step(np.array([5, 6]))[0]
        with torch.no_grad():
            logits = model(**{key: torch.from_numpy(array) for key, array in observation.items()}).logits
            # Padding changes nothing: the row alone, cut to its length, has the same logits.
            length = int(observation["attention_mask"][1].sum())
            alone = model(input_ids=torch.from_numpy(observation["input_ids"][1:, :length])).logits
        assert torch.allclose(logits[1, :length], alone[0], atol=1e-5)

    def test_import_loads_no_torch_transformers_or_agents(self) -> None:
        code = (
            "import sys, gymnasium, textenvs; env = gymnasium.make('TextGen-v0'); env.reset(seed=0); env.step(5); "
            "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'transformers', 'agents'}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_gymnasium_finds_the_module_by_itself(self) -> None:
        code = "import gymnasium; print(gymnasium.make('textenvs:TextGen-v0').unwrapped)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "TextGenEnv" in done.stdout


class Token(IntEnum):
    FIVE = 5


class TestEpisode:
    def test_an_episode_by_hand(self) -> None:
        env = toy_env()
        observation, info = env.reset(seed=0, options={"example": 1})
        assert info == {"score": 0.0, "response_length": 0, "example": 1}
        observation, reward, terminated, truncated, info = env.step(FIRST["good"])
        assert (reward, terminated, truncated) == (4.0, False, False)
        assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]
        assert info == {"score": 4.0, "response_length": 1, "example": 1}
        assert [type(value) for value in info.values()] == [float, int, int]
        assert observation["response_mask"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
        assert env.step(EOS)[1:4] == (0.0, True, False)
        assert (env.response, env.example.prompt) == ("good", "d")

    def test_ends_by_budget(self) -> None:
        env = toy_env(max_new_tokens=2)
        env.reset(seed=0)
        assert env.step(A)[2:4] == (False, False)
        assert env.step(SPECIAL)[2:4] == (True, False)

    def test_success(self) -> None:
        task = Toy(success_score=2.0)
        task.default_reward = text_length
        for action, success in ((A, False), (FIRST["good"], True)):
            env = TextGenEnv(task)
            env.reset(seed=0)
            assert env.step(action)[-1]["is_success"] is False  # the episode still runs
            assert env.step(EOS)[-1]["is_success"] is success

    def test_the_success_of_another_reward_is_unknown_unless_said(self) -> None:
        task = Toy(success_score=0.5)
        for env in (TextGenEnv(task, constant), TextGenVectorEnv(1, task, constant)):
            for info in (env.reset(seed=0)[1], env.step(np.array([EOS]))[-1]):
                assert not [key for key in info if "success" in key]
        for made in (TextGenEnv, partial(TextGenVectorEnv, 1)):
            for success_at, success in ((1.0, True), (1.5, False)):
                env = made(task=task, reward=constant, success_at=success_at)
                assert not env.reset(seed=0)[1]["is_success"]
                assert env.step(np.array([EOS]))[-1]["is_success"] == success
        assert toy_env(task=task, success_at=2).setting.success_score == 2.0, "it overrides the task's own"
        for reward in (None, task.default_reward):
            assert toy_env(task=task, reward=reward).setting.success_score == 0.5
        for wrong, error in (("1", TypeError), (True, TypeError), (float("nan"), ValueError)):
            with pytest.raises(error, match="Expected success_at to be"):
                toy_env(task=task, success_at=wrong)

    def test_observations_are_the_callers(self) -> None:
        env = toy_env()
        observation, _ = env.reset(seed=0)
        kept = observation["input_ids"].copy()
        env.step(A)
        assert (observation["input_ids"] == kept).all()
        observation["input_ids"][:] = 0
        assert env.step(A)[0]["input_ids"].any()

    @pytest.mark.parametrize("action", [5, np.int64(5), np.int8(5), np.array(5), np.array([5]), Token.FIVE])
    def test_actions_of_every_whole_kind(self, action: Any) -> None:
        env = toy_env()
        env.reset(seed=0, options={"example": 2})
        observation, reward, *_ = env.step(action)
        assert observation["input_ids"][1] == 5
        assert reward == 1.0


class TestGivenExamples:
    def test_one_that_is_in_no_split(self) -> None:
        def mine(example: Example, response: str) -> float:
            return float(response == example.references[0])

        env = toy_env(reward=mine, payout="sparse")
        given = Example("ba", ("a",))
        observation, info = env.reset(seed=0, options={"example": given})
        assert observation["input_ids"].tolist() == [BOS, *ids("ba"), PAD, PAD, PAD, PAD, PAD]
        assert observation["attention_mask"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
        assert info["example"] == -1
        assert env.example == given
        env.step(A)
        assert env.step(EOS)[1] == 1.0
        assert env.reset()[1]["example"] >= 0
        assert env.example != given

    def test_what_is_changed_in_one_reaches_no_other_environment(self) -> None:
        one, other = (TextGenEnv("write") for _ in range(2))  # tasks by name share their examples
        for env in (one, other):
            env.reset(options={"example": 0})
        words = list(one.example.metadata["words"])
        one.example.metadata["words"].append("cheese")
        one.example.metadata["rhyme"] = "none"  # type: ignore[index]
        for env in (one, other):
            assert env.example.metadata["words"] == words
            assert env.example.metadata["rhyme"] != "none"

    def test_it_takes_a_turn_of_the_stream_as_a_drawn_one_does(self) -> None:
        one, other = toy_env(), toy_env()
        one.reset(seed=0, options={"example": Example("a")})
        other.reset(seed=0)
        assert same(one.reset(), other.reset())

    def test_its_prompt_is_cut_as_all_are(self) -> None:
        env = toy_env(max_prompt_length=3)
        observation, _ = env.reset(options={"example": Example("abcdef")})
        assert observation["input_ids"][:4].tolist() == [*ids("def"), PAD]

    def test_one_that_is_too_long(self) -> None:
        with pytest.raises(ValueError, match=r"at most 4 tokens, for which .* room, got one of 7"):
            toy_env().reset(options={"example": Example("abcdef")})


class TestActionMasks:
    def test_the_info_and_the_method_say_the_same(self) -> None:
        env = toy_env(action_mask=["ab", "b"])
        with pytest.raises(ResetNeeded):
            env.action_masks()
        _, info = env.reset(seed=0)
        legal = [A, FIRST["b"], FIRST["ab"]]
        for action, after in ((A, [FIRST["b"]]), (FIRST["b"], [EOS]), (EOS, [EOS])):
            mask = info["action_mask"]
            assert (mask.dtype, mask.shape) == (np.int8, (Letters().vocab_size,))
            assert np.flatnonzero(mask).tolist() == legal
            assert env.action_masks().dtype == bool
            assert (env.action_masks() == mask).all()
            assert env.action_space.sample(mask) in legal
            info, legal = env.step(action)[-1], after
        assert np.flatnonzero(info["action_mask"]).tolist() == [EOS]

    def test_without_one_everything_is_allowed(self) -> None:
        env = toy_env()
        _, info = env.reset(seed=0)
        assert "action_mask" not in info
        assert env.action_masks().tolist() == [True] * Letters().vocab_size

    def test_what_is_sampled_under_a_mask_is_allowed(self) -> None:
        pattern = r" [A-Z][a-z]{2,6}( (is|was) (not )?[a-z]+)?\."
        env = gym.make("TextGen-v0", action_mask={"regex": pattern}, max_new_tokens=64)
        env.action_space.seed(0)
        for seed in range(8):
            _, info = env.reset(seed=seed)
            terminated = False
            while not terminated:
                action = env.action_space.sample(info["action_mask"])
                _, _, terminated, _, info = env.step(action)
            if action == env.unwrapped.tokenizer.eos_token_id:
                assert re.fullmatch(pattern, env.unwrapped.response)

    def test_the_spec_goes_through_json(self) -> None:
        env = gym.make("TextGen-v0", action_mask={"regex": "a+"}, stop=["."], min_new_tokens=2, max_new_tokens=4)
        again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        assert same(play(env, 0), play(again, 0))
        assert same(play(env, 0), play(pickle.loads(pickle.dumps(again)), 0))


class TestTurns:
    def test_a_talk(self) -> None:
        env = toy_env(task=Talk(), max_new_tokens=6, render_mode="ansi")
        check_env(env, skip_render_check=True)
        env.reset(seed=0, options={"example": 1})
        env.step(FIRST["good"])
        observation, reward, terminated, _, info = env.step(EOS)
        assert observation in env.observation_space
        assert (reward, terminated, info["score"], info["response_length"]) == (1.0, False, 5.0, 2)
        assert env.response == "good\n"
        plain = re.sub(r"\x1b\[[0-9;]*m", "", env.render())
        assert plain == "dgooddxy"

    def test_each_piece_has_its_author_and_its_reward(self) -> None:
        env = toy_env(task=Talk(), max_new_tokens=6, render_mode="ansi")
        env.reset(seed=0, options={"example": 1})
        for action in (A, EOS, FIRST["good"]):
            env.step(action)
        shown = [(one.text, one.kind, one.reward) for one in lane_segments(env.lanes, 0)]
        assert shown == [
            ("d", "prompt", None),
            ("a", "response", 1.0),
            ("", "response", 1.0),  # EOS
            *((letter, "environment", None) for letter in "dxy"),
            ("good", "response", 4.0),
        ]

    def test_human_shows_replies_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        env = toy_env(task=Talk(), max_new_tokens=6, render_mode="human")
        env.reset(seed=0, options={"example": 1})
        for action in (A, EOS, FIRST["good"]):
            env.step(action)
        assert re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out) == "dadxygood"

    def test_a_tokenizer_that_cannot_write_replies(self) -> None:
        class Mute(Letters):
            encode_response = property()  # type: ignore[assignment]

        with pytest.raises(ValueError, match=r"encode_response\(text\).*replies of task 'talk'"):
            toy_env(task=Talk(), tokenizer=Mute())


class TestEncoderDecoder:
    def test_by_hand(self) -> None:
        env = toy_env(task=Talk(), max_new_tokens=3)
        env.reset(seed=0, options={"example": 1})
        for action in (A, EOS, FIRST["b"]):
            observation = env.step(action)[0]
        seen = encoder_decoder(observation, decoder_start_token_id=SPECIAL)
        length = len(observation["input_ids"])
        rows = {
            "input_ids": [BOS, FIRST["d"], *ids("dxy")],
            "attention_mask": [1] * 5,
            "decoder_input_ids": [SPECIAL, A, EOS, FIRST["b"]],
            "decoder_attention_mask": [1] * 4,
        }
        for key, row in rows.items():
            assert seen[key].tolist() == row + [0] * (length - len(row)), key
            assert seen[key].dtype == observation["input_ids" if "ids" in key else "attention_mask"].dtype

    def test_a_batch_is_its_rows(self) -> None:
        envs = gym.make_vec("TextGen-v0", num_envs=3, max_new_tokens=4)
        envs.reset(seed=0)
        observation = envs.step(np.array([5, 6, 7]))[0]
        whole = encoder_decoder(observation, 0)
        for lane in range(3):
            row = encoder_decoder({key: array[lane] for key, array in observation.items()}, 0)
            assert same(row, {key: array[lane] for key, array in whole.items()})

    def test_it_goes_into_a_transformers_model(self) -> None:
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        env = gym.make("TextGen-v0", max_new_tokens=4)
        env.reset(seed=0)
        observation = {key: array[None] for key, array in env.step(5)[0].items()}
        sizes = {"vocab_size": 1024, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        config = transformers.T5Config(decoder_start_token_id=0, **sizes)
        torch.manual_seed(0)
        model = transformers.T5ForConditionalGeneration(config).eval()
        with torch.no_grad():
            seen = encoder_decoder(observation, decoder_start_token_id=0)
            logits = model(**{key: torch.from_numpy(array).long() for key, array in seen.items()}).logits
        assert logits.shape[:2] == observation["input_ids"].shape
        assert torch.isfinite(logits[0, :2]).all()


class TestDeterminism:
    def test_same_seed_same_everything(self) -> None:
        one, other = gym.make("TextGen-v0", max_new_tokens=6), gym.make("TextGen-v0", max_new_tokens=6)
        assert same(play(one, 3), play(other, 3))
        assert same(play(one, 3), play(other, 3))  # a seed forgets what came before
        assert not same(play(one, 3), play(one, 4))

    def test_an_unseeded_reset_goes_on_in_the_stream(self) -> None:
        env = toy_env(task=Toy(train=[f"{'abcdefgh'[i // 8]}{'abcdefgh'[i % 8]}" for i in range(64)]))
        drawn = [env.reset(seed=0)[1]["example"]] + [env.reset()[1]["example"] for _ in range(20)]
        again = [env.reset(seed=0)[1]["example"]] + [env.reset()[1]["example"] for _ in range(20)]
        assert drawn == again
        assert len(set(drawn)) > 10

    def test_never_seeded(self) -> None:
        drawn = {TextGenEnv(max_new_tokens=1).reset()[1]["example"] for _ in range(4)}
        assert len(drawn) > 1

    def test_no_global_generator_is_read_or_written(self) -> None:
        env = toy_env()
        np.random.seed(0)  # noqa: NPY002
        state = np.random.get_state()[1].tolist()  # noqa: NPY002
        first = play(env, 5)
        assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        assert same(play(env, 5), first)


def test_both_environments_have_the_same_arguments() -> None:
    single = inspect.signature(TextGenEnv).parameters
    vector = dict(inspect.signature(TextGenVectorEnv).parameters)
    for own in ("num_envs", "autoreset_mode", "group_size", "copy"):
        del vector[own]
    assert [str(parameter) for parameter in single.values()] == [str(parameter) for parameter in vector.values()]
    assert list(single) == [field.name for field in fields(EnvArguments)]
    described = re.findall(
        r"^        (\w+): ", inspect.getdoc(TextGenEnv).replace("\n    ", "\n        "), re.MULTILINE
    )
    assert [name for name in described if name in single] == list(single)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"task": "storis"}, ValueError, r"'stories'.*, got 'storis'. Did you mean 'stories'\?"),
            ({"task": 3}, TypeError, "Expected a task's name"),
            ({"reward": "sentimnt"}, ValueError, "Did you mean 'sentiment'"),
            ({"reward": {"sentiment": float("nan")}}, ValueError, "finite number, got nan"),
            ({"reward": 3}, TypeError, "Expected a reward's name"),
            ({"payout": "later"}, ValueError, "Expected payout to be 'immediate'.*got 'later'"),
            ({"payout": {"every": 0}}, ValueError, "Expected .*every.* got 0"),
            ({"payout": 7}, TypeError, "Expected payout"),
            ({"max_new_tokens": -1}, ValueError, "max_new_tokens to be at least 1, got -1"),
            ({"max_new_tokens": 0}, ValueError, "max_new_tokens to be at least 1, got 0"),
            ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens to be a whole number"),
            ({"split": "dev"}, ValueError, "split to be 'train', 'validation', 'test' or 'shifted', got 'dev'"),
            ({"tokenizer": "no/such/folder"}, ValueError, "no/such/folder"),
            ({"max_prompt_length": 0}, ValueError, "max_prompt_length to be at least 1"),
            ({"truncation_side": "top"}, ValueError, "'left', 'right' or 'middle', got 'top'"),
            ({"min_new_tokens": -1}, ValueError, "min_new_tokens to be at least 0, got -1"),
            ({"min_new_tokens": 33}, ValueError, "at most max_new_tokens=32, got 33"),
            ({"stop": []}, ValueError, "Expected stop"),
            ({"stop": ""}, ValueError, "Expected stop"),
            ({"stop": [1]}, TypeError, r"Expected stop to be a list of texts, got \(1,\)"),
            ({"action_mask": []}, ValueError, "Expected the texts that are allowed"),
            ({"action_mask": "tsak"}, TypeError, "Expected the texts that are allowed.*got 'tsak'"),
            ({"action_mask": "task"}, ValueError, "says what is allowed for action_mask='task', got 'stories'"),
            ({"action_mask": {"regex": "("}}, ValueError, r"Expected a regular expression, got '\('"),
            ({"chat_template": True}, ValueError, "Expected a tokenizer with a chat template"),
            ({"task": Talk(), "min_new_tokens": 1}, ValueError, "no min_new_tokens and no stop in task 'talk'"),
            ({"task": Talk(), "stop": "a"}, ValueError, "no min_new_tokens and no stop in task 'talk'"),
            (
                {"render_mode": "video"},
                ValueError,
                "render_mode to be 'ansi', 'human', 'rgb_array' or None, got 'video'",
            ),
        ],
    )
    def test_constructor(self, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
        for make in (TextGenEnv, textenvs.TextGenVectorEnv):
            with pytest.raises(error, match=message):
                make(**arguments)

    def test_a_split_without_examples(self) -> None:
        with pytest.raises(ValueError, match=r"'toy' that has examples, \['train', 'test'\], got 'validation'"):
            toy_env(split="validation")

    def test_step_before_reset(self) -> None:
        with pytest.raises(ResetNeeded, match=r"call env.reset\(\) first"):
            toy_env().step(A)

    def test_step_after_the_end(self) -> None:
        env = toy_env()
        env.reset(seed=0)
        env.step(EOS)
        with pytest.raises(ResetNeeded, match=r"over: call env.reset\(\)"):
            env.step(A)

    @pytest.mark.parametrize("action", [-1, 10**6, np.int64(-5), Letters().vocab_size])
    def test_action_out_of_range(self, action: Any) -> None:
        env = toy_env()
        env.reset(seed=0)
        with pytest.raises(ValueError, match=f"token ids from 0 to {Letters().vocab_size - 1}, got {action}"):
            env.step(action)
        assert env.step(A)[-1]["response_length"] == 1  # the wrong one did not count

    @pytest.mark.parametrize("action", [2.0, "a", None, np.array([1, 2]), np.array(1.5), [3]])
    def test_action_of_a_wrong_type(self, action: Any) -> None:
        env = toy_env()
        env.reset(seed=0)
        with pytest.raises(TypeError, match="one token id, a whole number"):
            env.step(action)

    @pytest.mark.parametrize("payout", ["immediate", "sparse", {"every": 2}])
    @pytest.mark.parametrize("problem", ["raise", float("nan")])
    def test_a_reward_that_fails(self, payout: Any, problem: Any) -> None:
        def broken(example: Example, response: str) -> float:
            if problem == "raise":
                raise KeyError("no such label")
            return problem  # type: ignore[no-any-return]

        env = toy_env(reward=broken, payout=payout)
        env.reset(seed=0, options={"example": 1})
        said = "raised KeyError: 'no such label'" if problem == "raise" else "gave nan"
        with pytest.raises(RewardError, match=rf"'broken' {said}(?s:.*)prompt='d'(?s:.*)response: ''"):
            env.step(EOS)

    @pytest.mark.parametrize("example", [-1, 3, 1.0, [0, 1], "0", None, True])
    def test_an_example_that_is_not_there(self, example: Any) -> None:
        with pytest.raises(ValueError, match=r"options\['example'\]"):
            toy_env().reset(seed=0, options={"example": example})

    def test_an_unknown_option(self) -> None:
        with pytest.raises(ValueError, match=r"got \['exemple'\]"):
            toy_env().reset(seed=0, options={"exemple": 0})


def test_two_tokenizers_of_one_vocabulary_do_not_share_their_prompts() -> None:
    class WithoutBos(Letters):
        def __init__(self, tokenizer: textenvs.Tokenizer) -> None:
            self.__dict__.update({name: getattr(tokenizer, name) for name in ("vocab_size", "pieces")})
            self.bos_token_id, self.eos_token_id, self.pad_token_id = 1, 2, 0
            self.encode_batch = lambda texts: [ids[1:] for ids in tokenizer.encode_batch(texts)]  # type: ignore

    plain = TextGenEnv(max_new_tokens=1)
    other = TextGenEnv(max_new_tokens=1, tokenizer=WithoutBos(plain.tokenizer))
    first, second = (env.reset(seed=0)[0]["attention_mask"].sum() for env in (plain, other))
    assert first == second + 1


def test_nobody_writes_into_the_metadata_of_the_class() -> None:
    """Gymnasium 1.2's vector environments write their autoreset mode into the metadata of the first environment."""
    TextGenEnv(Toy()).metadata["autoreset_mode"] = "NextStep"
    assert "autoreset_mode" not in TextGenEnv.metadata
    assert "autoreset_mode" not in TextGenEnv(Toy()).metadata


class TestSpecAndPickle:
    @pytest.mark.parametrize("payout", ["sparse", {"every": 8}, {"shaped": {"gamma": 0.99}}])
    def test_spec_goes_through_json(self, payout: Any) -> None:
        env = gym.make("TextGen-v0", reward={"sentiment": 0.7, "length": 0.3}, payout=payout, max_new_tokens=5)
        text = env.spec.to_json()
        assert json.loads(text)["kwargs"]["payout"] == payout
        again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
        assert same(play(env, 1), play(again, 1))

    @pytest.mark.parametrize("kwargs", [{}, {"reward": {"sentiment": 1, "length": 1}}, {"payout": {"delayed": 2}}])
    def test_a_pickle_goes_on_in_the_middle_of_an_episode(self, kwargs: dict[str, Any]) -> None:
        env = gym.make("TextGen-v0", max_new_tokens=8, **kwargs)
        env.reset(seed=0)
        env.step(40)
        again = pickle.loads(pickle.dumps(env))
        for action in (41, 42, 43, 44):
            assert same(env.step(action), again.step(action))
        assert same(env.reset(), again.reset())


class TestRender:
    def test_without_a_mode_it_warns(self) -> None:
        env = toy_env()
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="No render_mode was given"):
            assert env.render() is None

    def test_ansi(self) -> None:
        env = toy_env(render_mode="ansi")
        with pytest.raises(ResetNeeded):
            env.render()
        env.reset(seed=0, options={"example": 0})
        env.step(FIRST["good"])
        text = env.render()
        assert "abc" in text
        assert ";48;2;" in text  # "good" stands on a colour
        assert text.index("abc") < text.index("good")

    def test_rgb_array(self) -> None:
        env = toy_env(render_mode="rgb_array")
        env.reset(seed=0)
        before = env.render()
        env.step(FIRST["good"])
        after = env.render()
        assert before.shape == after.shape
        assert (after.dtype, after.ndim, after.shape[-1]) == (np.uint8, 3, 3)
        assert (before != after).any()

    def test_human_prints_by_itself(self, capsys: pytest.CaptureFixture[str]) -> None:
        env = toy_env(render_mode="human")
        env.reset(seed=0, options={"example": 0})
        env.step(SPECIAL)  # no reward yet that could scale the colours
        env.step(FIRST["good"])
        assert env.render() is None
        env.step(EOS)
        said = capsys.readouterr().out
        assert said.count("abc") == said.count("good") == 1
        assert said.endswith("\n")
