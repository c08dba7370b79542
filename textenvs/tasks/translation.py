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
from dataclasses import dataclass, field
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
_SINGULAR = {noun.plurals[0]: noun.english for noun in _NOUNS.values()}
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

# A noun phrase: the noun, an adjective or None, and a key of `_DETERMINERS`.
_Phrase: TypeAlias = tuple[Noun, "Adjective | None", str]

_DETERMINERS = {  # German, French and Chinese
    "the": (("der", "die", "das", "den", "dem"), ("le", "la", "l"), ()),
    "a": (("ein", "eine", "einen", "einem"), ("un", "une"), ("一",)),
    "two": (("zwei",), ("deux",), ("两",)),
    "three": (("drei",), ("trois",), ("三",)),
}
_NUMBERS = {determiner: [word for (word,) in _DETERMINERS[determiner]] for determiner in ("two", "three")}


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
            (_NOUNS[nouns.get(noun.english, noun.english)], adjective, determiner)
            for noun, adjective, determiner in (self.subject, self.object)
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
        where = f" {self.place[1][3]} {_french((self.place[0], None, 'the'))}" if self.place else ""
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
    r"(?P<object>(?:the|an?|two|three) [a-z ]+?)"
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
    determiner = "a" if article == "an" else article
    singular = _SINGULAR[noun] if determiner in _NUMBERS else noun
    return _NOUNS[singular], _ADJECTIVES[adjectives[0]] if adjectives else None, determiner


def _english(phrase: _Phrase) -> str:
    noun, adjective, determiner = phrase
    word = noun.plurals[0] if determiner in _NUMBERS else noun.english
    words = word if adjective is None else f"{adjective.english} {word}"
    return f"{'an' if determiner == 'a' and words[0] in 'aeiou' else determiner} {words}"


def _german(phrase: _Phrase, case: str) -> str:
    noun, adjective, determiner = phrase
    if determiner in _NUMBERS:  # an object
        counted = noun.plurals[1] if adjective is None else f"{adjective.german}e {noun.plurals[1]}"
        return f"{_NUMBERS[determiner][0]} {counted}"
    indefinite = determiner == "a"
    article = _ARTICLES[case][noun.german_gender][indefinite]
    word = noun.german if case == "nominative" else noun.german_oblique
    if adjective is None:
        return f"{article} {word}"
    return f"{article} {adjective.german}{_ENDINGS[case][noun.german_gender][indefinite]} {word}"


def _french(phrase: _Phrase) -> str:
    noun, adjective, determiner = phrase
    several = determiner in _NUMBERS
    words = noun.plurals[2] if several else noun.french
    if adjective is not None:
        form = adjective.french[noun.french_gender == "f"] + "s" * several
        words = f"{form} {words}" if adjective.before else f"{words} {form}"
    if several:
        return f"{_NUMBERS[determiner][1]} {words}"
    if determiner == "a":
        return f"{'un' if noun.french_gender == 'm' else 'une'} {words}"
    if words[0] in ELIDED:
        return f"l'{words}"
    return f"{'le' if noun.french_gender == 'm' else 'la'} {words}"


def _chinese(phrase: _Phrase) -> str:
    noun, adjective, determiner = phrase
    words = ("" if adjective is None else adjective.chinese) + noun.chinese
    if determiner == "the":
        return words
    return f"{'一' if determiner == 'a' else _NUMBERS[determiner][2]}{noun.measure}{words}"


def _sentence(clauses: Sequence[_Clause], language: str) -> str:
    if language == "Chinese":
        return "，".join(clause.chinese() for clause in clauses) + "。"  # noqa: RUF001 - Chinese punctuation
    joined = {"English": " and ", "German": " und ", "French": " et "}[language]
    text = joined.join(getattr(clause, language.lower())() for clause in clauses)
    return text[0].upper() + text[1:] + "."


class Translate(Composed):
    """Translate an English sentence of a synchronous grammar.

    Levels: 1 plain, 2 adjectives and numbers, 3 places and negations.

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
            self._phrase(subject, dice, "the" if dice.below(3) else "a"),
            _VERBS[verb],
            self._phrase(noun, dice, "the" if negated else self._determiner(noun, dice)),  # "not ... a": "kein"
            place,
            negated,
        )

    def _determiner(self, noun: str, dice: Dice) -> str:
        """Draws an object's determiner."""
        return dice.pick(tuple(_DETERMINERS) if self.level >= 2 and _NOUNS[noun].plurals[0] else ("the", "a"))

    def _phrase(self, noun: str, dice: Dice, determiner: str) -> _Phrase:
        adjective = dice.pick(ADJECTIVES) if self.level >= 2 and dice.below(2) else None
        return _NOUNS[noun], adjective, determiner

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


