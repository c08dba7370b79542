"""The tables of incremental scores: exact however they grow, bounded, no larger than responses ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import examples, slow_but
from textenvs import Example, make_reward
from textenvs.rewards.bleu import Tokens13a
from textenvs.rewards.incremental.alignment import add_words
from textenvs.rewards.incremental.growing import Discards, RaggedTable
from textenvs.rewards.incremental.references import ReferenceIndex
from textenvs.tokenizer import make_tokenizer

WORD = 1 << 64


@settings(max_examples=examples(100))
@given(
    st.integers(1, 140),
    st.lists(st.sampled_from([0, 1, 1 << 63, WORD - 1, WORD - 2, 12345]), min_size=1, max_size=9),
    st.lists(st.sampled_from([0, 1, 1 << 63, WORD - 1]), min_size=1, max_size=9),
)
def test_words_are_added_with_their_carries(words: int, left: list[int], right: list[int]) -> None:
    """Against Python's whole numbers, also where a carry goes through more than 63 words."""
    rows = [(left * words)[:words], (right * words)[:words], [WORD - 1] * words, [1] + [0] * (words - 1)]
    numbers = [sum(word << (64 * place) for place, word in enumerate(row)) for row in rows]
    total = add_words(np.array(rows, dtype=np.uint64), np.array(rows[::-1], dtype=np.uint64))
    assert [sum(int(word) << (64 * place) for place, word in enumerate(row)) for row in total] == [
        (first + second) % (1 << (64 * words)) for first, second in zip(numbers, numbers[::-1], strict=True)
    ]


@pytest.mark.parametrize("units", [100, 5000])
def test_edit_similarity_of_long_references(units: int) -> None:
    """Rows of one and of more than 63 words, against the quadratic definition and, pushed, against the whole text."""
    rng = np.random.default_rng(units)
    reference = "".join(rng.choice(list("ab "), units))
    response = "".join(rng.choice(list("ab "), 150))
    expected, written = " ".join(reference.split()), " ".join(response.split())
    row = list(range(len(expected) + 1))
    for depth, character in enumerate(written, start=1):
        before, row[0] = row[0], depth
        for place, other in enumerate(expected, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (other != character))
    similarity = 1 - row[-1] / max(len(expected), len(written))
    reward, tokenizer = make_reward("edit_similarity"), make_tokenizer("stories")
    example = Example("", (reference,))
    assert reward.score(example, response) == pytest.approx(similarity, abs=1e-12)
    scorer = reward.scorer(1, tokenizer)
    scorer.reset(np.array([0]), [example])
    phi = [scorer.push(np.array([0]), np.array([token]))[0] for token in tokenizer.encode_batch([response])[0]]
    assert phi[-1] == pytest.approx(similarity, abs=1e-12)


@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3))
def test_where_n_grams_are(texts: list[str], gram: str) -> None:
    """Characters are searched as a text, words as a list; both find the occurrences of the definition."""
    places = [
        sum(len(text) + 1 for text in texts[:number]) + start + len(gram) - 1
        for number, text in enumerate(texts)
        for start in range(len(text))
        if text[start : start + len(gram)] == gram
    ]
    for many in (1, 20):  # letters, and units of two letters; few occurrences, and many
        for width in (1, 2):
            index = ReferenceIndex([[unit * width for unit in text] for text in texts * many])
            ends = index.positions(gram[0] * width)
            for length, unit in enumerate(gram[1:], start=1):
                ends = index.continued(ends, length, unit * width) if ends else ()
            size = sum(len(text) + 1 for text in texts)
            assert list(ends) == [place + size * copy for copy in range(many) for place in places]
            assert index.lengths == [len(text) for text in texts * many]


def test_rows_of_any_length() -> None:
    table, rows = RaggedTable(np.int64), []
    rng = np.random.default_rng(0)
    for size in [0, 1, 3, 200, 2, 17, 16, 0, 40, *rng.integers(0, 30, 200).tolist()]:
        rows.append(rng.integers(1, 9, size).tolist())
        table.append(rows[-1])
    assert table.array.shape[1] <= RaggedTable.widest
    for chosen in (rng.integers(0, len(rows), 9) for _ in range(50)):
        taken = table.take(chosen)
        assert taken.shape[1] == max(len(rows[row]) for row in chosen)
        assert [[number for number in row if number] for row in taken.tolist()] == [rows[row] for row in chosen]
    assert table.num_bytes == table.array.nbytes + 8 * sum(len(row) for row in rows if len(row) > RaggedTable.widest)


def test_discards_are_emptied_bit_by_bit() -> None:
    discards, steps = Discards(), 0
    containers: list[Any] = [list(range(10_000)), dict.fromkeys(range(9000)), [], {}]
    discards.add(*containers)
    while any(containers):
        before = sum(map(len, containers))
        discards.free()
        steps += 1
        assert 0 < before - sum(map(len, containers)) <= Discards.per_step
    assert steps == 5  # of 4096 entries, the last of what is left
    discards.free()


@pytest.mark.parametrize("name", ["bleu", "chrf", "chrfpp", "rouge_1", "token_f1"])
def test_no_more_n_grams_than_responses_come_to(name: str) -> None:
    """The first step of a new example costs what its first token asks for, not all n-grams of its references."""
    words = [f"word{number}" for number in range(400)]
    example = Example("", (" ".join(words),))
    tokenizer = make_tokenizer("stories")
    scorer = make_reward(name).scorer(1, tokenizer)
    scorer.reset(np.array([0]), [example])
    scorer.push(np.array([0]), np.array(tokenizer.encode_batch([" word1"])[0][:1]))
    for counter in getattr(scorer, "_counters", [scorer]):
        assert sum(len(tree.nodes) for tree in counter._trees) <= 30


@pytest.mark.parametrize(
    "name", slow_but({"bleu", "rouge_l"}, ["bleu", "chrf", "rouge_l", "edit_similarity", "exact_match"])
)
def test_memory_of_examples_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, tokenizer = np.random.default_rng(0), make_tokenizer("stories")
    scorer = make_reward(name).scorer(4, tokenizer)
    monkeypatch.setattr(type(scorer), "max_cells", 600)
    scorer._cell_limit = 600
    most = 0
    for number in range(48):
        words = [f"{'abcdefgh'[letter]}{number % 7}" for letter in rng.integers(0, 8, 20)]
        scorer.reset(np.array([number % 4]), [Example("", (" ".join(words), f"other {number}"))])
        for token in tokenizer.encode_batch([" " + " ".join(words[:4])])[0]:
            scorer.push(np.array([number % 4]), np.array([token]))
        most = max(most, scorer._num_cells)
    assert len(scorer._slots) < 40  # some were forgotten
    assert most < 600 + 4 * 1000  # the lanes' own examples stay
    assert scorer._num_cells == sum(scorer._cells[slot] for slot in scorer._slots.values())
    kept = {unit for slot in scorer._slots.values() for unit in scorer._indices[slot].distinct}
    assert set(scorer.units._kept) == kept


def test_pieces_of_13a_are_cut_as_the_rules_cut_the_text() -> None:
    """What is worked out for a piece holds wherever it stands."""
    splitter = Tokens13a()
    for text, tokens in {
        "It cost 1,000.50 (or so), i.e. 3-4 times.": "It cost 1,000.50 ( or so ) , i . e . 3 - 4 times .",
        "a..b .5 5. ,a a, 1,a a,1": "a . . b . 5 5 . , a a , 1 , a a , 1",
    }.items():
        assert splitter.split(text) == tokens.split()
