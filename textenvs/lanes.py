"""The transition: N episodes as arrays. The only place where an episode moves.

A lane is one of N parallel episodes. Its text lies in one row of `input_ids`: the prompt, then the response, then
padding. A step writes one token at `length`, ends the lanes that wrote EOS or spent their budget, and asks the
reward's scorer and the payout what that was worth. `TextGenEnv` is one lane, `TextGenVectorEnv` is N of them.

In a task of several turns, EOS ends a turn: the task's reply is written behind it, and the agent goes on. The agent's
text, which the reward scores, then has a newline for each EOS.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from textenvs.automata import ActionMasks, Language, Stops, make_language
from textenvs.curriculum import Curriculum
from textenvs.rewards.base import Reward, RewardError, checked_score
from textenvs.rewards.payouts import make_payout
from textenvs.tasks.base import Example, Task
from textenvs.tokenizer import Tokenizer, decode, decode_batch


@dataclass(frozen=True)
class PromptEncoder:
    """Makes tokens of prompts.

    Attributes:
        tokenizer: Whose tokens.
        max_length: Prompts are cut to this many tokens; None keeps them whole.
        truncation_side: Which end a cut takes away: "left" keeps the last tokens, "right" the first.
        chat_template: Whether a prompt is what a user says to an assistant, in the tokenizer's chat template.

    Raises:
        ValueError: If the length is less than 1, the side is unknown, or the tokenizer has no chat template.
    """

    tokenizer: Tokenizer
    max_length: int | None = None
    truncation_side: str = "left"
    chat_template: bool = False

    def __post_init__(self) -> None:
        if self.truncation_side not in ("left", "right"):
            raise ValueError(f"Expected truncation_side to be 'left' or 'right', got {self.truncation_side!r}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"Expected max_prompt_length to be at least 1 token, got {self.max_length}")
        if self.chat_template and not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(f"Expected a tokenizer with a chat template, got {self.tokenizer!r}, which has none")

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of each prompt, at least one, and at most `max_length`."""
        encoded = [prompt or [self.tokenizer.bos_token_id] for prompt in self._whole(prompts)]
        if self.max_length is None:
            return encoded
        keep = slice(None, self.max_length) if self.truncation_side == "right" else slice(-self.max_length, None)
        return [prompt[keep] for prompt in encoded]

    def _whole(self, prompts: Sequence[str]) -> list[list[int]]:
        if not self.chat_template:
            return self.tokenizer.encode_batch(prompts)
        tokenizer: Any = self.tokenizer
        return [tokenizer.encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]

    def encode_reply(self, reply: str) -> list[int]:
        """The tokens of what the environment says between two turns of the agent, the latter's EOS left out."""
        tokenizer: Any = self.tokenizer
        if not self.chat_template:
            ids: list[int] = tokenizer.encode_response(reply)
            return ids
        # The template around a reply, found as what stands behind the EOS of the assistant's turn before it.
        before = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        eos = self.tokenizer.eos_token_id
        turns = tokenizer.encode_chat(before, add_generation_prompt=False).count(eos)
        if not turns:
            raise ValueError(f"Expected a chat template that ends what the assistant says with EOS, got {tokenizer!r}")
        whole = tokenizer.encode_chat([*before, {"role": "user", "content": reply}])
        ends = [place for place, token in enumerate(whole) if token == eos]
        return list(whole[ends[turns - 1] + 1 :])


