"""Search: the most that a score pays for texts that nobody wants, found with the environment as the oracle.

Canaries are a handful of known degenerate responses. A search looks for more of them: constants, which never read the
prompt; form without meaning, such as shuffled words; copies of the prompt; and a search over words for each prompt,
which reads nothing but the score. Agents find what it finds, so a score under which one of these beats the
demonstrations teaches the wrong thing.

    result = search("TextGen-v0")
    print(result.blind.score, result.blind.texts)

The **blind** score is the mean of the best constant: one text for all prompts of a kind (`Task.kind_key`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from textenvs.arguments import check_count
from textenvs.example import Example
from textenvs.overview import make_env
from textenvs.rewards import checked_score
from textenvs.setting import Setting
from textenvs.testing.canaries import pick_examples
from textenvs.testing.played_texts import TextPlayer

CONSTANTS = ("a demonstration", "a repeated phrase", "words, by beam", "edited texts")
"""The ways to find a constant."""

PER_PROMPT = ("another's demonstration", "shuffled words", "the form alone", "the prompt copied", "words, by the score")
"""The ways to write a text for each prompt. The last reads the prompt's scores, and the others never read a score."""

ORACLE = PER_PROMPT[-1]

_UNITS = re.compile(r"\s*(?:\w+(?:['’]\w+)*|[^\w\s]+)|\s+")
_SYMBOLS = 128  # a vocabulary of at most so many tokens is searched token by token
_POOL = 256  # examples whose demonstrations and references are tried
_EARLY = 8  # examples that a candidate is judged by before the last round
_BEAM = 4
_POPULATION = 8
_CHILDREN = 32
_LONGEST_PHRASE = 6
_FAVOURITES = 48


