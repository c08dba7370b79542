"""check_task and check_vector_env: they pass on ours, and fail on what is broken in one way each."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import textenvs
from tests.helpers import slow_but
from tests.textenvs.helpers import Letters, Talk, Toy, text_length
from textenvs import Example, ReferenceScores, TextGenEnv, TextGenVectorEnv
from textenvs.tasks.base import check_split
from textenvs.testing import check_task, check_vector_env

PROMPTS = [f"{'abcdefgh'[i // 8]}{'abcdefgh'[i % 8] * (i % 5)}" for i in range(64)]


def count_a(example: Example, response: str) -> float:
    return float(response.count("a"))


class Good(Toy):
    """Keeps the whole contract; a subclass breaks it in one place."""

    name = "good"
    default_max_new_tokens = 4
    default_reward = staticmethod(count_a)

    def __init__(self) -> None:
        super().__init__(train=PROMPTS, test=("xx", "y"))

    def num_examples(self, split: str) -> int:
        check_split(split)
        return super().num_examples(split)

    def example(self, split: str, index: int) -> Example:
        check_split(split)
        if not 0 <= index < self.num_examples(split):
            raise IndexError(index)
        return super().example(split, index)

    def demonstration(self, example: Example) -> str:
        return "aaa"


def scores_of_good(split: str, random: float = 0.0, demonstration: float = 3.0) -> ReferenceScores:
    """What `count_a` gives random tokens: two of them have an "a", and EOS ends an episode of at most four."""
    tokens = Letters().vocab_size
    exact = 2 / tokens * sum((1 - 1 / tokens) ** before for before in range(4))
    return ReferenceScores(random=random or exact, demonstration=demonstration, top=3.0)


class Measured(Good):
    """Says what its scores are."""

    def reference_scores(self, split: str = "test") -> ReferenceScores:
        return scores_of_good(split)


def test_good_tasks_pass() -> None:
    check_task(Measured())
    check_task("stories", max_examples=16)
    check_task({"stories": {"train": 5}}, max_examples=3)
    check_task("stories", "stories", "vader", max_examples=16)
    check_task(Good())


def test_a_dataset_passes(tmp_path: Any) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(f"This is text number {number}." for number in range(60)))
    check_task({"dataset": {"data": str(file)}})
    check_task(textenvs.load_dataset(file, prompt_tokens=4))


def test_a_task_of_several_turns_passes() -> None:
    class Turns(Good):
        max_turns = 3
        max_reply_tokens = 4
        default_max_new_tokens = 6
        reply = Talk.reply

    globals()["Turns"] = Turns  # where pickle looks for it
    Turns.__qualname__ = "Turns"
    check_task(Turns())


class SharedPrompt(Good):
    def example(self, split: str, index: int) -> Example:
        found = super().example(split, index)
        return Example("a") if (split, index) == ("test", 1) else found


class CountsCalls(Good):
    calls = itertools.count()

    def example(self, split: str, index: int) -> Example:
        found = super().example(split, index)
        return Example(found.prompt, (), {"call": next(self.calls)})


class GlobalRandom(Good):
    def example(self, split: str, index: int) -> Example:
        found = super().example(split, index)
        return Example(found.prompt, (), {"number": random.Random(random.getstate()[1][5]).random()})


class GlobalNumpyRandom(Good):
    def example(self, split: str, index: int) -> Example:
        found = super().example(split, index)
        return Example(found.prompt, (), {"number": int(np.random.get_state()[1][5])})  # noqa: NPY002


class OtherInACopy(Good):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.copied = True

    def example(self, split: str, index: int) -> Example:
        found = super().example(split, index)
        return Example(found.prompt, ("copy",) if hasattr(self, "copied") else ())


class NoEnd(Good):
    def example(self, split: str, index: int) -> Example:
        check_split(split)
        return super().example(split, index % self.num_examples(split)) if self.num_examples(split) else Example("")


class AnySplit(Good):
    def num_examples(self, split: str) -> int:
        return len(self._prompts.get(split, ()))


class AnySplitOfExample(Good):
    def example(self, split: str, index: int) -> Example:
        return super().example(split if split in self._prompts else "train", index)


class Empty(Good):
    def __init__(self) -> None:
        self._prompts = {"train": (), "validation": (), "test": ()}


class HalfAnExample(Good):
    def num_examples(self, split: str) -> Any:
        return super().num_examples(split) + 0.0


class NegativeWeights(Good):
    def weights(self, split: str) -> Sequence[float]:
        return [-1.0] * self.num_examples(split)


class ListOfReferences(Good):
    def example(self, split: str, index: int) -> Example:
        return Example(super().example(split, index).prompt, ["a"])


class NotJson(Good):
    def example(self, split: str, index: int) -> Example:
        return Example(super().example(split, index).prompt, (), {"set": {1}})


class NanInMetadata(Good):
    def example(self, split: str, index: int) -> Example:
        found = super().example(split, index)
        return Example(found.prompt, found.references, {"number": NAN})


NAN = float("nan")  # one object, which equals itself in a dict


class Unwritable(Good):
    class _Lossy(Letters):
        def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
            return super().encode_batch([text.replace("h", "") for text in texts])

    default_tokenizer = _Lossy()


class UnwritableDemonstration(Good):
    class _Lossy(Letters):
        def encode_response(self, text: str) -> list[int]:
            return super().encode_response(text[1:])

    default_tokenizer = _Lossy()


class TooLong(Good):
    def demonstration(self, example: Example) -> str:
        return "aaaa"  # and EOS is the fifth token


class Moody(Good):
    def demonstration(self, example: Example) -> str:
        return random.choice(["aaa", "bbb"]) * (random.getstate()[1][5] % 2)


class WrongRandomScore(Good):
    def reference_scores(self, split: str = "test") -> ReferenceScores:
        return scores_of_good(split, random=0.3)


class ImpossibleRandomScore(Good):
    """Says that random tokens always get something, and they never do."""

    default_reward = staticmethod(lambda example, response: float("aaaa" in response))

    def reference_scores(self, split: str = "test") -> ReferenceScores:
        return ReferenceScores(random=0.1, demonstration=1.0, top=1.0, random_interval=0.01)

    def demonstration(self, example: Example) -> str:
        return "aaaa"


class WeakDemonstrations(Good):
    def reference_scores(self, split: str = "test") -> ReferenceScores:
        return scores_of_good(split, demonstration=2.0)


class WrongDemonstrationScore(Good):
    def reference_scores(self, split: str = "test") -> ReferenceScores:
        return scores_of_good(split, demonstration=2.9)


class WorseInOneSplit(Measured):
    """Its demonstrations are good where nobody trains on them, too, or are they?"""

    def demonstration(self, example: Example) -> str:
        return "a" if example.prompt == "y" else "aaa"


class Worse(Good):
    def demonstration(self, example: Example) -> str:
        return ""


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (SharedPrompt, "no prompt should be in two splits, but 'train' and 'test' have 'a'"),
        (CountsCalls, r"example\('train', 0\) should be the same at every call"),
        (GlobalRandom, r"example\('train', 0\) should be the same at every call"),
        (GlobalNumpyRandom, r"example\('train', 0\) should be the same at every call"),
        (OtherInACopy, r"example\('train', 0\) should be the same in a copy"),
        (NoEnd, r"example\('train', 64\) should raise IndexError, got Example"),
        (AnySplit, r"num_examples\('no such split',\) should raise ValueError, got 0"),
        (AnySplitOfExample, r"example\('no such split', 0\) should raise ValueError, got Example"),
        (Empty, "should have an example in some split"),
        (HalfAnExample, r"num_examples\('train'\) should be a whole number from 0, got 64\.0"),
        (NegativeWeights, r"weights\('train'\) should be 64 numbers from 0"),
        (ListOfReferences, "should have texts and a tuple of texts"),
        (NotJson, "metadata of .* should be JSON, but .*set is not JSON serializable"),
        (NanInMetadata, "metadata of .* should be JSON, but Out of range float"),
        (Unwritable, r"the prompt of example\('train', \d+\) should come back from the tokenizer, '.*h.*', got"),
        (UnwritableDemonstration, "the demonstration of .* should come back from the tokenizer, 'aaa', got 'aa'"),
        (TooLong, "the demonstration of .* and EOS should fit into 4 tokens, got 5: 'aaaa'"),
        (Moody, "demonstrations should be the same at every call"),
        (WrongRandomScore, r"random tokens should score 0\.3 on average in split 'test', as reference_scores says"),
        (ImpossibleRandomScore, r"random tokens should score 0\.1 on average in split 'test', .*got 0\.0"),
        (WeakDemonstrations, r"demonstrations should score near the top score 3\.0, at least 2\.7.*got 2\.0"),
        (WrongDemonstrationScore, r"demonstrations of split 'test' should score 2\.9 on average, .*got 3\.0"),
        (WorseInOneSplit, r"demonstrations of split 'test' should score 3\.0 on average, .*got 2\.0"),
        (Worse, "demonstrations should score better than random tokens, got 0.0 and"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_tasks_fail(task: type[Good], message: str) -> None:
    random.seed(1)  # in another state than the one that the check sets
    with pytest.raises(AssertionError, match=rf"(?s)Task 'good'.*{message}"):
        check_task(task())


def test_global_generators_are_left_as_they_were() -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    check_task(Good(), max_examples=4)
    drawn = random.random(), np.random.random()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert drawn == (random.random(), np.random.random())  # noqa: NPY002


def test_arguments_of_check_task() -> None:
    with pytest.raises(ValueError, match="max_examples to be at least 1, got 0"):
        check_task("stories", max_examples=0)
    with pytest.raises(ValueError, match="Did you mean 'stories'"):
        check_task("storeis")


KWARGS: dict[str, Any] = {"max_new_tokens": 4, "reward": text_length}


def single() -> TextGenEnv:
    return TextGenEnv(Toy(train=PROMPTS), **KWARGS)


class GoodEnvs(TextGenVectorEnv):
    """Ours; a subclass breaks it in one place."""

    def __init__(self, num_envs: int, autoreset_mode: Any, **more: Any) -> None:
        super().__init__(num_envs, Toy(train=PROMPTS), autoreset_mode=autoreset_mode, **{**KWARGS, **more})


# The contract tests hold the same for every id, in other words.
@pytest.mark.parametrize(
    "env_id", slow_but({"TextGen-v0", "TextGen/Copy-v0", "TextGen/Dialogue-v0"}, textenvs.list_envs())
)
def test_our_ids_pass(env_id: str) -> None:
    check_vector_env(env_id, steps=60)


def test_other_good_environments_pass() -> None:
    check_vector_env(GoodEnvs, single)
    check_vector_env(lambda **kwargs: GoodEnvs(copy=False, **kwargs), single, num_envs=1)
    talk: dict[str, Any] = {"task": Talk(), "action_mask": "task", **KWARGS}
    check_vector_env(lambda **kwargs: TextGenVectorEnv(**talk, **kwargs), lambda: TextGenEnv(**talk))


class OneLaneMore(GoodEnvs):
    def __init__(self, num_envs: int, autoreset_mode: Any) -> None:
        super().__init__(num_envs + 1, autoreset_mode)


class SilentMode(GoodEnvs):
    def __init__(self, num_envs: int, autoreset_mode: Any) -> None:
        super().__init__(num_envs, autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": "SameStep"}


class OtherSpace(GoodEnvs):
    def __init__(self, num_envs: int, autoreset_mode: Any) -> None:
        super().__init__(num_envs, autoreset_mode)
        self.single_action_space = gym.spaces.Discrete(3)


class UnbatchedSpace(GoodEnvs):
    def __init__(self, num_envs: int, autoreset_mode: Any) -> None:
        super().__init__(num_envs, autoreset_mode)
        self.observation_space = self.single_observation_space


class OtherSeeds(GoodEnvs):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=None if seed is None else [seed] * self.num_envs, options=options)


class IgnoresTheSeed(GoodEnvs):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=None if seed is None else int(np.random.randint(1000)), options=options)  # noqa: NPY002


class Stepped(GoodEnvs):
    """Changes what a step returns."""

    def step(self, actions: Any) -> Any:
        return self.broken(*super().step(actions))

    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        raise NotImplementedError


class Truncates(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        return observations, rewards, terminated, terminated.copy(), infos


class HalfPrecision(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        return observations, rewards.astype(np.float32), terminated, truncated, infos


class ListOfFlags(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        return observations, rewards, terminated.tolist(), truncated, infos


class OutsideTheSpace(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        observations["attention_mask"] = observations["attention_mask"] * 2
        return observations, rewards, terminated, truncated, infos


class WrongReward(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        return observations, rewards + 1e-9, terminated, truncated, infos


class ForgetsAnInfo(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        infos.pop("score")
        return observations, rewards, terminated, truncated, infos


class OtherDtypeInInfo(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        infos["example"] = infos["example"].astype(np.int32)
        return observations, rewards, terminated, truncated, infos


class FinalObsOfTheNextEpisode(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        for lane in np.flatnonzero(terminated) if "final_obs" in infos else ():
            infos["final_obs"][lane] = {key: array[lane] for key, array in observations.items()}
        return observations, rewards, terminated, truncated, infos


class NoFinalInfo(Stepped):
    def broken(self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> Any:
        infos.pop("final_info", None)
        return observations, rewards, terminated, truncated, infos


class SecretViews(GoodEnvs):
    def __init__(self, num_envs: int, autoreset_mode: Any) -> None:
        super().__init__(num_envs, autoreset_mode, copy=False)
        self.copy = True

    def _observations(self) -> Any:
        self.copy = False
        try:
            return super()._observations()
        finally:
            self.copy = True


class TakesTheMask(GoodEnvs):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        result = super().reset(seed=seed, options=options)
        if options is not None:
            options.pop("reset_mask", None)
        return result


class ReplacesTheMask(GoodEnvs):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        result = super().reset(seed=seed, options=options)
        if options is not None:
            options["reset_mask"] = options["reset_mask"].copy()
        return result


class EmptiesTheMask(GoodEnvs):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        result = super().reset(seed=seed, options=options)
        if options is not None:
            options["reset_mask"][:] = False
        return result


class ResetsAll(GoodEnvs):
    """Only where the autoreset mode lets nobody see it in an episode's end."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        disabled = self.autoreset_mode == AutoresetMode.DISABLED
        return super().reset(seed=seed, options=options if disabled else None)