# A word's part of speech and its English meaning.
_Entry: TypeAlias = tuple[str, str]


@lru_cache(maxsize=len(LANGUAGES))
def _glossary(language: str) -> dict[str, _Entry]:
    """Returns every form of a word that has a meaning, as written inside a sentence."""
    forms: dict[str, _Entry] = {}
    place = LANGUAGES.index(language)
    for noun in (*BEINGS, *THINGS, *PLACES):
        spellings = (
            (noun.german, noun.german_oblique, noun.plurals[1]),
            (noun.french, noun.plurals[2]),
            (noun.chinese,),
        )
        forms.update({word: ("noun", noun.english) for word in spellings[place] if word})
    for verb in VERBS:
        forms[(verb.german, verb.french, verb.chinese)[place]] = ("verb", verb.base)
    for adjective in ADJECTIVES:
        inflected = tuple(adjective.german + ending for ending in ("e", "en", "er", "es"))
        french = (*adjective.french, *(form + "s" for form in adjective.french))
        for word in (inflected, french, (adjective.chinese,))[place]:
            forms[word] = ("adjective", adjective.english)
    for english, preposition, contracted, in_french, in_chinese in _PREPOSITIONS:
        for word in ((preposition, contracted or preposition), (in_french,), (in_chinese,))[place]:
            forms[word] = ("preposition", english)
    for english, determiners in _DETERMINERS.items():
        forms.update(dict.fromkeys(determiners[place], ("determiner", english)))
    for word in (("nicht",), ("pas",), [verb.chinese_not[0] for verb in VERBS])[place]:
        forms[word] = ("not", "not")
    forms[("und", "et", "，")[place]] = ("and", "and")  # noqa: RUF001 - Chinese punctuation
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
def _neighbours(language: str) -> frozenset[tuple[str, str]]:
    """Returns the pairs of neighbouring words in a corpus of one language, from which fluency can be learned."""
    task = Translate(language, level=3)
    pairs: set[tuple[str, str]] = set()
    for index in range(task.num_examples("train")):
        words = ["", *_words(task.example("train", index).references[0], language), ""]
        pairs.update(pairwise(words))
    return frozenset(pairs)


# A statement of a sentence: the number of its clause, what it is about ("object", "subject adjective", ...), a meaning.
_Statement: TypeAlias = tuple[int, str, str]


def _stated(clauses: Sequence[_Clause]) -> Counter[_Statement]:
    """Returns what a sentence states."""
    statements: Counter[_Statement] = Counter()
    for index, clause in enumerate(clauses):
        for role, (noun, adjective, determiner) in (("subject", clause.subject), ("object", clause.object)):
            statements[index, role, noun.english] += 1
            statements[index, f"{role} determiner", determiner] += 1
            if adjective is not None:
                statements[index, f"{role} adjective", adjective.english] += 1
        statements[index, "verb", clause.verb.base] += 1
        statements[index, "polarity", "not" if clause.negated else "affirmed"] += 1
        if clause.place:
            statements[index, clause.place[1][0], clause.place[0].english] += 1
    return statements


@dataclass
class _PhraseRead:
    """A noun phrase as it is read.

    Attributes:
        role: "subject" or "object" if its case tells, a preposition, or "" if only the order of words tells.
        determiner: A key of `_DETERMINERS`, or "".
        word: The determiner as it is written.
        noun: The English noun, or "" if it is not written yet.
        adjectives: The English adjectives.
    """

    role: str = ""
    determiner: str = ""
    word: str = ""
    noun: str = ""
    adjectives: list[str] = field(default_factory=list)


def _read(words: Sequence[str], language: str) -> Counter[_Statement]:
    """Reads what a translation states, from as much of it as there is.

    Roles are told by the German case ("den Hund sieht die Katze": the cat sees), else by the order of words. Words that
    are not in the glossary, and a phrase whose noun is not written yet, state nothing.
    """
    glossary = _glossary(language)
    statements: Counter[_Statement] = Counter()
    clause: list[tuple[str, str, str]] = []  # part of speech, meaning, word
    index = 0
    for word in (*words, None):
        kind, meaning = ("and", "and") if word is None else glossary.get(word, ("", ""))
        if kind == "and":
            for role, told in _clause_statements(clause, language):
                statements[index, role, told] += 1
            clause, index = [], index + 1
        elif kind:
            clause.append((kind, meaning, str(word)))
    return statements


