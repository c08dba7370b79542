"""Measures the cost of a token under each score, early and late in a response.

Every registered score is measured without an environment: tokens of real text go straight into its scorer. Beside it
stands the usual way, which is to score the whole text again once a token: with the score's own definition, and with the
library that it equals, where there is one.

- lanes: nanoseconds a token of one lane, when many lanes push together.
- single: the same for one lane alone, where the cost of a NumPy call shows.
- again, library: the whole text, scored once a token, over the same responses.
- late: the cost of a token of the last `window` tokens before each length, relative to the first length.

Texts are demonstrations of the task "stories", so that words come again, as they do in training: the work of a scorer
that meets a word for the first time is paid in the turn that warms up. The time is the processor's, and cases take
turns, as in `benchmarks.speed.env`.

    python -m benchmarks rewards
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from benchmarks.speed.timing import Case, take_turns
from textenvs import Example, make_reward, make_task
from textenvs.rewards import BUILT_IN, Reward, TextScorer
from textenvs.tokenizer import decode, make_tokenizer

ARGUMENTS: dict[str, dict[str, Any]] = {"last_turn": {"reward": "length"}}
"""Arguments of the scores that need some. A score that still cannot be made is left out, with the reason."""
METADATA: dict[str, Any] = {
    "keywords": ["happy", ["little", "small"], "day"],
    "concepts": ["girl", "laugh_V", "ball_N"],
    "plot_points": ["happy", ["day", "night"], "the end"],
    "pattern": r"( ?[A-Za-z']+[,.!?]?)+",
    "answer": 3.5,
    "steps": [3, 7],
    "source": "The small dog is not happy.",
    "target": "German",
}
"""Metadata that some scores read, beside the task's."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the cost of a token under each score."""

    rounds: int = 5
    """Turns of each case."""
    seconds: float = 0.1
    """The shortest turn."""
    tokens: int = 64
    """Length of a response, in tokens."""
    lanes: int = 256
    """Responses that grow side by side."""
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Lengths of a response at which the cost of a token is measured."""
    window: int = 32
    """Tokens before each length over which it is measured."""
    long_lanes: int = 64
    """Lanes for that measurement."""
    only: tuple[str, ...] = ()
    """Names of the scores to measure; none: all registered ones."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "rewards"
    """Name of the results: a .json, a .md and a .png file."""


