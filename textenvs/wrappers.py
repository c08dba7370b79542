"""Views of an environment, for libraries and people that want something else than a dict of token ids.

    wrapper                     the agent sees or says                  for
    MultiDiscreteObservation    token ids, one dimension a place        MLP and tabular policies
    OneHotObservation           the same, as zeros and ones             MLP policies that embed nothing themselves
    FlatIdsObservation          the same, as one vector of numbers      loops that want a Box (CleanRL's ppo.py)
    TextObservation             the text                                people, programs, models behind an API
    TextAction                  a whole response as one action          bandits: one episode is one step
    score_function              not a wrapper: a reward function        trainers that score whole texts (TRL)

The first three lay the tokens out so that a place always means the same: the prompt is pushed to the right, against
the response, which therefore begins at one column whatever the length of the prompt.

    prompt       response
    . . 7 4 9    3 8 . .

They lose nothing in a task of one turn: the last column of the response that is filled is what is left of the budget.
Each has a vector version (`Vector...`) for what `gym.make_vec` gives, which works on the arrays of all lanes at once.
So do the two of texts; there, `VectorTextAction` goes inside, around the environment itself.

Gymnasium's own wrappers do the rest, and are tested with these environments: `NormalizeReward`, `TimeAwareObservation`,
`FlattenObservation`, `RecordEpisodeStatistics`, `RecordVideo`, and their vector versions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.env import Observation, TextGenEnv
from textenvs.pool import Pool, build_pools
from textenvs.rewards import checked_score
from textenvs.setting import Setting
from textenvs.tasks import Example
from textenvs.tokenizer import Tokenizer, decode, decode_batch
from textenvs.vector_env import TextGenVectorEnv

MAX_ONE_HOT = 1 << 16
"""The most numbers that a one-hot observation may have: 256 KiB an observation, and as many weights a hidden unit."""


_EMPTY = -1


def _setting(env: Any) -> Setting:
    """What an environment, single or vector, under whatever wrappers, was made of."""
    setting = getattr(env.unwrapped, "setting", None)
    if not isinstance(setting, Setting):
        raise TypeError(
            f"Expected an environment of textenvs, got {env.unwrapped!r}. Around a SyncVectorEnv or AsyncVectorEnv, "
            "wrap each of its environments"
        )
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or "response_mask" not in space.spaces:
        raise TypeError(f"Expected an environment whose observations are tokens, got observations in {space}")
    return setting


class _View(ABC):
    """A way to see tokens as one array: how many columns, and which space.

    Args:
        setting: What the environment was made of.
        last: Only so many of the latest tokens; None: all.
    """

    def __init__(self, setting: Setting, last: int | None) -> None:
        self.prompt_width = setting.pool.prompts.shape[1]
        self.vocab_size = setting.tokenizer.vocab_size
        self.last = last
        space: Any = setting.observation_space()
        self.columns: int = space["input_ids"].shape[0] if last is None else check_count("last", last)
        self.space = self._space()

    @abstractmethod
    def _space(self) -> spaces.Space[Any]:
        """The space of one observation."""

    @abstractmethod
    def _of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        """`(batch, columns)` ids, -1 where there is none, to `(batch, ...)` of the space."""

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """One observation, or a batch of them, as this view shows it."""
        batched = {key: np.atleast_2d(array) for key, array in observation.items()}
        seen = self._of_tokens(self._tokens(batched))
        return seen[0] if observation["input_ids"].ndim == 1 else seen

    def _tokens(self, observation: Observation) -> NDArray[np.int64]:
        """The tokens in their columns: `(batch, columns)`, -1 where there is none."""
        ids, mine = observation["input_ids"], observation["response_mask"] == 1
        length = observation["attention_mask"].sum(axis=1, dtype=np.int64)
        if self.last is not None:
            first = length - self.last
        else:  # what stands before the first token of the agent is the prompt
            prompt = np.where(mine.any(axis=1), mine.argmax(axis=1), length)
            first = prompt - self.prompt_width
        places = first[:, None] + np.arange(self.columns)
        empty = (places < 0) | (places >= length[:, None])
        tokens = np.take_along_axis(ids, np.clip(places, 0, ids.shape[1] - 1), axis=1).astype(np.int64)
        tokens[empty] = _EMPTY
        return tokens


class _Ids(_View):
    def _space(self) -> spaces.Space[Any]:
        return spaces.Box(_EMPTY, self.vocab_size - 1, (self.columns,), np.float32)

    def _of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        return tokens.astype(np.float32)


class _MultiDiscrete(_View):
    def _space(self) -> spaces.Space[Any]:
        return spaces.MultiDiscrete(np.full(self.columns, self.vocab_size + 1))

    def _of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        return np.where(tokens == _EMPTY, self.vocab_size, tokens)


class _OneHot(_View):
    def _space(self) -> spaces.Space[Any]:
        size = self.columns * self.vocab_size
        if size > MAX_ONE_HOT:
            raise ValueError(
                f"Expected at most {MAX_ONE_HOT} numbers in a one-hot observation, got {size}: {self.columns} tokens "
                f"times a vocabulary of {self.vocab_size}. Take a smaller vocabulary, fewer tokens (last=...), or "
                "MultiDiscreteObservation and a policy that embeds it"
            )
        return spaces.Box(0, 1, (size,), np.float32)

    def _of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        seen = np.zeros((*tokens.shape, self.vocab_size), dtype=np.float32)
        rows, columns = np.nonzero(tokens != _EMPTY)
        seen[rows, columns, tokens[rows, columns]] = 1
        return seen.reshape(len(tokens), -1)


class _TokenObservation(gym.ObservationWrapper[NDArray[Any], Any, Observation], RecordConstructorArgs):
    """A single environment, seen through a `_View`."""

    _view_class: type[_View]

    def __init__(self, env: gym.Env[Any, Any], last: int | None = None) -> None:
        RecordConstructorArgs.__init__(self, last=last)
        gym.ObservationWrapper.__init__(self, env)
        self._view = self._view_class(_setting(env), last)
        self.observation_space = self._view.space

    def observation(self, observation: Observation) -> NDArray[Any]:
        """The tokens of one observation, as this view shows them."""
        return self._view(observation)


class _VectorTokenObservation(VectorWrapper[NDArray[Any], Any, Observation, Any, NDArray[Any]]):
    """Many lanes, seen through a `_View`. Gymnasium's `VectorObservationWrapper` refuses SAME_STEP, this does not."""

    _view_class: type[_View]

    def __init__(self, env: VectorEnv[Any, Any, Any], last: int | None = None) -> None:
        super().__init__(env)
        self._view = self._view_class(_setting(env), last)
        self.single_observation_space = self._view.space
        self.observation_space = batch_space(self._view.space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict[str, Any]]:
        """See `TextGenVectorEnv.reset`."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._view(observations), infos

    def step(self, actions: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """See `TextGenVectorEnv.step`. The last observations in `final_obs` are seen through this view, too."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            for lane in np.flatnonzero(infos["_final_obs"]).tolist():
                infos["final_obs"][lane] = self._view(infos["final_obs"][lane])
        return self._view(observations), rewards, terminated, truncated, infos


