"""Overlap with references: hand-worked scores, sacrebleu and rouge-score as oracles, every way to push a text."""

import builtins
import collections
import functools
import itertools
import json
import logging
import math
import pickle
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.distance import edit_distance
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from tests.helpers import examples, slow_but
from textenvs.rewards import Reward, RewardError, Units, Words, make_reward, rouge
from textenvs.rewards.answers import AnswerWords, SpacedCharacters
from textenvs.rewards.bleu import LowerCharacters, LowerWords, Tokens13a
from textenvs.rewards.chrf import _BareWords
from textenvs.rewards.incremental import references
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.rouge import RougeWords
from textenvs.tasks import Example
from textenvs.testing import check_reward
from textenvs.tokenizer import SubwordTokenizer, Tokenizer, decode, make_tokenizer

NAMES = (
    "bleu",
    "chrf",
    "chrfpp",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "rouge_lsum",
    "rouge_n",
    "token_f1",
    "exact_match",
    "edit_similarity",
    "correct_prefix",
)
SETTINGS: list[Any] = [
    *NAMES,
    {"bleu": {"smooth_method": "floor", "tokenize": "char", "lowercase": True, "max_ngram_order": 3}},
    {"bleu": {"smooth_method": "add-k", "tokenize": "none", "effective_order": False}},
    {"bleu": {"lowercase": True}},
    {"bleu": {"tokenize": "intl"}},
    {"bleu": {"tokenize": "intl", "lowercase": True}},
    {"chrfpp": {"lowercase": True}},
    {"rouge_2": {"measure": "recall", "stemmer": True}},
    {"rouge_l": {"measure": "precision"}},
    {"rouge_1": {"tokenizer": "unicode"}},
    {"rouge_l": {"tokenizer": "unicode", "stemmer": True}},
    {"token_f1": {"measure": "recall"}},
    {"exact_match": {"normalize": False}},
    {"edit_similarity": {"unit": "word"}},
    {"correct_prefix": {"unit": "word"}},
]
RECALLS: list[Any] = [
    {"rouge_1": {"measure": "recall"}},
    {"rouge_2": {"measure": "recall", "stemmer": True}},
    {"rouge_l": {"measure": "recall"}},
    {"token_f1": {"measure": "recall"}},
]


@pytest.fixture(autouse=True)
def quiet_sacrebleu() -> Iterator[None]:
    """It warns of a score of sentences without effective order, which is tried here as well."""
    logger = logging.getLogger("sacrebleu")
    before, logger.level = logger.level, logging.ERROR
    yield
    logger.setLevel(before)


def score(reward: Any, response: str, *references: str) -> float:
    return make_reward(reward).score(Example("", references), response)


# By hand

MAT = "the cat sat on the mat"
CATS = "the cat the cat"  # 3 of 4 words, 1 of 3 pairs, none of 2 triples, none of 1 quadruple; 2 words too short
UNICODE_1 = {"rouge_1": {"tokenizer": "unicode"}}
SHORT = math.exp(1 - 6 / 4)


