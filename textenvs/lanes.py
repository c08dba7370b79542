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
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from textenvs import render as views
from textenvs.action_masks import ActionMasks, Stops
from textenvs.grammars import Language, make_language
from textenvs.pool import Pool, _table, longest_row
from textenvs.rewards.base import Reward, RewardError, checked_score
from textenvs.rewards.payouts import make_payout
from textenvs.seeding import _bits, _streams
from textenvs.tasks.base import Example, Task
from textenvs.tasks.curriculum import Curriculum
from textenvs.tokenizer import Tokenizer, decode, decode_batch, decode_prompt, decode_tokens


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


def segments(lanes: Lanes, lane: int) -> list[views.Segment]:
    """What one lane has to show: its prompt, each token of the agent with the reward that it was paid, and replies.

    Args:
        lanes: Lanes that keep rewards.
        lane: Which one.

    Returns:
        Segments for `textenvs.render`.
    """
    pieces = lanes.tokenizer.pieces
    ids = lanes.input_ids[lane, : lanes.length[lane]].tolist()
    begin = int(lanes.prompt_length[lane])
    shown = [views.Segment(decode_prompt(lanes.tokenizer, ids[:begin]), "prompt", None)]
    texts = decode_tokens(lanes.tokenizer, ids[begin:])
    step = 0
    for token, text, mine in zip(ids[begin:], texts, lanes.response_mask[lane, begin:].tolist(), strict=False):
        if not mine:
            shown.append(views.Segment(text, "environment", None, special=not pieces[token]))
            continue
        reward = None if lanes.token_rewards is None else float(lanes.token_rewards[lane, step])
        shown.append(views.Segment(text, "response", reward, special=not pieces[token]))
        step += 1
    return shown


def render_lane(lanes: Lanes, lane: int, render_mode: str, title: str) -> Any:
    """One lane as text ("ansi") or as a picture ("rgb_array").

    Args:
        lanes: Lanes that keep rewards.
        lane: Which one.
        render_mode: "ansi" or "rgb_array".
        title: What to write above a picture.

    Returns:
        A string, or `(height, width, 3)` uint8.
    """
    shown = segments(lanes, lane)
    if render_mode == "ansi":
        return views.ansi(shown)
    return views.rgb_array(shown, title=f"{title}   score {lanes.score[lane]:+.3f}")
