"""Payouts: tables worked out by hand, the sums, the discounted sums, lanes, and errors."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import examples
from textenvs.rewards import PAYOUTS, make_payout
from textenvs.rewards.payouts import Payout
from textenvs.testing import PAYOUTS as SPECS


class Pieces:
    """A tokenizer that is nothing but its pieces."""

    bos_token_id = eos_token_id = pad_token_id = 0
    pieces = (
        b"",
        b" The",
        b" fox",
        b"es",
        b".",
        b"\n",
        b" red ",
        b"ly ",
        b'!"',
        "\u3000字".encode(),
        b" ",
        b"\xe6",
        b"?",
    )
    vocab_size = len(pieces)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0] for _ in texts]


TOKENIZER = Pieces()
EOS, THE, FOX, ES, DOT, NEWLINE, RED, LY, BANG, CJK, SPACE, BYTE, QUESTION = range(13)
LANE = np.array([0])


def pay(payout: Payout, phis: Sequence[float], tokens: Sequence[int] | None = None, lane: int = 0) -> list[float]:
    """One lane's rewards over one episode."""
    payout.reset(np.array([lane]))
    tokens = [ES] * len(phis) if tokens is None else tokens
    rewards = []
    for step, (phi, token) in enumerate(zip(phis, tokens, strict=True)):
        ended = step == len(phis) - 1
        # A payout that is not `every_step` is told the score at the end alone, and before it something else.
        told = phi if payout.every_step or ended else 99.0
        paid = payout.pay(np.array([lane]), np.array([told]), np.array([ended]), np.array([token]))
        assert paid.shape == (1,)
        assert paid.dtype == np.float64
        rewards.append(float(paid[0]))
    return rewards


PHIS = [1.0, 4.0, 2.0, 2.0, 7.0]


@pytest.mark.parametrize(
    ("spec", "rewards"),
    [
        ("immediate", [1, 3, -2, 0, 5]),
        ("sparse", [0, 0, 0, 0, 7]),
        # g Phi_t - Phi_{t-1}, and Phi_T - Phi_{T-1} at the end
        ({"shaped": {"gamma": 1}}, [1, 3, -2, 0, 5]),
        ({"shaped": {"gamma": 0.5}}, [0.5, 1, -3, -1, 5]),
        ({"shaped": {"gamma": 0.0}}, [0, -1, -4, -2, 5]),
        ({"every": 1}, [1, 3, -2, 0, 5]),
        ({"every": 2}, [0, 4, 0, -2, 5]),
        ({"every": 3}, [0, 0, 2, 0, 5]),
        ({"every": 4}, [0, 0, 0, 2, 5]),
        ({"every": 5}, [0, 0, 0, 0, 7]),
        ({"every": 6}, [0, 0, 0, 0, 7]),
        ({"every": 10**9}, [0, 0, 0, 0, 7]),
        ({"delayed": 1}, [0, 1, 3, -2, 5]),
        ({"delayed": 2}, [0, 0, 1, 3, 3]),
        ({"delayed": 3}, [0, 0, 0, 1, 6]),
        ({"delayed": 4}, [0, 0, 0, 0, 7]),
        ({"delayed": 5}, [0, 0, 0, 0, 7]),
        ({"delayed": 2**31 - 1}, [0, 0, 0, 0, 7]),
        ("word", [0, 0, 0, 0, 7]),  # one word, "eseseseses"
        ("sentence", [0, 0, 0, 0, 7]),
    ],
)
def test_by_hand(spec: Any, rewards: list[float]) -> None:
    payout = make_payout(spec, 1, TOKENIZER)
    assert pay(payout, PHIS) == rewards
    assert pay(payout, PHIS) == rewards  # nothing of an episode is left in the next
    assert pay(payout, [3.0]) == [3.0]  # an episode of one token
    assert pay(payout, [0.0, 0.0]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("tokens", "rewards"),
    [
        # The token behind a word pays for it.
        ([THE, FOX, ES, DOT, EOS], [0, 1, 0, 0, 6]),  # " The| foxes.|"
        ([FOX, ES, THE, FOX, EOS], [0, 0, 4, -2, 5]),  # " foxes| The| fox|"
        ([FOX, NEWLINE, ES, ES, THE], [0, 4, 0, 0, 3]),  # " fox\n|eses| The|", and " The" itself at the end
        ([RED, LY, RED, ES, ES], [1, 3, -2, 0, 5]),  # white space behind: the token itself is due
        ([ES, LY, ES, ES, THE], [0, 4, 0, 0, 3]),
        ([ES, CJK, ES, BYTE, EOS], [0, 1, 0, 0, 6]),  # an ideographic space is white space, half a character is not
        ([ES, SPACE, SPACE, ES, EOS], [0, 4, -2, 0, 5]),
        ([EOS, EOS, FOX, EOS, EOS], [0, 0, 4, 0, 3]),  # what no word earned goes with the first
    ],
)
def test_words_by_hand(tokens: list[int], rewards: list[float]) -> None:
    assert pay(make_payout("word", 1, TOKENIZER), PHIS, tokens) == rewards