class MultiDiscreteObservation(_TokenObservation):
    """Token ids, one dimension a place: `MultiDiscrete([vocab_size + 1] * columns)`; `vocab_size` where none is.

    What embeds or one-hots discrete spaces by itself (Stable-Baselines3 does) learns from it. Such a policy's first
    layer has `columns * (vocab_size + 1)` inputs, so this is for small vocabularies or a small `last`.

    Args:
        env: An environment of textenvs.
        last: Show only so many of the latest tokens, right-aligned; the budget is then lost (Gymnasium's
            `TimeAwareObservation` gives it back). None shows all: the prompt right-aligned, then the response, so that
            a place always means the same.

    Raises:
        TypeError: If it is another environment, or `last` is no whole number.
        ValueError: If `last` is below 1.

    Example:
        >>> env = MultiDiscreteObservation(gym.make("textenvs:TextGen-v0"), last=4)
        >>> env.reset(seed=0)[0].shape
        (4,)
    """

    _view_class = _MultiDiscrete


class VectorMultiDiscreteObservation(_VectorTokenObservation):
    """`MultiDiscreteObservation` of every lane, `(num_envs, columns)` int64.

    Args:
        env: A `TextGenVectorEnv`, wrapped or not.
        last: See `MultiDiscreteObservation`.

    Raises:
        TypeError: If it is another environment, or `last` is no whole number.
        ValueError: If `last` is below 1.
    """

    _view_class = _MultiDiscrete


