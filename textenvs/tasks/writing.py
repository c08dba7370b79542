"""Write a short poem of a given form: a number of lines, a rhyme, words that must occur, and no line twice."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitSums
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice, text_key

# The last words of the phrases of a class rhyme. A phrase follows a subject: "the fox".
RHYMES: dict[str, tuple[str, ...]] = {
    "day": ("went out to play", "was far away", "slept in the hay", "had come to stay", "was old and gray",
            "began to sway", "lost its way", "sat by the bay"),
    "night": ("saw a light", "was small and white", "stayed up all night", "shone so bright", "took a bite",
              "was out of sight", "turned to the right", "sat still and tight"),
    "tree": ("looked at the sea", "wanted to be free", "had a cup of tea", "met a bee", "lost a key",
             "came home to me", "fell on its knee", "counted to three"),
    "ball": ("sat on the wall", "was very small", "heard a call", "began to fall", "danced in the hall",
             "stood up tall", "wore a shawl", "played with them all"),
    "cake": ("swam in the lake", "saw a snake", "was wide awake", "began to shake", "held the rake",
             "gave more than it could take", "leaned on a stake", "met a drake"),
    "hat": ("sat on a mat", "met a cat", "was round and fat", "ran after a rat", "liked to chat",
            "lay down flat", "heard a bat", "gave the dog a pat"),
    "log": ("met a frog", "walked in the fog", "saw the dog", "went for a jog", "played with a hog",
            "fell into the bog", "turned the cog", "sat in the smog"),
    "sun": ("began to run", "had some fun", "ate a bun", "wanted one", "knew what was done",
            "weighed a ton", "said the game was won", "had begun"),
    "moon": ("dropped a spoon", "slept till noon", "sang a tune", "came home soon", "lost a balloon",
             "met a baboon", "sat on a dune", "was born in June"),
    "boat": ("wore a coat", "met a goat", "wrote a note", "began to float", "had a sore throat",
             "swam in the moat", "asked for a vote", "spoke by rote"),
}  # fmt: skip
_SUBJECTS = (
    "fox", "bear", "mouse", "duck", "snail", "bird", "pig", "horse", "lamb", "lion", "owl", "goose", "king", "queen",
    "clown", "cook", "baker", "sailor", "robot", "doll", "kite", "cloud", "star", "wind",
)  # fmt: skip
_RHYMING = {rhyme: frozenset(phrase.split()[-1].lower() for phrase in phrases) for rhyme, phrases in RHYMES.items()}


class Lines(Splitter):
    """Lines, without empty ones."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into lines, the last of which may still go on."""
        *lines, rest = text.split("\n")
        return [line for line in lines if line.strip()], rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last line, if it is not empty."""
        return [rest] if rest.strip() else []

    def closes(self, character: str) -> bool:
        """Returns True for a newline."""
        return character == "\n"


class PoemForm(UnitSums):
    """The agreement of a poem with its form: the mean of three shares, from 0 to 1.

    - Lines: the share of the wanted lines that are there, less the share of lines, of any kind, beyond the wanted ones.
    - Rhyme: the share of the wanted lines that end with a word of the rhyme's class that has ended no earlier line.
    - Words: the share of the wanted words that occur.

    A line counts only if it has at least `MIN_WORDS` words, none of them twice (except articles), and if neither the
    prompt nor the poem so far has the same line: a list of rhymes or of keywords is not a poem, and neither is a copy
    of the prompt. The unfinished last line is read as final.

    An example's metadata has the wanted form: `lines`, `rhyme` (one of `RHYMES`) and `words`.

    Cost: a line is read again at each of its tokens.
    """

    MIN_WORDS = 4
    name = "poem_form"
    low, high = 0.0, 1.0
    splitter = Lines()
    width = 4  # the numbers of lines that count, of rhymes, of wanted words, and of lines of any kind

    def start(self, example: Example) -> Hashable:
        """Returns the rhymes and words that still count, and the lines so far, those of the prompt included."""
        wanted = example.metadata
        if wanted.get("rhyme") not in RHYMES or not wanted.get("words") or not wanted.get("lines"):
            raise ValueError(f"Expected an example with 'lines', 'rhyme' and 'words' in its metadata, got {wanted!r}")
        # With the lines of the prompt, so that a copy of it earns nothing.
        before = frozenset(_line_key(_words_of(line)) for line in example.prompt.split("\n"))
        return _RHYMING[wanted["rhyme"]], frozenset(wanted["words"]), before

    def read(self, memory: Any, unit: str) -> tuple[Hashable, tuple[float, ...]]:
        """Reads one line."""
        rhymes, wanted, before = memory
        words = _words_of(unit)
        without_articles = [word for word in words if word not in ("a", "an", "the")]
        line = _line_key(words)
        if len(words) < self.MIN_WORDS or len(set(without_articles)) < len(without_articles) or line in before:
            return memory, (0.0, 0.0, 0.0, 1.0)
        used = wanted.intersection(words)
        after = (rhymes - {words[-1]}, wanted - used, before | {line})
        return after, (1.0, float(words[-1] in rhymes), float(len(used)), 1.0)

    def features(self, example: Example) -> tuple[float, ...]:
        """Returns the wanted numbers of lines and words."""
        return float(example.metadata["lines"]), float(len(example.metadata["words"]))

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the mean of the three shares."""
        counted, beyond = np.minimum(sums[:, 0], features[:, 0]), np.maximum(sums[:, 3] - features[:, 0], 0.0)
        lines = np.maximum(counted - beyond, 0.0) / features[:, 0]
        rhymes = np.minimum(sums[:, 1] / features[:, 0], 1.0)
        phi: NDArray[np.float64] = (lines + rhymes + sums[:, 2] / features[:, 1]) / 3
        return phi


