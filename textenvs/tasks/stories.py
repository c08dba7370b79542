"""Continue a children's story in a wanted mood: the bundled language task.

The stories come from a small grammar. A story is a header that names a mood ("A happy story."), an opening that
introduces a hero and a place, and then a handful of sentences: a start, some middles and an end. Each of those
sentences exists in a happy, a sad and a neutral version. In the corpus that the bundled language model is trained on
(`Stories.corpus_story`) the mood of each sentence only leans towards the header's, so that the model writes fluent
stories, and has heard of the header, but does not obey it. To obey it is what reinforcement learning has to teach.

A template is text with slots in braces ("{N} found {a}.") and choices in brackets ("[smiled|laughed]"). The slots are:

    {N} {he} {He} {his} {His} {him}   the hero's name and pronouns
    {p}                               the noun of the hero's place ("river")
    {a} {A} {ao} {o}                  the story's thing: "a red ball", "A red ball", "red ball", "ball"
    {f} {af} {Af}                     another animal: "fox", "a fox", "A fox"
    {w}                               one of the hero's family ("mother")
    {e} {g}                           something to eat ("berries"), somewhere to go ("market")

Randomness is counter-based: everything is a pure function of a split and an index, or of an index alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from textenvs.rewards.sentiment import Sentiment
from textenvs.tasks.base import SHIFTED, SPLITS, Example, ReferenceScores, Task, check_split, frozen_scores
from textenvs.tasks.dice import Dice, text_key

MOODS = ("happy", "sad")
"""The moods that a header can name. A sentence can also be neutral."""

SENTENCE_MOODS = ("happy", "sad", "neutral")

BOYS = (
    "Tim", "Sam", "Tom", "Max", "Ben", "Leo", "Jack", "Pip", "Finn", "Bob", "Ned", "Gus", "Otto", "Joe", "Toby",
    "Fred", "Luke", "Dan",
)  # fmt: skip
GIRLS = (
    "Lily", "Anna", "Lucy", "Sue", "Zoe", "Ella", "Ruby", "Daisy", "Nina", "Kate", "Emma", "Amy", "Nora", "Polly",
    "Jane", "Molly", "Tess", "Clara",
)  # fmt: skip
ANIMALS = (
    "fox", "bear", "rabbit", "mouse", "cat", "dog", "duck", "frog", "bird", "pig", "cow", "horse", "lamb", "lion",
    "monkey", "owl", "squirrel", "turtle", "goat", "hedgehog", "elephant", "deer", "bunny", "puppy", "kitten", "pony",
    "sheep", "goose", "wolf", "tiger",
)  # fmt: skip
PLACES = (
    ("near the", "river"), ("in the", "forest"), ("by the", "lake"), ("on a", "farm"), ("near the", "sea"),
    ("on a", "hill"), ("in a", "garden"), ("in a", "cave"), ("by a", "pond"), ("near a", "park"),
    ("near the", "mountain"), ("in a", "village"), ("near a", "bridge"), ("in a", "barn"), ("in a", "castle"),
    ("on an", "island"), ("by the", "road"), ("near a", "school"), ("in a", "meadow"), ("in the", "jungle"),
    ("by the", "beach"), ("in a", "tower"), ("in the", "valley"), ("near a", "mill"), ("in a", "cottage"),
    ("by the", "woods"), ("by a", "stream"), ("in a", "house"), ("near a", "field"), ("in a", "town"),
    ("near a", "church"), ("in the", "desert"), ("by the", "harbor"), ("near a", "windmill"), ("in a", "tent"),
    ("near the", "station"),
)  # fmt: skip
OBJECTS = (
    "ball", "kite", "boat", "book", "hat", "drum", "bell", "cup", "stone", "shell", "feather", "basket", "box",
    "blanket", "doll", "wagon", "bike", "balloon", "scarf", "coat", "umbrella", "whistle", "lamp", "map", "coin",
    "ring", "rope", "bucket", "picture", "puzzle", "spoon", "pot", "train", "truck", "robot", "key", "button", "flute",
    "clock", "chair", "pencil", "mirror", "pillow", "ladder", "candle", "shoe", "sled", "plane", "mask", "jar",
)  # fmt: skip
OBJECT_ADJECTIVES = (
    "red", "blue", "green", "yellow", "big", "small", "old", "new", "round", "tiny", "white", "brown", "orange",
    "pink", "purple", "wooden", "shiny", "striped", "black", "gray",
)  # fmt: skip
FAMILY = ("mother", "father", "brother", "sister", "grandmother", "grandfather", "uncle", "aunt", "cousin")
FOODS = (
    "berries", "cake", "soup", "bread", "apples", "cookies", "pie", "pears", "carrots", "corn", "cheese", "honey",
    "pancakes", "rice", "grapes", "cherries", "beans", "noodles",
)  # fmt: skip
GOALS = (
    "market", "zoo", "library", "farm", "bakery", "store", "beach", "park", "pond", "circus", "museum", "playground",
    "kitchen", "harbor", "station", "office",
)  # fmt: skip

# The lexicon of the shifted split: no story of the corpus has one of these words in its opening.
SHIFTED_BOYS = ("Theo", "Bill", "Don", "Sid")
SHIFTED_GIRLS = ("Pam", "Ina", "Lin", "Bea")
SHIFTED_ANIMALS = ("camel", "snail", "beaver", "donkey", "hen", "seal")
SHIFTED_PLACES = (
    ("in a", "shed"), ("in a", "hut"), ("near a", "dock"), ("near a", "shop"), ("near a", "mall"), ("in a", "hall"),
    ("in a", "lab"), ("in a", "den"), ("by the", "bay"), ("by a", "well"),
)  # fmt: skip

OPENINGS = (
    "Once upon a time there was a [little|small|young] {k} named {N}. {N} lived {in_place}.",
    "Once upon a time, {a_k} named {N} lived {in_place}.",
    "Once there was a [little|small|young|brown|quiet] {k} named {N}. {He} lived {in_place}.",
    "There once was a [little|small|young|tall] {k} named {N} who lived {in_place}.",
    "{N} was a [little|small|young|quiet] {k}. {He} lived {in_place} with {his} {w}.",
    "Long ago, a [little|small|young] {k} lived {in_place}. {His} name was {N}.",
)
TIMES = ("One day,", "One morning,", "One afternoon,", "One evening,", "Then one day,")

# What a story is about. `START` comes right after "One day," and so begins in lower case, unless it begins with a
# name. The words that carry a mood are words of the VADER lexicon; a neutral sentence has none of them.
START: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "thing": {
        "happy": (
            "{N} found {a} near the {p} and [smiled|laughed|giggled].",
            "{his} {w} gave {him} {a} as a [gift|surprise|reward].",
            "{N} made {a} and was [very|so|really] [happy|glad|proud|excited].",
            "{N} won {a} in a [fun|great] [game|race].",
            "{N} got {a}, and {he} [loved|liked|enjoyed] it very much.",
            "{N} saw {a} and laughed with joy.",
            "a [kind|friendly|nice] {f} gave {N} {a}.",
            "{N} was [happy|glad|excited] because {he} had {a}.",
            "{N} fixed {his} {ao} and felt [proud|great|happy|clever].",
            "{N} went out to play with {his} {ao}.",
            "{N} shared {his} {ao} with a good friend.",
        ),
        "sad": (
            "{N} lost {his} {ao} near the {p} and [cried|was sad|felt bad].",
            "{N} broke {his} {ao} and started to cry.",
            "{a} [fell|dropped] on {N} and hurt {his} [head|leg|back|arm|knee|ear].",
            "a [mad|bad|cruel] {f} took the {ao} away from {N}.",
            "{N} dropped {his} {ao} in the mud and was [very|so] [sad|upset|angry].",
            "{N} wanted {a}, but {he} was too [sick|weak|scared] to get it.",
            "{N} could not find {his} {ao} and [cried|was worried|felt sad].",
            "the wind took {his} {ao}, and {N} [cried|was upset|felt lonely].",
            "{N} had {a}, but it was [broken|ruined|ugly].",
            "{N} missed {his} old {o} and was not happy.",
            "{N} hated {his} {ao} because it was [ugly|dirty|scary].",
        ),
        "neutral": (
            "{N} found {a} near the {p}.",
            "{N} saw {a} under a [tree|bush|table|bench|window|leaf|rug].",
            "{his} {w} showed {him} {a}.",
            "{N} put {a} in {his} [room|bag|bed|pocket|closet].",
            "{N} took {his} {ao} and walked [down the road|up the hill|to the water|to the {g}|through the rain].",
            "{N} took {his} {ao} across the street.",
            "{af} came by with {a}.",
            "{N} looked at {a} for a long time.",
            "{N} was looking for {his} {ao}.",
            "{N} [painted|washed|wrapped|opened] {his} {ao}.",
            "{N} [carried|brought|pushed|pulled] {a} to the {g}.",
            "{N} asked {his} {w} for {a}.",
        ),
    },
    "friend": {
        "happy": (
            "{N} met a [kind|friendly|nice|funny] {f}, and they played together.",
            "{his} best friend, {af}, came to play.",
            "a [brave|kind|clever] {f} helped {N} [find the way home|cross the water|climb the hill|carry the {e}].",
            "{N} shared {his} {e} with {af}, and they became [good|best] friends.",
            "a [funny|cheerful] {f} made {N} laugh all day.",
            "{N} danced with {af}, and they laughed.",
            "{N} gave {af} a [big|warm] hug.",
            "{N} saved {af} from the water and was [proud|happy|brave].",
            "{N} and {af} had [fun|so much fun|a great time] near the {p}.",
            "{N} thanked {af} for the [lovely|wonderful] {e}.",
        ),
        "sad": (
            "{N} met [an angry|a scary|a bad|a cruel|an evil] {f} and ran away.",
            "{af} pushed {N}, and it hurt.",
            "{af} got [sick|hurt], and {N} [cried|was sad|was worried].",
            "{N} had a [bad|terrible|horrible] fight with {af}.",
            "{N} saw {af} crying because it was lost.",
            "{N} was [lonely|sad] because the {f} had left.",
            "{N} saw {af} fall and get hurt.",
            "a [mad|bad|cruel] {f} yelled at {N}, and {he} [cried|felt sad|was scared].",
            "{af} lied to {N}, and {he} was [upset|angry|not happy].",
            "{N} waited for {af}, but it did not want to play.",
            "{af} was [stuck|trapped] in a hole and screamed.",
        ),
        "neutral": (
            "{N} met {af} near the {p}.",
            "{N} and {af} walked [down the road|up the hill|to the {g}|around the {p}].",
            "{af} came to the {p} and sat next to {N}.",
            "{N} saw {af} eating [some|all the] {e}.",
            "{N} asked {af} about the [weather|moon|road|stars|news|snow].",
            "{af} said hello to {N}.",
            "{N} followed {af} [around the {p}|into the tall grass|to the {g}].",
            "{af} knocked on the door.",
            "{N} heard {af} [in the bushes|behind a tree|at the window|on the roof|under the floor].",
            "{N} gave some {e} to {af}.",
        ),
    },
    "outing": {
        "happy": (
            "{N} went to the {g} and had [so much|a lot of|great] fun.",
            "the sun was [bright|warm], and {N} [felt happy|smiled|was glad].",
            "{N} sang a [happy|lovely|funny|cheerful] song.",
            "{N} went to a [fun|great|big] party near the {p}.",
            "{N} ate [sweet|delicious|yummy] {e} with {his} {w}.",
            "{N} learned to [swim|dance|read|paint|cook|write|sail|skate] and was [so|very] [proud|happy|excited].",
            "{N} had a [wonderful|beautiful|lovely] dream.",
            "{his} {w} took {him} to the {g}, and {he} loved it.",
            "{N} saw a beautiful [rainbow|flower|star|butterfly|swan|rose] over the {p}.",
            "{N} woke up with a big smile.",
            "{N} played a [fun|silly] game with {his} {w} and laughed.",
        ),
        "sad": (
            "a big storm came, and {N} was [very|so] [scared|worried|upset].",
            "{N} got lost on the way to the {g}.",
            "{N} fell and hurt {his} [leg|head|arm|back].",
            "{N} was [very|so] sick and stayed in bed.",
            "{N} was all alone and felt [sad|lonely|scared].",
            "{N} had a [bad|scary|terrible|horrible] dream and cried.",
            "{his} {w} was [angry|mad|upset] with {him}.",
            "the rain ruined the {e}, and {N} was [sad|upset|not happy].",
            "{N} was tired and [sad|lonely|worried|nervous].",
            "{N} went to the {g}, but {he} had a terrible time.",
            "{N} did not like the {g} and wanted to cry.",
        ),
        "neutral": (
            "{N} went to the {g} with {his} {w}.",
            "{N} walked [down the road|up the hill|to the water|around the {p}].",
            "it rained, so {N} stayed inside.",
            "{N} sat under a tree and counted the [clouds|birds|leaves|ants|sheep|flowers].",
            "{N} woke up [early|late] and ate some {e}.",
            "{his} {w} took {him} to the {g}.",
            "{N} climbed up to see the [moon|stars|boats|ships|nest].",
            "{N} went to swim in the water.",
            "{N} and {his} {w} made some {e}.",
            "{N} wanted to see the {g}.",
            "the snow fell on the {p}, and {N} went outside.",
        ),
    },
}

# What happens next, for each plot.
MIDDLE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "thing": {
        "happy": (
            "{He} [played|had fun] with the {o} all day.",
            "{He} loved the {o} more than anything.",
            '"What a [lovely|great|wonderful|beautiful] {o}!" said {N}.',
            "{He} hugged the {o} and smiled.",
            "The {o} was [perfect|beautiful|very special].",
            '"I love my {ao}," said {N}.',
            "{His} {w} liked the {o} too.",
        ),
        "sad": (
            "Then the {o} broke, and {he} [cried|was very sad|felt bad].",
            "{He} lost the {o} and [cried|sobbed|was very upset].",
            '"I hate this {o}," said {N}.',
            "But the {o} was [dirty|broken|ruined].",
            "The {o} hurt {his} [leg|head|arm].",
            '"My {ao} is lost," {N} cried.',
            "{His} {w} was angry about the {o}.",
        ),
        "neutral": (
            "{He} put the {o} on a [table|shelf|rock|log|wall].",
            "{He} showed the {o} to {his} {w}.",
            "{He} took the {o} back to the {p}.",
            '"Where did this {o} come from?" asked {N}.',
            "The {o} was under the [bed|table|tree|sofa|stairs].",
            "{He} held the {o} and looked at it.",
            "{His} {w} looked at the {o} too.",
        ),
    },
    "friend": {
        "happy": (
            "The {f} [smiled|laughed|was kind] and gave {him} some {e}.",
            '"You are my best friend," said the {f}.',
            "They played a [fun|great|silly] game near the {p}.",
            "The {f} told {him} a funny story, and they laughed.",
            "They hugged and [smiled|laughed|danced].",
            '"Let us play!" said the {f}.',
            "{N} liked the {f} very much.",
        ),
        "sad": (
            "The {f} was [mad|angry|upset] and ran away.",
            '"I do not like you," said the {f}.',
            "Then the {f} got [hurt|lost|sick].",
            "The {f} did not want to play, and {N} was [sad|lonely|upset].",
            "The {f} [cried|screamed|sobbed|wept] and ran into the dark.",
            '"Go away!" the {f} screamed.',
            "{N} was [scared|sad], and the {f} was too.",
        ),
        "neutral": (
            "The {f} sat down and ate some {e}.",
            '"Where do you live?" asked the {f}.',
            "They walked [to the {g}|up the hill|around the {p}] together.",
            "The {f} told {him} about the {g}.",
            "They looked at the [clouds|moon|stars|birds|fish|flowers].",
            '"I live near the {p}," said {N}.',
            "The {f} had {a}.",
        ),
    },
    "outing": {
        "happy": (
            "{He} saw {a} and [smiled|laughed|was excited].",
            "{He} met a [kind|nice|friendly] {f} there.",
            '"This is so much fun!" said {N}.',
            "{His} {w} gave {him} a [big|warm] hug.",
            "{He} danced and sang with joy.",
            '"I love you," said {his} {w}.',
            "There was a party with [delicious|sweet|yummy] {e}.",
        ),
        "sad": (
            "{He} saw a scary {f} and [screamed|cried].",
            "{He} lost {his} {ao} on the way.",
            '"I am so scared," said {N}.',
            "{His} {w} was [sick|sad|worried].",
            "{He} missed home and cried.",
            '"I want to go home," {he} cried.',
            "{He} fell in the mud and got [hurt|dirty].",
        ),
        "neutral": (
            "{He} saw {a} there.",
            "{He} met {af} on the way.",
            '"What is that?" asked {N}.',
            "{His} {w} was reading a book.",
            "{He} walked for a long time.",
            '"Come with me," said {his} {w}.',
            "There were many [birds|trees|people|boats|children|flowers] there.",
        ),
    },
}

# What happens next, whatever the story is about.
ANY: Mapping[str, tuple[str, ...]] = {
    "happy": (
        "{N} was [very|so|really] [happy|glad|excited|proud|joyful|delighted].",
        "{He} felt [happy|great|wonderful|brave|safe|calm|strong|thankful].",
        "{He} [smiled|laughed|giggled] and [danced|sang|jumped up and down].",
        "Soon {he} was not sad anymore.",
        "It was a [great|wonderful|lovely|beautiful] day.",
        '"I am so [happy|glad|excited|lucky]!" said {N}.',
        "{His} {w} was [proud|happy|glad].",
        "{He} was not scared at all.",
        "{He} had a [good|great|clever|brilliant] idea.",
        "It was the best day of all.",
        "{His} {w} [kissed|thanked|hugged] {him} and smiled.",
        "The warm sun made {him} happy.",
    ),
    "sad": (
        "{N} was [very|so|really] [sad|upset|lonely|scared|disappointed|jealous|unhappy].",
        "{He} felt [sad|terrible|awful|lonely|sick|miserable|guilty|ashamed].",
        "{He} [cried|sobbed|wept] and [hid|sat down|ran away].",
        "Soon {he} was not happy anymore.",
        "It was [a bad|a terrible|a horrible|an awful] day.",
        '"I am so [sad|upset|lonely]," said {N}.',
        "{His} {w} was [angry|sad|upset].",
        "{He} was not happy at all.",
        "{He} had a [bad|terrible] pain in {his} [leg|head|back].",
        "It was the worst day of all.",
        "{His} {w} yelled, and {N} cried.",
        "The loud storm made {him} [cry|scared|sad].",
    ),
    "neutral": (
        "{N} looked at the [sky|water|clouds|moon|sunset|ground].",
        "{He} sat down and waited.",
        "{He} [walked|ran|looked|wandered] around the {p}.",
        "Soon it began to [rain|snow|get dark|thunder].",
        "It was a [long|cold|quiet|windy|foggy] day.",
        '"Let us go home now," said {N}.',
        "{His} {w} came to find {him}.",
        "{He} was thinking about {e}.",
        "{He} had some {e} and water.",
        "It was late, and the stars came out.",
        "{His} {w} asked {him} to eat.",
        "The wind moved the leaves.",
    ),
}

END: Mapping[str, tuple[str, ...]] = {
    "happy": (
        "They all lived happily ever after.",
        "{N} went home with [a big smile|a happy heart].",
        "They laughed and played until night.",
        "{N} was happy again.",
        "That night {he} slept with a smile.",
        "It was the best day ever.",
        "{N} and {his} {w} laughed all the way home.",
        "From then on {he} was [never sad again|always happy|always cheerful].",
        "In the end, {N} was [very|so] [happy|proud|glad].",
        "{He} hugged {his} {w} and smiled.",
        "And {N} loved the {p} more than ever.",
        "Everyone was happy and had a great time.",
    ),
    "sad": (
        "They were sad for a long time.",
        "{N} went home with [sad tears in {his} eyes|a broken leg|a terrible pain].",
        "They cried until night.",
        "{N} was never happy again.",
        "That night {he} cried in {his} bed.",
        "It was the worst day ever.",
        "{N} and {his} {w} cried all the way home.",
        "From then on {he} was [never happy again|always sad|very lonely].",
        "In the end, {N} was [very|so] [sad|lonely|upset].",
        "{He} sat all alone and cried.",
        "And {N} hated the {p} more than ever.",
        "Everyone was sad and had a terrible time.",
    ),
    "neutral": (
        "Then they all went to bed.",
        "{N} went home with [some {e}|{his} {w}].",
        "They walked and talked until night.",
        "{N} was home again.",
        "That night {he} slept in {his} bed.",
        "It was the end of the day.",
        "{N} and {his} {w} walked all the way home.",
        "From then on {he} [stayed near the {p}|went there every day].",
        "In the end, {N} went back to the {p}.",
        "{He} closed {his} eyes and went to sleep.",
        "And {N} stayed near the {p} for a long time.",
        "Everyone went home and had some {e}.",
    ),
}

_CORPUS_STREAM = 11
_EXAMPLE_STREAMS = {"train": 21, "validation": 22, "test": 23, SHIFTED: 24}


# A compiled template: text as str, a slot as (name,), a choice as a list of compiled templates.
_Part: TypeAlias = "str | tuple[str] | list[list[_Part]]"


def _compile(template: str) -> list[_Part]:
    """Compile a template, once, when the module is loaded."""
    parts: list[_Part] = []
    for piece in re.split(r"(\[[^\]]*\]|\{\w+\})", template):
        if piece.startswith("["):
            parts.append([_compile(option) for option in piece[1:-1].split("|")])
        elif piece.startswith("{"):
            parts.append((piece[1:-1],))
        elif piece:
            parts.append(piece)
    return parts


def _fill(parts: Sequence[_Part], slots: Mapping[str, str], dice: Dice) -> str:
    """Write out a compiled template."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
        elif isinstance(part, tuple):
            text += slots[part[0]]
        else:
            text += _fill(dice.pick(part), slots, dice)
    return text