class OneHotObservation(_TokenObservation):
    """Zeros and ones: `Box(0, 1, (columns * vocab_size,), float32)`; all zeros where there is no token.

    An MLP learns from it, and hardly from raw ids. Its size is the number of places times the vocabulary, at most
    `MAX_ONE_HOT` numbers: for the vocabularies of diagnostic tasks, or a few of the latest tokens.

    Args:
        env: An environment of textenvs.
        last: See `MultiDiscreteObservation`.

    Raises:
        TypeError: If it is another environment, or `last` is no whole number.
        ValueError: If `last` is below 1, or an observation would have more than `MAX_ONE_HOT` numbers.

    Example:
        >>> env = OneHotObservation(gym.make("textenvs:TextGen-v0"), last=4)
        >>> float(env.reset(seed=0)[0].sum())
        4.0
    """

    _view_class = _OneHot


class VectorOneHotObservation(_VectorTokenObservation):
    """`OneHotObservation` of every lane, `(num_envs, columns * vocab_size)` float32.

    Args:
        env: A `TextGenVectorEnv`, wrapped or not.
        last: See `MultiDiscreteObservation`.

    Raises:
        TypeError: If it is another environment, or `last` is no whole number.
        ValueError: If `last` is below 1, or one lane's observation would have more than `MAX_ONE_HOT` numbers.
    """

    _view_class = _OneHot


class FlatIdsObservation(_TokenObservation):
    """Token ids as one vector of numbers: `Box(-1, vocab_size - 1, (columns,), float32)`; -1 where there is no token.

    For loops that want a Box, such as CleanRL's `ppo.py`. An MLP runs on it, but hardly learns from it: token 7 is not
    more than token 6. Embed the ids, or see `OneHotObservation`. float32 holds every id up to 2^24 exactly.

    Args:
        env: An environment of textenvs.
        last: See `MultiDiscreteObservation`.

    Raises:
        TypeError: If it is another environment, or `last` is no whole number.
        ValueError: If `last` is below 1.

    Example:
        >>> env = FlatIdsObservation(gym.make("textenvs:TextGen-v0"))
        >>> observation, _ = env.reset(seed=0)
        >>> observation.dtype, observation.shape == env.observation_space.shape
        (dtype('float32'), True)
    """

    _view_class = _Ids


class VectorFlatIdsObservation(_VectorTokenObservation):
    """`FlatIdsObservation` of every lane, `(num_envs, columns)` float32.

    Args:
        env: A `TextGenVectorEnv`, wrapped or not.
        last: See `MultiDiscreteObservation`.

    Raises:
        TypeError: If it is another environment, or `last` is no whole number.
        ValueError: If `last` is below 1.
    """

    _view_class = _Ids


