"""Translate a sentence from English into German, French or Chinese.

Sentences and their translations come from one synchronous grammar over the lexicon in
`textenvs.tasks.translation_lexicon`: articles, cases, genders, elisions, word order and measure words are those of the
target language, and each sentence has one translation. The splits differ by subject, verb and object together; the
shifted split joins two such sentences.

Arguments make three variants of the task: few pairs (`train=50`), no pairs at all (`unsupervised=True`: the reward,
`RoundTrip`, reads neither reference nor demonstration), and conversation (`interactive=True`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

from textenvs.arguments import check_choice
from textenvs.rewards.base import Reward
from textenvs.rewards.last_turn import LastTurn
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice
from textenvs.tasks.translation_lexicon import ADJECTIVES, BEINGS, ELIDED, PLACES, THINGS, VERBS, Adjective, Noun, Verb

LANGUAGES = ("German", "French", "Chinese")
"""The target languages."""

_NOUNS = {noun.english: noun for noun in (*BEINGS, *THINGS)}
_VERBS = {verb.base: verb for verb in VERBS}
_ARTICLES = {  # by gender, definite first
    "nominative": {"m": ("der", "ein"), "f": ("die", "eine"), "n": ("das", "ein")},
    "accusative": {"m": ("den", "einen"), "f": ("die", "eine"), "n": ("das", "ein")},
    "dative": {"m": ("dem", "einem"), "f": ("der", "einer"), "n": ("dem", "einem")},
}
_ENDINGS = {  # of adjectives after these articles
    "nominative": {"m": ("e", "er"), "f": ("e", "e"), "n": ("e", "es")},
    "accusative": {"m": ("en", "en"), "f": ("e", "e"), "n": ("e", "es")},
    "dative": {"m": ("en", "en"), "f": ("en", "en"), "n": ("en", "en")},
}
_PREPOSITIONS = (  # English, German with its contraction, French, Chinese (which follows the place)
    ("in", "in", "im", "dans", "里"),
    ("behind", "hinter", None, "derrière", "后面"),
    ("in front of", "vor", None, "devant", "前面"),
)

# A noun phrase: the noun, an adjective or None, and True if its article is definite.
_Phrase: TypeAlias = tuple[Noun, "Adjective | None", bool]


class _Clause:
    """One sentence, in every language.

    Args:
        subject: The subject.
        verb: The verb.
        object: The object.
        place: A noun of `PLACES` and a row of `_PREPOSITIONS`, or None.
        negated: True if the verb is negated.
    """

    def __init__(self, subject: _Phrase, verb: Verb, object: _Phrase, place: Any, negated: bool) -> None:
        self.subject, self.verb, self.object, self.place, self.negated = subject, verb, object, place, negated

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Clause) and vars(self) == vars(other)

    def swapped(self, nouns: Mapping[str, str]) -> _Clause:
        """Returns the clause with some nouns replaced by others."""
        subject, object = (
            (_NOUNS[nouns.get(noun.english, noun.english)], adjective, definite)
            for noun, adjective, definite in (self.subject, self.object)
        )
        return _Clause(subject, self.verb, object, self.place, self.negated)

    def english(self) -> str:
        verb = f"does not {self.verb.base}" if self.negated else self.verb.english
        where = f" {self.place[1][0]} the {self.place[0].english}" if self.place else ""
        return f"{_english(self.subject)} {verb} {_english(self.object)}{where}"

    def german(self) -> str:
        where = ""
        if self.place:
            noun, (_, preposition, contracted, *_) = self.place
            article = _ARTICLES["dative"][noun.german_gender][0]
            short = contracted if article == "dem" else None
            where = f" {short or f'{preposition} {article}'} {noun.german}"
        phrases = f"{_german(self.subject, 'nominative')} {self.verb.german} {_german(self.object, 'accusative')}"
        return phrases + where + (" nicht" if self.negated else "")

    def french(self) -> str:
        verb = self.verb.french
        if self.negated:
            verb = f"n'{verb} pas" if verb[0] in ELIDED else f"ne {verb} pas"
        where = f" {self.place[1][3]} {_french((self.place[0], None, True))}" if self.place else ""
        return f"{_french(self.subject)} {verb} {_french(self.object)}{where}"

    def chinese(self) -> str:
        where = f"在{self.place[0].chinese}{self.place[1][4]}" if self.place else ""
        verb = self.verb.chinese_not if self.negated else self.verb.chinese
        return f"{_chinese(self.subject)}{where}{verb}{_chinese(self.object)}"


_PAIRS = {"boy": "girl", "girl": "boy", "man": "woman", "woman": "man"}
_ADJECTIVES = {adjective.english: adjective for adjective in ADJECTIVES}
_ENGLISH_CLAUSE = re.compile(
    r"(?P<subject>(?:the|an?) [a-z ]+?) "
    rf"(?:(?P<verb>{'|'.join(re.escape(verb.english) for verb in VERBS)})"
    rf"|does not (?P<negated>{'|'.join(re.escape(verb.base) for verb in VERBS)})) "
    r"(?P<object>(?:the|an?) [a-z ]+?)"
    rf"(?: (?P<preposition>{'|'.join(row[0] for row in _PREPOSITIONS)}) "
    rf"the (?P<place>{'|'.join(place.english for place in PLACES)}))?"
)
_VERBS_BY_ENGLISH = {verb.english: verb for verb in VERBS}


def _parse(source: str) -> list[_Clause]:
    """Parses an English sentence of the grammar into its clauses.

    Raises:
        ValueError: If it is not such a sentence.
    """
    clauses = []
    for text in source.removesuffix(".").lower().split(" and "):
        match = _ENGLISH_CLAUSE.fullmatch(text)
        if match is None:
            raise ValueError(f"Expected a sentence of the translate task, got {source!r}")
        verb = _VERBS_BY_ENGLISH[match["verb"]] if match["verb"] else _VERBS[match["negated"]]
        place = None
        if match["place"]:
            noun = next(noun for noun in PLACES if noun.english == match["place"])
            place = (noun, next(row for row in _PREPOSITIONS if row[0] == match["preposition"]))
        subject, object = _parse_phrase(match["subject"]), _parse_phrase(match["object"])
        clauses.append(_Clause(subject, verb, object, place, bool(match["negated"])))
    return clauses


def _parse_phrase(text: str) -> _Phrase:
    article, *adjectives, noun = text.split(" ")
    return _NOUNS[noun], _ADJECTIVES[adjectives[0]] if adjectives else None, article == "the"


def _english(phrase: _Phrase) -> str:
    noun, adjective, definite = phrase
    words = noun.english if adjective is None else f"{adjective.english} {noun.english}"
    return f"{'the' if definite else 'an' if words[0] in 'aeiou' else 'a'} {words}"


def _german(phrase: _Phrase, case: str) -> str:
    noun, adjective, definite = phrase
    article = _ARTICLES[case][noun.german_gender][not definite]
    word = noun.german if case == "nominative" else noun.german_oblique
    if adjective is None:
        return f"{article} {word}"
    return f"{article} {adjective.german}{_ENDINGS[case][noun.german_gender][not definite]} {word}"


def _french(phrase: _Phrase) -> str:
    noun, adjective, definite = phrase
    words = noun.french
    if adjective is not None:
        form = adjective.french[noun.french_gender == "f"]
        words = f"{form} {words}" if adjective.before else f"{words} {form}"
    if not definite:
        return f"{'un' if noun.french_gender == 'm' else 'une'} {words}"
    if words[0] in ELIDED:
        return f"l'{words}"
    return f"{'le' if noun.french_gender == 'm' else 'la'} {words}"


def _chinese(phrase: _Phrase) -> str:
    noun, adjective, definite = phrase
    words = ("" if adjective is None else adjective.chinese) + noun.chinese
    return words if definite else f"一{noun.measure}{words}"


def _sentence(clauses: Sequence[_Clause], language: str) -> str:
    if language == "Chinese":
        return "，".join(clause.chinese() for clause in clauses) + "。"  # noqa: RUF001 - Chinese punctuation
    joined = {"English": " and ", "German": " und ", "French": " et "}[language]
    text = joined.join(getattr(clause, language.lower())() for clause in clauses)
    return text[0].upper() + text[1:] + "."


class Translate(Composed):
    """Translate an English sentence of a synchronous grammar. Levels: 1 plain, 2 adjectives, 3 places and negations.

    An example's metadata has `source` (the English sentence), `target` (the language), and `subject`, `verb`, `object`.
    Its one reference is the translation, with a leading space. `counterpart` exchanges boy and girl, man and woman,
    if one of them occurs.

    Args:
        target: "German", "French" or "Chinese".
        level: The difficulty, from 1 to 3; None is 2.
        interactive: If True, a teacher answers a wrong translation with a hint, and the agent may try again, twice. The
            score is then that of the last try, less 0.1 for every try before it.
        unsupervised: If True, the reward is `RoundTrip`, which needs no reference.
        train: The number of examples of the train split; 50 to 500 make it a low-resource task.
        validation: The number of examples of the validation split.
        test: The number of examples of the test split.
        shifted: The number of examples of the shifted split: two sentences joined by "and".

    Raises:
        ValueError: If the language is unknown, or a number is out of range.
        TypeError: If a number is not whole.

    Example:
        >>> example = Translate("French", level=3).example("train", 0)
        >>> example.prompt.startswith("Translate into French: ")
        True
    """

    name = "translate"
    tests = "translation: gender, case, order of known words"
    levels = 3
    level = 2
    default_reward: Any = "chrf"
    held_out_reward: Any = "bleu"
    default_max_new_tokens = 96

    def __init__(
        self,
        target: str = "German",
        level: int | None = None,
        interactive: bool = False,
        unsupervised: bool = False,
        train: int = 4096,
        validation: int = 512,
        test: int = 512,
        shifted: int = 512,
    ) -> None:
        self.target = check_choice("target", target, LANGUAGES)
        super().__init__(level, train, validation, test, shifted)
        # Reference scores were measured for German only, without the variants.
        self._is_standard = self._is_standard and target == "German" and not interactive and not unsupervised
        if target == "Chinese":
            self.held_out_reward = {"bleu": {"tokenize": "char"}}
        if unsupervised:
            self.held_out_reward = self.default_reward
            self.default_reward = RoundTrip()
        if interactive:
            self.max_turns = 3
            self.max_reply_tokens = 64
            self.default_max_new_tokens = 288
            self.default_reward = LastTurn(self.default_reward, 0.1)
            self.held_out_reward = LastTurn(self.held_out_reward, 0.1)

    def compositions(self) -> Sequence[Composition]:
        """Returns the triples of subject, verb and object."""
        nouns = list(_NOUNS)
        return [
            (subject.english, verb, noun)
            for subject in BEINGS
            for verb in _VERBS
            for noun in nouns
            if noun != subject.english
        ]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws the rest of a sentence. The shifted split joins it to another one."""
        clauses = [self._clause(composition, dice)]
        if shifted:
            subject = dice.pick(BEINGS).english
            other = dice.pick([noun for noun in _NOUNS if noun != subject])
            clauses.append(self._clause((subject, dice.pick(VERBS).base, other), dice))
        return self._example(clauses)

    def _example(self, clauses: Sequence[_Clause]) -> Example:
        source, first = _sentence(clauses, "English"), clauses[0]
        metadata = {
            "source": source,
            "target": self.target,
            "subject": first.subject[0].english,
            "verb": first.verb.base,
            "object": first.object[0].english,
        }
        prompt = f"Translate into {self.target}: {source}\n{self.target}:"
        return Example(prompt, (" " + _sentence(clauses, self.target),), metadata)

    def counterpart(self, example: Example) -> Example | None:
        """Returns the sentence with boy and girl, man and woman exchanged; None if it has none of them."""
        clauses = _parse(str(example.metadata["source"]))
        swapped = [clause.swapped(_PAIRS) for clause in clauses]
        return None if swapped == clauses else self._example(swapped)

    def _clause(self, composition: Composition, dice: Dice) -> _Clause:
        subject, verb, noun = composition
        place, negated = None, False
        if self.level >= 3:
            kind = dice.below(3)
            negated = kind == 1
            place = (dice.pick(PLACES), dice.pick(_PREPOSITIONS)) if kind == 2 else None
        return _Clause(
            self._phrase(subject, dice, definite=dice.below(3) > 0),
            _VERBS[verb],
            self._phrase(noun, dice, definite=negated or dice.below(2) > 0),  # "not ... a" would be "kein"
            place,
            negated,
        )

    def _phrase(self, noun: str, dice: Dice, definite: bool) -> _Phrase:
        adjective = dice.pick(ADJECTIVES) if self.level >= 2 and dice.below(2) else None
        return _NOUNS[noun], adjective, definite

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns a teacher's hint at the first wrong word of a translation, or None if it is right."""
        right, written = self._units(example.references[0]), self._units(turns[-1])
        if written == right:
            return None
        pairs = enumerate(zip(written, right, strict=False))
        wrong = next((index for index, (unit, wanted) in pairs if unit != wanted), None)
        return self._hint(right, min(len(written), len(right)) if wrong is None else wrong)

    def replies(self, example: Example) -> list[str]:
        """Returns the hints at every word."""
        right = self._units(example.references[0])
        return [self._hint(right, index) for index in range(len(right) + 1)]

    def _units(self, text: str) -> list[str]:
        return text.split() if self.target != "Chinese" else list(text.strip())

    def _hint(self, right: Sequence[str], index: int) -> str:
        """Returns the teacher's hint at the first wrong word or character."""
        unit = "character" if self.target == "Chinese" else "word"
        hint = f"{unit} {index + 1} is {right[index]}" if index < len(right) else f"it ends after {unit} {index}"
        return f"\nNot yet: {hint}\n{self.target}:"