@dataclass(frozen=True)
class Finding:
    """The best text of one kind that a search found.

    Attributes:
        strategy: The way in which it was found, from `CONSTANTS` or `PER_PROMPT`.
        score: The mean score over the prompts.
        texts: The text for each kind of prompt, or, of a strategy with a text for each prompt, the best of them by its
            kind. The kind is "" where there is only one.
        beats: True if it scores clearly more than the demonstrations of the same prompts: the mean difference is above
            0 by two of its standard errors.
    """

    strategy: str
    score: float
    texts: dict[str, str]
    beats: bool


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        reward: The reward's name.
        random: The mean score of random tokens.
        demonstration: The mean score of the demonstrations.
        findings: The best text of each strategy.
        num_scored: The number of texts that were scored.
    """

    reward: str
    random: float
    demonstration: float
    findings: tuple[Finding, ...]
    num_scored: int

    @property
    def blind(self) -> Finding:
        """The best constant: one text for all prompts of a kind."""
        return max((finding for finding in self.findings if finding.strategy in CONSTANTS), key=_by_score)

    @property
    def oracle(self) -> Finding | None:
        """The texts that were searched for each prompt by its scores, or None if the budget had no room for it."""
        return next((finding for finding in self.findings if finding.strategy == ORACLE), None)

    @property
    def best(self) -> Finding:
        """The best of all that is not a demonstration and never read a score of its prompt."""
        return max((finding for finding in self.findings if finding.strategy != ORACLE), key=_by_score)

    @property
    def beating(self) -> tuple[Finding, ...]:
        """The findings that clearly beat the demonstrations."""
        return tuple(finding for finding in self.findings if finding.beats)

    def share(self, score: float) -> float:
        """Returns a score on the scale from 0 (random) to 1 (demonstrations); nan where these two are equal."""
        width = self.demonstration - self.random
        return (score - self.random) / width if width else float("nan")


def _by_score(finding: Finding) -> float:
    return finding.score


def search(
    env: Any,
    *,
    reward: Any = None,
    budget: int = 20_000,
    num_examples: int = 32,
    split: str = "test",
    seed: int = 0,
    words: Sequence[str] = (),
) -> SearchResult:
    """Searches for texts that a score overrates.

    Constants are found on the train split, and the score of each strategy is its mean over examples of another split.
    Half of the budget goes to constants, a third to the search over words for each prompt, which is done for an eighth
    of the examples, and the rest to texts that read no score. The same arguments give the same result.

    Args:
        env: The id of an environment, or an environment, single or vector: its task, tokenizer, budget and reward.
        reward: Another reward, with an id only; None is the id's own.
        budget: The number of texts to score.
        num_examples: The number of examples that the means are over.
        split: The split of those examples.
        seed: The seed of all that is drawn.
        words: Further words to try, beside those of the prompts and demonstrations.

    Returns:
        The findings.

    Raises:
        ValueError: If the environment is none of this package, its task has no demonstrations, or its tokenizer cannot
            encode a response; if `budget` or `num_examples` is below 1.
        TypeError: If one of them is not a whole number.
        RewardError: If the reward fails.

    Example:
        >>> result = search("TextGen/Copy-v0", budget=2_000, num_examples=8)
        >>> result.demonstration, result.beating
        (1.0, ())
    """
    budget, num_examples = check_count("budget", budget), check_count("num_examples", num_examples)
    return _Search(_setting(env, reward), budget, num_examples, split, seed, words).result()


def _setting(env: Any, reward: Any) -> Setting:
    if isinstance(env, str):
        return make_env(env, **({} if reward is None else {"reward": reward})).setting
    setting = getattr(getattr(env, "unwrapped", env), "setting", None)
    if not isinstance(setting, Setting):
        raise ValueError(f"Expected the id of a text environment, or such an environment, got {env!r:.200}")
    if reward is not None:
        raise ValueError("Expected reward= beside an id only: an environment has its reward already")
    return setting


class _Search:
    def __init__(
        self, setting: Setting, budget: int, num_examples: int, split: str, seed: int, words: Sequence[str]
    ) -> None:
        self.setting = setting
        self.budget = budget
        self.player = TextPlayer(setting)
        self.rng = random.Random(seed)
        self.seed = seed
        task = setting.task
        self.examples = pick_examples(task, split, num_examples)
        self.pool = pick_examples(task, "train", _POOL)
        try:
            self.demonstrations = [task.demonstration(example) for example in self.examples]
            shown = [task.demonstration(example) for example in self.pool]
        except NotImplementedError as error:
            raise ValueError(f"Expected a task with demonstrations to search beside, got {task.name!r}") from error
        references = [
            list(dict.fromkeys((text, *example.references))) for text, example in zip(shown, self.pool, strict=True)
        ]
        self.texts = {id(example): texts for example, texts in zip(self.pool, references, strict=True)}
        self.units = Units(setting, shown, [example.prompt for example in self.pool], words)
        self.demonstration_scores = self.player.scores(self.examples, self.demonstrations)

    def kind(self, example: Example) -> str:
        """Returns the kind of an example's prompt, "" where there is only one."""
        key = self.setting.task.kind_key
        return "" if key is None else str(example.metadata[key])

    def result(self) -> SearchResult:
        findings = [*self._constants(), *self._unscored(), *self._by_scores()]
        return SearchResult(
            reward=self.setting.reward.name,
            random=float(self.player.random_scores(self.examples, self.seed).mean()),
            demonstration=float(self.demonstration_scores.mean()),
            findings=tuple(findings),
            num_scored=self.player.num_scored,
        )

    def _constants(self) -> list[Finding]:
        """Finds the best constants, for each kind of prompt by itself."""
        kinds = list(dict.fromkeys(self.kind(example) for example in (*self.pool, *self.examples)))
        found: dict[str, dict[str, str]] = {strategy: {} for strategy in CONSTANTS}
        for kind in kinds:
            examples = [example for example in self.pool if self.kind(example) == kind]
            if not examples:
                continue
            climb = Climb(self.player, self.units, examples, self.rng)
            share = self.budget // 2 // len(kinds)
            texts = [text for example in examples for text in self.texts[id(example)]]
            for strategy, text in climb.constants(texts, share).items():
                found[strategy][kind] = text
        return [self._finding(strategy, texts) for strategy, texts in found.items() if len(texts) == len(kinds)]

    def _finding(self, strategy: str, texts: dict[str, str]) -> Finding:
        responses = [texts[self.kind(example)] for example in self.examples]
        return self._scored(strategy, self.examples, responses, self.demonstration_scores, texts)

    def _scored(
        self,
        strategy: str,
        examples: Sequence[Example],
        responses: Sequence[str],
        demonstrated: Any,
        texts: dict[str, str] | None = None,
    ) -> Finding:
        scores = self.player.scores(examples, responses)
        differences = scores - demonstrated
        error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        if texts is None:
            texts = {}
            for index in np.argsort(scores, kind="stable"):  # the best of a kind comes last, and stays
                texts[self.kind(examples[index])] = responses[index]
        written = {kind: self.player.written(text) for kind, text in sorted(texts.items())}
        beats = bool(differences.mean() > 1e-9 + 2 * error)
        return Finding(strategy, float(scores.mean()), written, beats)

    def _unscored(self) -> list[Finding]:
        """Writes a text for each prompt without a look at any score."""
        ways: dict[str, Callable[[int], str]] = {
            PER_PROMPT[0]: self._another,
            PER_PROMPT[1]: lambda index: "".join(self._shuffled(self.units.cut(self.demonstrations[index]))),
            PER_PROMPT[2]: lambda index: self.units.form(self.demonstrations[index], self.rng),
        }
        findings = []
        for strategy, write in ways.items():
            rows = [(index, write(index)) for index in range(len(self.examples))]
            rows = [(index, text) for index, text in rows if text.split() != self.demonstrations[index].split()]
            if rows:
                findings.append(self._of_rows(strategy, rows))
        copies = [
            self._of_rows(PER_PROMPT[3], [(index, copy(example.prompt)) for index, example in enumerate(self.examples)])
            for copy in _COPIES
        ]
        return [*findings, max(copies, key=_by_score)]

    def _of_rows(self, strategy: str, rows: Sequence[tuple[int, str]]) -> Finding:
        indices = [index for index, _ in rows]
        examples = [self.examples[index] for index in indices]
        return self._scored(strategy, examples, [text for _, text in rows], self.demonstration_scores[indices])

    def _another(self, index: int) -> str:
        kind = self.kind(self.examples[index])
        others = [example for example in self.pool if self.kind(example) == kind] or self.pool
        return self.texts[id(self.rng.choice(others))][0]

    def _shuffled(self, units: list[str]) -> list[str]:
        return self.rng.sample(units, len(units))

    def _by_scores(self) -> list[Finding]:
        """Searches over words for each of a few prompts, with the prompt's own score as the guide."""
        indices = list(range(0, len(self.examples), 8))
        share = self.budget // 3 // len(indices)
        if share < _CHILDREN:
            return []
        rows = []
        for index in indices:
            example = self.examples[index]
            units = self.units.beside(example.prompt)
            climb = Climb(self.player, units, [example], self.rng)
            start = climb.beam(share // 2)
            rows.append((index, climb.edited([start, self._another(index)], share // 2)))
        return [self._of_rows(ORACLE, rows)]


_COPIES: tuple[Callable[[str], str], ...] = (
    lambda prompt: prompt,
    lambda prompt: " " + prompt,
    lambda prompt: re.split(r"(?<=[.!?])\s|\n", prompt.strip())[0],
    lambda prompt: " " + re.split(r"(?<=[.!?])\s|\n", prompt.strip())[-1],
    lambda prompt: " " + " ".join(prompt.split()[-3:]),
)
"""Ways to copy a prompt: all of it, its first or its last sentence, its last words."""


class Units:
    """The words, marks and symbols that a search builds texts from, each with the white space before it.

    Args:
        setting: The environment's setting.
        demonstrations: Demonstrations, which say what is common.
        prompts: Prompts.
        words: Further words.
    """

    def __init__(
        self, setting: Setting, demonstrations: Sequence[str], prompts: Sequence[str], words: Sequence[str] = ()
    ) -> None:
        self._setting = setting
        self._is_symbolic = setting.tokenizer.vocab_size <= _SYMBOLS
        self.phrases = [units for units in map(self.cut, demonstrations) if units]
        counts = Counter(unit for units in self.phrases for unit in units)
        self.rare = frozenset(
            unit for unit, count in counts.items() if count < len(demonstrations) / 5 and unit.strip().isalnum()
        )
        more = [unit for prompt in prompts for unit in self.cut(prompt)]
        pieces = [piece.decode("utf-8", "ignore") for piece in setting.tokenizer.pieces] if self._is_symbolic else []
        given = [" " + word.strip() for word in words]
        self.all = list(dict.fromkeys([*(unit for unit, _ in counts.most_common()), *pieces, *given, *more, "\n"]))
        self.all = [unit for unit in self.all if unit]

    def cut(self, text: str) -> list[str]:
        """Cuts a text into units, which together are the text."""
        return list(text) if self._is_symbolic else _UNITS.findall(text)

    def beside(self, prompt: str) -> Units:
        """Returns these units and those of one prompt, in front."""
        other = object.__new__(Units)
        other.__dict__.update(self.__dict__)
        of_prompt = [unit if unit[:1].isspace() or self._is_symbolic else " " + unit for unit in self.cut(prompt)]
        other.all = list(dict.fromkeys([*of_prompt, *self.all]))
        return other

    def form(self, text: str, rng: random.Random) -> str:
        """Returns a text with its rare words exchanged for other rare ones: the form without the meaning."""
        rare = sorted(self.rare)
        return "".join(rng.choice(rare) if unit in self.rare else unit for unit in self.cut(text)) if rare else text

    @cached_property
    def favourites(self) -> list[str]:
        """The units that score best by themselves, under the reward or one of its parts."""
        example = pick_examples(self._setting.task, "train", 2)
        best: dict[str, None] = {}
        for judge in (self._setting.reward, *self._setting.reward.parts.values()):
            for shown in example:
                ranked = sorted(self.all, key=lambda unit: -checked_score(judge, shown, unit))
                best.update(dict.fromkeys(ranked[: _FAVOURITES // 4]))
        return list(best)


class Climb:
    """Finds texts of a high mean score over some examples.

    Args:
        player: Scores texts.
        units: The units to build texts from.
        examples: The examples.
        rng: The source of all that is drawn.
    """

    def __init__(self, player: TextPlayer, units: Units, examples: Sequence[Example], rng: random.Random) -> None:
        self._player = player
        self._units = units
        self._examples = list(examples)
        rng.shuffle(self._examples)
        self._examples = self._examples[: 4 * _EARLY]
        self._rng = rng

    def constants(self, texts: Sequence[str], budget: int) -> dict[str, str]:
        """Finds constants in every way of `CONSTANTS`.

        Args:
            texts: Demonstrations to try.
            budget: The number of texts to score: a quarter for the first three together, and the rest for edits.

        Returns:
            The best text of each way.
        """
        demonstrations = self._best(self._rng.sample(texts, len(texts)), budget // 8)
        repeated = self._best(self._repetitions(demonstrations), budget // 8)
        beam = self.beam(budget // 4)
        start = [*demonstrations[:4], *repeated[:2], beam]
        edited = self.edited(start, budget // 2)
        return dict(zip(CONSTANTS, (demonstrations[0], repeated[0], beam, edited), strict=True))

    def _best(self, texts: Sequence[str], budget: int) -> list[str]:
        """Ranks texts by successive halving: the better half is judged by twice as many examples."""
        texts = list(dict.fromkeys(texts))  # the first are tried, if there is no room for all
        rounds = max(1, len(self._examples).bit_length() - 1)
        most = max(4, budget // (2 * rounds))
        ranked = texts[:most]
        number = min(2, len(self._examples))
        while True:
            means = self._player.means(self._examples[:number], ranked)
            ranked = [ranked[index] for index in np.argsort(-means, kind="stable")]
            if number == len(self._examples):
                return ranked
            ranked = ranked[: max(4, len(ranked) // 2)]
            number = min(2 * number, len(self._examples))

    def _repetitions(self, texts: Sequence[str]) -> list[str]:
        """Returns phrases, repeated until the budget is full."""
        rng, units = self._rng, self._units
        favourites = [[unit] for unit in units.favourites]
        phrases = favourites[2:]
        for text in texts:
            cut = units.cut(text)
            for _ in range(4):
                size = rng.randint(1, _LONGEST_PHRASE)
                begin = rng.randrange(max(1, len(cut) - size + 1))
                phrases.append(cut[begin : begin + size])
        rng.shuffle(phrases)
        repeated = []
        for phrase in (*favourites[:2], *phrases):
            text = "".join(phrase)
            if text.strip():
                times = max(2, self._player.setting.max_new_tokens // max(1, len(phrase)))
                repeated += [text * times, text * 2]
        return repeated or [""]

    def beam(self, budget: int) -> str:
        """Extends texts unit by unit, the best of each length kept, and returns the best of all.

        Args:
            budget: The number of texts to score.
        """
        examples = self._examples[:_EARLY]
        depth = self._player.setting.max_new_tokens
        per_depth = max(_BEAM, budget // depth // len(examples))
        while per_depth < 8 * _BEAM and depth > 4:  # rather a shorter text than hardly a choice of words
            depth //= 2
            per_depth = max(_BEAM, budget // depth // len(examples))
        beams, best, best_mean = [""], "", float(self._player.means(examples, [""])[0])
        spent_before = self._player.num_scored
        for _ in range(depth):
            if self._player.num_scored - spent_before > budget:
                break
            children = [text + unit for text in beams for unit in self._draw(per_depth // len(beams))]
            children = [text for text in dict.fromkeys(children) if self._fits(text)]
            if not children:
                break
            means = self._player.means(examples, children)
            order = np.argsort(-means, kind="stable")[:_BEAM]
            beams = [children[index] for index in order]
            if means[order[0]] > best_mean:
                best, best_mean = beams[0], float(means[order[0]])
        return best

    def _draw(self, number: int) -> list[str]:
        """Draws units: all of them if there is room, else the best by themselves, common ones and any."""
        units, rng = self._units, self._rng
        if number >= len(units.all):
            return units.all
        favourites = units.favourites[: number // 3]
        common = [rng.choice(rng.choice(units.phrases)) for _ in range(number // 3)] if units.phrases else []
        return [*favourites, *common, *rng.sample(units.all, number - len(favourites) - len(common))]

    def _fits(self, text: str) -> bool:
        return len(self._player.written(text)) == len(text)

    def edited(self, texts: Sequence[str], budget: int) -> str:
        """Edits texts at random, the best kept, and returns the best of all.

        Args:
            texts: The texts to begin with.
            budget: The number of texts to score.
        """
        examples = self._examples[:_EARLY]
        spent_before = self._player.num_scored
        known: dict[str, float] = {}

        def judge(candidates: Sequence[str]) -> None:
            new = [text for text in dict.fromkeys(candidates) if text not in known]
            if new:
                known.update(zip(new, self._player.means(examples, new).tolist(), strict=True))

        judge(list(texts))
        population = sorted(known, key=lambda text: -known[text])[:_POPULATION]
        for _ in range(max(1, budget // (_CHILDREN * len(examples)))):
            if self._player.num_scored - spent_before > budget:
                break
            judge([self._edit(self._rng.choice(population), population) for _ in range(_CHILDREN)])
            # Of texts that score alike, the shorter one: an edit without effect does not stay.
            population = sorted({*population, *known}, key=lambda text: (-known[text], len(text), text))[:_POPULATION]
            known = {text: known[text] for text in population} if len(known) > 1 << 14 else known
        means = self._player.means(self._examples, population)
        return population[int(np.argmax(means))]

    def _edit(self, text: str, others: Sequence[str]) -> str:
        rng, units = self._rng, self._units.cut(text)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            units = self._edit_once(units, others)
        return self._player.written("".join(units))

    def _edit_once(self, units: list[str], others: Sequence[str]) -> list[str]:
        rng = self._rng
        begin = rng.randint(0, len(units))
        end = min(len(units), begin + rng.randint(1, _LONGEST_PHRASE))
        kind = rng.randrange(8)
        if kind == 0 or not units:  # one unit put in
            return [*units[:begin], *self._draw_one(), *units[begin:]]
        if kind in (1, 2):  # one exchanged
            return [*units[:begin], *self._draw_one(), *units[begin + 1 :]]
        if kind == 3:  # some left out
            return units[:begin] + units[end:]
        if kind == 4:  # some repeated
            return units[:end] + units[begin:end] + units[end:]
        if kind == 5:  # a phrase put in
            phrase = rng.choice(self._units.phrases) if self._units.phrases else units
            start = rng.randrange(len(phrase))
            return [*units[:begin], *phrase[start : start + rng.randint(1, _LONGEST_PHRASE)], *units[end:]]
        if kind == 6:  # two exchanged for each other
            other = rng.randrange(len(units))
            swapped = list(units)
            begin = min(begin, len(units) - 1)
            swapped[begin], swapped[other] = swapped[other], swapped[begin]
            return swapped
        return units[:begin] + self._units.cut(rng.choice(others))[begin:]  # the end of another text

    def _draw_one(self) -> list[str]:
        rng, units = self._rng, self._units
        kind = rng.randrange(3)
        if kind == 0 and units.favourites:
            return [rng.choice(units.favourites)]
        if kind == 1 and units.phrases:
            return [rng.choice(rng.choice(units.phrases))]
        return [rng.choice(units.all)] if units.all else []