class AnyText(spaces.Text):
    """Every text up to a length, in any script. It samples from a few characters.

    Gymnasium's own `Text` has to list its characters, and a byte-level tokenizer can write all of Unicode's million.

    Args:
        max_length: Characters at most.
        charset: The characters that `sample` draws from.
    """

    def __init__(self, max_length: int, charset: str) -> None:
        super().__init__(max_length, min_length=0, charset=charset)

    def contains(self, x: Any) -> bool:
        """Whether it is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length


def _text_space(tokenizer: Tokenizer, tokens: int) -> AnyText:
    """What so many tokens can write. A token of n bytes adds at most n characters (bytes that are none show as one)."""
    text = b"".join(tokenizer.pieces).decode("utf-8", "ignore")
    return AnyText(max(1, tokens * max(map(len, tokenizer.pieces))), "".join(sorted(set(text))) or " ")


class TextObservation(gym.ObservationWrapper[str, Any, Observation], RecordConstructorArgs):
    """The page as a string: the prompt, what the agent has written, and what the task replied, if it does.

    Special tokens print as nothing, and a character whose bytes are not all there yet is held back. `env.unwrapped` has
    the `example` and the `response` apart.

    Args:
        env: An environment of textenvs.

    Raises:
        TypeError: If it is another environment.

    Example:
        >>> env = TextObservation(gym.make("textenvs:TextGen-v0"))
        >>> env.reset(seed=0)[0].split(" story. ")[0] in ("A happy", "A sad")
        True
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        setting = _setting(env)
        self._tokenizer = setting.tokenizer
        space: Any = setting.observation_space()
        self.observation_space = _text_space(setting.tokenizer, space["input_ids"].shape[0])

    def observation(self, observation: Observation) -> str:
        """The text of one observation."""
        text = decode(self._tokenizer, observation["input_ids"][observation["attention_mask"] == 1].tolist())
        return text.removeprefix(" ")  # which many tokenizers put before the first word