@dataclass(frozen=True)
class Pool:
    """The examples of one split, tokenised once. A reset is an index into it.

    Attributes:
        examples: What each prompt came from.
        prompts: `(examples, max_prompt_length)` int32, right-padded.
        lengths: `(examples,)` int64, tokens of each prompt, at least 1.
        encoder: What made the tokens.
        thresholds: `(examples,)` uint64 from 0 to 2^32, how much of its share an example keeps for itself; None where
            all are drawn alike.
        aliases: `(examples,)` int64, who gets the rest.
        reply_tokens: The most tokens that a reply of the task has.
    """

    examples: tuple[Example, ...]
    prompts: NDArray[np.int32]
    lengths: NDArray[np.int64]
    encoder: PromptEncoder
    thresholds: NDArray[np.uint64] | None = None
    aliases: NDArray[np.int64] | None = None
    reply_tokens: int = 0

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    def draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places in the pool, from random bits: O(1) each, whatever the weights.

        Args:
            bits: `(k,)` uint64, uniform.

        Returns:
            `(k,)` int64. The upper half of the bits finds a place, and the lower half decides between it and its alias.

        Source: Walker (1977), An efficient method for generating discrete random variables with general distributions.
        """
        # The bias of scaling 32 bits to the pool, pool / 2^32, is far below any noise.
        places = ((bits >> np.uint64(32)) * np.uint64(len(self)) >> np.uint64(32)).astype(np.int64)
        if self.thresholds is None or self.aliases is None:
            return places
        return np.where((bits & np.uint64(0xFFFFFFFF)) < self.thresholds[places], places, self.aliases[places])


def build_pools(task: Task, encoder: PromptEncoder) -> dict[str, Pool]:
    """Tokenise every split of a task, so that all its environments have the same observation space.

    A prompt that is cut may come to equal another split's prompt. Such examples are left out of the later split
    (train, validation, test, shifted), so that no prompt is ever in two.

    Args:
        task: Where the examples come from.
        encoder: What makes tokens of prompts.

    Returns:
        Split to pool, for the splits that have examples.

    Raises:
        ValueError: If no split has an example, or a task's weights are wrong.
    """
    encoded: dict[str, tuple[list[Example], list[list[int]], Sequence[float] | None]] = {}
    seen: set[tuple[int, ...]] = set()
    for split in task.splits:
        examples = [task.example(split, index) for index in range(task.num_examples(split))]
        if not examples:
            continue
        prompts = encoder.encode([example.prompt for example in examples])
        weights = task.weights(split)
        if weights is not None:
            _check_weights(task, split, weights, len(examples))
        if encoder.max_length is not None and any(len(prompt) == encoder.max_length for prompt in prompts):
            kept = [row for row, prompt in enumerate(prompts) if tuple(prompt) not in seen]
            examples, prompts = [examples[row] for row in kept], [prompts[row] for row in kept]
            weights = None if weights is None else [weights[row] for row in kept]
        seen.update(map(tuple, prompts))
        if examples and (weights is None or any(weights)):
            encoded[split] = (examples, prompts, weights)
    if not encoded:
        raise ValueError(f"Expected task {task.name!r} to have at least one example, got none in any split")
    width = max(len(prompt) for _, prompts, _ in encoded.values() for prompt in prompts)
    reply_tokens = task.max_reply_tokens
    if task.max_turns > 1:
        given = [example for examples, _, _ in encoded.values() for example in examples]
        replies = dict.fromkeys(reply for example in given for reply in task.replies(example))
        reply_tokens = max([reply_tokens, *(len(encoder.encode_reply(reply)) for reply in replies)])
    pools = {}
    for split, (examples, prompts, weights) in encoded.items():
        table, lengths = _table(prompts, width, encoder.tokenizer.pad_token_id)
        thresholds, aliases = (None, None) if weights is None else alias_table(weights)
        for array in (table, lengths, thresholds, aliases):
            if array is not None:
                array.setflags(write=False)
        pools[split] = Pool(tuple(examples), table, lengths, encoder, thresholds, aliases, reply_tokens)
    return pools


def _table(prompts: Sequence[Sequence[int]], width: int, pad: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    table = np.full((len(prompts), width), pad, dtype=np.int32)
    for row, prompt in enumerate(prompts):
        table[row, : len(prompt)] = prompt
    return table, np.array([len(prompt) for prompt in prompts], dtype=np.int64)


def _check_weights(task: Task, split: str, weights: Sequence[float], count: int) -> None:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (count,) or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise ValueError(
            f"Expected the weights of task {task.name!r} in split {split!r} as {count} numbers from 0, not all 0, got "
            f"{array if array.size < 20 else array.shape}"
        )


def alias_table(weights: Sequence[float]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """What `Pool.draw` needs to draw by weight.

    Args:
        weights: `(n,)` from 0, not all of them 0.

    Returns:
        Thresholds `(n,)` uint64 from 0 to 2^32, and aliases `(n,)` int64.

    Source: Vose (1991), A linear algorithm for generating random numbers with a given distribution.
    """
    array = np.asarray(weights, dtype=np.float64)
    shares: list[float] = (array / array.sum() * len(array)).tolist()
    aliases = list(range(len(shares)))  # what rounding leaves over in the end has a share of 1, and itself for alias
    small = [place for place, share in enumerate(shares) if share < 1]
    large = [place for place, share in enumerate(shares) if share >= 1]
    while small and large:
        poor, rich = small.pop(), large[-1]
        aliases[poor] = rich
        shares[rich] -= 1 - shares[poor]
        if shares[rich] < 1:
            small.append(large.pop())
    return (np.clip(shares, 0.0, 1.0) * 2.0**32).astype(np.uint64), np.array(aliases, dtype=np.int64)


def episode_random(seeds: NDArray[np.uint64], episodes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Counter-based random bits: a pure function of (seed, episode), the same on every machine.

    Args:
        seeds: `(k,)` uint64.
        episodes: `(k,)` uint64, how many episodes came before this one.

    Returns:
        `(k,)` uint64, uniform.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators).
    """
    return _bits(_streams(seeds), episodes + np.uint64(1))