def _words_of(line: str) -> list[str]:
    return re.findall(r"[a-z]+", line.lower())


def _line_key(words: Sequence[str]) -> int:
    """Returns a key that stands for a line in memories, which are kept and so should be small."""
    return text_key(" ".join(words))


class Write(Composed):
    r"""Write a poem: a number of lines that rhyme with a word, with certain words in them.

    Levels ask for 2, 3 or 4 lines and as many words, the shifted split for one line and one word more. The splits
    differ by the rhyme together with the first two words. An example's metadata has `lines`, `rhyme` and `words`; its
    one reference is the demonstration. `counterpart` exchanges king and queen, if one of them is to occur.

    Example:
        >>> Write().example("train", 0).prompt.endswith("\nPoem:")
        True
    """

    name = "write"
    tests = "writing: several constraints of form at once"
    levels = 3
    level = 2
    default_reward: Any = PoemForm()
    held_out_reward: Any = "distinct"
    default_max_new_tokens = 80

    def compositions(self) -> Sequence[Composition]:
        """Returns rhymes with two words."""
        return [
            (rhyme, first, second) for rhyme in RHYMES for first in _SUBJECTS for second in _SUBJECTS if first < second
        ]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws the other words."""
        rhyme, *words = composition
        count = self.level + 1 + shifted
        words += dice.sample([subject for subject in _SUBJECTS if subject not in words], count - 2)
        return _example(rhyme, words)

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same poem about a queen instead of a king or the other way round; None if it has both or none."""
        words = example.metadata["words"]
        if ("king" in words) == ("queen" in words):
            return None
        swap = {"king": "queen", "queen": "king"}
        return _example(example.metadata["rhyme"], [swap.get(word, word) for word in words])


def _example(rhyme: str, words: list[str]) -> Example:
    prompt = f"Write {len(words)} lines that rhyme with {rhyme}.\nUse the words {', '.join(words)}.\nPoem:"
    metadata = {"lines": len(words), "rhyme": rhyme, "words": words}
    return Example(prompt, (_poem(prompt, rhyme, words),), metadata)


def _poem(prompt: str, rhyme: str, words: Sequence[str]) -> str:
    phrases = Dice(text_key(prompt)).sample(RHYMES[rhyme], len(words))
    lines = [f"the {word} {phrase}" for word, phrase in zip(words, phrases, strict=True)]
    return " " + "\n".join(lines)