@pytest.mark.parametrize(
    ("reward", "response", "references", "expected"),
    [
        ("bleu", "", [MAT], 0),
        ("bleu", "dog", [MAT], 0),
        ("bleu", MAT, [MAT], 1),
        ("bleu", "the cat sat", [MAT], math.exp(1 - 6 / 3)),
        ("bleu", CATS, [MAT], (3 / 4 * 1 / 3 * 1 / (2 * 2) * 1 / (4 * 1)) ** (1 / 4) * SHORT),
        ({"bleu": {"smooth_method": "floor"}}, CATS, [MAT], (3 / 4 * 1 / 3 * 0.1 / 2 * 0.1) ** (1 / 4) * SHORT),
        (
            {"bleu": {"smooth_method": "floor", "smooth_value": 0.5}},
            CATS,
            [MAT],
            (3 / 4 * 1 / 3 * 0.5 / 2 * 0.5) ** (1 / 4) * SHORT,
        ),
        ({"bleu": {"smooth_method": "add-k"}}, CATS, [MAT], (3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** (1 / 4) * SHORT),
        ({"bleu": {"smooth_method": "none"}}, CATS, [MAT], 0),
        ({"bleu": {"smooth_method": "none", "max_ngram_order": 2}}, CATS, [MAT], (3 / 4 * 1 / 3) ** 0.5 * SHORT),
        ({"bleu": {"effective_order": False}}, "the cat sat", [MAT], 0),
        ("bleu", "a b c", ["a b c d", "a b"], 1),  # of two lengths as close, the shorter one
        ("bleu", "a a a", ["a x x", "a a x"], (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)),  # as often as the one with most
        ("bleu", "The Cat", ["the cat"], 0),
        ({"bleu": {"lowercase": True}}, "The Cat", ["the cat"], 1),
        ({"bleu": {"tokenize": "none"}}, "cat.", ["cat ."], 0),
        ("bleu", "cat.", ["cat ."], 1),
        ({"bleu": {"tokenize": "intl"}}, "«cat»$", ["« cat » $"], 1),
        (
            {"bleu": {"tokenize": "intl"}},
            "-5 1,5 7.",
            ["-5 1,5 7."],
            1,
        ),  # next to digits, at both ends, punctuation stays
        ({"bleu": {"tokenize": "intl"}}, "a 5. -5 b", ["a 5 . - 5 b"], 1),  # white space is no end
        ({"bleu": {"tokenize": "char"}}, "a bc", ["ab c"], 1),
        ("chrf", "", ["ab"], 0),
        ("chrf", "ab", ["a b"], 1),
        # Letters: 3 of 3 and of 4. Pairs: 1 of 2 (ab, bd) and of 3 (ab, bc, cd). F2 of 3/4 and 13/24.
        ({"chrf": {"char_order": 2}}, "abd", ["ab cd"], 5 * 3 / 4 * 13 / 24 / (4 * 3 / 4 + 13 / 24)),
        ({"chrf": {"char_order": 2, "beta": 1}}, "abd", ["x", "ab cd"], 2 * 3 / 4 * 13 / 24 / (3 / 4 + 13 / 24)),
        # Words: ( ab cd . of which "ab cd" has two; characters 4 of 6.
        ({"chrfpp": {"char_order": 1, "word_order": 1}}, "ab cd", ["(ab cd."], 5 * 7 / 12 / (4 + 7 / 12)),
        ("rouge_1", "", ["The cat sat"], 0),
        ("rouge_1", "the CAT, ran!", ["The cat sat"], 2 / 3),
        ("rouge_1", "sat the cat", ["The cat sat"], 1),
        ("rouge_2", "the CAT, ran!", ["The cat sat"], 1 / 2),
        ("rouge_l", "sat the cat", ["The cat sat"], 2 / 3),
        ("rouge_l", "the big cat", ["x y", "The cat sat there"], 4 / 7),
        # Of "a b c", "a b" is in the first line and "b c" in the second; "b" counts as often as the reference has it.
        ("rouge_lsum", "a x b\nb c", ["a b c"], 6 / 8),
        ("rouge_lsum", "the dog\nthe cat", ["the cat\nthe dog"], 1),
        ({"rouge_n": {"n": 3}}, "a b c d", ["b c d e f"], 2 / 5),
        ({"rouge_1": {"measure": "recall"}}, "a b c d", ["a b", "a b c d e f"], 1),
        ({"rouge_1": {"measure": "precision"}}, "a b c d", ["a b", "a b c d e f"], 1),
        ("rouge_1", "a b c d", ["a b", "a b c d e f"], 8 / 10),
        ("rouge_1", "running", ["runs"], 0),
        ({"rouge_1": {"stemmer": True}}, "running", ["runs"], 1),
        ({"rouge_l": {"stemmer": True}}, "bus", ["bu"], 0),  # three letters stay as they are
        ("rouge_2", "cat", ["cat"], 0),  # no pair
        # "Where is the capital?" and its like: other letters, and scripts in which each character is a word.
        (UNICODE_1, "ГДЕ столица?", ["Где находится столица?"], 4 / 5),
        (UNICODE_1, "ما هي العاصمة؟", ["ما هي العاصمة؟"], 1),
        (UNICODE_1, "राजधानी है", ["राजधानी कहाँ है?"], 4 / 5),
        (UNICODE_1, "首都在", ["首都在哪里？"], 6 / 8),
        ({"rouge_2": {"tokenizer": "unicode"}}, "首都在", ["首都在哪里？"], 4 / 6),
        ({"rouge_l": {"tokenizer": "unicode"}}, "在首都", ["首都在哪里？"], 4 / 8),
        ("token_f1", "首都在", ["首都在哪里？"], 6 / 8),
        ("token_f1", "It is in 東京, a city", ["東京 city"], 6 / 9),
        ("exact_match", "東京。", ["東京"], 1),
        ("token_f1", "eiffel tower, Paris!", ["The Eiffel Tower"], 4 / 5),
        ({"token_f1": {"measure": "precision"}}, "eiffel tower, Paris!", ["The Eiffel Tower"], 2 / 3),
        ({"token_f1": {"measure": "recall"}}, "eiffel tower, Paris!", ["The Eiffel Tower"], 1),
        ("token_f1", "", ["the"], 1),
        ("token_f1", "cat", ["the", "dog"], 0),
        ("exact_match", "  Eiffel-Tower. ", ["Paris", "the eiffeltower"], 1),
        ("exact_match", "Eiffel", ["Eiffel Tower"], 0),
        ("exact_match", "Eiffel Tower x", ["Eiffel Tower"], 0),
        ({"exact_match": {"normalize": False}}, "eiffel", ["Eiffel"], 0),
        ({"exact_match": {"normalize": False}}, " Eiffel \n tower", ["Eiffel tower"], 1),
        ("edit_similarity", "kitten", ["sitting"], 1 - 3 / 7),
        ("edit_similarity", " the  cat\n", ["the cat"], 1),
        ("edit_similarity", "", ["ab"], 0),
        ("edit_similarity", "ab", ["x", "abcd"], 1 / 2),
        ({"edit_similarity": {"unit": "word"}}, "the big cat", ["the cat sat"], 1 / 3),
        ("correct_prefix", " The cat", ["The dog ran"], 4 / 11),
        ("correct_prefix", "The dog", ["The dog ran"], 7 / 11),
        ("correct_prefix", "abcx", ["abcdefgh", "ab"], 1),
        ({"correct_prefix": {"unit": "word"}}, "The dog sat", ["The dog ran", "The"], 1),
        ({"correct_prefix": {"unit": "word"}}, "The dog sat", ["The dog ran"], 2 / 3),
    ],
)
def test_by_hand(reward: Any, response: str, references: list[str], expected: float) -> None:
    assert score(reward, response, *references) == pytest.approx(expected, abs=1e-12)
    # And letter by letter.
    pushed = push_all(make_reward(reward), letters(), [(Example("", tuple(references)), letters_of(response))])
    if pushed[0]:
        assert pushed[0][-1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Well," he said: $5.50, or', ['"', "Well", ",", '"', "he", "said", ":", "$", "5.50", ",", "or"]),
        ("5,000.", ["5,000", "."]),
        ("well-\nknown", ["wellknown"]),
        ("well-\n known", ["well", "known"]),
        ("well-\n", ["well-"]),
        ("a-b 5-6 - -\n5", ["a-b", "5", "-", "6", "-", "5"]),
        ("a<skipped>b -<skipped>\nc", ["ab", "c"]),
        ("&quot;x&amp;lt;&gt;", ['"', "x", "<", ">"]),
        ("don't ...", ["don't", ".", ".", "."]),
        ("5.", ["5", "."]),
        (".5 .x", [".", "5", ".", "x"]),
    ],
)
def test_13a_by_hand(text: str, expected: list[str]) -> None:
    assert Tokens13a().split(text) == expected
    assert BLEU(effective_order=True)._preprocess_segment(text).split() == expected