class VectorTextObservation(VectorWrapper[tuple[str, ...], Any, Observation, Any, NDArray[Any]]):
    """`TextObservation` of every lane: a tuple of `num_envs` texts.

    Args:
        env: A `TextGenVectorEnv`, wrapped or not (`VectorTextAction` goes inside this one).

    Raises:
        TypeError: If it is another environment.

    Example:
        >>> envs = VectorTextObservation(gym.make_vec("textenvs:TextGen-v0", num_envs=2))
        >>> [page.split()[0] for page in envs.reset(seed=0)[0]]
        ['A', 'A']
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        setting = _setting(env)
        self._pieces = np.array(setting.tokenizer.pieces, dtype=object)
        space: Any = setting.observation_space()
        self.single_observation_space = _text_space(setting.tokenizer, space["input_ids"].shape[0])
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """See `TextGenVectorEnv.reset`."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._texts(observations), infos

    def step(self, actions: Any) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """See `TextGenVectorEnv.step`. The last observations in `final_obs` are texts, too."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            for lane in np.flatnonzero(infos["_final_obs"]).tolist():
                final = {key: array[None] for key, array in infos["final_obs"][lane].items()}
                infos["final_obs"][lane] = self._texts(final)[0]
        return self._texts(observations), rewards, terminated, truncated, infos

    def _texts(self, observations: Observation) -> tuple[str, ...]:
        """The texts of a batch of observations."""
        texts = decode_batch(self._pieces, observations["input_ids"], observations["attention_mask"] == 1)
        return tuple(text.removeprefix(" ") for text in texts)


class TextAction(gym.Wrapper[Any, str, Any, Any], RecordConstructorArgs):
    """A whole response as one action: the contextual bandit that GRPO-style trainers see.

    A step writes the tokens of a text and then EOS, and its reward is the sum of theirs, which is the response's score
    under every payout but a shaped one with a discount. Tokens beyond the budget, or behind what ends the episode, are
    not written. In a task of several turns, a step is one turn. Observations and infos are those of the last token.

    Args:
        env: An environment of textenvs whose actions are tokens, under any wrappers of its observations.

    Raises:
        TypeError: If it is another environment.
        ValueError: If its tokenizer cannot write responses (has no `encode_response`).

    Example:
        >>> env = TextAction(TextObservation(gym.make("textenvs:TextGen-v0")))
        >>> prompt, _ = env.reset(seed=0)
        >>> page, reward, terminated, _, info = env.step(" He was very happy. The end.")
        >>> terminated, page == prompt + " He was very happy. The end.", reward == info["score"]
        (True, True, True)
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        base = env.unwrapped
        if not isinstance(base, TextGenEnv):
            raise TypeError(f"Expected an environment of textenvs, got {base!r}")
        if not isinstance(env.action_space, spaces.Discrete):
            raise TypeError(f"Expected an environment whose actions are tokens, got actions in {env.action_space}")
        self._encode = response_encoder(base.tokenizer)
        self._eos = base.tokenizer.eos_token_id
        self._turns = base.task.max_turns > 1
        self.action_space = _text_space(base.tokenizer, base.setting.max_new_tokens)

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Write a text, and end the response (or the turn).

        Args:
            action: The text, its leading space included. May be empty.

        Returns:
            The observation after it, the sum of its tokens' rewards, terminated (always True in a task of one turn),
            truncated (only by a wrapper inside this one), and the info.

        Raises:
            ResetNeeded: If no episode runs.
            TypeError: If the action is not a string.
            RewardError: If the reward fails.
        """
        if not isinstance(action, str):
            raise TypeError(f"Expected an action to be a text, got {action!r} of type {type(action).__name__}")
        env: Any = self.env  # whose actions are tokens, not texts
        tokens, total = iter(self._encode(action)), 0.0
        while True:
            token = next(
                tokens, self._eos
            )  # more than one EOS, where min_new_tokens makes the first ones count as text
            observation, reward, terminated, truncated, info = env.step(token)
            total += float(reward)
            if terminated or truncated or (self._turns and token == self._eos):
                return observation, total, terminated, truncated, info


class VectorTextAction(VectorWrapper[Any, Sequence[str], Any, Any, NDArray[Any]]):
    """`TextAction` of every lane: a step takes `num_envs` texts. Lanes whose text is shorter wait for the others.

    It knows the three autoreset modes as the environment does: with SAME_STEP, every step is an episode in each lane
    (of a task of one turn).

    Args:
        env: A `TextGenVectorEnv`. What wraps its observations goes around this wrapper, not inside.

    Raises:
        TypeError: If it is another environment, or one that is wrapped.
        ValueError: If its tokenizer cannot write responses (has no `encode_response`).

    Example:
        >>> envs = VectorTextAction(gym.make_vec("textenvs:TextGen-v0", num_envs=2, autoreset_mode="SameStep"))
        >>> envs = VectorTextObservation(envs)
        >>> prompts, _ = envs.reset(seed=0)
        >>> _, rewards, terminated, _, infos = envs.step([" He was very happy.", ""])
        >>> infos["final_obs"][0] == prompts[0] + " He was very happy.", terminated.tolist()
        (True, [True, True])
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        if not isinstance(env, TextGenVectorEnv):
            raise TypeError(
                f"Expected a TextGenVectorEnv itself, got {env!r}. Put other wrappers around this one; around a "
                "SyncVectorEnv or AsyncVectorEnv, wrap each of its environments in TextAction"
            )
        self._envs = env
        self._lanes = env._lanes
        self._encode = response_encoder(env.tokenizer)
        self._eos = env.tokenizer.eos_token_id
        self._turns = env.task.max_turns > 1
        self.single_action_space = _text_space(env.tokenizer, env.setting.max_new_tokens)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: Sequence[str]) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Write a text in every lane, and end the responses (or the turns).

        Args:
            actions: A text for each lane. That of a lane that is not running is not read.

        Returns:
            Observations, the sums of the tokens' rewards `(num_envs,)`, terminated, truncated (all False), infos.

        Raises:
            ResetNeeded: If a lane's first episode has not begun.
            TypeError: If an action is not a string.
            ValueError: If there is not one a lane.
            RewardError: If the reward fails.
        """
        if isinstance(actions, str) or len(actions) != self.num_envs:
            raise ValueError(f"Expected {self.num_envs} texts, one a lane, got {actions!r}")
        return self._envs.advance(lambda lanes: self._write(lanes, [actions[lane] for lane in lanes.tolist()]))

    def _write(self, lanes: NDArray[np.intp], texts: Sequence[str]) -> NDArray[np.float64]:
        """Write a text in each of some lanes `(k,)`; what they were paid for it `(k,)`."""
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"Expected an action to be a text, got {wrong!r} of type {type(wrong).__name__}")
        rows = [self._encode(text) for text in texts]
        # Behind each text comes EOS: more than one, where min_new_tokens makes the first ones count as text.
        tokens = np.full((len(rows), max(map(len, rows), default=0) + 1), self._eos, dtype=np.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        total, writing, step = np.zeros(len(rows)), np.arange(len(rows)), 0
        while len(writing):
            column = tokens[writing, min(step, tokens.shape[1] - 1)]
            total[writing] += self._lanes.step(lanes[writing], column)
            going_on = ~self._lanes.terminated[lanes[writing]]
            if self._turns:
                going_on &= column != self._eos
            writing, step = writing[going_on], step + 1
        return total


def response_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """What makes tokens of a response.

    Args:
        tokenizer: Any.

    Returns:
        Its `encode_response`.

    Raises:
        ValueError: If it has none: the protocol does not ask for it, since prompts need no such thing.
    """
    encode: Callable[[str], list[int]] | None = getattr(tokenizer, "encode_response", None)
    if encode is None:
        raise ValueError(f"Expected a tokenizer with encode_response(text), got {tokenizer!r}, which has none")
    return encode


class ScoreFunction:
    """A task's score of whole texts, as TRL's trainers call it. See `score_function`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.__name__ = setting.reward.name  # under which trainers log it
        self._pools = {setting.split: setting.pool}
        self._by_prompt: dict[str, Example | None] | None = None

    def rows(self, split: str | None = None) -> list[dict[str, Any]]:
        """A split as a data set: `datasets.Dataset.from_list(score.rows())`.

        Args:
            split: "train", "validation" or "test"; None is the environment's own.

        Returns:
            `{"prompt": text, "split": its name, "example": place in the split}` for each example. A prompt that the
            environment cuts (`max_prompt_length`) is cut here, too.

        Raises:
            ValueError: If the task has no such split, or no example in it.
        """
        name = self.setting.split if split is None else split
        pool = self._pool(name)
        return [{"prompt": _prompt(pool, place), "split": name, "example": place} for place in range(len(pool))]

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        example: Sequence[int] | None = None,
        split: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Score a batch.

        Args:
            prompts: Texts, or conversations that end with one (`[{"role": "user", "content": text}]`).
            completions: The response to each, as a text or a conversation whose last message is the response.
            example: The column of that name in `rows()`: which example each prompt is. Without it, the prompt tells.
            split: The column of that name: the split of each example. Without it, they are of the environment's own.
            **columns: What else a trainer passes; not used.

        Returns:
            A score each.

        Raises:
            ValueError: If a prompt is none of the task's, or belongs to several of its examples, or a column is not as
                long as the others.
            RewardError: If the reward fails.
        """
        for name, column in (("completions", completions), ("example", example), ("split", split)):
            if column is not None and len(column) != len(prompts):
                raise ValueError(f"Expected {name} for {len(prompts)} prompts, got {len(column)}")
        texts = [_last_content(completion) for completion in completions]
        if example is None:
            found = [self._example(_last_content(prompt)) for prompt in prompts]
        else:
            splits = [self.setting.split] * len(example) if split is None else split
            found = [self._pool(name).examples[place] for name, place in zip(splits, example, strict=True)]
        return [checked_score(self.setting.reward, one, text) for one, text in zip(found, texts, strict=True)]

    def _pool(self, split: str) -> Pool:
        if split not in self._pools:
            self._pools = build_pools(self.setting.task, self.setting.pool.encoder) | self._pools
        if split not in self._pools:
            raise ValueError(f"Expected a split that has examples, {sorted(self._pools)}, got {split!r}")
        return self._pools[split]

    def _example(self, prompt: str) -> Example:
        if self._by_prompt is None:
            self._by_prompt = {}
            pools = build_pools(self.setting.task, self.setting.pool.encoder)
            for pool in pools.values():
                for place, example in enumerate(pool.examples):
                    text = _prompt(pool, place)
                    if self._by_prompt.setdefault(text, example) != example:
                        self._by_prompt[text] = None  # two examples ask the same, so the prompt does not tell which
        found = self._by_prompt.get(prompt)
        if found is None:
            what = "which several have" if prompt in self._by_prompt else "which none has"
            raise ValueError(
                f"Expected a prompt of one example of task {self.setting.task.name!r}, got {prompt!r}, {what}: keep "
                "the columns 'example' and 'split' of score.rows()"
            )
        return found


def _prompt(pool: Pool, place: int) -> str:
    """The text of a prompt, as far as the environment shows it."""
    encoder, example, length = pool.encoder, pool.examples[place], pool.lengths[place]
    if encoder.chat_template or encoder.max_length is None or length < encoder.max_length:
        return example.prompt
    return decode(encoder.tokenizer, pool.prompts[place, :length].tolist()).removeprefix(" ")


def _last_content(text: Any) -> str:
    """A text, or what the last message of a conversation says."""
    if isinstance(text, str):
        return text
    if isinstance(text, Sequence) and text and isinstance(text[-1], Mapping) and isinstance(text[-1]["content"], str):
        return str(text[-1]["content"])
    raise TypeError(f"Expected a text or a list of messages with a role and a content, got {text!r}")


def score_function(env: str | gym.Env[Any, Any] | Setting, **settings: Any) -> ScoreFunction:
    """A task's score as TRL's trainers call a reward function: `(prompts, completions, **columns) -> list[float]`.

    It is the score of the whole response, which every payout of the environment pays out in the end.

    Args:
        env: An id, an environment, or what one was made of (`env.unwrapped.setting`).
        **settings: For `gym.make`, where `env` is an id.

    Returns:
        The function. Its `rows()` are the data set to train on.

    Raises:
        TypeError: If it is none of these, or settings come with an environment that is made already.

    Example:
        >>> score = score_function("textenvs:TextGen-v0", reward="length")
        >>> row = score.rows()[0]
        >>> score(prompts=[row["prompt"]], completions=[" one two three four five"], example=[row["example"]])
        [0.25]
        >>> # GRPOTrainer(model, reward_funcs=score, train_dataset=datasets.Dataset.from_list(score.rows()))
    """
    if isinstance(env, str):
        return ScoreFunction(_setting(gym.make(env, **settings)))
    if settings:
        raise TypeError(f"Expected settings with an id alone, got {sorted(settings)} with {env!r}")
    return ScoreFunction(env if isinstance(env, Setting) else _setting(env))


__all__ = [
    "MAX_ONE_HOT",
    "AnyText",
    "FlatIdsObservation",
    "MultiDiscreteObservation",
    "OneHotObservation",
    "ScoreFunction",
    "TextAction",
    "TextObservation",
    "VectorFlatIdsObservation",
    "VectorMultiDiscreteObservation",
    "VectorOneHotObservation",
    "VectorTextAction",
    "VectorTextObservation",
    "response_encoder",
    "score_function",
]


def encoder_decoder(observation: Observation, decoder_start_token_id: int) -> Observation:
    """Prompt and response apart, as a Transformers encoder-decoder takes them: `model(**encoder_decoder(obs, start))`.

    Args:
        observation: One observation, or a batch of them.
        decoder_start_token_id: What the decoder reads before the response.

    Returns:
        `input_ids` and `attention_mask` with what the agent did not write (the prompt, and replies), and
        `decoder_input_ids` and `decoder_attention_mask` with the start token and what it did. Each has the shape of the
        observation's arrays and is right-padded with 0.
    """
    ids, mine = observation["input_ids"], observation["response_mask"] == 1
    prompt, prompt_mask = _packed(ids, (observation["attention_mask"] == 1) & ~mine)
    response, response_mask = _packed(ids, mine)
    # Every prompt has a token, so the response and its start fit into the same width.
    response, response_mask = np.roll(response, 1, axis=-1), np.roll(response_mask, 1, axis=-1)
    response[..., 0], response_mask[..., 0] = decoder_start_token_id, 1
    return {
        "input_ids": prompt,
        "attention_mask": prompt_mask,
        "decoder_input_ids": response,
        "decoder_attention_mask": response_mask,
    }


def _packed(ids: NDArray[Any], kept: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """The kept tokens moved to the front of their rows, and their mask."""
    order = np.argsort(~kept, axis=-1, kind="stable")
    mask = np.take_along_axis(kept, order, axis=-1)
    return np.where(mask, np.take_along_axis(ids, order, axis=-1), 0), mask.astype(np.int8)
