"""Exact scores of small environments, by dynamic programming over the memory of an `AutomatonReward`.

An episode of one example is a Markov decision process with a finite number of states (the score's memory and the number
of tokens left), one start, and a reward only at the end: whatever the payout, the undiscounted return is the final
score. So the random policy's mean score is a sum over states, and backward induction gives the best score.

Source: Bellman (1957), Dynamic Programming; Puterman (1994), Markov Decision Processes, section 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.automaton import AutomatonReward, MemoryTable
from textenvs.tasks.base import Example
from textenvs.tokenizer import Tokenizer


@dataclass(frozen=True)
class EpisodeModel:
    """An episode of one example as a Markov decision process: the states, and the state after each token.

    Attributes:
        after: `(states, vocab_size)` int64, the state after each token; for EOS, which ends the episode, the state
            itself. State 0 is the start. States that are as many tokens from the start as the budget lead nowhere.
        scores: `(states,)` float64, Phi of each.
        depth: `(states,)` int64, the least number of tokens from the start.
        eos_token_id: The action that ends the episode.
        max_new_tokens: The budget, in tokens.
    """

    after: NDArray[np.int64]
    scores: NDArray[np.float64]
    depth: NDArray[np.int64]
    eos_token_id: int
    max_new_tokens: int

    @classmethod
    def of(cls, reward: AutomatonReward, tokenizer: Tokenizer, example: Example, max_new_tokens: int) -> EpisodeModel:
        """Makes the model, by following every token from every state, breadth first.

        Args:
            reward: The score.
            tokenizer: The tokenizer whose ids are the actions.
            example: The example of the episode.
            max_new_tokens: The budget of the episode.

        Returns:
            The model.

        Raises:
            TypeError: If the score does not read character by character.
        """
        if not isinstance(reward, AutomatonReward):
            raise TypeError(f"Expected a reward that is an AutomatonReward, got {reward!r}")
        table = MemoryTable(reward, tokenizer)
        table.start(example)
        tokens = np.arange(tokenizer.vocab_size)
        rows, depth, first = [], [], 0
        for level in range(max_new_tokens + 1):
            last = len(table)  # the table grows while tokens are pushed: what is new is one token further away
            depth += [level] * (last - first)
            if level < max_new_tokens:
                rows += [table.push(np.full(len(tokens), number), tokens) for number in range(first, last)]
            else:
                rows += [np.full(len(tokens), number) for number in range(first, last)]  # the budget is spent
            first = last
        return cls(
            after=np.array(rows),
            scores=table.values[: len(table)].copy(),
            depth=np.array(depth),
            eos_token_id=tokenizer.eos_token_id,
            max_new_tokens=max_new_tokens,
        )

    def expected_score(self, probabilities: NDArray[np.float64] | None = None) -> float:
        """Computes the mean final score of a policy.

        Args:
            probabilities: `(max_new_tokens, states, vocab_size)` or anything that broadcasts to it: the probability of
                each token, by the number of tokens so far and the state. None is the uniform policy.

        Returns:
            The mean.
        """
        num_states, vocab_size = self.after.shape
        shape = (self.max_new_tokens, num_states, vocab_size)
        policy = np.broadcast_to(1.0 / vocab_size if probabilities is None else probabilities, shape)
        reached: NDArray[np.float64] = np.zeros(num_states)
        reached[0] = 1.0
        total = 0.0
        for step in range(self.max_new_tokens):
            flow = reached[:, None] * policy[step]
            total += float(flow[:, self.eos_token_id] @ self.scores)
            flow[:, self.eos_token_id] = 0.0  # these episodes are over
            reached = np.bincount(self.after.ravel(), flow.ravel(), num_states).astype(np.float64)
        return total + float(reached @ self.scores)

    def optimal_values(self) -> NDArray[np.float64]:
        """Computes the best final score that is still possible, by backward induction from the end of the budget.

        Returns:
            `(max_new_tokens + 1, states)` float64, by the number of tokens so far and the state. Entry [0, 0] is the
            optimum.
        """
        values = np.empty((self.max_new_tokens + 1, len(self.scores)))
        values[-1] = self.scores
        for step in reversed(range(self.max_new_tokens)):
            after = values[step + 1][self.after]
            after[:, self.eos_token_id] = self.scores
            values[step] = after.max(axis=1)
        return values


def random_score(reward: AutomatonReward, tokenizer: Tokenizer, example: Example, max_new_tokens: int) -> float:
    """Computes the mean score of tokens drawn uniformly from the whole vocabulary, until EOS or the end of the budget.

    Args:
        reward: The score.
        tokenizer: The tokenizer whose ids are the actions.
        example: The example of the episode.
        max_new_tokens: The budget.

    Returns:
        The exact mean, up to rounding.
    """
    return EpisodeModel.of(reward, tokenizer, example, max_new_tokens).expected_score()


def optimal_score(reward: AutomatonReward, tokenizer: Tokenizer, example: Example, max_new_tokens: int) -> float:
    """Computes the best score of any response within the budget.

    Args:
        reward: The score.
        tokenizer: The tokenizer whose ids are the actions.
        example: The example of the episode.
        max_new_tokens: The budget.

    Returns:
        The exact optimum.
    """
    return float(EpisodeModel.of(reward, tokenizer, example, max_new_tokens).optimal_values()[0, 0])