def _clause_statements(words: Sequence[tuple[str, str, str]], language: str) -> list[tuple[str, str]]:
    """Reads one clause: what each statement is about, and its meaning."""
    verbs = [meaning for kind, meaning, _ in words if kind == "verb"]
    negations = sum(kind == "not" for kind, *_ in words)
    statements = [("verb", verb) for verb in verbs] + [("polarity", "not")] * negations
    if verbs and not negations:
        statements.append(("polarity", "affirmed"))
    before, after = _phrases(words, language)
    cased = {phrase.role for phrase in (*before, *after)}
    for ordered, phrases in (("subject", before), ("object", after)):
        for phrase in phrases:
            # Beside a phrase whose case tells its role, one whose case does not has the other role.
            other = {"subject", "object"} - cased
            role = phrase.role or (other.pop() if len(other) == 1 else ordered)
            statements.append((role, phrase.noun))
            if phrase.determiner and role in ("subject", "object"):
                statements.append((f"{role} determiner", phrase.determiner))
            statements += [(f"{role} adjective", adjective) for adjective in phrase.adjectives]
    return statements


def _phrases(words: Sequence[tuple[str, str, str]], language: str) -> tuple[list[_PhraseRead], list[_PhraseRead]]:
    """Returns the noun phrases before and after the first verb of a clause."""
    before: list[_PhraseRead] = []
    after: list[_PhraseRead] = []
    phrases, phrase = before, _PhraseRead()
    for kind, meaning, word in words:
        if kind == "verb":
            phrases = after
        elif kind == "preposition" and language == "Chinese":  # it follows the place
            if phrases:
                phrases[-1].role = meaning
        elif kind == "preposition":
            phrase = _PhraseRead(meaning)
        elif kind == "determiner":
            phrase.determiner, phrase.word = meaning, word
        elif kind == "adjective":
            # In French, an adjective may follow its noun; then no determiner has begun the next phrase.
            follows = language == "French" and phrases and not phrase.determiner
            (phrases[-1] if follows else phrase).adjectives.append(meaning)
        elif kind == "noun":
            phrase.noun = meaning
            if not phrase.determiner and language == "Chinese":
                phrase.determiner = "the"
            phrase.role = phrase.role or _case_role(phrase)
            phrases.append(phrase)
            phrase = _PhraseRead()
    return before, after


def _case_role(phrase: _PhraseRead) -> str:
    """Returns the role that a German determiner tells, which only masculine nouns have a case for."""
    if phrase.word in ("den", "einen"):
        return "object"
    masculine = phrase.noun in _NOUNS and _NOUNS[phrase.noun].german_gender == "m"
    return "subject" if masculine and phrase.word in ("der", "ein") else ""


class RoundTrip(Reward):
    """The meaning of an English sentence that a reading of its translation gives back, times its fluency.

    A sentence states a subject, a verb, an object, a place, an adjective of each, the determiner or number of subject
    and object, and that it is affirmed or negated. The score is the share of the source's statements that are read in
    the translation, halved for each statement read that the source does not make. So a wrong number or a negation left
    out costs more than half, and a subject and an object exchanged more than three quarters.

    Fluency is the share of pairs of neighbouring words that are also neighbours somewhere in a corpus of the target
    language; the ends of the text count as neighbours too. The score reads the example's `source` and `target`, and no
    reference: it is the reward of unsupervised translation.

    Cost: the whole text is read again at every token. From 0 to 1. A right translation scores 1, or a little less if
    two of its words are never neighbours in the corpus.

    Source: the reward by translating back of He et al. (2016), Dual learning for machine translation, arXiv:1611.00179;
    statements as in Anderson et al. (2016), SPICE, arXiv:1607.08822.
    """

    name = "round_trip"
    low, high = 0.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        source, language = _source(example.metadata)
        words = _words(response, language)
        if not words:
            return 0.0
        wanted, read = _source_statements(source), _read(words, language)
        right = sum((wanted & read).values())
        if not right:
            return 0.0
        meaning = right / sum(wanted.values()) * 0.5 ** (sum(read.values()) - right)
        pairs = list(zip(["", *words], [*words, ""], strict=True))
        return meaning * sum(pair in _neighbours(language) for pair in pairs) / len(pairs)


def _source(metadata: Mapping[str, Any]) -> tuple[str, str]:
    source, language = metadata.get("source"), metadata.get("target")
    if not isinstance(source, str) or language not in LANGUAGES:
        raise ValueError(
            f"Expected an example whose metadata has a 'source' text and a 'target' of {list(LANGUAGES)}, got "
            f"{dict(metadata)!r}"
        )
    return source, str(language)


@lru_cache(maxsize=8192)
def _source_statements(source: str) -> Counter[_Statement]:
    return _stated(_parse(source))