def _compile_moods(table: Mapping[str, tuple[str, ...]]) -> dict[str, _Choice]:
    return {mood: [_compile(template) for template in templates] for mood, templates in table.items()}


_PLOTS = tuple(START)
_OPENINGS = [_compile(template) for template in OPENINGS]

_Choice: TypeAlias = "list[list[_Part]]"


@dataclass(frozen=True, slots=True)
class _Templates:
    """The sentences that a body is made of: by plot and mood, and an end by mood."""

    start: Mapping[str, Mapping[str, _Choice]]
    middle: Mapping[str, Mapping[str, _Choice]]
    end: Mapping[str, _Choice]


_ANY = _compile_moods(ANY)
_TEMPLATES = _Templates(
    start={plot: _compile_moods(table) for plot, table in START.items()},
    middle={
        plot: {mood: templates + _ANY[mood] for mood, templates in _compile_moods(table).items()}
        for plot, table in MIDDLE.items()
    },
    end=_compile_moods(END),
)


@lru_cache(maxsize=1)
def _vivid() -> _Templates:
    """Of each list of sentences in a mood the third whose words have most of it: what demonstrations are made of.

    A demonstration says where the scale of the task ends, so it is to be what people want, and not a random sample of
    the corpus's happy and sad sentences, of which many only just are.
    """
    slots = _cast(_Combination("fox", "Tim", "hill"), Dice(0))  # of no mood: no slot's filling has one
    sentiment = Sentiment(min_words=1)

    def third(templates: _Choice, mood: str) -> _Choice:
        wanted = Example("", metadata={"mood": mood})

        def strength(template: list[_Part]) -> float:
            dice = Dice(0)
            return math.fsum(sentiment.score(wanted, _fill(template, slots, dice)) for _ in range(16))

        return sorted(templates, key=strength, reverse=True)[: max(2, round(len(templates) / 3))]

    def thirds(table: Mapping[str, _Choice]) -> dict[str, _Choice]:
        return {mood: third(table[mood], mood) for mood in MOODS}

    return _Templates(
        start={plot: thirds(table) for plot, table in _TEMPLATES.start.items()},
        middle={plot: thirds(table) for plot, table in _TEMPLATES.middle.items()},
        end=thirds(_TEMPLATES.end),
    )


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@dataclass(frozen=True, slots=True)
class _Combination:
    """Who a story is about and where it happens: what the splits divide."""

    kind: str
    name: str
    place: str

    def key(self) -> int:
        """Return 64 bits that depend on the words alone, the same in every process."""
        return text_key(f"{self.kind}|{self.name}|{self.place}")


