"""Text in place of tokens: observations that are the page, and actions that are whole responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenvs.env import Observation, TextGenEnv
from textenvs.tokenizer import Tokenizer, decode, decode_batch
from textenvs.vector_env import TextGenVectorEnv
from textenvs.wrappers.tokens import GenericVectorWrapper, setting_of


class AnyText(spaces.Text):
    """The space of every text up to a length, in any script. It samples from a few characters.

    Gymnasium's own `Text` has to list its characters, and a byte-level tokenizer can write all of Unicode's million.

    Args:
        max_length: The most characters that a text may have.
        charset: The characters that `sample` draws from.
    """

    def __init__(self, max_length: int, charset: str) -> None:
        super().__init__(max_length, min_length=0, charset=charset)

    def contains(self, x: Any) -> bool:
        """Returns True for a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length


def _text_space(tokenizer: Tokenizer, tokens: int) -> AnyText:
    """Makes the space of the texts that so many tokens can write.

    A token of n bytes adds at most n characters: a byte that is no character shows as one.
    """
    text = b"".join(tokenizer.pieces).decode("utf-8", "ignore")
    return AnyText(max(1, tokens * max(map(len, tokenizer.pieces))), "".join(sorted(set(text))) or " ")


class TextObservation(gym.ObservationWrapper[str, Any, Observation], RecordConstructorArgs):
    """The page as a string: the prompt, the agent's text, and the task's replies, if it has any.

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
        setting = setting_of(env)
        self._tokenizer = setting.tokenizer
        space: Any = setting.observation_space()
        self.observation_space = _text_space(setting.tokenizer, space["input_ids"].shape[0])

    def observation(self, observation: Observation) -> str:
        """Decodes one observation."""
        text = decode(self._tokenizer, observation["input_ids"][observation["attention_mask"] == 1].tolist())
        return text.removeprefix(" ")  # many tokenizers put a space before the first word


class VectorTextObservation(GenericVectorWrapper[tuple[str, ...], Any, Observation, Any, NDArray[Any]]):
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
        setting = setting_of(env)
        self._pieces = np.array(setting.tokenizer.pieces, dtype=object)
        space: Any = setting.observation_space()
        self.single_observation_space = _text_space(setting.tokenizer, space["input_ids"].shape[0])
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begins episodes as `TextGenVectorEnv.reset` does, and decodes the observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._texts(observations), infos

    def step(self, actions: Any) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Steps as `TextGenVectorEnv.step` does, and decodes the observations, also those in `final_obs`."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            for lane in np.flatnonzero(infos["_final_obs"]).tolist():
                final = {key: array[None] for key, array in infos["final_obs"][lane].items()}
                infos["final_obs"][lane] = self._texts(final)[0]
        return self._texts(observations), rewards, terminated, truncated, infos

    def _texts(self, observations: Observation) -> tuple[str, ...]:
        """Decodes a batch of observations."""
        texts = decode_batch(self._pieces, observations["input_ids"], observations["attention_mask"] == 1)
        return tuple(text.removeprefix(" ") for text in texts)


class TextAction(gym.Wrapper[Any, str, Any, Any], RecordConstructorArgs):
    """A whole response as one action: the contextual bandit that GRPO-style trainers see.

    A step writes the tokens of a text and then EOS. Its reward is the sum of theirs, which is the response's score
    under every payout but a shaped one with a discount. Tokens beyond the budget, or behind the end of the episode, are
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
        >>> terminated, page == prompt + " He was very happy. The end.", abs(reward - info["score"]) < 1e-9
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
        self._has_turns = base.task.max_turns > 1
        self.action_space = _text_space(base.tokenizer, base.setting.max_new_tokens)

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Writes a text, and ends the response (or the turn).

        Args:
            action: The text, its leading space included. It may be empty.

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
        env: Any = self.env  # its actions are tokens, not texts
        tokens, total = iter(self._encode(action)), 0.0
        while True:
            token = next(tokens, self._eos)  # several times EOS, if min_new_tokens makes the first ones text
            observation, reward, terminated, truncated, info = env.step(token)
            total += float(reward)
            if terminated or truncated or (self._has_turns and token == self._eos):
                return observation, total, terminated, truncated, info


class VectorTextAction(GenericVectorWrapper[Any, Sequence[str], Any, Any, NDArray[Any]]):
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
        self._lanes = env.lanes
        self._encode = response_encoder(env.tokenizer)
        self._eos = env.tokenizer.eos_token_id
        self._has_turns = env.task.max_turns > 1
        self.single_action_space = _text_space(env.tokenizer, env.setting.max_new_tokens)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: Sequence[str]) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Writes a text in every lane, and ends the responses (or the turns).

        Args:
            actions: A text for each lane. The text of a lane that is not running is ignored.

        Returns:
            Observations, the sums of the tokens' rewards `(num_envs,)`, terminated, truncated (all False), infos.

        Raises:
            ResetNeeded: If a lane's first episode has not begun.
            TypeError: If an action is not a string.
            ValueError: If there is not one for each lane.
            RewardError: If the reward fails.
        """
        if isinstance(actions, str) or len(actions) != self.num_envs:
            raise ValueError(f"Expected {self.num_envs} texts, one a lane, got {actions!r}")
        return self._envs.advance(lambda lanes: self._write(lanes, [actions[lane] for lane in lanes.tolist()]))

    def _write(self, lanes: NDArray[np.intp], texts: Sequence[str]) -> NDArray[np.float64]:
        """Writes a text in each of some lanes `(k,)`, and returns their rewards `(k,)`."""
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"Expected an action to be a text, got {wrong!r} of type {type(wrong).__name__}")
        rows = [self._encode(text) for text in texts]
        # Behind each text comes EOS, several times if min_new_tokens makes the first ones count as text.
        tokens = np.full((len(rows), max(map(len, rows), default=0) + 1), self._eos, dtype=np.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        total, writing, step = np.zeros(len(rows)), np.arange(len(rows)), 0
        while len(writing):
            column = tokens[writing, min(step, tokens.shape[1] - 1)]
            total[writing] += self._lanes.step(lanes[writing], column)
            is_running = ~self._lanes.terminated[lanes[writing]]
            if self._has_turns:
                is_running &= column != self._eos
            writing, step = writing[is_running], step + 1
        return total


def response_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Returns the function that makes a tokenizer's tokens of a response.

    Args:
        tokenizer: Any tokenizer.

    Returns:
        Its `encode_response`.

    Raises:
        ValueError: If it has none: the protocol does not ask for it, since prompts can do without.
    """
    encode: Callable[[str], list[int]] | None = getattr(tokenizer, "encode_response", None)
    if encode is None:
        raise ValueError(f"Expected a tokenizer with encode_response(text), got {tokenizer!r}, which has none")
    return encode
