"""The transition: N episodes as arrays. The only place where an episode moves.

A lane is one of N parallel episodes. Its text lies in one row of `input_ids`: the prompt, then the response, then
padding. A step writes one token at `length`, ends the lanes that wrote EOS (or what else
ends a turn) or spent their budget, and asks the
reward's scorer and the payout for the token's reward. `TextGenEnv` is one lane, `TextGenVectorEnv` is N of them.

In a task of several turns, EOS ends a turn: the task's reply is written behind it, and the agent goes on. The agent's
text, which the reward scores, then has a newline for each EOS.

Around this file: `textenvs.pool` holds the examples, `textenvs.seeding` the random bits that pick one, and
`textenvs.action_masks` knows the tokens that are allowed. None of them changes an episode.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from textenvs.action_masks import ActionMasks, Stops
from textenvs.example import Example, frozen
from textenvs.grammars import Language, make_language
from textenvs.pool import Pool, longest_row, pad_prompts
from textenvs.rewards.base import LARGEST_SCORE, Reward, RewardError, checked_score, too_large
from textenvs.rewards.payouts import make_payout
from textenvs.seeding import seed_streams, stream_bits
from textenvs.tasks.base import Task
from textenvs.tasks.curriculum import Curriculum
from textenvs.tokenizer import Tokenizer, decode, decode_batch, end_token_ids


class _NewlineTurns:
    """A tokenizer whose EOS adds a newline, so that scores and payouts read the turns of an episode as lines.

    Args:
        tokenizer: The tokenizer.
        end_ids: EOS, and other tokens that end a turn.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        self.vocab_size = tokenizer.vocab_size
        self.bos_token_id = tokenizer.bos_token_id
        self.eos_token_id = tokenizer.eos_token_id
        self.pad_token_id = tokenizer.pad_token_id
        pieces = list(tokenizer.pieces)
        for end in end_ids:
            pieces[end] = b"\n"
        self.pieces = tuple(pieces)
        self.encode_batch = tokenizer.encode_batch


