"""English words: apostrophes, inflections and the number of syllables, by rules and without a dictionary."""

from __future__ import annotations

import re
from functools import lru_cache

APOSTROPHES = "'’‘ʼ"  # noqa: RUF001 - the characters that are used for it
"""The characters that are written for an apostrophe, the straight one first."""

_STRAIGHT = str.maketrans(APOSTROPHES, "'" * len(APOSTROPHES))

# base:past, participle if it differs, and other irregular forms; + if the regular past is used as well.
_IRREGULAR_VERBS = """
    be:am,is,are,was,were,been arise:arose,arisen awake:awoke,awoken bear:bore,borne beat:beaten become:became
    begin:began,begun bend:bent bet:bet bind:bound bite:bit,bitten bleed:bled blow:blew,blown break:broke,broken
    breed:bred bring:brought build:built burn:burnt,+ burst:burst buy:bought cast:cast catch:caught
    choose:chose,chosen cling:clung come:came cost:cost creep:crept cut:cut deal:dealt dig:dug dive:dove,+
    do:did,done,does draw:drew,drawn dream:dreamt,+ drink:drank,drunk drive:drove,driven eat:ate,eaten
    fall:fell,fallen feed:fed feel:felt fight:fought find:found flee:fled fling:flung fly:flew,flown
    forbid:forbade,forbidden forget:forgot,forgotten forgive:forgave,forgiven freeze:froze,frozen get:got,gotten
    give:gave,given go:went,gone,goes grind:ground grow:grew,grown hang:hung,+ have:has,had hear:heard
    hide:hid,hidden hit:hit hold:held hurt:hurt keep:kept kneel:knelt,+ knit:knit,+ know:knew,known lay:laid
    lead:led lean:leant,+ leap:leapt,+ learn:learnt,+ leave:left lend:lent let:let lie:lay,lain,lied light:lit,+
    lose:lost make:made mean:meant meet:met pay:paid put:put quit:quit read:read ride:rode,ridden ring:rang,rung
    rise:rose,risen run:ran say:said see:saw,seen seek:sought sell:sold send:sent set:set sew:sewn,+
    shake:shook,shaken shine:shone,+ shoot:shot show:shown,+ shrink:shrank,shrunk shut:shut sing:sang,sung
    sink:sank,sunk sit:sat sleep:slept slide:slid sling:slung smell:smelt,+ sow:sown,+ speak:spoke,spoken
    speed:sped,+ spell:spelt,+ spend:spent spill:spilt,+ spin:spun spit:spat split:split spread:spread
    spring:sprang,sprung stand:stood steal:stole,stolen stick:stuck sting:stung stink:stank,stunk stride:strode
    strike:struck,stricken string:strung strive:strove,striven,+ swear:swore,sworn sweep:swept swell:swollen,+
    swim:swam,swum swing:swung take:took,taken teach:taught tear:tore,torn tell:told think:thought
    throw:threw,thrown tread:trod,trodden understand:understood upset:upset wake:woke,woken,+ wear:wore,worn
    weave:wove,woven,+ weep:wept win:won wind:wound wring:wrung write:wrote,written
"""
_IRREGULAR_NOUNS = """
    man:men woman:women child:children person:people foot:feet tooth:teeth goose:geese mouse:mice ox:oxen sheep:sheep
    deer:deer fish:fish leaf:leaves wolf:wolves knife:knives wife:wives life:lives half:halves calf:calves shelf:shelves
    loaf:loaves thief:thieves scarf:scarves hoof:hooves elf:elves self:selves policeman:policemen fireman:firemen
    snowman:snowmen fisherman:fishermen cactus:cacti die:dice
"""
_VOWELS = "aeiou"
_VOWEL_RUNS = re.compile("[aeiouy]+")
_NOT_LETTERS = re.compile("[^a-z]+")
_SILENT_E = re.compile(r"(?:[^laeiouy]|[aeiouy]l)e$")
_SILENT_ED = re.compile(r"[^aeiouytd]ed$")
_SILENT_ES = re.compile(r"(?:[^laeiouysxzcgh]|[aeiouy]l)es$")


