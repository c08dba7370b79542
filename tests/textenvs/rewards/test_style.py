"""Style and fluency: the lexicon, the language model by hand and by its axioms, and push against score."""

import json
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers import examples, slow_but
from textenvs.data import train_ngrams
from textenvs.rewards import Formality, NgramFluency, RewardError, checked_score, make_reward
from textenvs.rewards.ngram_model import BUNDLED, SPLITTER, NgramModel, load_ngrams, train
from textenvs.rewards.style import formality_of
from textenvs.tasks import Example, Stories
from textenvs.testing import EXAMPLES, check_reward

PLAIN = Example("Once upon a time")
INFORMAL = Example("Say it simply.", (), {"formality": "informal"})
OFF = Example("Don't! I'm gonna", ("He didn't purchase it, therefore we'll obtain 'stuff'",), {"formality": "formal"})


@pytest.mark.parametrize("which", slow_but({"stories"}, ["stories", "stories260K"]))
@pytest.mark.parametrize(
    "reward",
    ["formality", {"formality": {"min_marks": 1}}, "ngram_lm", {"ngram_lm": {"raw": True, "min_words": 1}}],
    ids=str,
)
def test_the_contract(reward: Any, which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = which if which == "stories" else request.getfixturevalue("stories260k")
    check_reward(reward, tokenizer, [*EXAMPLES, INFORMAL, OFF], max_examples=30)


# Formality


@pytest.mark.parametrize(
    ("text", "formal", "informal"),
    [
        ("", 0, 0),
        ("the fox sat", 0, 0),
        ("Furthermore, we purchase it; therefore they commence.", 4, 0),
        ("Yeah, cool stuff", 0, 3),
        ("don't won't I'm we'll you've they're he'd", 0, 7),
        ("it's the fox's", 0, 0),
        ("DON’T 'cool' \"therefore\"", 1, 2),
        ("n't 'm", 0, 0),
        ("therefore cool", 1, 1),
    ],
)
def test_formality_by_hand(text: str, formal: int, informal: int) -> None:
    score = (formal - informal) / max(formal + informal, 4)
    assert make_reward("formality").score(PLAIN, text) == pytest.approx(score, abs=1e-12)
    assert make_reward("formality").score(INFORMAL, text) == pytest.approx(-score, abs=1e-12)
    if formal + informal:
        sharp = (formal - informal) / (formal + informal)
        assert Formality(min_marks=1).score(PLAIN, text) == pytest.approx(sharp, abs=1e-12)


def test_the_lexicon() -> None:
    lexicon = json.loads((BUNDLED["stories"].parent / "formality.json").read_text(encoding="utf-8"))
    words = lexicon["formal"] + lexicon["informal"]
    assert len(words) == len(set(words)) > 300
    assert all(word.isalpha() and word.islower() for word in words)
    assert lexicon["source"]


@given(
    st.lists(
        st.sampled_from([*"ndo'’tlvermxz", "n't", "there", "fore", "cool", "DON", "'ll", "\u0130", "\u0149"]),
        max_size=10,
    )
)
@example(["abc", "\u0130", "n", "'t"])  # folded, the second is an i and a dot that is no letter
def test_a_shortened_word_is_read_as_the_whole_one(parts: list[str]) -> None:
    splitter, rest = Formality().splitter, ""
    for part in parts:
        units, rest = splitter.cut(rest + part)
        assert units == []
        rest = splitter.shorten(rest)
    (short,), (whole,) = splitter.finish(rest) or [""], splitter.finish("".join(parts)) or [""]
    assert formality_of(short) == formality_of(whole)


def test_wrong_settings() -> None:
    for number, error, message in (
        (0, ValueError, "at least 1, got 0"),
        (True, TypeError, "a whole number of at least 1, got True"),
        (1.5, TypeError, "a whole number of at least 1, got 1.5"),
    ):
        with pytest.raises(error, match=f"Expected min_marks to be {message}"):
            Formality(number)
        with pytest.raises(error, match=f"Expected min_words to be {message}"):
            NgramFluency(min_words=number)
    wrong = Example("", (), {"formality": "posh"})
    with pytest.raises(RewardError, match="to be 'formal' or 'informal', got 'posh'"):
        checked_score(make_reward("formality"), wrong, "a")


# The language model


def test_bigrams_by_hand() -> None:
    """Three texts, "a b", "a b" and "a c": counted on paper.

    Bigrams: (start a) 3, (a b) 2, (a c) 1; one count of 1 and one of 2: D_2 = 1 / (1 + 2) = 1/3.
    Words by what they follow: a after one kind of word, b after one, c after one: counts of 1, so D_1 = 1, cut to 0.9.
    """
    model = train(["a b", "A b", "a c"], order=2)
    assert model.words == ("a", "b", "c")
    a, b, c, unknown = model.number("a"), model.number("b"), model.number("c"), model.number("fox")
    uniform = 1 / 4
    unigram = dict.fromkeys((a, b, c), (1 - 0.9) / 3 + 0.9 * 3 / 3 * uniform)
    unigram[unknown] = 0.9 * uniform
    after_a = {word: 2 / 3 / 3 * unigram[word] for word in unigram}
    after_a[b] += (2 - 1 / 3) / 3
    after_a[c] += (1 - 1 / 3) / 3
    for word in unigram:
        assert model.probability((a,), word) == pytest.approx(after_a[word], abs=1e-12)
        assert model.probability((b,), word) == pytest.approx(unigram[word], abs=1e-12)  # nothing ever followed b
        assert model.probability((unknown,), word) == pytest.approx(unigram[word], abs=1e-12)
    expected = [(3 - 1 / 3) / 3 + 1 / 3 / 3 * unigram[a], after_a[c], unigram[unknown]]
    assert model.log_probs("A c?") == pytest.approx(list(map(math.log, expected)), abs=1e-12)
    assert model.log_probs("c", before="fox a") == pytest.approx([math.log(after_a[c])], abs=1e-12)
    assert model.perplexity(["A c?"]) == pytest.approx(math.prod(expected) ** (-1 / 3), rel=1e-12)


def definition(texts: list[str], order: int, context: tuple[str, ...], word: str) -> float:
    """P(word | context), straight from equation 24, over lists of n-grams and no tables. "?" is an unknown word."""
    padded = [["<s>"] * (order - 1) + text.split() for text in texts]
    highest = [tuple(words[i - order + 1 : i + 1]) for words in padded for i in range(order - 1, len(words))]
    vocabulary = {gram[-1] for gram in highest}

    def level(length: int) -> list[tuple[str, ...]]:
        grams = highest
        for _ in range(order - length):
            grams = [gram[1:] for gram in set(grams)]  # each kind of n-gram goes on to the left in one way
        return grams

    def p(length: int) -> float:
        if length == 0:
            return 1 / (len(vocabulary) + 1)
        counts = Counter(level(length))
        numbers = Counter(counts.values())
        discount = min(max(numbers[1] / max(numbers[1] + 2 * numbers[2], 1), 0.1), 0.9)
        before = context[len(context) - length + 1 :] if length > 1 else ()
        following = {gram[-1]: number for gram, number in counts.items() if gram[:-1] == before}
        if not following:
            return p(length - 1)
        total = sum(following.values())
        kept = max(following.get(word, 0) - discount, 0) / total
        return kept + discount * len(following) / total * p(length - 1)

    return p(order)


@settings(max_examples=examples(60))
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=6),
    st.integers(1, 4),
    st.lists(st.sampled_from("abcd?"), max_size=4),
)
def test_any_model_is_the_definition_and_adds_up_to_one(texts: list[str], order: int, before: list[str]) -> None:
    model = train(texts, order)
    context = model.context(before)
    names = ["<s>", "?", *model.words]
    numbers = range(1, len(names))
    for number in numbers:
        expected = definition(texts, order, tuple(names[one] for one in context), names[number])
        assert model.probability(context, number) == pytest.approx(expected, abs=1e-12)
    assert math.fsum(model.probability(context, number) for number in numbers) == pytest.approx(1, abs=1e-12)
    assert model.num_outcomes == len(numbers)


