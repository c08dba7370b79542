"""The transition: N episodes as arrays. The only place where an episode moves.

A lane is one of N parallel episodes. Its text lies in one row of `input_ids`: the prompt, then the response, then
padding. A step writes one token at `length`, ends the lanes that wrote EOS or spent their budget, and asks the
reward's scorer and the payout what that was worth. `TextGenEnv` is one lane, `TextGenVectorEnv` is N of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.base import Reward, RewardError, checked_score
from textenvs.rewards.payouts import make_payout
from textenvs.tasks.base import SPLITS, Example, Task
from textenvs.tokenizer import Tokenizer, decode


@dataclass(frozen=True)
class Pool:
    """The examples of one split, tokenised once. A reset is an index into it.

    Attributes:
        examples: What each prompt came from.
        prompts: `(examples, max_prompt_length)` int32, right-padded.
        lengths: `(examples,)` int64, tokens of each prompt, at least 1.
    """

    examples: tuple[Example, ...]
    prompts: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.examples)


def build_pools(
    task: Task, tokenizer: Tokenizer, max_prompt_length: int | None = None, truncation_side: str = "left"
) -> dict[str, Pool]:
    """Tokenise every split of a task, so that all its environments have the same observation space.

    A prompt that is cut may come to equal another split's prompt. Such examples are left out of the later split
    (train, validation, test), so that no prompt is ever in two.

    Args:
        task: Where the examples come from.
        tokenizer: What makes ids of them.
        max_prompt_length: Prompts are cut to this many tokens; None keeps them whole.
        truncation_side: Which end a cut takes away: "left" keeps the last tokens, "right" the first.

    Returns:
        Split to pool, for the splits that have examples.

    Raises:
        ValueError: If a length is less than 1, a side is unknown, or no split has an example.
    """
    if truncation_side not in ("left", "right"):
        raise ValueError(f"Expected truncation_side to be 'left' or 'right', got {truncation_side!r}")
    if max_prompt_length is not None and max_prompt_length < 1:
        raise ValueError(f"Expected max_prompt_length to be at least 1 token, got {max_prompt_length}")
    encoded: dict[str, tuple[list[Example], list[list[int]]]] = {}
    seen: set[tuple[int, ...]] = set()
    for split in SPLITS:
        examples = [task.example(split, index) for index in range(task.num_examples(split))]
        prompts = tokenizer.encode_batch([example.prompt for example in examples])
        if max_prompt_length is not None and any(len(prompt) > max_prompt_length for prompt in prompts):
            keep = slice(None, max_prompt_length) if truncation_side == "right" else slice(-max_prompt_length, None)
            prompts = [prompt[keep] for prompt in prompts]
            kept = [row for row, prompt in enumerate(prompts) if tuple(prompt) not in seen]
            examples, prompts = [examples[row] for row in kept], [prompts[row] for row in kept]
        seen.update(map(tuple, prompts))
        if examples:
            encoded[split] = (examples, prompts)
    if not encoded:
        raise ValueError(f"Expected task {task.name!r} to have at least one example, got none in any split")
    width = max(len(prompt) for _, prompts in encoded.values() for prompt in prompts)
    pools = {}
    for split, (examples, prompts) in encoded.items():
        table = np.full((len(prompts), width), tokenizer.pad_token_id, dtype=np.int32)
        for row, prompt in enumerate(prompts):
            table[row, : len(prompt)] = prompt
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        table.setflags(write=False)
        lengths.setflags(write=False)
        pools[split] = Pool(tuple(examples), table, lengths)
    return pools


def episode_random(seeds: NDArray[np.uint64], episodes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Counter-based random bits: a pure function of (seed, episode), the same on every machine.

    Args:
        seeds: `(k,)` uint64.
        episodes: `(k,)` uint64, how many episodes came before this one.

    Returns:
        `(k,)` uint64, uniform.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators).
    """
    return _mix(_mix(seeds + np.uint64(0x9E3779B97F4A7C15)) + (episodes + np.uint64(1)) * np.uint64(0xD1342543DE82EF95))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Lanes:
    """N episodes of one task, one tokenizer and one reward.

    Args:
        num_lanes: N.
        pool: The examples to draw from.
        tokenizer: Whose ids are the actions.
        reward: The score.
        payout: When the score is paid, as `make_payout` takes it.
        max_new_tokens: The budget of an episode, in actions.
        success_score: The score from which an ended episode counts as a success; None: never.
        keep_rewards: Whether to keep each token's reward, which rendering needs.

    Attributes:
        input_ids: `(N, max_length)` int32, right-padded.
        attention_mask: `(N, max_length)` int8, 1 where there is a token.
        response_mask: `(N, max_length)` int8, 1 where the agent wrote it.
        length: `(N,)` int64, tokens in each row.
        response_length: `(N,)` int64, actions taken.
        terminated: `(N,)` bool, which episodes are over (or have not begun).
        score: `(N,)` float64, Phi as far as the payout has asked for it.
        success: `(N,)` bool, whether an ended episode reached the success score.
        example_index: `(N,)` int64, places in the pool.
        episode: `(N,)` uint64, episodes begun since the last seed.
    """

    def __init__(
        self,
        num_lanes: int,
        pool: Pool,
        tokenizer: Tokenizer,
        reward: Reward,
        payout: Any,
        max_new_tokens: int,
        success_score: float | None = None,
        keep_rewards: bool = False,
    ) -> None:
        self.num_lanes = num_lanes
        self.pool = pool
        self.tokenizer = tokenizer
        self.reward = reward
        self.max_new_tokens = max_new_tokens
        self.max_length = pool.prompts.shape[1] + max_new_tokens
        self.payout = make_payout(payout, num_lanes, tokenizer)
        self.scorer = reward.scorer(num_lanes, tokenizer)
        self._success_score = np.inf if success_score is None else success_score
        self.all = np.arange(num_lanes)
        self.input_ids = np.full((num_lanes, self.max_length), tokenizer.pad_token_id, dtype=np.int32)
        self.attention_mask = np.zeros((num_lanes, self.max_length), dtype=np.int8)
        self.response_mask = np.zeros((num_lanes, self.max_length), dtype=np.int8)
        self.length = np.zeros(num_lanes, dtype=np.int64)
        self.response_length = np.zeros(num_lanes, dtype=np.int64)
        self.terminated = np.ones(num_lanes, dtype=np.bool_)
        self.score = np.zeros(num_lanes)
        self.success = np.zeros(num_lanes, dtype=np.bool_)
        self.example_index = np.zeros(num_lanes, dtype=np.int64)
        self.episode = np.zeros(num_lanes, dtype=np.uint64)
        self.token_rewards = np.zeros((num_lanes, max_new_tokens)) if keep_rewards else None
        self._seeds = np.zeros(num_lanes, dtype=np.uint64)
        self._row_start = self.all * self.max_length

    def seed(self, lanes: NDArray[np.intp], seeds: NDArray[np.uint64]) -> None:
        """Give lanes new seeds; their next episode is the first of the new stream.

        Args:
            lanes: `(k,)` which lanes.
            seeds: `(k,)` their seeds.
        """
        self._seeds[lanes] = seeds
        self.episode[lanes] = 0

    def reset(self, lanes: NDArray[np.intp], examples: NDArray[np.int64] | None = None) -> None:
        """Begin a new episode in some lanes.

        Args:
            lanes: `(k,)` which lanes.
            examples: `(k,)` places in the pool; None draws them.
        """
        if examples is None:
            bits = episode_random(self._seeds[lanes], self.episode[lanes])
            # The upper half of 64 random bits, scaled to the pool: its bias, pool / 2^32, is far below any noise.
            examples = ((bits >> np.uint64(32)) * np.uint64(len(self.pool)) >> np.uint64(32)).astype(np.int64)
        self.episode[lanes] += np.uint64(1)
        lengths = self.pool.lengths[examples]
        width = self.pool.prompts.shape[1]
        self.example_index[lanes] = examples
        self.input_ids[lanes, :width] = self.pool.prompts[examples]
        self.input_ids[lanes, width:] = self.tokenizer.pad_token_id
        self.attention_mask[lanes] = np.arange(self.max_length) < lengths[:, None]
        self.response_mask[lanes] = 0
        self.length[lanes] = lengths
        self.response_length[lanes] = 0
        self.terminated[lanes] = False
        self.score[lanes] = 0.0
        self.success[lanes] = False
        if self.token_rewards is not None:
            self.token_rewards[lanes] = 0.0
        self.payout.reset(lanes)
        if self.payout.every_step:
            self.scorer.reset(lanes, [self.pool.examples[index] for index in examples.tolist()])

    def step(self, lanes: NDArray[np.intp], actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Write one token in each of some lanes whose episodes run.

        Args:
            lanes: `(k,)` distinct lanes, none of them terminated.
            actions: `(k,)` a token id for each.

        Returns:
            `(k,)` rewards. What else changed stands in the attributes.

        Raises:
            ValueError: If an action is no token id.
            RewardError: If the reward fails.
        """
        if actions.size and (actions.min() < 0 or actions.max() >= self.tokenizer.vocab_size):
            wrong = actions[(actions < 0) | (actions >= self.tokenizer.vocab_size)][0]
            raise ValueError(f"Expected actions to be token ids from 0 to {self.tokenizer.vocab_size - 1}, got {wrong}")
        places = self._row_start[lanes] + self.length[lanes]
        self.input_ids.reshape(-1)[places] = actions
        self.attention_mask.reshape(-1)[places] = 1
        self.response_mask.reshape(-1)[places] = 1
        self.length[lanes] += 1
        spent = self.response_length[lanes] + 1
        self.response_length[lanes] = spent
        terminated = (actions == self.tokenizer.eos_token_id) | (spent >= self.max_new_tokens)
        self.terminated[lanes] = terminated

        if self.payout.every_step:
            phi = self.scorer.push(lanes, actions)
            self._check_finite(lanes, phi)
            self.score[lanes] = phi
        elif terminated.any():
            ended = lanes[terminated]
            self.score[ended] = self.scorer.score_whole(
                ended, [self.example(lane) for lane in ended], [self.response(lane) for lane in ended]
            )
            self._check_finite(ended, self.score[ended])
        score = self.score[lanes]
        self.success[lanes] = terminated & (score >= self._success_score)
        rewards = self.payout.pay(lanes, score, terminated, actions)
        if self.token_rewards is not None:
            self.token_rewards[lanes, spent - 1] = rewards
        return rewards

    def _check_finite(self, lanes: NDArray[np.intp], phi: NDArray[np.float64]) -> None:
        if not np.isfinite(phi).all():
            row = int(np.flatnonzero(~np.isfinite(phi))[0])
            lane = lanes[row]
            raise RewardError(self.reward.name, f"gave {phi[row]}", self.example(lane), self.response(lane))

    def example(self, lane: int | np.intp) -> Example:
        """The example of one lane's episode."""
        return self.pool.examples[self.example_index[lane]]

    def response_ids(self, lane: int | np.intp) -> list[int]:
        """The tokens that the agent wrote in one lane, EOS included."""
        ids: list[int] = self.input_ids[lane][self.response_mask[lane] == 1].tolist()
        return ids

    def response(self, lane: int | np.intp) -> str:
        """The agent's text in one lane, special tokens left out."""
        return decode(self.tokenizer, self.response_ids(lane))

    def current_score(self, lane: int | np.intp) -> float:
        """Phi of one lane's response now, whether or not the payout has asked for it."""
        return checked_score(self.reward, self.example(lane), self.response(lane))

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """The latest score of each named component of the reward, `(k,)` each."""
        return self.scorer.part_scores(lanes)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough, or a clear error.

    Args:
        name: What to call it in the error.
        value: The number.
        least: The smallest that will do.

    Returns:
        The value as an int.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"Expected {name} to be a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"Expected {name} to be at least {least}, got {value}")
    return int(value)


def seeds_of(seed: int | Sequence[int], num_lanes: int, group_size: int = 1) -> NDArray[np.uint64]:
    """The seed of every lane: seed + lane // group_size.

    Args:
        seed: One seed, or one for each lane.
        num_lanes: How many lanes.
        group_size: How many lanes in a row share their examples.

    Returns:
        `(num_lanes,)` uint64.
    """
    if isinstance(seed, (int, np.integer)):
        groups = np.arange(num_lanes, dtype=np.uint64) // np.uint64(group_size)
        return np.uint64(int(seed) % 2**64) + groups
    return np.array([int(one) % 2**64 for one in seed], dtype=np.uint64)
