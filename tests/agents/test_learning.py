"""That the algorithms learn, from their defaults: one seed, a fresh small model, to 0.9 of the normalised score.

Benchmarks do this with several seeds on the registered tasks; this is what fits into a test.
"""

import itertools

import pytest

from agents import PPO, REINFORCE, ActorCritic
from tests.agents.test_rollout import lanes
from textenvs import Example, Task

ALGORITHMS = {"ppo": PPO, "actor_critic": ActorCritic, "reinforce": REINFORCE}


class Bandit(Task):
    """One token, and two that may be said; the second earns 1."""

    name = "bandit"
    default_reward = "length"

    def num_examples(self, split):
        return 1

    def example(self, split, index):
        return Example(" a")


class CopyTwo(Task):
    """Two of three letters, to be written again: nine prompts."""

    name = "copy_two"
    default_reward = "length"
    pairs = tuple("".join(pair) for pair in itertools.product([" a", " b", " c"], repeat=2))

    def num_examples(self, split):
        return len(self.pairs)

    def example(self, split, index):
        return Example(self.pairs[index], references=(self.pairs[index],))


def good(example, response):
    return float(response.startswith(" good"))


def copied(example, response):
    """The share of the letters that stand in their place."""
    wanted, written = example.references[0].split(), response.split()
    return sum(one == two for one, two in zip(wanted, written, strict=False)) / len(wanted)


# Task, reward, budget, what else the environment gets, a uniform policy's score, and the tokens to learn in.
SETTINGS = {
    "bandit": (Bandit(), good, 1, {"action_mask": [" good", " bad"]}, 0.5, 20_000),
    "copy": (CopyTwo(), copied, 2, {}, 0.1, 150_000),
}


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("task", SETTINGS)
def test_learns_from_its_defaults(task, name, payout):
    made, reward, budget, settings, random, tokens = SETTINGS[task]
    env = lanes(128, payout, task=made, reward=reward, max_new_tokens=budget, **settings)
    agent = ALGORITHMS[name]("tiny", env, seed=0, device="cpu")
    assert not agent.policy.pretrained
    scores = []

    class Reached(Exception):
        pass

    def watch(row):
        scores.append((row["score"] - random) / (1 - random))
        if len(scores) >= 5 and min(scores[-5:]) >= 0.9:
            raise Reached

    with pytest.raises(Reached):
        agent.learn(tokens, on_update=watch)
    assert scores[0] < 0.3, "there was something to learn"