def test_the_bundled_model_adds_up_to_one() -> None:
    model = load_ngrams()
    texts = ["", "A happy story.", "Once upon a time there was a little", "zebra zebra", "the fox was very", 'said "']
    for text in texts:
        context = model.context(SPLITTER.split(text))
        total = math.fsum(model.probability(context, number) for number in range(1, model.num_outcomes + 1))
        assert total == pytest.approx(1, abs=1e-9)


def test_the_bundled_models_are_what_their_script_trains(tmp_path: Path) -> None:
    train_ngrams.main(["--output", str(tmp_path)])
    for file in BUNDLED.values():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
        assert file.stat().st_size < 1_000_000
    stories, reviews = train_ngrams.stories(train_ngrams.NUM_STORIES, 200), train_ngrams.reviews("test")
    for name, held_out, most in (("stories", stories, 5), ("reviews", reviews, 3)):
        model = load_ngrams(name)
        assert model.perplexity(held_out) < most
        assert model.perplexity(" ".join(sorted(SPLITTER.split(text))) for text in held_out) > 10 * most
    assert load_ngrams() is load_ngrams("stories")


def test_contexts_that_are_told_apart_are_those_that_matter() -> None:
    model = load_ngrams()
    numbers = range(1, model.num_outcomes + 1)
    known, unknown = model.context(["there", "was"]), model.context(["was", "there"])
    assert model.simplified(known) == known
    assert model.simplified(unknown) != unknown
    assert [model.probability(model.simplified(unknown), word) for word in numbers] == [
        model.probability(unknown, word) for word in numbers
    ]
    assert train(["a b a"], order=1).simplified(()) == ()


def test_beginnings_of_no_word_are_one_rest() -> None:
    model = train(["xx fox xylophone"])
    splitter = model.splitter
    dead = splitter.shorten("foz")
    assert splitter.shorten("zebra") == splitter.shorten("_") == dead
    assert not any(word.startswith(dead) for word in model.words)
    assert all(splitter.shorten(rest) == rest for rest in ("fo", "FOX", "x", "xx", "xyl", "!", ""))