@lru_cache(maxsize=len(LANGUAGES))
def _glossary(language: str) -> dict[str, str]:
    """Returns every form of a content word, as written inside a sentence, with its English meaning."""
    forms: dict[str, str] = {}
    if language == "German":
        for noun in (*BEINGS, *THINGS, *PLACES):
            forms[noun.german] = forms[noun.german_oblique] = noun.english
        for verb in VERBS:
            forms[verb.german] = verb.base
        for adjective in ADJECTIVES:
            forms.update({adjective.german + ending: adjective.english for ending in ("e", "en", "er", "es")})
        forms["nicht"] = "not"
    elif language == "French":
        for noun in (*BEINGS, *THINGS, *PLACES):
            forms[noun.french] = noun.english
        for verb in VERBS:
            forms[verb.french] = verb.base
        for adjective in ADJECTIVES:
            forms.update(dict.fromkeys(adjective.french, adjective.english))
        forms["pas"] = "not"
    else:
        for noun in (*BEINGS, *THINGS, *PLACES):
            forms[noun.chinese] = noun.english
        for verb in VERBS:
            forms[verb.chinese] = verb.base
            forms[verb.chinese_not[:1]] = "not"
        for adjective in ADJECTIVES:
            forms[adjective.chinese] = adjective.english
    return forms