def _table(text: str) -> dict[str, tuple[str, ...]]:
    pairs = (entry.split(":") for entry in text.split())
    return {base: tuple(forms.split(",")) for base, forms in pairs}


_VERBS, _NOUNS = _table(_IRREGULAR_VERBS), _table(_IRREGULAR_NOUNS)


@lru_cache(maxsize=1 << 16)
def inflections(word: str, kind: str = "") -> tuple[str, ...]:
    """Returns the forms that an English word may have in a text: plural, third person, past, participles, comparison.

    Regular forms follow the rules of spelling, irregular ones come from a table. If the stress decides whether a letter
    is doubled, both spellings are returned ("traveled", "travelled").

    Args:
        word: The base form, in lower case.
        kind: "N" for the forms of a noun only, "V" for those of a verb, "A" for those of an adjective. "" is a word of
            any kind: all forms, except those of comparison.

    Returns:
        The word first, then its forms, each once.

    Example:
        >>> inflections("run", "V")
        ('run', 'runs', 'running', 'ran')
        >>> inflections("city", "N")
        ('city', 'cities')
    """
    if not (word.isascii() and word.isalpha()):
        return (word,)
    forms = [word]
    if kind in ("", "N", "V"):
        forms += _NOUNS[word] if kind == "N" and word in _NOUNS else (_with_s(word),)
    if kind == "" and word in _NOUNS:
        forms += _NOUNS[word]
    if kind in ("", "V"):
        stems = _stems(word)
        forms += [stem + "ing" for stem in stems if not word.endswith("ie")] or [word[:-2] + "ying"]
        irregular = _VERBS.get(word, ("+",))
        forms += [form for form in irregular if form != "+"]
        if "+" in irregular:
            forms += [stem + "ed" for stem in _stems_before_e(word, stems)]
    if kind == "A":
        stems = _stems_before_e(word, _stems(word))
        forms += [stem + ending for stem in stems for ending in ("er", "est")]
    return tuple(dict.fromkeys(forms))


def _with_s(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")) or (word.endswith("o") and word[-2:-1] not in _VOWELS):
        return word + "es"
    return word + "s"


def _stems(word: str) -> list[str]:
    """Returns the spellings of a word before "ing"."""
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")) and len(word) > 2:
        return [word[:-1]]
    if re.search(f"[^{_VOWELS}](?:[{_VOWELS}]|qu[{_VOWELS}])[^{_VOWELS}wxy]$", f".{word}"):
        one_syllable = len(_VOWEL_RUNS.findall(word)) == 1
        return [word + word[-1]] if one_syllable else [word, word + word[-1]]
    return [word]


def _stems_before_e(word: str, stems: list[str]) -> list[str]:
    """Returns the spellings of a word before "ed", "er" and "est"."""
    if word.endswith("e"):
        return [word[:-1]]
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        return [word[:-1] + "i"]
    return stems


def syllables(word: str) -> int:
    """Counts the syllables of a word by its vowels.

    Counts runs of a, e, i, o, u and y, except a silent "e" at the end ("make", not "table"), in "ed" ("jumped", not
    "wanted") and in "es" ("makes", not "boxes"). At least 1 if the word has a letter or digit. Only the letters a to z
    are looked at.

    Args:
        word: A word, in any case, with any characters around it.

    Returns:
        The number, from 0.

    Example:
        >>> [syllables(word) for word in ("make", "table", "jumped", "wanted", "beautiful", "3", "!")]
        [1, 2, 1, 2, 3, 1, 0]
    """
    letters = _NOT_LETTERS.sub("", word.casefold())
    number = len(_VOWEL_RUNS.findall(letters))
    if _SILENT_E.search(letters) or _SILENT_ED.search(letters) or _SILENT_ES.search(letters):
        number -= 1
    return max(number, int(any(map(str.isalnum, word))))


def straight_apostrophes(text: str) -> str:
    """Replaces every kind of apostrophe by the straight one, which is what lexicons have.

    Args:
        text: Any text.

    Example:
        >>> straight_apostrophes("isn’t")
        "isn't"
    """
    return text if text.isascii() else text.translate(_STRAIGHT)