def _streams(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The half of `episode_random` that the seed alone decides."""
    return _mix(seeds + np.uint64(0x9E3779B97F4A7C15))


def _bits(streams: NDArray[np.uint64], counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The other half: an episode's bits, by its number from 1."""
    return _mix(streams + counts * np.uint64(0xD1342543DE82EF95))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class _NewlineTurns:
    """The same tokenizer, but EOS adds a newline: how scores and payouts read the turns of an episode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocab_size = tokenizer.vocab_size
        self.bos_token_id = tokenizer.bos_token_id
        self.eos_token_id = tokenizer.eos_token_id
        self.pad_token_id = tokenizer.pad_token_id
        eos = tokenizer.eos_token_id
        self.pieces = (*tokenizer.pieces[:eos], b"\n", *tokenizer.pieces[eos + 1 :])
        self.encode_batch = tokenizer.encode_batch


class Lanes:
    """N episodes of one task, one tokenizer and one reward.

    Args:
        num_lanes: N.
        task: Who replies and says what is allowed.
        pool: The examples to draw from.
        tokenizer: Whose ids are the actions.
        reward: The score.
        payout: When the score is paid, as `make_payout` takes it.
        max_new_tokens: The budget of an episode, in actions.
        min_new_tokens: How many tokens an episode has before EOS or a stop sequence ends it.
        stop: Texts that end an episode, or None.
        action_mask: What the agent may say, as `TextGenEnv` takes it, or None.
        success_score: The score from which an ended episode counts as a success; None: never.
        keep_rewards: Whether to keep each token's reward, which rendering needs.
        curriculum: Which examples are drawn, or None: any of the pool.
        group_size: This many lanes in a row share their examples: with one seed, their n-th episodes are of the same.

    Attributes:
        input_ids: `(N, max_length)` int32, right-padded.
        attention_mask: `(N, max_length)` int8, 1 where there is a token.
        response_mask: `(N, max_length)` int8, 1 where the agent wrote it.
        length: `(N,)` int64, tokens in each row: those of the context, and the agent's.
        prompt_length: `(N,)` int64, those of the prompt.
        context_length: `(N,)` int64, those of the prompt and of the task's replies.
        response_length: `(N,)` int64, actions taken.
        begun: `(N,)` bool, which lanes have had an episode.
        terminated: `(N,)` bool, which episodes are over (or have not begun).
        score: `(N,)` float64, Phi as far as the payout has asked for it.
        success: `(N,)` bool, whether an ended episode reached the success score.
        example_index: `(N,)` int64, places in the pool; -1 for an example that the user gave.
        episode: `(N,)` uint64, episodes begun since the last seed.
        score_seconds: Of the clock, what scores and payouts have taken in steps so far.
        reports_more: Whether there are `part_scores` or `action_masks` to report.

    Raises:
        ValueError: If a number or text is out of range, or does not go with a task of several turns.
        TypeError: If an argument is of the wrong kind.
    """

    def __init__(
        self,
        num_lanes: int,
        task: Task,
        pool: Pool,
        tokenizer: Tokenizer,
        reward: Reward,
        payout: Any,
        max_new_tokens: int,
        *,
        min_new_tokens: int = 0,
        stop: Sequence[str] | None = None,
        action_mask: Any = None,
        success_score: float | None = None,
        keep_rewards: bool = False,
        curriculum: Curriculum | None = None,
        group_size: int = 1,
    ) -> None:
        self.num_lanes = num_lanes
        self.task = task
        self.pool = pool
        self.tokenizer = tokenizer
        self.reward = reward
        self.max_new_tokens = max_new_tokens
        self.min_new_tokens = min_new_tokens
        self.max_length = longest_row(task, pool, max_new_tokens)
        self._multi_turn = task.max_turns > 1
        self._spelled: Tokenizer = _NewlineTurns(tokenizer) if self._multi_turn else tokenizer
        self._pieces = np.array(self._spelled.pieces, dtype=object)
        self.payout = make_payout(payout, num_lanes, self._spelled)
        self.scorer = reward.scorer(num_lanes, self._spelled)
        # A payout that asks at the end alone needs no reset of the scorer, unless infos show the scores of its parts.
        self._scorer_reset = self.payout.every_step or bool(reward.parts)
        self._success_score = np.inf if success_score is None else success_score
        self.all = np.arange(num_lanes)
        self.input_ids = np.full((num_lanes, self.max_length), tokenizer.pad_token_id, dtype=np.int32)
        self.attention_mask = np.zeros((num_lanes, self.max_length), dtype=np.int8)
        self.response_mask = np.zeros((num_lanes, self.max_length), dtype=np.int8)
        self.prompt_length = np.zeros(num_lanes, dtype=np.int64)
        self.context_length = np.zeros(num_lanes, dtype=np.int64)
        self.response_length = np.zeros(num_lanes, dtype=np.int64)
        self.begun = np.zeros(num_lanes, dtype=np.bool_)
        self.terminated = np.ones(num_lanes, dtype=np.bool_)
        self.score = np.zeros(num_lanes)
        self.success = np.zeros(num_lanes, dtype=np.bool_)
        self.example_index = np.zeros(num_lanes, dtype=np.int64)
        self.episode = np.zeros(num_lanes, dtype=np.uint64)
        self.token_rewards = np.zeros((num_lanes, max_new_tokens)) if keep_rewards else None
        self.score_seconds = 0.0
        self._columns = np.arange(self.max_length)
        self._streams = _streams(np.zeros(num_lanes, dtype=np.uint64))
        # A token's place in the flat arrays is its number in the response (from 1) and this, so that a step adds once.
        self._offset = np.zeros(num_lanes, dtype=np.int64)
        self._curriculum = curriculum
        self._group_size = group_size
        self._drawn = np.zeros(num_lanes, dtype=np.bool_)  # whose example the user did not choose
        self._given: dict[int, Example] = {}  # lane to the example that the user gave it
        self._turns: list[list[str]] = [[] for _ in range(num_lanes)]
        self._turn_start = np.zeros(num_lanes, dtype=np.int64)  # the action that began the present turn
        self._stops = None if stop is None else Stops(stop, num_lanes, tokenizer)
        self._from_task = action_mask == "task"
        self._allowed = None if action_mask is None or self._from_task else make_language(action_mask)
        self._masks = None if action_mask is None and not min_new_tokens else ActionMasks(num_lanes, tokenizer)
        self.reports_more = self._masks is not None or bool(reward.parts)
        if self._masks is not None:
            self._masks.reset(self.all, [None] * num_lanes)

    @property
    def length(self) -> NDArray[np.int64]:
        """`(N,)` how many tokens each row has."""
        return self.context_length + self.response_length

    def seed(self, lanes: NDArray[np.intp], seeds: NDArray[np.uint64]) -> None:
        """Give lanes new seeds; their next episode is the first of the new stream.

        Args:
            lanes: `(k,)` which lanes.
            seeds: `(k,)` their seeds.
        """
        self._streams[lanes] = _streams(seeds)
        self.episode[lanes] = 0

    def join_groups(self) -> None:
        """Let the lanes of a group go on with the same episode of their stream, one that none of them has had."""
        groups = self.episode.reshape(-1, self._group_size)
        groups[:] = groups.max(axis=1, keepdims=True)

    def reset(self, lanes: NDArray[np.intp], examples: NDArray[np.int64] | Sequence[Example] | None = None) -> None:
        """Begin a new episode in some lanes.

        Args:
            lanes: `(k,)` which lanes.
            examples: `(k,)` places in the pool, or an example for each; None draws them.

        Raises:
            ValueError: If the prompt of a given example is longer than the observation has room for.
        """
        pool, width = self.pool, self.pool.prompts.shape[1]
        counts = self.episode[lanes] + np.uint64(1)
        self._drawn[lanes] = examples is None
        if examples is None:
            examples = self._draw(_bits(self._streams[lanes], counts))
        if isinstance(examples, np.ndarray):
            prompts, lengths = pool.prompts.take(examples, axis=0), pool.lengths.take(examples)
            self.example_index[lanes] = examples
        else:
            prompts, lengths = self._encode(examples, width)
            self.example_index[lanes] = -1
            self._given.update(zip(lanes.tolist(), examples, strict=True))
        self.episode[lanes] = counts
        # What the last episodes wrote is cleared, and no more: a reset costs what the episode was long.
        written = int((self.context_length[lanes] + self.response_length[lanes]).max(initial=width))
        self.input_ids[lanes, :width] = prompts
        self.input_ids[lanes, width:written] = self.tokenizer.pad_token_id
        self.attention_mask[lanes, :written] = self._columns[:written] < lengths[:, None]
        self.response_mask[lanes, :written] = 0
        self.prompt_length[lanes] = lengths
        self.context_length[lanes] = lengths
        self.response_length[lanes] = 0
        self._offset[lanes] = lanes * self.max_length + lengths - 1
        self.begun[lanes] = True
        self.terminated[lanes] = False
        self.score[lanes] = 0.0
        self.success[lanes] = False
        if self.token_rewards is not None:
            self.token_rewards[lanes] = 0.0
        self.payout.reset(lanes)
        if self._scorer_reset:
            given = self.examples(lanes)
            try:
                self.scorer.reset(lanes, given)
            except Exception as error:
                self._raise_reward_error(lanes, error)
        if self._stops is not None:
            self._stops.reset(lanes)
        if self._multi_turn:
            self._turn_start[lanes] = 0
            for lane in lanes.tolist():
                self._turns[lane] = []
        if self._masks is not None:
            self._masks.reset(lanes, [self._language(lane) for lane in lanes.tolist()])

    def _draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        if self._curriculum is None:
            return self.pool.draw(bits)
        if self._group_size == 1 or len(bits) == self.num_lanes:  # no group may have two levels
            self._curriculum.settle()
        return self._curriculum.draw(bits)

    def _encode(self, examples: Sequence[Example], width: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        prompts = self.pool.encoder.encode([example.prompt for example in examples])
        longest = max(map(len, prompts))
        if longest > width:
            raise ValueError(
                f"Expected an example with a prompt of at most {width} tokens, for which the observation has room, got "
                f"one of {longest}: max_prompt_length={width} cuts it"
            )
        return _table(prompts, width, self.tokenizer.pad_token_id)

    def _language(self, lane: int) -> Language | None:
        """What one lane's agent may say in its next turn, or None: anything."""
        if not self._from_task:
            return self._allowed
        allowed = self.task.allowed(self.example(lane), tuple(self._turns[lane]))
        return None if allowed is None else make_language(allowed)

    @overload
    def step(self, lanes: int, actions: int) -> float: ...

    @overload
    def step(self, lanes: NDArray[np.intp], actions: NDArray[np.int64]) -> NDArray[np.float64]: ...

    def step(self, lanes: Any, actions: Any) -> Any:
        """Write one token in each of some lanes whose episodes run.

        Numbers and arrays go the same way: what numpy does with an array of one costs it ten times what it does with a
        number, and a single environment has nothing else to do.

        Args:
            lanes: `(k,)` distinct lanes, none of them terminated; or one lane.
            actions: `(k,)` a token id for each; or the one lane's.

        Returns:
            `(k,)` rewards, or the one lane's. What else changed stands in the attributes.

        Raises:
            ValueError: If an action is no token id.
            RewardError: If the reward fails.
        """
        self._check_actions(actions)
        alone = isinstance(lanes, int)
        at = slice(None) if lanes is self.all else lanes  # all lanes as a view, which is not gathered
        spent = self.response_length[at] + 1
        places = self._offset[at] + spent
        self.input_ids.ravel()[places] = actions
        self.attention_mask.ravel()[places] = 1
        self.response_mask.ravel()[places] = 1
        self.response_length[at] = spent

        rows = self.all[lanes : lanes + 1] if alone else lanes
        self._end(at, rows, actions, spent)
        terminated = self.terminated[at]
        ended = rows[: int(terminated)] if alone else rows[terminated]
        if not self.payout.every_step and not len(ended) and self.token_rewards is None:
            return 0.0 if alone else np.zeros(len(rows))
        started = time.perf_counter()
        rewards = self._pay(rows, np.atleast_1d(actions), np.atleast_1d(terminated), ended)
        self.score_seconds += time.perf_counter() - started
        if len(ended):
            self.success[ended] = self.score[ended] >= self._success_score
            if self._curriculum is not None:
                drawn = ended[self._drawn[ended]]
                self._curriculum.record(self.example_index[drawn], self.score[drawn])
        if self.token_rewards is not None:
            self.token_rewards[rows, spent - 1] = rewards
        return rewards.item() if alone else rewards

    def _check_actions(self, actions: Any) -> None:
        size = self.tokenizer.vocab_size
        if isinstance(actions, int):
            if 0 <= actions < size:
                return
        elif not actions.size or actions.view(np.uint64).max() < size:  # below 0 is beyond all, without its sign
            return
        wrong = next(action for action in np.atleast_1d(actions).tolist() if not 0 <= action < size)
        raise ValueError(f"Expected actions to be token ids from 0 to {size - 1}, got {wrong}")

    def _end(self, at: Any, rows: NDArray[np.intp], actions: Any, spent: Any) -> None:
        """Write which episodes end with these actions. Where a task replies instead, its reply is written."""
        over = actions == self.tokenizer.eos_token_id
        if self.min_new_tokens:
            over = over & (spent > self.min_new_tokens)
        if self._stops is not None or self._masks is not None:
            tokens = np.atleast_1d(actions)
            if self._stops is not None:
                stopped = self._stops.push(rows, tokens) & (np.atleast_1d(spent) >= self.min_new_tokens)
                over = over | (stopped if np.ndim(actions) else stopped[0])
            if self._masks is not None:
                self._masks.push(rows, tokens)
        no_budget = spent >= self.max_new_tokens
        self.terminated[at] = over | no_budget
        if self._multi_turn:
            for lane in rows[np.atleast_1d(over & ~no_budget)].tolist():
                self.terminated[lane] = not self._reply(lane)

    def _pay(
        self, rows: NDArray[np.intp], tokens: NDArray[np.int64], terminated: NDArray[np.bool_], ended: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Score as far as the payout asks for it: `(k,)` rewards."""
        if self.payout.every_step:
            try:
                phi = self.scorer.push(rows, tokens)
            except Exception as error:
                self._raise_reward_error(rows, error)
            self._check_scores(rows, phi)
            self.score[rows] = phi
            return self.payout.pay(rows, phi, terminated, tokens)
        rewards = np.zeros(len(rows))
        if len(ended):
            examples, responses = self.examples(ended), self.responses(ended)
            try:
                phi = self.scorer.score_whole(ended, examples, responses)
            except Exception as error:
                self._raise_reward_error(ended, error)
            self._check_scores(ended, phi)
            self.score[ended] = phi
            rewards[terminated] = self.payout.pay(ended, phi, terminated[terminated], tokens[terminated])
        return rewards

    def _reply(self, lane: int) -> bool:
        """End the agent's turn in one lane and write what the task says back; False where it says nothing."""
        turns = self._turns[lane]
        turns.append(decode(self.tokenizer, self.response_ids(lane)[self._turn_start[lane] :]))
        self._turn_start[lane] = self.response_length[lane]
        if len(turns) == self.task.max_turns:
            return False
        reply = self.task.reply(self.example(lane), tuple(turns))
        if reply is None:
            return False
        ids = self.pool.encoder.encode_reply(reply)
        if len(ids) > self.pool.reply_tokens:
            raise ValueError(
                f"Expected task {self.task.name!r} to reply with at most max_reply_tokens="
                f"{self.pool.reply_tokens} tokens, or with one of its replies(example), got {len(ids)}: {reply!r}"
            )
        length = self.context_length[lane] + self.response_length[lane]
        self.input_ids[lane, length : length + len(ids)] = ids
        self.attention_mask[lane, length : length + len(ids)] = 1
        self.context_length[lane] += len(ids)
        self._offset[lane] += len(ids)
        if self._masks is not None:
            self._masks.reset(np.array([lane]), [self._language(lane)])
        return True

    def action_masks(self, lanes: NDArray[np.intp]) -> NDArray[np.int8] | None:
        """Which tokens may come next.

        Args:
            lanes: `(k,)` which lanes.

        Returns:
            `(k, vocab_size)` int8, 1 where a token may; None where anything always may. EOS may not before
            `min_new_tokens`, unless nothing else may. After the end of an episode, nothing but EOS may.
        """
        if self._masks is None:
            return None
        legal, eos = self._masks.legal(lanes), self.tokenizer.eos_token_id
        if self.min_new_tokens:
            legal[self.response_length[lanes] < self.min_new_tokens, eos] = 0
            legal[~legal.any(axis=1), eos] = 1
        over = self.terminated[lanes]
        legal[over] = 0
        legal[over, eos] = 1
        return legal

    def _check_scores(self, lanes: NDArray[np.intp], phi: Any) -> None:
        """Raise unless a scorer gave one finite number for each of these lanes."""
        if not isinstance(phi, np.ndarray) or phi.shape != lanes.shape or phi.dtype != np.float64:
            got = f"{phi.dtype} {phi.shape}" if isinstance(phi, np.ndarray) else type(phi).__name__
            problem = f"has a scorer that should give float64 ({len(lanes)},), one a lane, and gave {got}"
            raise RewardError(self.reward.name, problem, self.example(lanes[0]), self.response(lanes[0]))
        if np.count_nonzero(np.isfinite(phi)) < len(phi):
            row = int(np.flatnonzero(~np.isfinite(phi))[0])
            lane = lanes[row]
            parts = {name: float(scores[0]) for name, scores in self.part_scores(lanes[row : row + 1]).items()}
            guilty = "".join(f", its part {name!r} {one}" for name, one in parts.items() if not np.isfinite(one))
            raise RewardError(self.reward.name, f"gave {phi[row]}{guilty}", self.example(lane), self.response(lane))

    def _raise_reward_error(self, lanes: NDArray[np.intp], error: Exception) -> NoReturn:
        """Say which example and response a scorer failed on."""
        if isinstance(error, RewardError):
            raise error
        for lane in lanes.tolist():
            self.current_score(lane)  # raises for the lane whose text the reward fails on by itself
        problem = f"raised {type(error).__name__}: {error}"
        raise RewardError(self.reward.name, problem, self.example(lanes[0]), self.response(lanes[0])) from error

    def example(self, lane: int | np.intp) -> Example:
        """The example of one lane's episode."""
        index = int(self.example_index[lane])
        return self._given[int(lane)] if index < 0 else self.pool.examples[index]

    def examples(self, lanes: NDArray[np.intp]) -> list[Example]:
        """The examples of some lanes `(k,)`, as `example` gives each."""
        places, pool = self.example_index[lanes].tolist(), self.pool.examples
        if min(places, default=0) >= 0:
            return [pool[place] for place in places]
        return [self.example(lane) for lane in lanes.tolist()]

    def response_ids(self, lane: int | np.intp) -> list[int]:
        """The tokens that the agent wrote in one lane, EOS included."""
        ids: list[int] = self.input_ids[lane][self.response_mask[lane] == 1].tolist()
        return ids

    def response(self, lane: int | np.intp) -> str:
        """The agent's text in one lane, special tokens left out. With several turns, a newline for each EOS."""
        return decode(self._spelled, self.response_ids(lane))

    def responses(self, lanes: NDArray[np.intp]) -> list[str]:
        """The agent's texts in some lanes `(k,)`, as `response` gives each."""
        return decode_batch(self._pieces, self.input_ids[lanes], self.response_mask[lanes] == 1)

    def current_score(self, lane: int | np.intp) -> float:
        """Phi of one lane's response now, whether or not the payout has asked for it."""
        return checked_score(self.reward, self.example(lane), self.response(lane))

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """The latest score of each named component of the reward, `(k,)` each."""
        return self.scorer.part_scores(lanes)


def longest_row(task: Task, pool: Pool, max_new_tokens: int) -> int:
    """The most tokens that an episode has: a prompt, what the agent writes, and a reply after each turn but the last.

    Args:
        task: How many turns there are.
        pool: The prompts, and how long a reply is.
        max_new_tokens: The budget; a turn takes at least one token of it.

    Returns:
        Tokens.
    """
    replies = max(min(task.max_turns, max_new_tokens) - 1, 0)
    return int(pool.prompts.shape[1]) + max_new_tokens + replies * pool.reply_tokens


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

    Raises:
        TypeError: If one of several seeds is not a whole number.
        ValueError: If one of several seeds is less than 0.
    """
    if isinstance(seed, (int, np.integer)):
        groups = np.arange(num_lanes, dtype=np.uint64) // np.uint64(group_size)
        return np.uint64(int(seed) % 2**64) + groups
    return np.array([check_count("a lane's seed", one, least=0) % 2**64 for one in seed], dtype=np.uint64)
