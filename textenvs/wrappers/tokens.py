"""Observations of tokens in other forms: as MultiDiscrete, zeros and ones, a flat Box, or for an encoder-decoder.

The three wrappers lay the tokens out so that a place always means the same: the prompt is pushed to the right, against
the response, which therefore begins at one column whatever the length of the prompt.

    prompt       response
    . . 7 4 9    3 8 . .

They lose nothing in a task of one turn: the last column of the response that is filled tells how much of the budget is
left. A `_View` computes the layout, and the wrappers for one lane and for many only call it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.env import Observation
from textenvs.setting import Setting

if TYPE_CHECKING:
    GenericVectorWrapper = VectorWrapper
else:

    class GenericVectorWrapper(VectorWrapper):
        """Gymnasium's `VectorWrapper` with parameters for its types, which Gymnasium 1.2 and 1.3 refuse."""

        def __class_getitem__(cls, types: Any) -> type:
            """Returns the class itself: the types are for type checkers alone."""
            return cls


MAX_ONE_HOT = 1 << 16
"""The most numbers that a one-hot observation may have: 256 KiB an observation, and as many weights a hidden unit."""

_EMPTY = -1


def setting_of(env: Any) -> Setting:
    """Returns the setting of an environment, single or vector, under any wrappers that leave its observations tokens.

    Args:
        env: The environment.

    Returns:
        Its setting.

    Raises:
        TypeError: If it is another environment, or its observations are not tokens.
    """
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
    """A way to see tokens as one array, with its space.

    Args:
        setting: The setting of the environment.
        last: The number of latest tokens to show; None: all.
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
        """Makes the space of one observation."""

    @abstractmethod
    def _of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        """Turns `(batch, columns)` ids, -1 where there is none, into `(batch, ...)` of the space."""

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """Shows one observation, or a batch of them."""
        batched = {key: np.atleast_2d(array) for key, array in observation.items()}
        shown = self._of_tokens(self._tokens(batched))
        return shown[0] if observation["input_ids"].ndim == 1 else shown

    def _tokens(self, observation: Observation) -> NDArray[np.int64]:
        """Puts the tokens into their columns: `(batch, columns)`, -1 where there is none."""
        ids, by_agent = observation["input_ids"], observation["response_mask"] == 1
        length = observation["attention_mask"].sum(axis=1, dtype=np.int64)
        if self.last is not None:
            first = length - self.last
        else:  # the prompt is all before the first token of the agent
            prompt = np.where(by_agent.any(axis=1), by_agent.argmax(axis=1), length)
            first = prompt - self.prompt_width
        positions = first[:, None] + np.arange(self.columns)
        is_empty = (positions < 0) | (positions >= length[:, None])
        tokens = np.take_along_axis(ids, np.clip(positions, 0, ids.shape[1] - 1), axis=1).astype(np.int64)
        tokens[is_empty] = _EMPTY
        return tokens


class _FlatIds(_View):
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
        one_hot = np.zeros((*tokens.shape, self.vocab_size), dtype=np.float32)
        rows, columns = np.nonzero(tokens != _EMPTY)
        one_hot[rows, columns, tokens[rows, columns]] = 1
        return one_hot.reshape(len(tokens), -1)


class _TokenObservation(gym.ObservationWrapper[NDArray[Any], Any, Observation], RecordConstructorArgs):
    """A single environment, seen through a `_View`."""

    _view_class: type[_View]

    def __init__(self, env: gym.Env[Any, Any], last: int | None = None) -> None:
        RecordConstructorArgs.__init__(self, last=last)
        gym.ObservationWrapper.__init__(self, env)
        self._view = self._view_class(setting_of(env), last)
        self.observation_space = self._view.space

    def observation(self, observation: Observation) -> NDArray[Any]:
        """Shows one observation through this view."""
        return self._view(observation)


class _VectorTokenObservation(GenericVectorWrapper[NDArray[Any], Any, Observation, Any, NDArray[Any]]):
    """Many lanes, seen through a `_View`. Gymnasium's `VectorObservationWrapper` refuses SAME_STEP, this does not."""

    _view_class: type[_View]

    def __init__(self, env: VectorEnv[Any, Any, Any], last: int | None = None) -> None:
        super().__init__(env)
        self._view = self._view_class(setting_of(env), last)
        self.single_observation_space = self._view.space
        self.observation_space = batch_space(self._view.space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begins episodes as `TextGenVectorEnv.reset` does, and shows the observations through this view."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._view(observations), infos

    def step(self, actions: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Steps as `TextGenVectorEnv.step` does, and shows the observations, also those in `final_obs`."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            for lane in np.flatnonzero(infos["_final_obs"]).tolist():
                infos["final_obs"][lane] = self._view(infos["final_obs"][lane])
        return self._view(observations), rewards, terminated, truncated, infos


class MultiDiscreteObservation(_TokenObservation):
    """Token ids, one dimension a place: `MultiDiscrete([vocab_size + 1] * columns)`, with `vocab_size` for no token.

    Policies that embed or one-hot discrete spaces by themselves (Stable-Baselines3's do) learn from it. The first layer
    of such a policy has `columns * (vocab_size + 1)` inputs, so this is for small vocabularies or a small `last`.

    Args:
        env: An environment of textenvs.
        last: The number of latest tokens to show, right-aligned; the budget is then lost (Gymnasium's
            `TimeAwareObservation` gives it back). None shows all: the prompt right-aligned, then the response, so that
            a place always means the same.

    Raises:
        TypeError: If it is another environment, or `last` is not a whole number.
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
        last: The number of latest tokens to show; None shows all.

    Raises:
        TypeError: If it is another environment, or `last` is not a whole number.
        ValueError: If `last` is below 1.
    """

    _view_class = _MultiDiscrete


class OneHotObservation(_TokenObservation):
    """Zeros and ones: `Box(0, 1, (columns * vocab_size,), float32)`; all zeros where there is no token.

    An MLP learns from it, and hardly from raw ids. Its size is the number of places times the vocabulary, at most
    `MAX_ONE_HOT` numbers: for the vocabularies of diagnostic tasks, or a few of the latest tokens.

    Args:
        env: An environment of textenvs.
        last: The number of latest tokens to show, as in `MultiDiscreteObservation`; None shows all.

    Raises:
        TypeError: If it is another environment, or `last` is not a whole number.
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
        last: The number of latest tokens to show; None shows all.

    Raises:
        TypeError: If it is another environment, or `last` is not a whole number.
        ValueError: If `last` is below 1, or one lane's observation would have more than `MAX_ONE_HOT` numbers.
    """

    _view_class = _OneHot


class FlatIdsObservation(_TokenObservation):
    """Token ids as one vector of numbers: `Box(-1, vocab_size - 1, (columns,), float32)`; -1 where there is no token.

    For loops that want a Box, such as CleanRL's `ppo.py`. An MLP runs on it, but hardly learns from it: token 7 is not
    more than token 6. Embed the ids, or take `OneHotObservation`. float32 holds every id up to 2^24 exactly.

    Args:
        env: An environment of textenvs.
        last: The number of latest tokens to show, as in `MultiDiscreteObservation`; None shows all.

    Raises:
        TypeError: If it is another environment, or `last` is not a whole number.
        ValueError: If `last` is below 1.

    Example:
        >>> env = FlatIdsObservation(gym.make("textenvs:TextGen-v0"))
        >>> observation, _ = env.reset(seed=0)
        >>> observation.dtype, observation.shape == env.observation_space.shape
        (dtype('float32'), True)
    """

    _view_class = _FlatIds


class VectorFlatIdsObservation(_VectorTokenObservation):
    """`FlatIdsObservation` of every lane, `(num_envs, columns)` float32.

    Args:
        env: A `TextGenVectorEnv`, wrapped or not.
        last: The number of latest tokens to show; None shows all.

    Raises:
        TypeError: If it is another environment, or `last` is not a whole number.
        ValueError: If `last` is below 1.
    """

    _view_class = _FlatIds


def encoder_decoder(observation: Observation, decoder_start_token_id: int) -> Observation:
    """Separates prompt and response for an encoder-decoder of Transformers: `model(**encoder_decoder(obs, start))`.

    Args:
        observation: One observation, or a batch of them.
        decoder_start_token_id: The token that the decoder reads before the response.

    Returns:
        `input_ids` and `attention_mask` with the tokens that the agent did not write (the prompt, and replies), and
        `decoder_input_ids` and `decoder_attention_mask` with the start token and the agent's. Each has the shape of the
        observation's arrays and is right-padded with 0.
    """
    ids, by_agent = observation["input_ids"], observation["response_mask"] == 1
    prompt, prompt_mask = _move_to_front(ids, (observation["attention_mask"] == 1) & ~by_agent)
    response, response_mask = _move_to_front(ids, by_agent)
    # Every prompt has a token, so the response and its start fit into the same width.
    response, response_mask = np.roll(response, 1, axis=-1), np.roll(response_mask, 1, axis=-1)
    response[..., 0], response_mask[..., 0] = decoder_start_token_id, 1
    return {
        "input_ids": prompt,
        "attention_mask": prompt_mask,
        "decoder_input_ids": response,
        "decoder_attention_mask": response_mask,
    }


def _move_to_front(ids: NDArray[Any], kept: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """Moves the kept tokens to the front of their rows, and returns them with their mask."""
    order = np.argsort(~kept, axis=-1, kind="stable")
    mask = np.take_along_axis(kept, order, axis=-1)
    return np.where(mask, np.take_along_axis(ids, order, axis=-1), 0), mask.astype(np.int8)