@pytest.mark.parametrize(
    ("tokens", "rewards"),
    [
        ([THE, FOX, DOT, THE, EOS], [0, 0, 2, 0, 5]),
        ([THE, BANG, DOT, DOT, FOX], [0, 4, -2, 0, 5]),
        ([DOT, FOX, FOX, NEWLINE, DOT], [1, 0, 0, 0, 6]),
        ([QUESTION, FOX, QUESTION, BANG, EOS], [1, 0, 1, 0, 5]),
        ([THE, FOX, NEWLINE, THE, EOS], [0, 0, 0, 0, 7]),
    ],
)
def test_sentences_by_hand(tokens: list[int], rewards: list[float]) -> None:
    assert pay(make_payout("sentence", 1, TOKENIZER), PHIS, tokens) == rewards


def bytes_of(text: str) -> tuple[list[bytes], list[int]]:
    """A vocabulary of single bytes, and the text in it: three tokens a character in most scripts."""
    return [b"", *(bytes([value]) for value in range(256))], [1 + value for value in text.encode()]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("他走了。她来了！谁在这里？好", [3, 7, 12]),
        ("वह घर गया। वह सो गया।", [9, 20]),
        ("هل هو هنا؟ نعم.", [9, 14]),
        ("No. No! Why?", [2, 6, 11]),
    ],
)
def test_sentences_of_other_scripts(text: str, ends: list[int]) -> None:
    """A token a character, and a token a byte."""
    tokenizer = Pieces()
    tokenizer.pieces = (b"", *(letter.encode() for letter in text))
    tokenizer.vocab_size = len(tokenizer.pieces)
    tokens = [*range(1, len(text) + 1), 0]
    rewards = pay(make_payout("sentence", 1, tokenizer), [float(step) for step in range(1, len(tokens) + 1)], tokens)
    assert np.flatnonzero(rewards[:-1]).tolist() == ends

    tokenizer.pieces, tokens = bytes_of(text)
    tokenizer.vocab_size = len(tokenizer.pieces)
    rewards = pay(
        make_payout("sentence", 1, tokenizer), [float(step) for step in range(1, len(tokens) + 2)], [*tokens, 0]
    )
    assert np.flatnonzero(rewards[:-1]).tolist() == [len(text[: end + 1].encode()) - 1 for end in ends]


def test_words_of_scripts_without_spaces() -> None:
    """Each character is a word, paid with the token in which the next one begins: whole, or in bytes."""
    tokenizer = Pieces()
    tokenizer.pieces = (b"", *(letter.encode() for letter in "这个国家"))
    tokenizer.vocab_size = len(tokenizer.pieces)
    assert pay(make_payout("word", 1, tokenizer), [1.0, 4.0, 2.0, 7.0], [1, 2, 3, 4]) == [0, 1, 3, 3]
    tokenizer.pieces, tokens = bytes_of("这个")
    tokenizer.vocab_size = len(tokenizer.pieces)
    # The score moves when a character is whole.
    payout = make_payout("word", 2, tokenizer)
    for lane in (0, 1):
        assert pay(payout, [0.0, 0.0, 1.0, 1.0, 1.0, 4.0], tokens, lane) == [0, 0, 0, 0, 0, 4]
        assert pay(payout, [0.0, 0.0, 1.0, 1.0, 1.0, 4.0, 4.0], [*tokens, 0], lane) == [0, 0, 0, 0, 0, 1, 3]
        assert pay(payout, [1.0, 4.0], tokens[:2], lane) == [0, 4]  # half a character, forgotten at the reset