class Lanes:
    """N episodes of one task, one tokenizer and one reward.

    Args:
        num_lanes: N.
        task: The task, which replies and may say what is allowed.
        pool: The examples to draw from.
        tokenizer: The tokenizer, whose ids are the actions.
        reward: The score.
        payout: The payout, as `make_payout` takes it.
        max_new_tokens: The budget of an episode, in actions.
        min_new_tokens: The number of tokens in an episode before EOS or a stop sequence ends it.
        stop: Texts that end an episode, or None.
        end_ids: The tokens that end an episode, or a turn, EOS among them; None: the tokenizer's own.
        action_mask: The texts that the agent is held to, as `TextGenEnv` takes them, or None.
        success_score: The score from which an ended episode counts as a success; None: never.
        keep_rewards: If True, each token's reward is kept, for rendering.
        curriculum: The choice of examples by level, or None: any of the pool.
        group_size: The number of lanes in a row that share their examples: with one seed, their n-th episodes are of
            the same one.

    Attributes:
        all: `(N,)` every lane's number. A step that is given this very array works on views, and gathers nothing.
        input_ids: `(N, max_length)` int32, right-padded.
        attention_mask: `(N, max_length)` int8, 1 where there is a token.
        response_mask: `(N, max_length)` int8, 1 where the agent wrote it.
        prompt_length: `(N,)` int64, tokens of the prompt.
        context_length: `(N,)` int64, tokens of the prompt and of the task's replies.
        response_length: `(N,)` int64, actions taken.
        begun: `(N,)` bool, True for lanes that have had an episode.
        terminated: `(N,)` bool, True where the episode is over (or none has begun).
        score: `(N,)` float64, Phi as far as the payout has asked for it.
        success: `(N,)` bool, True where an ended episode reached the success score.
        example_index: `(N,)` int64, indices into the pool; -1 for an example that the user gave.
        episode: `(N,)` uint64, episodes begun since the last seed.
        token_rewards: `(N, max_new_tokens)` float64, each action's reward, or None if they are not kept.
        score_seconds: Wall-clock seconds that scores and payouts have taken in steps so far.
        reports_more: True if there are `part_scores` or `action_masks` to report.

    Raises:
        ValueError: If the payout, a stop sequence or the action mask is not valid.
        TypeError: If one of them is of the wrong type.
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
        end_ids: Sequence[int] | None = None,
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
        self._end_ids = np.array(end_token_ids(tokenizer) if end_ids is None else end_ids)
        self._is_end = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self._is_end[self._end_ids] = True
        self._multi_turn = task.max_turns > 1
        self._score_tokenizer: Tokenizer = (
            _NewlineTurns(tokenizer, self._end_ids.tolist()) if self._multi_turn else tokenizer
        )
        self._pieces = np.array(self._score_tokenizer.pieces, dtype=object)
        self.payout = make_payout(payout, num_lanes, self._score_tokenizer)
        self.scorer = reward.scorer(num_lanes, self._score_tokenizer)
        # A payout that asks at the end alone needs no reset of the scorer, unless infos show the scores of its parts.
        self._resets_scorer = self.payout.every_step or bool(reward.parts)
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
        self._streams = seed_streams(np.zeros(num_lanes, dtype=np.uint64))
        # The action number n (from 1) of a lane stands at _offset + n in the flat arrays, so that a step adds once.
        self._offset = np.zeros(num_lanes, dtype=np.int64)
        self._curriculum = curriculum
        self._group_size = group_size
        self._drawn = np.zeros(num_lanes, dtype=np.bool_)  # False for lanes whose example the user chose
        self._given_examples: dict[int, Example] = {}  # by lane, those that the user gave
        self._turns: list[list[str]] = [[] for _ in range(num_lanes)]
        self._turn_start = np.zeros(num_lanes, dtype=np.int64)  # actions before the present turn
        self._stops = None if stop is None else Stops(stop, num_lanes, tokenizer)
        self._task_masks = action_mask == "task"
        self._language = None if action_mask is None or self._task_masks else make_language(action_mask)
        self._masks = None if action_mask is None and not min_new_tokens else ActionMasks(num_lanes, tokenizer)
        self.reports_more = self._masks is not None or bool(reward.parts)
        if self._masks is not None:
            self._masks.reset(self.all, [None] * num_lanes)

    @property
    def length(self) -> NDArray[np.int64]:
        """`(N,)` int64, tokens in each row: those of the context, and the agent's."""
        return self.context_length + self.response_length

    def seed(self, lanes: NDArray[np.intp], seeds: NDArray[np.uint64]) -> None:
        """Gives lanes new seeds; their next episode is the first of the new stream.

        Args:
            lanes: `(k,)` the lanes.
            seeds: `(k,)` their seeds.
        """
        self._streams[lanes] = seed_streams(seeds)
        self.episode[lanes] = 0

    def join_groups(self) -> None:
        """Lets the lanes of a group go on with the same episode of their stream, one that none of them has had."""
        groups = self.episode.reshape(-1, self._group_size)
        groups[:] = groups.max(axis=1, keepdims=True)

    def reset(self, lanes: NDArray[np.intp], examples: NDArray[np.int64] | Sequence[Example] | None = None) -> None:
        """Begins a new episode in some lanes.

        Args:
            lanes: `(k,)` the lanes.
            examples: `(k,)` indices into the pool, or an example for each; None draws them.

        Raises:
            ValueError: If the prompt of a given example is longer than the observation has room for.
        """
        pool, width = self.pool, self.pool.prompts.shape[1]
        numbers = self.episode[lanes] + np.uint64(1)
        self._drawn[lanes] = examples is None
        if examples is None:
            examples = self._draw(stream_bits(self._streams[lanes], numbers))
        if isinstance(examples, np.ndarray):
            prompts, lengths = pool.prompts.take(examples, axis=0), pool.lengths.take(examples)
            self.example_index[lanes] = examples
        else:
            prompts, lengths = self._encode(examples, width)
            self.example_index[lanes] = -1
            self._given_examples.update(zip(lanes.tolist(), map(frozen, examples), strict=True))
        self.episode[lanes] = numbers
        # Only the columns that the last episodes wrote are cleared, so that a short episode's reset is cheap.
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
        if self._resets_scorer:
            lane_examples = self.examples(lanes)
            try:
                self.scorer.reset(lanes, lane_examples)
            except Exception as error:
                self._raise_reward_error(lanes, error)
        if self._stops is not None:
            self._stops.reset(lanes)
        if self._multi_turn:
            self._turn_start[lanes] = 0
            for lane in lanes.tolist():
                self._turns[lane] = []
        if self._masks is not None:
            self._masks.reset(lanes, [self._next_language(lane) for lane in lanes.tolist()])

    def _draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        if self._curriculum is None:
            return self.pool.draw(bits)
        if self._group_size == 1 or len(bits) == self.num_lanes:  # else one group could get examples of two levels
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
        return pad_prompts(prompts, width, self.tokenizer.pad_token_id)

    def _next_language(self, lane: int) -> Language | None:
        """Returns the texts that one lane's agent may write in its next turn, or None: any."""
        if not self._task_masks:
            return self._language
        allowed = self.task.allowed(self.example(lane), tuple(self._turns[lane]))
        return None if allowed is None else make_language(allowed)

    @overload
    def step(self, lanes: int, actions: int) -> float: ...

    @overload
    def step(self, lanes: NDArray[np.intp], actions: NDArray[np.int64]) -> NDArray[np.float64]: ...

    def step(self, lanes: Any, actions: Any) -> Any:
        """Writes one token in each of some lanes whose episodes run.

        One lane may be given as a plain number, and goes through the same lines: NumPy takes ten times as long over an
        array of one as over a number, and that would be most of a single environment's step.

        Args:
            lanes: `(k,)` distinct lanes, none of them terminated; or one lane.
            actions: `(k,)` a token id for each; or the one lane's.

        Returns:
            `(k,)` rewards, or the one lane's. The attributes hold all else that changed.

        Raises:
            ValueError: If an action is not a token id.
            RewardError: If the reward fails.
        """
        self._check_actions(actions)
        is_single = isinstance(lanes, int)
        index = slice(None) if lanes is self.all else lanes  # all lanes as a view: fancy indexing would copy
        spent = self.response_length[index] + 1
        positions = self._offset[index] + spent
        # ravel gives views of the whole arrays, so one flat index writes into every lane's own row.
        self.input_ids.ravel()[positions] = actions
        self.attention_mask.ravel()[positions] = 1
        self.response_mask.ravel()[positions] = 1
        self.response_length[index] = spent

        rows = self.all[lanes : lanes + 1] if is_single else lanes
        self._terminate(index, rows, actions, spent)
        terminated = self.terminated[index]
        ended = rows[: int(terminated)] if is_single else rows[terminated]
        if not self.payout.every_step and not len(ended) and self.token_rewards is None:
            return 0.0 if is_single else np.zeros(len(rows))
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
        return rewards.item() if is_single else rewards

    def _check_actions(self, actions: Any) -> None:
        size = self.tokenizer.vocab_size
        if isinstance(actions, int):
            if 0 <= actions < size:
                return
        # Read as unsigned, a number below 0 is huge: one comparison finds both kinds of wrong ids.
        elif not actions.size or actions.view(np.uint64).max() < size:
            return
        wrong = next(action for action in np.atleast_1d(actions).tolist() if not 0 <= action < size)
        raise ValueError(f"Expected actions to be token ids from 0 to {size - 1}, got {wrong}")

    def _terminate(self, index: Any, rows: NDArray[np.intp], actions: Any, spent: Any) -> None:
        """Marks the episodes that end with these actions. Where a task replies instead, its reply is written."""
        over = self._is_end[actions]
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
        self.terminated[index] = over | no_budget
        if self._multi_turn:
            for lane in rows[np.atleast_1d(over & ~no_budget)].tolist():
                self.terminated[lane] = not self._reply(lane)

    def _pay(
        self, rows: NDArray[np.intp], tokens: NDArray[np.int64], terminated: NDArray[np.bool_], ended: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Scores as far as the payout asks for it, and returns the `(k,)` rewards."""
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
        """Ends the agent's turn in one lane and writes the task's reply; returns False if there is none."""
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
            self._masks.reset(np.array([lane]), [self._next_language(lane)])
        return True

    def action_masks(self, lanes: NDArray[np.intp]) -> NDArray[np.int8] | None:
        """Returns the tokens that may come next.

        Args:
            lanes: `(k,)` the lanes.

        Returns:
            `(k, vocab_size)` int8, 1 where a token is allowed; None if the environment has no mask. EOS is not allowed
            before `min_new_tokens`, unless nothing else is. After the end of an episode, nothing but EOS is.
        """
        if self._masks is None:
            return None
        legal, eos = self._masks.legal(lanes), self.tokenizer.eos_token_id
        if self.min_new_tokens:
            early = self.response_length[lanes] < self.min_new_tokens
            legal[np.ix_(early, self._end_ids)] = 0
            legal[~legal.any(axis=1), eos] = 1
        over = self.terminated[lanes]
        legal[over] = 0
        legal[over, eos] = 1
        return legal

    def _check_scores(self, lanes: NDArray[np.intp], phi: Any) -> None:
        """Raises unless a scorer gave one finite number for each of these lanes."""
        if not isinstance(phi, np.ndarray) or phi.shape != lanes.shape or phi.dtype != np.float64:
            got = f"{phi.dtype} {phi.shape}" if isinstance(phi, np.ndarray) else type(phi).__name__
            problem = f"has a scorer that should give float64 ({len(lanes)},), one a lane, and gave {got}"
            raise RewardError(self.reward.name, problem, self.example(lanes[0]), self.response(lanes[0]))
        if np.count_nonzero(np.abs(phi) <= LARGEST_SCORE) < len(phi):  # False for nan
            row = int(np.flatnonzero(~(np.abs(phi) <= LARGEST_SCORE))[0])
            lane = lanes[row]
            parts = {name: float(scores[0]) for name, scores in self.part_scores(lanes[row : row + 1]).items()}
            culprits = "".join(
                f", its part {name!r} {part}" for name, part in parts.items() if not abs(part) <= LARGEST_SCORE
            )
            problem = f"gave {phi[row]}{culprits}{too_large(phi[row])}"
            raise RewardError(self.reward.name, problem, self.example(lane), self.response(lane))

    def _raise_reward_error(self, lanes: NDArray[np.intp], error: Exception) -> NoReturn:
        """Raises an error that names the example and the response that a scorer failed on."""
        if isinstance(error, RewardError):
            raise error
        for lane in lanes.tolist():
            self.current_score(lane)  # scored one by one, the lane that is to blame raises the better error
        problem = f"raised {type(error).__name__}: {error}"
        raise RewardError(self.reward.name, problem, self.example(lanes[0]), self.response(lanes[0])) from error

    def example(self, lane: int | np.intp) -> Example:
        """Returns the example of one lane's episode."""
        index = int(self.example_index[lane])
        return self._given_examples[int(lane)] if index < 0 else self.pool.examples[index]

    def examples(self, lanes: NDArray[np.intp]) -> list[Example]:
        """Returns the examples of some lanes `(k,)`."""
        indices, pool = self.example_index[lanes].tolist(), self.pool.examples
        if min(indices, default=0) >= 0:
            return [pool[index] for index in indices]
        return [self.example(lane) for lane in lanes.tolist()]

    def response_ids(self, lane: int | np.intp) -> list[int]:
        """Returns the tokens that the agent wrote in one lane, EOS included."""
        ids: list[int] = self.input_ids[lane][self.response_mask[lane] == 1].tolist()
        return ids

    def response(self, lane: int | np.intp) -> str:
        """Returns the agent's text in one lane, special tokens left out. With several turns, each EOS is a newline."""
        return decode(self._score_tokenizer, self.response_ids(lane))

    def responses(self, lanes: NDArray[np.intp]) -> list[str]:
        """Returns the agent's texts in some lanes `(k,)`, each as `response` does."""
        return decode_batch(self._pieces, self.input_ids[lanes], self.response_mask[lanes] == 1)

    def current_score(self, lane: int | np.intp) -> float:
        """Computes Phi of one lane's response now, even if the payout has not asked for it."""
        return checked_score(self.reward, self.example(lane), self.response(lane))

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """Returns the latest score of each named component of the reward, `(k,)` each."""
        return self.scorer.part_scores(lanes)