# Splitters

NASTY = [
    *"abZ57.,-\n \t\r<>&!;:'\"^`_—Σας漢é\u0130\u212a\u00a0\u3000\u0301\u2028\x1c$[]~/@\\{|}()*+=?#%",
    *("-\n", "  ", "<skipped>", "<SKIPPED>", "<skip", "ped>", "&amp;", "&quot;", "&lt;", "gt;", "amp;", "&QUOT;"),
    *("the", "A", "an", "-<skipped>", "5.", "5-", "..", "\n ", "😀", "running", "cats"),
]
nasty_texts = st.lists(st.sampled_from(NASTY), max_size=12).map("".join)
nasty_references = nasty_texts.map(lambda text: f"{text} b")  # none of them without a word
SPLITTERS = [
    Tokens13a(),
    Tokens13a(lowercase=True),
    LowerWords(),
    LowerCharacters(),
    _BareWords(False),
    _BareWords(True),
    RougeWords(),
    RougeWords(stemmer=True),
    AnswerWords(),
    SpacedCharacters(),
]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda splitter: type(splitter).__name__)
@settings(max_examples=examples(100))
@given(st.lists(st.lists(st.sampled_from(NASTY), min_size=1, max_size=3).map("".join), max_size=6))
def test_a_text_may_come_in_any_pieces(splitter: Any, pieces: list[str]) -> None:
    units: list[str] = []
    rest = text = ""
    for piece in pieces:
        if piece[0].isascii() and splitter.closes(piece[0]) and splitter.stands(rest):
            units += splitter.finish(rest)  # as `Units` takes it
            rest = ""
        finished, rest = splitter.cut(rest + piece)
        units += finished
        text += piece
        assert units + splitter.finish(rest) == splitter.split(text)