_IN_PLACE = {noun: f"{preposition} {noun}" for preposition, noun in (*PLACES, *SHIFTED_PLACES)}
COUNTERPARTS = {
    **dict(zip((*BOYS, *SHIFTED_BOYS), (*GIRLS, *SHIFTED_GIRLS), strict=True)),
    "He": "She", "he": "she", "His": "Her", "his": "her", "boy": "girl",
}  # fmt: skip
COUNTERPARTS |= {word: other for other, word in COUNTERPARTS.items()}
"""Each name, and each word that tells a gender, to its counterpart of the other one, for `Task.counterpart`."""


@lru_cache(maxsize=1)
def _combinations() -> dict[str, tuple[_Combination, ...]]:
    """Every combination, divided 80/10/10 by its key and put into the order of its key."""
    keyed = _keyed(ANIMALS, BOYS, GIRLS, PLACES)
    divided: dict[str, list[_Combination]] = {split: [] for split in SPLITS}
    for key, combination in keyed:
        tenth = key % 10
        divided["validation" if tenth == 8 else "test" if tenth == 9 else "train"].append(combination)
    shifted = _keyed(SHIFTED_ANIMALS, SHIFTED_BOYS, SHIFTED_GIRLS, SHIFTED_PLACES)
    divided[SHIFTED] = [combination for _, combination in shifted]
    return {split: tuple(combinations) for split, combinations in divided.items()}