class ShareAStep(GoodEnvs):
    """All environments of the class count their steps together, and the reward tells."""

    steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            type(self).steps = 0
            self.own = 0
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        type(self).steps += 1
        self.own += 1
        observations, rewards, *rest = super().step(actions)
        return observations, rewards + (type(self).steps != self.own), *rest


class Unpicklable(GoodEnvs):
    def __init__(self, num_envs: int, autoreset_mode: Any) -> None:
        super().__init__(num_envs, autoreset_mode)
        self.function = lambda: None


class ForgetsInPickle(GoodEnvs):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lanes.seed(self.lanes.all, np.zeros(self.num_envs, dtype=np.uint64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (OneLaneMore, "num_envs should be 3, got 4"),
        (SilentMode, r"metadata\['autoreset_mode'\] should be AutoresetMode\.NEXT_STEP, got 'SameStep'"),
        (OtherSpace, r"single_action_space should be Discrete\(\d+\), got Discrete\(3\)"),
        (UnbatchedSpace, "observation_space should be single_observation_space, batched"),
        (OtherSeeds, r"NextStep, reset: \[0\].* should be as SyncVectorEnv has it"),
        (IgnoresTheSeed, r"NextStep, reset: \[0\].* should be as SyncVectorEnv has it"),
        (Truncates, "truncated should be False"),
        (HalfPrecision, r"rewards should be \(3,\) float64, got array.*dtype=float32"),
        (ListOfFlags, r"terminated should be \(3,\) bool, got \["),
        (OutsideTheSpace, "observations should lie in observation_space"),
        (WrongReward, r"NextStep, step 0: \[1\] should be as SyncVectorEnv has it, float64"),
        (ForgetsAnInfo, r"NextStep, step 0: \[4\] should be as SyncVectorEnv has it, dict"),
        (OtherDtypeInInfo, r"NextStep, step 0: \[4\]\['example'\] should be as SyncVectorEnv has it, int64"),
        (FinalObsOfTheNextEpisode, r"SameStep, step \d+: \[4\]\['final_obs'\]\[\d\].* should be as SyncVectorEnv"),
        (NoFinalInfo, r"SameStep, step \d+: \[4\] should be as SyncVectorEnv has it"),
        (SecretViews, r"NextStep, .*: \[0\].* should be as it was returned, after later steps"),
        (TakesTheMask, r"a reset should leave its options as they are, got \{\}"),
        (ReplacesTheMask, "a reset should leave its options as they are, got"),
        (EmptiesTheMask, "a reset should leave its options as they are, got"),
        (ResetsAll, r"NextStep, lanes outside a reset mask: .* should be as they were"),
        (ShareAStep, r"NextStep, step 0, again: \[1\] should be as the same seed gave it before"),
        (Unpicklable, "NextStep: the environment should pickle, but .*lambda"),
        (ForgetsInPickle, r"NextStep, step \d+ of a pickled copy: \[0\].* should be as in the original"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_vector_environments_fail(make: type[GoodEnvs], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_vector_env(make, single)


def test_sync_vector_env_keeps_all_but_the_options() -> None:
    def make(num_envs: int, autoreset_mode: Any) -> SyncVectorEnv:
        return SyncVectorEnv([single] * num_envs, autoreset_mode=autoreset_mode)

    with pytest.raises(AssertionError, match=r"a reset should leave its options as they are, got \{\}"):
        check_vector_env(make, single)


def test_infos_that_come_and_go_fail() -> None:
    """Even where the single environment has the same habit."""

    class Moody(TextGenEnv):
        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return *rest, (info | {"even": 1} if info["response_length"] % 2 == 0 else info)

    def make(num_envs: int, autoreset_mode: Any) -> SyncVectorEnv:
        return SyncVectorEnv([lambda: Moody(Toy(), **KWARGS)] * num_envs, autoreset_mode=autoreset_mode)

    with pytest.raises(AssertionError, match=r"infos should have the same keys at every step, \['_even', 'even'\] ch"):
        check_vector_env(make, lambda: Moody(Toy(), **KWARGS))


def test_arguments_of_check_vector_env() -> None:
    with pytest.raises(TypeError, match="Expected make_single"):
        check_vector_env(GoodEnvs)
    with pytest.raises(ValueError, match="num_envs to be at least 1, got 0"):
        check_vector_env(GoodEnvs, single, num_envs=0)
    with pytest.raises(ValueError, match="an episode to end in 1 steps"):
        check_vector_env(GoodEnvs, single, num_envs=1, steps=1, seed=1)