def test_a_delay_in_a_long_episode() -> None:
    """Longer than the memory that a delay begins with, twice over."""
    phis = [float(step * step) for step in range(1, 101)]
    for delay in (15, 16, 17, 31, 33, 64, 99, 100):
        expected = [0.0] * 100
        for step in range(1, 101 - delay):
            expected[step - 1 + delay] = float(step * step - (step - 1) ** 2)
        expected[-1] = 100.0**2 - sum(expected[:-1])
        payout = make_payout({"delayed": delay}, 2, TOKENIZER)
        assert pay(payout, phis) == expected
        assert pay(payout, phis[:3], lane=1) == [0.0, 0.0, 9.0]
        assert pay(payout, phis, lane=1) == expected


def test_a_delay_beyond_every_episode_takes_no_memory() -> None:
    payout = make_payout({"delayed": 2**31 - 1}, 100_000, TOKENIZER)
    assert pay(payout, PHIS, lane=99_999) == [0, 0, 0, 0, 7]


numbers = st.floats(-1e3, 1e3, allow_nan=False)
episodes = st.lists(st.tuples(numbers, st.integers(0, Pieces.vocab_size - 1)), min_size=1, max_size=40)
counts = st.integers(1, 45)
specs = st.one_of(
    st.sampled_from(["immediate", "sparse", "word", "sentence"]),
    counts.map(lambda k: {"every": k}),
    counts.map(lambda k: {"delayed": k}),
    st.just({"shaped": {"gamma": 1.0}}),
)


@given(specs, episodes)
def test_sums(spec: Any, episode: list[tuple[float, int]]) -> None:
    phis, tokens = zip(*episode, strict=True)
    assert math.fsum(pay(make_payout(spec, 1, TOKENIZER), phis, tokens)) == pytest.approx(phis[-1], abs=1e-9, rel=0)


@given(st.one_of(st.sampled_from([0, 0.5, 0.9, 0.99, 0.999, 1]), st.floats(0, 1)), episodes)
def test_shaping_keeps_the_discounted_return(gamma: float, episode: list[tuple[float, int]]) -> None:
    phis, tokens = zip(*episode, strict=True)
    sparse = pay(make_payout("sparse", 1, TOKENIZER), phis, tokens)
    shaped = pay(make_payout({"shaped": {"gamma": gamma}}, 1, TOKENIZER), phis, tokens)
    discounts = [gamma**step for step in range(len(phis))]
    expected = gamma ** (len(phis) - 1) * phis[-1]
    for rewards in (sparse, shaped):
        discounted = [discount * reward for discount, reward in zip(discounts, rewards, strict=True)]
        assert math.fsum(discounted) == pytest.approx(expected, abs=1e-9, rel=0)
    if gamma == 1:
        assert shaped == pay(make_payout("immediate", 1, TOKENIZER), phis, tokens)


@settings(max_examples=examples(60))
@given(specs, st.lists(episodes, min_size=3, max_size=3), st.data())
def test_lanes_and_their_order_do_not_matter(
    spec: Any, written: list[list[tuple[float, int]]], data: st.DataObject
) -> None:
    alone = [pay(make_payout(spec, 1, TOKENIZER), *zip(*episode, strict=True)) for episode in written]
    together = make_payout(spec, 5, TOKENIZER)
    places = [4, 1, 2]
    together.reset(np.array(places))
    rewards: list[list[float]] = [[] for _ in written]
    while any(len(paid) < len(episode) for paid, episode in zip(rewards, written, strict=True)):
        running = [row for row, episode in enumerate(written) if len(rewards[row]) < len(episode)]
        order = data.draw(st.permutations(running))
        now = order[: data.draw(st.integers(1, len(order)))]
        steps = [(written[row][len(rewards[row])], len(rewards[row]) == len(written[row]) - 1) for row in now]
        phi = [step[0] if together.every_step or ended else 99.0 for step, ended in steps]
        ends = np.array([ended for _, ended in steps])
        tokens = np.array([step[1] for step, _ in steps])
        paid = together.pay(np.array([places[row] for row in now]), np.array(phi), ends, tokens)
        for row, reward in zip(now, paid.tolist(), strict=True):
            rewards[row].append(reward)
    assert rewards == alone