@settings(max_examples=examples(400))
@given(nasty_texts)
def test_13a_equals_the_library(text: str) -> None:
    for lowercase in (False, True):
        metric = BLEU(lowercase=lowercase, effective_order=True)
        assert Tokens13a(lowercase).split(text) == metric._preprocess_segment(text).split()


def test_a_sigma_looks_through_a_period() -> None:
    """Its lower case at the end of a word is another than before a letter, and a period ends no such word."""
    splitter = Tokens13a(lowercase=True)
    finished, rest = splitter.cut("ΑΣ..a")
    assert [*finished, *splitter.finish(rest)] == splitter.split("ΑΣ..a") == ["ασ", ".", ".", "a"]
    assert splitter.split("ΑΣ..") == ["ας", ".", "."]


def test_what_a_13a_rest_keeps() -> None:
    assert Tokens13a().cut("Hello,world!x")[1] == "x"
    assert Tokens13a().cut("Mr.Smith")[1] == "Smith"
    assert Tokens13a().cut("a b-\n")[1] == "b-\n"
    assert Tokens13a().cut("a b \n") == (["a", "b"], "")


# Libraries


def sacrebleu(metric: Any) -> Callable[[str, tuple[str, ...]], float]:
    return lambda response, references: metric.sentence_score(response, list(references)).score / 100


def rouge_library(kind: str, measure: str, stemmer: bool) -> Callable[[str, tuple[str, ...]], float]:
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=stemmer)
    if measure == "fmeasure":
        return lambda response, references: scorer.score_multi(references, response)[kind].fmeasure
    # The best of each reference's own, since `score_multi` takes those of the reference with the best F.
    return lambda response, references: max(getattr(scorer.score(one, response)[kind], measure) for one in references)


