"""That the algorithms learn, from their defaults: one seed, a fresh small model, to 0.9 of the normalised score.

`python -m benchmarks learn --suite fresh` does this with several seeds, and with every baseline.
"""

import itertools

import pytest

from agents import PPO, REINFORCE, ActorCritic
from tests.agents.helpers import lanes
from tests.helpers import slow_but
from textenvs import Example, Task, make_task

ALGORITHMS = {"ppo": PPO, "actor_critic": ActorCritic, "reinforce": REINFORCE}

WINDOW = 5
"""Updates, of 128 episodes each, over which the score is averaged."""


class Bandit(Task):
    """One token, and two that may be said; the second earns 1."""

    name = "bandit"
    default_reward = "length"

    def num_examples(self, split):
        return 1

    def example(self, split, index):
        return Example(" a")


def good(example, response):
    return float(response.startswith(" good"))


def bandit(payout):
    """The environment, and what there is to earn: half of it comes by chance."""
    env = lanes(128, payout, task=Bandit(), reward=good, max_new_tokens=1, action_mask=[" good", " bad"])
    return {"env": env}, lambda score: (score - 0.5) / 0.5


def copy(payout):
    return (
        {"env": "TextGen/Copy-v0", "env_kwargs": {"payout": payout}},
        make_task("copy").reference_scores("train").normalised,
    )


class Reached(Exception):
    """The score is there: the rest of the budget is not needed."""


def learns_from_its_defaults(name, tokens, settings, normalised):
    agent = ALGORITHMS[name]("tiny", seed=0, device="cpu", **settings)
    assert not agent.policy.pretrained
    scores = []

    def watch(row):
        scores.append(normalised(row["score"]))
        if len(scores) >= WINDOW and sum(scores[-WINDOW:]) / WINDOW >= 0.9:
            raise Reached

    with pytest.raises(Reached):
        agent.learn(tokens, on_update=watch)
    assert scores[0] < 0.3, "there was something to learn"


CASES = list(itertools.product(ALGORITHMS, ["immediate", "sparse"]))


@pytest.mark.parametrize(("name", "payout"), CASES)
def test_learns_a_bandit(name, payout):
    learns_from_its_defaults(name, 20_000, *bandit(payout))


@pytest.mark.parametrize(("name", "payout"), slow_but({("ppo", "immediate")}, CASES))
def test_learns_to_copy(name, payout):
    learns_from_its_defaults(name, 300_000, *copy(payout))
