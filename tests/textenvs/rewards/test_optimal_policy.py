"""Payouts and the best policy: a small environment, solved by value iteration under each of them."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.textenvs.helpers import EOS, Letters, Toy, ids
from textenvs import Example, TextGenEnv

ACTIONS = (*ids("ab"), EOS)
BUDGET = 3
State = tuple[int, ...]


def scores(seed: int) -> dict[str, float]:
    """A score for every text that can be written, without any order among them; the empty text's is not 0 either."""
    texts = ["".join(letters) for length in range(BUDGET + 1) for letters in product("ab", repeat=length)]
    return dict(zip(texts, np.random.default_rng(seed).normal(size=len(texts)).tolist(), strict=True))


def solve(table: dict[str, float], payout: Any, gamma: float) -> dict[State, np.ndarray]:
    """The optimal action values of every state, by value iteration over what the environment paid."""

    def score(example: Example, response: str) -> float:
        return table[response]

    env = TextGenEnv(Toy(), score, payout, Letters(), max_new_tokens=BUDGET)
    transitions: dict[State, list[tuple[float, State | None]]] = {}
    frontier: list[State] = [()]
    while frontier:
        state = frontier.pop()
        transitions[state] = []
        for action in ACTIONS:
            env.reset(seed=0)
            for token in (*state, action):
                _, reward, terminated, _, _ = env.step(token)
            following = None if terminated else (*state, action)
            transitions[state].append((reward, following))
            if following is not None:
                frontier.append(following)
    values = dict.fromkeys(transitions, 0.0)
    for _ in range(BUDGET + 1):  # an episode is no longer, so that this many sweeps are enough for any order
        action_values = {
            state: np.array([reward + gamma * (0.0 if after is None else values[after]) for reward, after in moves])
            for state, moves in transitions.items()
        }
        values = {state: float(found.max()) for state, found in action_values.items()}
    return action_values


def best(action_values: dict[State, np.ndarray]) -> dict[State, list[int]]:
    """The best actions of each state, all of them where several are as good."""
    return {state: np.flatnonzero(found >= found.max() - 1e-9).tolist() for state, found in action_values.items()}


def potential(table: dict[str, float], state: State) -> float:
    """Phi of a state, which is 0 at the start whatever the empty text scores."""
    letters = {token: letter for letter, token in zip("ab", ids("ab"), strict=True)}
    return table["".join(letters[token] for token in state)] if state else 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_shaping_keeps_the_best_policy(gamma: float, seed: int) -> None:
    table = scores(seed)
    sparse, shaped = (solve(table, payout, gamma) for payout in ("sparse", {"shaped": {"gamma": gamma}}))
    assert len(sparse) == 1 + 2 + 4  # the texts of fewer than three letters
    assert best(shaped) == best(sparse)
    for state, found in sparse.items():  # Ng, Harada & Russell (1999), corollary 2: Q* moves by the potential alone
        assert shaped[state] == pytest.approx(found - potential(table, state), abs=1e-12)


def test_other_payouts_keep_it_where_nothing_is_discounted() -> None:
    table = scores(0)
    for payout in ("immediate", {"shaped": {"gamma": 1.0}}):
        assert best(solve(table, payout, 1.0)) == best(solve(table, "sparse", 1.0))


def test_a_discount_changes_the_best_policy_of_an_immediate_payout() -> None:
    """Why `shaped` is there, and a sign that the tests above can fail."""
    tables = [scores(seed) for seed in range(3)]
    changed = [best(solve(table, "immediate", 0.3)) != best(solve(table, "sparse", 0.3)) for table in tables]
    assert any(changed)
    wrong_gamma = best(solve(scores(0), {"shaped": {"gamma": 1.0}}, 0.3))
    assert wrong_gamma != best(solve(scores(0), "sparse", 0.3))