def test_a_reset_in_the_middle() -> None:
    for spec in SPECS:
        payout = make_payout(spec, 2, TOKENIZER)
        fresh = pay(copy.deepcopy(payout), PHIS, [THE, FOX, DOT, ES, EOS])
        payout.reset(np.array([0, 1]))
        for phi in (5.0, 8.0):
            payout.pay(np.array([1, 0]), np.array([phi, -phi]), np.array([False, False]), np.array([FOX, DOT]))
        assert pay(payout, PHIS, [THE, FOX, DOT, ES, EOS]) == fresh, spec


def test_which_payouts_need_the_score_at_every_step_and_the_agents_gamma() -> None:
    made = {str(spec): make_payout(spec, 1, TOKENIZER) for spec in SPECS}
    assert [name for name, payout in made.items() if not payout.every_step] == ["sparse"]
    gammas = {name: payout.gamma for name, payout in made.items() if payout.gamma is not None}
    assert gammas == {str({"shaped": {"gamma": gamma}}): gamma for gamma in (1.0, 0.9, 0.0)}
    assert {spec if isinstance(spec, str) else next(iter(spec)) for spec in SPECS} == set(PAYOUTS)


def test_numbers_of_numpy_will_do() -> None:
    assert pay(make_payout({"every": np.int32(2)}, 1, TOKENIZER), PHIS) == [0, 4, 0, -2, 5]
    assert make_payout({"shaped": {"gamma": np.float64(0.5)}}, 1, TOKENIZER).gamma == 0.5


EXPECTED = "Expected payout to be 'immediate', 'sparse', 'word', 'sentence', .*'every': k.*'delayed': k.*'gamma': g"


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("imediate", ValueError, EXPECTED + ".*, got 'imediate'"),
        ("every", ValueError, EXPECTED + ".*, got 'every'"),
        ("shaped", ValueError, EXPECTED + ".*, got 'shaped'"),
        ("", ValueError, EXPECTED + ".*, got ''"),
        ({}, ValueError, EXPECTED + r".*, got \{\}"),
        ({"sparse": 1}, ValueError, EXPECTED + r".*, got \{'sparse': 1\}"),
        ({"every": 1, "delayed": 1}, ValueError, EXPECTED),
        (True, TypeError, EXPECTED + ".*, got True of type bool"),
        (None, TypeError, EXPECTED + ".*, got None of type NoneType"),
        (8, TypeError, EXPECTED + ".*, got 8 of type int"),
        (["every", 8], TypeError, EXPECTED),
        ({"every": 0}, ValueError, "tokens of payout 'every' to be from 1 to 2147483647, got 0"),
        ({"delayed": -1}, ValueError, "tokens of payout 'delayed' to be from 1 to 2147483647, got -1"),
        ({"every": 2**31}, ValueError, "tokens of payout 'every' to be from 1 to 2147483647, got 2147483648"),
        ({"every": True}, TypeError, "tokens of payout 'every' to be a whole number .*, got True"),
        ({"every": 2.0}, TypeError, "tokens of payout 'every' to be a whole number .*, got 2.0"),
        ({"delayed": "3"}, TypeError, "tokens of payout 'delayed' to be a whole number .*, got '3'"),
        ({"every": None}, TypeError, "tokens of payout 'every' to be a whole number .*, got None"),
        ({"shaped": {"gamma": 1.5}}, ValueError, r"Expected the gamma of payout 'shaped' in \[0, 1\], got 1\.5"),
        ({"shaped": {"gamma": -0.1}}, ValueError, r"gamma of payout 'shaped' in \[0, 1\], got -0\.1"),
        ({"shaped": {"gamma": math.nan}}, ValueError, r"gamma of payout 'shaped' in \[0, 1\], got nan"),
        ({"shaped": {"gamma": True}}, TypeError, "gamma of payout 'shaped' to be a number, got True"),
        ({"shaped": {"gamma": "1"}}, TypeError, "gamma of payout 'shaped' to be a number, got '1'"),
        ({"shaped": {"gama": 1}}, ValueError, "Expected payout 'shaped' as"),
        ({"shaped": {"gamma": 1, "k": 2}}, ValueError, "Expected payout 'shaped' as"),
        ({"shaped": 0.9}, ValueError, "Expected payout 'shaped' as.*got 0.9"),
    ],
)
def test_errors(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_payout(spec, 1, TOKENIZER)