def _words(text: str, language: str) -> list[str]:
    """Cuts a text into words, apostrophes and punctuation marks; in Chinese, into words of the glossary or characters.

    The first letter is lowered. Others keep their case: "Jungen" is a boy, "jungen" is young.
    """
    if language != "Chinese":
        text = text.lstrip()
        return re.findall(r"[^\W\d_]+|\S", text[:1].lower() + text[1:])
    glossary, words, start = _glossary(language), [], 0
    while start < len(text):
        size = next((size for size in (4, 3, 2) if text[start : start + size] in glossary), 1)
        if not text[start].isspace():
            words.append(text[start : start + size])
        start += size
    return words


@lru_cache(maxsize=len(LANGUAGES))
def _pairs(language: str) -> frozenset[tuple[str, str]]:
    """Returns the pairs of neighbouring words in a corpus of one language, from which fluency can be learned."""
    task = Translate(language, level=3)
    pairs: set[tuple[str, str]] = set()
    for index in range(2000):
        words = ["", *_words(task.example("train", index).references[0], language), ""]
        pairs.update(pairwise(words))
    return frozenset(pairs)


class RoundTrip(Reward):
    """The meaning of an English sentence that a word-by-word reading of its translation gives back, times its fluency.

    The meaning is compared by a token F1 of nouns, verbs, adjectives and "not". Fluency is the share of pairs of
    neighbouring words that are also neighbours somewhere in a corpus of the target language; the ends of the text count
    as neighbours too. The score reads the example's `source` and `target`, and no reference: it is the reward of
    unsupervised translation.

    Cost: the whole text is read again at every token. From 0 to 1. A right translation scores 1, or a little less if
    two of its words are never neighbours in the corpus.

    Source: He et al. (2016), Dual learning for machine translation, arXiv:1611.00179.
    """

    name = "round_trip"
    low, high = 0.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        source, language = _source(example.metadata)
        words = _words(response, language)
        if not words:
            return 0.0
        glossary = _glossary(language)
        wanted = Counter(_meanings(source))
        read = Counter(glossary[word] for word in words if word in glossary)
        common = sum((wanted & read).values())
        if not common:
            return 0.0
        f1 = 2 * common / (sum(wanted.values()) + sum(read.values()))
        neighbours = list(zip(["", *words], [*words, ""], strict=True))
        known = sum(pair in _pairs(language) for pair in neighbours)
        return f1 * known / len(neighbours)


def _source(metadata: Mapping[str, Any]) -> tuple[str, str]:
    source, language = metadata.get("source"), metadata.get("target")
    if not isinstance(source, str) or language not in LANGUAGES:
        raise ValueError(
            f"Expected an example whose metadata has a 'source' text and a 'target' of {list(LANGUAGES)}, got "
            f"{dict(metadata)!r}"
        )
    return source, str(language)


@lru_cache(maxsize=1)
def _english_forms() -> dict[str, str]:
    forms = {noun.english: noun.english for noun in (*BEINGS, *THINGS, *PLACES)}
    forms.update({adjective.english: adjective.english for adjective in ADJECTIVES})
    for verb in VERBS:
        forms[verb.english.split()[0]] = forms[verb.base.split()[0]] = verb.base
    forms["not"] = "not"
    return forms


def _meanings(source: str) -> list[str]:
    forms = _english_forms()
    return [forms[word] for word in _words(source, "English") if word in forms]