def test_fluency_is_the_share_of_uniform_cross_entropy() -> None:
    reward, raw = make_reward("ngram_lm"), make_reward({"ngram_lm": {"raw": True}})
    model = load_ngrams()
    text = " there was a little fox named Tim. Tim lived"
    log_probs = model.log_probs(text, before=PLAIN.prompt)
    assert len(log_probs) == 10
    assert raw.score(PLAIN, text) == pytest.approx(sum(log_probs) / 10, abs=1e-12)
    entropy = math.log(len(model.words) + 1)
    assert reward.score(PLAIN, text) == pytest.approx(1 + sum(log_probs) / 10 / entropy, abs=1e-12)
    one = model.log_probs("there", before=PLAIN.prompt)[0]
    assert reward.score(PLAIN, "there") == pytest.approx((1 + one / entropy) / 8, abs=1e-12)
    assert reward.score(PLAIN, "") == raw.score(PLAIN, "") == 0
    assert reward.score(PLAIN, "zebra " * 20) == 0  # worse than a guess
    assert raw.score(PLAIN, "zebra " * 20) < -entropy
    assert (raw.low, raw.high) == (-math.inf, 0)


def test_fluent_texts_score_higher() -> None:
    reward, task = make_reward("ngram_lm"), Stories()
    for index in range(50):
        example = task.example("test", index)
        written = task.demonstration(example)
        mixed = " ".join(sorted(written.split(), key=lambda word: word[::-1]))
        assert reward.score(example, written) > 0.4 > reward.score(example, mixed)


def test_your_own_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, output = tmp_path / "texts.jsonl", tmp_path / "mine.json"
    lines = [json.dumps({"story": f"the {'red' if i % 2 else 'old'} fox ran"}) for i in range(20)]
    texts.write_text("\n".join([*lines, ""]), encoding="utf-8")
    train_ngrams.main([str(texts), "--field", "story", "--order", "2", "--output", str(output)])
    said = capsys.readouterr().out
    assert "5 words, 6 2-grams of 18 texts" in said
    assert "on 2 other texts: 1." in said
    reward = make_reward({"ngram_lm": {"model": str(output)}})
    assert reward.score(PLAIN, "the red fox ran") > 0.3 > reward.score(PLAIN, "ran fox red the")
    copied = pickle.loads(pickle.dumps(reward))
    assert copied.score(PLAIN, "the red fox") == reward.score(PLAIN, "the red fox")
    assert len(pickle.dumps(reward)) < 1000

    plain = tmp_path / "texts.txt"
    plain.write_text("the fox\nthe fox ran\n", encoding="utf-8")
    train_ngrams.main([str(plain), "--output", str(output), "--min-count", "1"])
    assert load_ngrams(output).words == ("the", "fox", "ran")  # read again, since the file has changed
    again = pickle.loads(pickle.dumps(load_ngrams(output)))
    assert again.log_probs("the fox") == load_ngrams(output).log_probs("the fox")


def test_errors_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a"}\n{"text": 3}\n', encoding="utf-8")
    for arguments, message in (
        ([str(texts)], "Expected --output"),
        ([str(tmp_path / "none.txt"), "--output", "x"], "Expected a file of texts"),
        ([str(texts), "--output", "x"], "Expected a text in field 'text', got 3 in line 2"),
    ):
        with pytest.raises(SystemExit):
            train_ngrams.main(arguments)
        assert message in capsys.readouterr().err
    texts.write_text("{\n", encoding="utf-8")
    with pytest.raises(ValueError, match="Expected a line of JSON, but line 1 of"):
        train_ngrams.read_texts(texts, "text")
    for wrong in ({"order": 0}, {"min_count": 0}):
        with pytest.raises(ValueError, match="to be at least 1, got 0"):
            train(["a"], **wrong)
    with pytest.raises(ValueError, match="Expected texts to train on"):
        train([" "])


def test_errors_of_models(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"\['stories', 'reviews'\] or a file .* wrote, got '/none.json': there is none"
    ):
        make_reward({"ngram_lm": {"model": "/none.json"}})
    for content in ("{", "[]", "{}", '{"words":["a"],"grams":{"0":[2]}}', '{"words":["a"],"grams":{"0":[7,1]}}'):
        (tmp_path / "wrong.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="to hold an n-gram model, but it could not be read"):
            load_ngrams(tmp_path / "wrong.json")
    for counts in ({}, {(0, 2): 1, (2,): 1}, {(0, 3): 1}):
        with pytest.raises(ValueError, match="Expected n-grams of one length, of numbers below 3"):
            NgramModel(["a"], counts)
    for counts in ({(0, 2): 0}, {(2, 0): 1}):
        with pytest.raises(ValueError, match="Expected counts of at least 1, of n-grams that end with a word"):
            NgramModel(["a"], counts)