def _keyed(
    animals: Sequence[str], boys: Sequence[str], girls: Sequence[str], places: Sequence[tuple[str, str]]
) -> list[tuple[int, _Combination]]:
    """Every combination of some words with its key, in the order of the keys."""
    heroes = [(kind, name) for kind in animals for name in (*boys, *girls)]
    heroes += [("boy", name) for name in boys] + [("girl", name) for name in girls]
    combinations = [_Combination(kind, name, place) for kind, name in heroes for _, place in places]
    return sorted((combination.key(), combination) for combination in combinations)


def _cast(combination: _Combination, dice: Dice) -> dict[str, str]:
    """Draw what fills the slots of one story."""
    is_boy = combination.name in BOYS or combination.name in SHIFTED_BOYS
    friend = dice.pick(ANIMALS)
    while friend == combination.kind:
        friend = dice.pick(ANIMALS)
    thing = dice.pick(OBJECTS)
    adjective_and_thing = f"{dice.pick(OBJECT_ADJECTIVES)} {thing}"
    a_thing, a_friend = _with_article(adjective_and_thing), _with_article(friend)
    goal = dice.pick(GOALS)
    while goal == combination.place:
        goal = dice.pick(GOALS)
    return {
        "N": combination.name,
        "k": combination.kind,
        "a_k": _with_article(combination.kind),
        "p": combination.place,
        "in_place": _IN_PLACE[combination.place],
        "he": "he" if is_boy else "she",
        "He": "He" if is_boy else "She",
        "his": "his" if is_boy else "her",
        "His": "His" if is_boy else "Her",
        "him": "him" if is_boy else "her",
        "f": friend,
        "af": a_friend,
        "Af": a_friend.capitalize(),
        "o": thing,
        "ao": adjective_and_thing,
        "a": a_thing,
        "A": a_thing.capitalize(),
        "w": dice.pick(FAMILY),
        "e": dice.pick(FOODS),
        "g": goal,
    }