def libraries() -> dict[str, Callable[[Example, str], float]]:
    """Returns the libraries that scores equal, as far as they are installed, by the score's name."""
    by_name: dict[str, Callable[[Example, str], float]] = {}
    try:
        from sacrebleu.metrics import BLEU, CHRF

        logging.getLogger("sacrebleu").setLevel(logging.ERROR)
        metrics = {"bleu": BLEU(effective_order=True), "chrf": CHRF(), "chrfpp": CHRF(word_order=2)}
        for name, metric in metrics.items():
            by_name[name] = lambda example, text, metric=metric: (
                metric.sentence_score(text, list(example.references)).score
            )
    except ImportError:
        pass
    try:
        from rouge_score.rouge_scorer import RougeScorer

        for name, kind in {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_n": "rouge3", "rouge_l": "rougeL"}.items():
            scorer = RougeScorer([kind])
            by_name[name] = lambda example, text, scorer=scorer, kind=kind: (
                scorer.score_multi(example.references, text)[kind].fmeasure
            )
    except ImportError:
        pass
    return by_name


@dataclass(frozen=True)
class Texts:
    """Examples and text to score.

    Attributes:
        examples: Examples, each with two references and all metadata that a score might read.
        stream: Token ids of many demonstrations, one behind the other.
    """

    examples: list[Example]
    stream: NDArray[np.int64]

    def tokens(self, steps: int, lanes: int) -> NDArray[np.int64]:
        """Returns `(steps, lanes)` tokens. Each lane reads the stream from a position of its own."""
        starts = np.random.default_rng(0).integers(len(self.stream), size=lanes)
        return self.stream[(starts + np.arange(steps)[:, None]) % len(self.stream)]


def make_texts(count: int = 512) -> Texts:
    """Makes examples and demonstrations of the task "stories".

    Args:
        count: Number of examples.
    """
    task, tokenizer = make_task("stories"), make_tokenizer("stories")
    plain = [task.example("train", index) for index in range(count)]
    texts = [task.demonstration(example) for example in plain]
    numbered = [f"{text} 3.5" for text in texts]  # for scores that read numbers
    examples = [
        replace(example, references=(first, second), metadata={**example.metadata, **METADATA})
        for example, first, second in zip(plain, numbered, [*numbered[1:], numbered[0]], strict=True)
    ]
    stream = [token for text in texts for token in tokenizer.encode_response(" " + text.strip())]
    return Texts(examples, np.array(stream, dtype=np.int64))


def push_case(reward: Reward, lanes: int, texts: Texts, labels: dict[str, Any], tokens: int) -> Case:
    """Makes a case of whole responses, pushed token by token, to other examples each time.

    Args:
        reward: The score.
        lanes: Responses that grow side by side.
        texts: Examples and text.
        labels: Labels of the case.
        tokens: Length of a response.

    Returns:
        The case.
    """
    tokenizer = make_tokenizer("stories")
    scorer, all_lanes, ids = reward.scorer(lanes, tokenizer), np.arange(lanes), texts.tokens(4 * tokens, lanes)
    played = 0

    def play() -> None:
        nonlocal played
        first = played * lanes % len(texts.examples)
        scorer.reset(all_lanes, [texts.examples[(first + lane) % len(texts.examples)] for lane in range(lanes)])
        for row in ids[played % 4 * tokens :][:tokens]:
            scorer.push(all_lanes, row)
        played += 1

    return Case(labels, play, tokens * lanes)


def again_case(score: Callable[[Example, str], float], texts: Texts, labels: dict[str, Any], tokens: int) -> Case:
    """Makes a case of whole texts that are scored once a token.

    Args:
        score: Scores a text.
        texts: Examples and text.
        labels: Labels of the case.
        tokens: Length of a response.

    Returns:
        The case.
    """
    tokenizer = make_tokenizer("stories")
    ids = texts.tokens(tokens, 16).T.tolist()
    prefixes = [[decode(tokenizer, row[: step + 1]) for step in range(tokens)] for row in ids]
    played = 0

    def play() -> None:
        nonlocal played
        example = texts.examples[played % len(texts.examples)]
        for text in prefixes[played % 16]:
            score(example, text)
        played += 1

    return Case(labels, play, tokens)


def late_costs(reward: Reward, texts: Texts, arguments: Arguments) -> dict[int, float]:
    """Measures the cost of a token late in a response.

    Args:
        reward: The score.
        texts: Examples and text.
        arguments: The command's arguments.

    Returns:
        Length to nanoseconds a token of one lane, the median over rounds.
    """
    tokenizer = make_tokenizer("stories")
    if isinstance(reward.scorer(1, tokenizer), TextScorer):  # a token costs as much as the whole text
        row = texts.tokens(max(arguments.lengths), 1)[:, 0].tolist()
        costs = {}
        for length in arguments.lengths:
            text, spent = decode(tokenizer, row[:length]), []
            for _ in range(arguments.rounds):
                started, times = time.process_time(), 0
                while not times or time.process_time() - started < arguments.seconds / 4:
                    reward.score(texts.examples[0], text)
                    times += 1
                spent.append((time.process_time() - started) / times)
            costs[length] = 1e9 * statistics.median(spent)
        return costs
    lanes, most = arguments.long_lanes, max(arguments.lengths)
    all_lanes, ids = np.arange(lanes), texts.tokens(most, lanes)
    scorer = reward.scorer(lanes, tokenizer)
    seconds: dict[int, list[float]] = {length: [] for length in arguments.lengths}
    for _ in range(arguments.rounds + 1):
        scorer.reset(all_lanes, texts.examples[:lanes])
        pushed = 0
        for length in arguments.lengths:
            for row in ids[pushed : length - arguments.window]:
                scorer.push(all_lanes, row)
            started = time.process_time()
            for row in ids[length - arguments.window : length]:
                scorer.push(all_lanes, row)
            seconds[length].append(time.process_time() - started)
            pushed = length
    # The first round warms up.
    return {
        length: 1e9 * statistics.median(spent[1:]) / (arguments.window * lanes) for length, spent in seconds.items()
    }


def made_rewards(names: Sequence[str], texts: Texts) -> Iterator[tuple[str, Reward | str]]:
    """Makes scores by their names.

    Args:
        names: Names of scores.
        texts: Examples and text.

    Yields:
        A name and its score, or the reason why it cannot be made or cannot score an example.
    """
    for name in names:
        try:
            reward = make_reward({name: ARGUMENTS.get(name, {})})
            reward.score(texts.examples[0], "A text.")
        except Exception as error:  # a user's own score may raise anything
            yield name, f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            yield name, reward


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        results: The measurement.
    """
    lengths = results["lengths"]
    note = (
        f"One process, which had {results['share_of_a_core']:.0%} of a core. Nanoseconds a token; responses of "
        f"{results['tokens']} tokens, two references each, medians of {results['rounds']} rounds. Lanes: "
        f"{results['lanes']} responses pushed together. Single: one. Again: the definition, on the whole text, once a "
        "token. Library: the library's own, likewise."
    )
    costs, late = [], []
    for name, row in results["scores"].items():
        library = [f"{row['library']:,.0f}", f"{row['library'] / row['lanes']:,.0f}"] if "library" in row else ["", ""]
        costs.append([name, *(f"{row[what]:,.0f}" for what in ("lanes", "single", "again")), *library])
        by_length = [row["late"][str(length)] for length in lengths]
        growth = f"{by_length[-1] / by_length[0]:.2f}"
        late.append([f"{name}{'' if row['incremental'] else ' *'}", *(f"{cost:,.0f}" for cost in by_length), growth])
    lines = [
        *heading("The cost of a token under each score", results, note),
        *table(["score", "lanes", "single", "again", "library", "library / lanes"], costs),
        "",
        f"Nanoseconds a token of one of {results['long_lanes']} lanes, by its position in the response (the "
        f"{results['window']} tokens before it), and the last relative to the first. A score that is marked with * "
        "reads the whole text again at every token.",
        "",
        *table(["score", *(f"{length:,}" for length in lengths), "growth"], late),
    ]
    if results["left_out"]:
        lines += ["", "Left out:", "", *(f"- {name}: {problem}" for name, problem in results["left_out"].items())]
    lines += ["", f"![cost by position in the response]({results['plot']})"]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any]) -> Any:
    """Draws the cost of a token by its position in the response.

    Args:
        results: The measurement.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for index, (name, row) in enumerate(results["scores"].items()):
        costs = [row["late"][str(length)] for length in results["lengths"]]
        style = ("-", "--", "-.", ":")[index // 10 % 4] if row["incremental"] else (0, (1, 1))
        axes.plot(
            results["lengths"], costs, marker=".", linestyle=style, label=name + ("" if row["incremental"] else " *")
        )
    axes.set(xscale="log", yscale="log", xlabel="position in the response, in tokens", ylabel="nanoseconds a token")
    axes.set_title("Cost of a token (* reads the whole text again)")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    return figure


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks rewards")
    if arguments.quick:
        arguments = replace(
            arguments, rounds=1, seconds=0.0, tokens=8, lanes=4, lengths=(8, 16), window=4, long_lanes=4
        )
    about, clock, processor = machine(), time.perf_counter(), time.process_time()
    texts = make_texts(32 if arguments.quick else 512)
    others = libraries()
    scores: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for name, reward in made_rewards(arguments.only or sorted(BUILT_IN), texts):
        if isinstance(reward, str):
            left_out[name] = reward
            continue
        cases = [
            push_case(reward, arguments.lanes, texts, {"what": "lanes"}, arguments.tokens),
            push_case(reward, 1, texts, {"what": "single"}, arguments.tokens),
            again_case(reward.score, texts, {"what": "again"}, arguments.tokens),
        ]
        if name in others:
            cases.append(again_case(others[name], texts, {"what": "library"}, arguments.tokens))
        rows = take_turns(cases, arguments.rounds, arguments.seconds)
        scores[name] = {
            **{row["what"]: 1e9 / row["steps_per_second"] for row in rows},
            "incremental": not isinstance(reward.scorer(1, make_tokenizer("stories")), TextScorer),
            "late": {str(length): cost for length, cost in late_costs(reward, texts, arguments).items()},
        }
        print(f"{name}: {scores[name]['lanes']:,.0f} ns a token", flush=True)
    results: dict[str, Any] = {
        "command": command_line("rewards", argv),
        "machine": about,
        **{name: getattr(arguments, name) for name in ("rounds", "tokens", "lanes", "window", "long_lanes")},
        "lengths": list(arguments.lengths),
        "plot": arguments.output.with_suffix(".png").name,
        "scores": scores,
        "left_out": left_out,
        "share_of_a_core": (time.process_time() - processor) / (time.perf_counter() - clock),
    }
    write(arguments.output, results, page(results), plot(results))