def squad(response: str, references: tuple[str, ...]) -> float:
    """F1 as SQuAD's evaluation script 2.0 defines it."""

    def normalized(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    def f1(wanted: list[str], written: list[str]) -> float:
        if not wanted or not written:
            return float(wanted == written)
        same = sum((collections.Counter(wanted) & collections.Counter(written)).values())
        precision, recall = same / len(written), same / len(wanted)
        return 2 * precision * recall / (precision + recall) if same else 0.0

    return max(f1(normalized(one), normalized(response)) for one in references)


def levenshtein(split: Callable[[str], list[str]]) -> Callable[[str, tuple[str, ...]], float]:
    def similarity(one: list[str], other: list[str]) -> float:
        return 1 - edit_distance(one, other) / max(len(one), len(other), 1)

    return lambda response, references: max(similarity(split(one), split(response)) for one in references)


def spaced(text: str) -> list[str]:
    return list(" ".join(text.split()))


def prefix_share(response: str, references: tuple[str, ...]) -> float:
    def share(one: str) -> float:
        lengths = [length for length in range(len(one) + 1) if " ".join(response.split()).startswith(one[:length])]
        return max(lengths) / len(one) if one else 1.0

    return max(share(" ".join(one.split())) for one in references)


ORACLES: list[tuple[Any, Callable[[str, tuple[str, ...]], float]]] = [
    ("bleu", sacrebleu(BLEU(effective_order=True))),
    *(
        (
            {"bleu": {"smooth_method": method, "effective_order": effective, "max_ngram_order": order}},
            sacrebleu(BLEU(smooth_method=method, effective_order=effective, max_ngram_order=order)),
        )
        for method, effective, order in itertools.product(("none", "floor", "add-k", "exp"), (True, False), (2, 5))
    ),
    ({"bleu": {"lowercase": True}}, sacrebleu(BLEU(effective_order=True, lowercase=True))),
    ({"bleu": {"tokenize": "char"}}, sacrebleu(BLEU(effective_order=True, tokenize="char"))),
    ({"bleu": {"tokenize": "none"}}, sacrebleu(BLEU(effective_order=True, tokenize="none"))),
    *(
        (
            {"bleu": {"tokenize": "intl", "lowercase": lower}},
            sacrebleu(BLEU(effective_order=True, tokenize="intl", lowercase=lower)),
        )
        for lower in (False, True)
    ),
    ("chrf", sacrebleu(CHRF())),
    ("chrfpp", sacrebleu(CHRF(word_order=2))),
    (
        {"chrf": {"char_order": 3, "word_order": 1, "beta": 1, "lowercase": True}},
        sacrebleu(CHRF(char_order=3, word_order=1, beta=1, lowercase=True)),
    ),
    *(
        (
            {name: {"measure": measure, "stemmer": stemmer}},
            rouge_library(kind, {"f": "fmeasure"}.get(measure, measure), stemmer),
        )
        for (name, kind), measure, stemmer in itertools.product(
            [
                ("rouge_1", "rouge1"),
                ("rouge_2", "rouge2"),
                ("rouge_n", "rouge3"),
                ("rouge_l", "rougeL"),
                ("rouge_lsum", "rougeLsum"),
            ],
            ("f", "precision", "recall"),
            (False, True),
        )
    ),
    ("token_f1", squad),
    ("exact_match", lambda response, references: float(any(squad(response, (one,)) == 1.0 for one in references))),
    ("edit_similarity", levenshtein(spaced)),
    ({"edit_similarity": {"unit": "word"}}, levenshtein(str.split)),
    ("correct_prefix", prefix_share),
]
PLAIN_ORACLES = [(reward, oracle) for reward, oracle in ORACLES if reward != "exact_match"]


@pytest.mark.parametrize(("reward", "oracle"), PLAIN_ORACLES, ids=[str(reward) for reward, _ in PLAIN_ORACLES])
def test_random_strings_against_the_library(reward: Any, oracle: Callable[[str, tuple[str, ...]], float]) -> None:
    made = make_reward(reward)

    @settings(max_examples=examples(40))
    @given(nasty_texts, st.lists(nasty_references, min_size=1, max_size=3), st.randoms(use_true_random=False))
    def check(response: str, references: list[str], random: Any) -> None:
        if oracle is squad:  # it takes a Chinese sentence for one word
            response, references = response.replace("漢", "é"), [text.replace("漢", "é") for text in references]
        words = [word for text in references for word in re.split(r"(?<=\s)", text)]
        alike = " ".join(random.choice(words) for _ in range(8))
        for text in (response, alike, references[-1]):
            expected = oracle(text, tuple(references))
            assert made.score(Example("", tuple(references)), text) == pytest.approx(expected, abs=1e-9)

    check()


@functools.cache
def real_pairs(data: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Responses and references: a sentence about some concepts against the others about them, or against those about
    others; a sentence of a paper against its summaries.
    """
    pairs: list[tuple[str, tuple[str, ...]]] = []
    rows = [json.loads(line) for line in (data / "commongen" / "dev.jsonl").read_text().splitlines()]
    for row, other in itertools.pairwise(rows):
        first, *rest = row["scene"]
        pairs += [(first, tuple(rest)), (first, tuple(other["scene"]))] if rest else []
    for line in (data / "scitldr" / "dev.jsonl").read_text().splitlines():
        row = json.loads(line)
        pairs += [(sentence, tuple(row["target"])) for sentence in row["source"][:3]]
    return pairs


@pytest.mark.parametrize(("reward", "oracle"), ORACLES, ids=[str(reward) for reward, _ in ORACLES])
def test_real_text_against_the_library(
    reward: Any, oracle: Callable[[str, tuple[str, ...]], float], shared_data: Path
) -> None:
    pairs = real_pairs(shared_data)
    assert len(pairs) > 2400
    # At least 1,000 for what is registered by a name, but for NLTK's distance of characters, which is slow.
    step = 60 if reward == "edit_similarity" else 2 if isinstance(reward, str) else 12
    share = pairs[::step]
    assert len(share) > 1000 or step > 2
    made = make_reward(reward)
    scores = np.array([made.score(Example("", references), response) for response, references in share])
    expected = np.array([oracle(response, references) for response, references in share])
    assert np.abs(scores - expected).max() < 1e-9
    assert len(np.unique(expected)) > 20 or reward == "exact_match"  # which nobody reaches by chance


@pytest.mark.parametrize(
    ("reward", "oracle"),
    [pair for pair in ORACLES if isinstance(pair[0], str) or "stemmer" in str(pair[0])],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_every_prefix_of_real_text_against_the_library(
    reward: Any, oracle: Callable[[str, tuple[str, ...]], float], shared_data: Path
) -> None:
    tokenizer = make_tokenizer("stories")
    pairs = real_pairs(shared_data)[:: 600 if reward == "edit_similarity" else 160]
    episodes = [
        (Example("", references), list(tokenizer.encode_batch([" " + response])[0])[:40])
        for response, references in pairs
    ]
    for (example, ids), phis in zip(episodes, push_all(make_reward(reward), tokenizer, episodes), strict=True):
        texts = [decode(tokenizer, ids[: step + 1]) for step in range(len(ids))]
        assert phis == pytest.approx([oracle(text, example.references) for text in texts], abs=1e-9)


# Pushes


def push_all(reward: Reward, tokenizer: Tokenizer, episodes: list[tuple[Example, list[int]]]) -> list[list[float]]:
    """Phi after each token of some episodes, all of which begin together, each in its own lane."""
    scorer = reward.scorer(len(episodes), tokenizer)
    scorer.reset(np.arange(len(episodes)), [example for example, _ in episodes])
    phis: list[list[float]] = [[] for _ in episodes]
    for step in range(max(len(ids) for _, ids in episodes)):
        lanes = [lane for lane, (_, ids) in enumerate(episodes) if step < len(ids)]
        tokens = np.array([episodes[lane][1][step] for lane in lanes])
        for lane, phi in zip(lanes, scorer.push(np.array(lanes), tokens).tolist(), strict=True):
            phis[lane].append(phi)
    return phis


@functools.cache
def letters() -> SubwordTokenizer:
    """Byte-level BPE, as GPT-2's, trained on nothing: a token a byte."""
    return byte_level([])


def byte_level(corpus: list[str]) -> SubwordTokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    return SubwordTokenizer(backend)


def letters_of(text: str) -> list[int]:
    return list(letters().encode_response(text))


CORPUS = [MAT, CATS, "The fox was very happy. It wasn't sad, isn't it?", "- well-\nknown &amp; &quot;x&quot; 5.50"]
CASES = (
    Example("A happy story.", ("The fox was very happy.", "The fox found a red ball.")),
    Example("", ("Well-\nknown, the &amp; <skipped> 5.50 漢字 Σας é",)),
    Example("long", (" ".join(f"{word} very happy fox was the" for word in "abcdefghijklmnopqrstuvwxyz"),)),
    Example("empty", ("the", "a", "An a")),
)


@pytest.mark.parametrize("reward", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", slow_but({"byte-level"}, ["stories", "stories260K", "byte-level"]))
def test_check_reward(reward: Any, kind: str, request: pytest.FixtureRequest) -> None:
    made = {"stories": lambda: "stories", "byte-level": lambda: byte_level(CORPUS)}
    tokenizer = request.getfixturevalue("stories260k") if kind == "stories260K" else made[kind]()
    check_reward(reward, tokenizer, CASES, max_examples=20 if isinstance(reward, str) else 5)


@pytest.mark.parametrize("reward", SETTINGS, ids=str)
@settings(max_examples=15)
@given(st.lists(nasty_references, min_size=1, max_size=3), st.lists(nasty_texts, min_size=3, max_size=3))
def test_nasty_pushes(reward: Any, references: list[str], responses: list[str]) -> None:
    made = make_reward(reward)
    examples = [Example("", tuple(references[: count + 1])) for count in range(3)]
    episodes = [(example, letters_of(text) or [0]) for example, text in zip(examples, responses, strict=True)]
    for (example, ids), phis in zip(episodes, push_all(made, letters(), episodes), strict=True):
        expected = [made.score(example, decode(letters(), ids[: step + 1])) for step in range(len(ids))]
        assert phis == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("reward", [reward for reward in SETTINGS if reward != "rouge_lsum"], ids=str)
def test_forgetting_changes_nothing(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples are forgotten, and their rows given to others, while lanes are in the middle of a response."""
    made, tokenizer = make_reward(reward), make_tokenizer("stories")
    monkeypatch.setattr(references.ReferenceScorer, "max_cells", 60)
    num_begun = 0
    rng = np.random.default_rng(0)
    words = ["the", "fox", "was", "very", "happy", "and", "the", "red", "ball", "found", "a", "sad", "dog", "there"]

    def text(least: int = 3) -> str:
        return " " + " ".join(rng.choice(words, rng.integers(least, 12)))

    scorer = made.scorer(3, tokenizer)
    texts: list[list[int]] = [[], [], []]
    left: list[list[int]] = [[], [], []]
    answers: list[Example] = [Example("")] * 3
    for _ in range(150):
        for lane in range(3):
            if not left[lane]:
                texts[lane], left[lane] = [], list(tokenizer.encode_batch([text()])[0])
                answers[lane] = Example("", tuple(text(1) for _ in range(rng.integers(1, 4))))
                scorer.reset(np.array([lane]), [answers[lane]])
                num_begun += 1
        lanes = np.flatnonzero(rng.random(3) < 0.7)
        tokens = [left[lane].pop(0) for lane in lanes]
        phis = scorer.push(lanes, np.array(tokens, dtype=np.int64)).tolist()
        for lane, token, phi in zip(lanes.tolist(), tokens, phis, strict=True):
            texts[lane].append(token)
            assert phi == pytest.approx(made.score(answers[lane], decode(tokenizer, texts[lane])), abs=1e-9)
    counters = getattr(scorer, "_counters", [scorer])
    assert all(len(counter._slots) <= len(counter._indices) < num_begun / 2 for counter in counters)
    assert all(
        counter._num_cells == sum(counter._cells[slot] for slot in counter._slots.values()) for counter in counters
    )


@pytest.mark.parametrize("reward", [*NAMES, {"rouge_1": {"tokenizer": "unicode"}}], ids=str)
def test_empty_references_are_refused(reward: Any) -> None:
    for texts in ((), ("",), ("The fox.", ""), (" \n",)):
        with pytest.raises(RewardError, match="compares with references, and"):
            score(reward, "The fox.", *texts)
        with pytest.raises(RewardError, match="compares with references, and"):
            make_reward(reward).scorer(1, letters()).reset(np.array([0]), [Example("", texts)])


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l", "rouge_lsum", "rouge_n"])
def test_rouge_names_the_tokenizer_that_a_reference_takes(name: str) -> None:
    for text in ("أين العاصمة؟", "Где столица?", "首都在哪里？"):
        with pytest.raises(RewardError, match=r"no word in the reference .* pass tokenizer='unicode'"):
            score(name, text, "fine", text)
        with pytest.raises(RewardError, match="no word in the reference"):
            make_reward(name).scorer(1, letters()).reset(np.array([0]), [Example("", (text,))])
    with pytest.raises(RewardError, match="letters and digits"):
        score({name: {"tokenizer": "unicode"}}, "x", "?!")
    with pytest.raises(ValueError, match="Expected tokenizer to be"):
        make_reward({name: {"tokenizer": "bert"}})


@given(st.text(st.characters(max_codepoint=127)))
def test_both_tokenizers_of_rouge_are_one_for_ascii(text: str) -> None:
    assert RougeWords(tokenizer="unicode").split(text) == RougeWords().split(text)


SCRIPTS = [*"漢ひカーกัये्ॉa.,'ー\u0301\u3099\u3000。 -5_", "the", " a ", "Ω", "ß", "ŉ", "İ", "हिन्दी", "ภาษา"]


@pytest.mark.parametrize(
    "splitter", [AnswerWords(), RougeWords(tokenizer="unicode")], ids=lambda one: type(one).__name__
)
@settings(max_examples=examples(500))
@given(st.lists(st.sampled_from(SCRIPTS), max_size=16))
def test_scripts_are_cut_alike_however_they_come(splitter: Splitter, parts: list[str]) -> None:
    units, rest, text = [], "", ""
    for part in parts:
        finished, rest = splitter.cut(rest + part)
        units, text = units + finished, text + part
        assert units + splitter.finish(rest) == splitter.split(text)


def test_units_of_references_keep_their_numbers() -> None:
    units = Units(Words(), 1, letters())
    fox = units.keep("fox")
    assert units.keep("fox") == fox
    assert units.name(fox) == "fox"
    units._compact()
    last = [units.push(np.array([0]), np.array([token])).pending for token in letters_of("fox")][-1]
    assert last.tolist() == [[fox]]
    units.release()
    units._compact()
    assert units.keep("fox") != fox


def test_tables_wait_for_the_first_push() -> None:
    scorer = make_reward("bleu").scorer(2, letters())
    scorer.reset(np.arange(2), [CASES[0]] * 2)
    assert not scorer._slots
    assert scorer.score_whole(np.arange(2), [CASES[0]] * 2, ["The fox was very happy.", ""]).tolist() == [1, 0]
    assert not scorer._slots
    scorer.push(np.array([1]), np.array([5]))
    assert len(scorer._slots) == 1
    with pytest.raises(RuntimeError, match="Expected a reset of lane 2"):
        make_reward("bleu").scorer(3, letters()).push(np.array([2]), np.array([5]))


# Properties


@pytest.mark.parametrize("reward", RECALLS, ids=str)
@settings(max_examples=examples(60))
@given(st.lists(nasty_references, min_size=1, max_size=3), st.lists(nasty_texts, max_size=8))
def test_recall_falls_on_no_finished_word(reward: Any, references: list[str], parts: list[str]) -> None:
    made, example = make_reward(reward), Example("", tuple(references))
    written = [*itertools.accumulate(part + " " for part in [*parts, *references])]
    scores = [made.score(example, text) for text in written]
    assert scores == sorted(scores)


@settings(max_examples=examples(100))
@given(st.lists(nasty_references, min_size=1, max_size=3), nasty_texts)
def test_a_correct_prefix_never_falls(references: list[str], rest: str) -> None:
    example = Example("", tuple(references))
    ids = letters_of(references[0][:5] + rest) or [0]
    (phis,) = push_all(make_reward("correct_prefix"), letters(), [(example, ids)])
    assert phis == sorted(phis)


def test_recall_falls_inside_a_word() -> None:
    (phis,) = push_all(make_reward(RECALLS[0]), letters(), [(Example("", ("cat",)), letters_of("cats"))])
    assert phis == [0, 0, 1, 0]


def test_words_shuffled() -> None:
    """Scores of single words do not depend on their order; all others do."""
    shuffled = "mat the on sat cat the"
    assert score("rouge_1", shuffled, MAT) == score("token_f1", shuffled, MAT) == 1
    for name in ("bleu", "chrf", "rouge_2", "rouge_l", "edit_similarity", "correct_prefix", "exact_match"):
        assert score(name, shuffled, MAT) < 0.6


# Errors


@pytest.mark.parametrize("name", NAMES)
def test_no_reference(name: str) -> None:
    example, reward = Example("A lonely prompt"), make_reward(name)
    for ask in (
        lambda: reward.score(example, "x"),
        lambda: reward.scorer(1, letters()).reset(np.array([0]), [example]),
        lambda: reward.scorer(1, letters()).score_whole(np.array([0]), [example], ["x"]),
    ):
        with pytest.raises(
            RewardError, match=f"'{name}' compares with references, and this example has none"
        ) as caught:
            ask()
        assert "A lonely prompt" in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (
            {"bleu": {"smooth_method": "mild"}},
            ValueError,
            "smooth_method to be 'none', 'floor', 'add-k' or 'exp', got 'mild'",
        ),
        ({"bleu": {"smooth_value": 0.1}}, ValueError, "smooth_value with 'floor' or 'add-k' alone, got it with 'exp'"),
        ({"bleu": {"smooth_method": "floor", "smooth_value": -1}}, ValueError, r"smooth_value in \[0, inf\), got -1"),
        ({"bleu": {"smooth_method": "floor", "smooth_value": "1"}}, TypeError, "smooth_value to be a number, got '1'"),
        ({"bleu": {"tokenize": "zh"}}, ValueError, "tokenize to be '13a', .*, got 'zh'"),
        ({"bleu": {"max_ngram_order": 0}}, ValueError, "max_ngram_order to be at least 1, got 0"),
        ({"chrf": {"char_order": 1.5}}, TypeError, "char_order to be a whole number of at least 1, got 1.5"),
        ({"chrf": {"word_order": -1}}, ValueError, "word_order to be at least 0, got -1"),
        ({"chrf": {"beta": math.inf}}, ValueError, r"beta in \[0, inf\), got inf"),
        ({"rouge_n": {"n": True}}, TypeError, "n to be a whole number of at least 1, got True"),
        ({"rouge_1": {"measure": "F"}}, ValueError, "measure to be .*, got 'F'"),
        ({"rouge_l": {"measure": "F"}}, ValueError, "measure to be .*, got 'F'"),
        ({"token_f1": {"measure": 1}}, ValueError, "measure to be .*, got 1"),
        ({"edit_similarity": {"unit": "byte"}}, ValueError, "unit to be 'character' or 'word', got 'byte'"),
        ({"correct_prefix": {"unit": "byte"}}, ValueError, "unit to be .*, got 'byte'"),
    ],
)
def test_errors(reward: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_reward(reward)


def test_no_stemmer(monkeypatch: pytest.MonkeyPatch) -> None:
    rouge._porter.cache_clear()
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("nltk"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"textenvs\[stem\]"):
        make_reward({"rouge_1": {"stemmer": True}})
    make_reward("rouge_1")


@pytest.mark.parametrize("reward", SETTINGS, ids=str)
def test_a_used_reward_pickles_small(reward: Any) -> None:
    made = make_reward(reward)
    scores = [made.score(example, "The fox was sad!") for example in CASES]
    copied = pickle.loads(data := pickle.dumps(made))
    assert [copied.score(example, "The fox was sad!") for example in CASES] == scores
    assert len(data) < 2000


def test_what_is_prepared_is_bounded() -> None:
    made = make_reward("rouge_l")
    made.max_prepared = 4
    assert [made.score(Example("", (f"a {word}",)), word) for word in "bcdefghij"] == [pytest.approx(2 / 3)] * 9
    assert len(made._prepared) <= 4