def _opening(mood: str, slots: Mapping[str, str], dice: Dice) -> str:
    return f"A {mood} story. {_fill(dice.pick(_OPENINGS), slots, dice)} {dice.pick(TIMES)}"


def _body(
    templates: _Templates, next_mood: Callable[[], str], middles: int, slots: Mapping[str, str], dice: Dice
) -> str:
    """Write a start, some middles and an end, each in the mood that `next_mood()` gives. Begins with a space."""
    plot = dice.pick(_PLOTS)
    text = " " + _fill(dice.pick(templates.start[plot][next_mood()]), slots, dice)
    used: list[list[_Part]] = []
    for _ in range(middles):
        options = templates.middle[plot][next_mood()]
        template = dice.pick(options)
        while any(template is earlier for earlier in used):
            template = dice.pick(options)
        used.append(template)
        text += " " + _fill(template, slots, dice)
    return text + " " + _fill(dice.pick(templates.end[next_mood()]), slots, dice)


_SIZES = (4096, 512, 512, 512)


class Stories(Task):
    """Continue a children's story in the mood that its first words name.

    The splits differ by composition: each (kind of hero, name, place) belongs to one split, so no prompt is in two of
    them, and no combination of a split is used twice. Half of the examples are happy, half are sad. The shifted split
    has kinds, names and places that no other split and no story of the corpus has.

    The score is a mood's, times fluency: it grows with mood words, and each of them has to stand in a likely sentence.

    An example's metadata has `mood` ("happy" or "sad": a sentiment reward flips its sign for "sad"), `hero` (the kind,
    "fox"), `name` and `place`. Its one reference is its demonstration.

    Example:
        >>> task = Stories()
        >>> task.example("train", 0).metadata["mood"]
        'happy'
        >>> task.example("train", 0).prompt.startswith("A happy story. ")
        True

    Args:
        train: How many examples the train split has.
        validation: How many the validation split has.
        test: How many the test split has.
        shifted: How many the shifted split has.

    Raises:
        ValueError: If a number is below 1 or above the number of combinations of its split.
    """

    name = "stories"
    tests = "language: the wanted mood, fluently"
    splits = (*SPLITS, SHIFTED)
    default_reward: Any = {"product": ["sentiment", "ngram_lm"]}  # noqa: RUF012 - a mood alone likes one word, repeated
    held_out_reward = "vader"
    default_max_new_tokens = 32
    default_tokenizer = "stories"

    def __init__(
        self, train: int = _SIZES[0], validation: int = _SIZES[1], test: int = _SIZES[2], shifted: int = _SIZES[3]
    ) -> None:
        self._combinations = _combinations()
        self._num_examples = {"train": train, "validation": validation, "test": test, SHIFTED: shifted}
        for split, number in self._num_examples.items():
            available = len(self._combinations[split])
            if not 1 <= number <= available:
                raise ValueError(f"Expected {split} in [1, {available}], got {number}")
        if scores := self.reference_scores():
            self.success_score = scores.threshold

    def num_examples(self, split: str) -> int:
        """How many examples a split has.

        Args:
            split: "train", "validation", "test" or "shifted".

        Returns:
            The number that the constructor was given.

        Raises:
            ValueError: If the task has no such split.
        """
        check_split(split, self.splits)
        return self._num_examples[split]

    def example(self, split: str, index: int) -> Example:
        """The example at one place of one split, the same at every call.

        Args:
            split: "train", "validation", "test" or "shifted".
            index: From 0 to `num_examples(split) - 1`. Even ones are happy, odd ones sad.

        Returns:
            The example.

        Raises:
            ValueError: If the task has no such split.
            IndexError: If the index is outside the split.
        """
        check_split(split, self.splits)
        if not 0 <= index < self._num_examples[split]:
            raise IndexError(f"Expected an index in [0, {self._num_examples[split]}), got {index}")
        combination = self._combinations[split][index]
        mood = MOODS[index % 2]
        dice = Dice(_EXAMPLE_STREAMS[split], index)
        prompt = _opening(mood, _cast(combination, dice), dice)
        metadata = {"mood": mood, "hero": combination.kind, "name": combination.name, "place": combination.place}
        return Example(prompt, (_demonstration(prompt, mood, combination),), metadata)

    def demonstration(self, example: Example) -> str:
        """A continuation in the wanted mood, of the grammar's most vivid sentences, that ends the story.

        Args:
            example: One of this task's examples.

        Returns:
            Two to four sentences, with a leading space. They fit into 32 tokens of the default tokenizer, EOS included.

        Raises:
            ValueError: If the example is not one of this task's.
        """
        metadata = example.metadata
        if missing := [key for key in ("mood", "hero", "name", "place") if key not in metadata]:
            raise ValueError(f"Expected an example of the stories task, got one without the metadata {missing}")
        combination = _Combination(metadata["hero"], metadata["name"], metadata["place"])
        return _demonstration(example.prompt, metadata["mood"], combination)

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """See `Task.reference_scores`. Measured over the default sizes, None for others; top: the demonstrations."""
        check_split(split, self.splits)
        return frozen_scores(self.name, split) if tuple(self._num_examples.values()) == _SIZES else None

    def counterpart(self, example: Example) -> Example:
        """The same story's beginning about a girl instead of a boy, or the other way round: see `Task.counterpart`.

        Args:
            example: One of this task's examples.

        Returns:
            The example with another name, and the pronouns that go with it.
        """
        prompt = re.sub(r"\w+", lambda word: COUNTERPARTS.get(word[0], word[0]), example.prompt)
        exchanged = {key: COUNTERPARTS.get(example.metadata[key], example.metadata[key]) for key in ("name", "hero")}
        other = Example(prompt, (), {**example.metadata, **exchanged})
        return replace(other, references=(self.demonstration(other),))

    def corpus_story(self, index: int) -> str:
        """A whole story to train a language model on, in the format of prompt + response.

        The mood of each sentence leans a little towards the header's: every fourth draw takes it, and the others are
        a third each of happy, sad and neutral, with a little stickiness from one sentence to the next. Only
        combinations of the train split are used.

        Args:
            index: Any integer from 0; stories do not run out, and do not depend on the sizes of the splits.

        Returns:
            The story, without BOS and EOS.

        Raises:
            IndexError: If the index is negative.
        """
        if index < 0:
            raise IndexError(f"Expected an index of at least 0, got {index}")
        dice = Dice(_CORPUS_STREAM, index)
        slots = _cast(dice.pick(self._combinations["train"]), dice)
        header = dice.pick(MOODS)

        def drawn_mood() -> str:
            return header if dice.below(100) < 25 else dice.pick(SENTENCE_MOODS)

        mood = drawn_mood()

        def next_mood() -> str:
            nonlocal mood
            if dice.below(100) >= 40:
                mood = drawn_mood()
            return mood

        opening = _opening(header, slots, dice)
        return opening + _body(_TEMPLATES, next_mood, 1 + dice.below(6), slots, dice)


_DEMONSTRATION_PIECES = 21
"""Longest demonstration in words and punctuation marks, so that with rare words cut in two it stays below 32 tokens."""


def _demonstration(prompt: str, mood: str, combination: _Combination) -> str:
    """Write the demonstration of a prompt: the longest of a few tries that fits the budget."""
    dice = Dice(text_key(prompt))
    middles = dice.below(3)
    while True:
        text = _body(_vivid(), lambda: mood, middles, _cast(combination, dice), dice)
        if len(re.findall(r"\w+|[^\w\s]", text)) <= _DEMONSTRATION_PIECES:
            return text
        middles = max(0, middles - 1)
