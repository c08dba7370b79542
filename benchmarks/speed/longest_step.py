"""Measures the longest step of scores that compare with references, and what whole texts cost beside the libraries.

Lanes that all start again at the same step, each with an example that has not been seen before, over a vocabulary of
50,000 tokens: what a scorer works out for new references and new words falls into a few steps, and a pause of one step
is a pause of all lanes. Times are the processor's; those of Python's garbage collector are counted apart.

- steps: mean, 99.9 % and longest time of a step, and the longest pause of the garbage collector within one.
- whole texts: microseconds a text, on an example's first text and on later ones, and the library's, in one run.

    python -m benchmarks steps
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from benchmarks.speed.rewards import libraries
from textenvs import Example, load_dataset, make_reward, make_task

STEPS = ("bleu", "chrf", "rouge_1", "rouge_l", "edit_similarity", "exact_match", "token_f1", "repetition", "distinct")
WHOLE = ("bleu", "chrf", "chrfpp", "rouge_1", "rouge_2", "rouge_l")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the longest step of scores that compare with references, and what whole texts cost."""

    steps: int = 4000
    """Steps of each score."""
    lanes: int = 256
    """Responses that grow side by side."""
    tokens: int = 64
    """Length of a response. All lanes start again after so many steps."""
    vocabulary: int = 50_000
    """Number of tokens."""
    texts: int = 200
    """Whole texts that are scored."""
    only: tuple[str, ...] = STEPS
    """Names of the scores whose steps are measured."""
    data: Path | None = None
    """A file of texts, one a row in a column "text"; None: demonstrations of the task "stories", several in a text."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "steps"
    """Name of the results: a .json and a .md file."""


class Words:
    """A tokenizer whose tokens are the words of some texts, all single bytes, and pieces of letters up to its size.

    Args:
        texts: The texts.
        size: Number of tokens.
    """

    def __init__(self, texts: Sequence[str], size: int) -> None:
        pieces = [bytes([byte]) for byte in range(256)]
        pieces += dict.fromkeys(f" {word}".encode() for text in texts for word in text.split())
        seen, rng = set(pieces), np.random.default_rng(1)
        while len(pieces) < size - 3:
            letters = rng.integers(97, 123, size=rng.integers(2, 9)).astype(np.uint8).tobytes()
            piece = b" " * int(rng.integers(2)) + letters
            if piece not in seen:
                seen.add(piece)
                pieces.append(piece)
        self.pieces = (*pieces[: size - 3], b"", b"", b"")
        self.vocab_size = size
        self.bos_token_id, self.eos_token_id, self.pad_token_id = size - 3, size - 2, size - 1
        self._ids = {piece: token for token, piece in enumerate(self.pieces[: size - 3])}

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text's words; those of bytes for a word that is no token."""
        tokens = []
        for word in text.split():
            piece = f" {word}".encode()
            tokens += [self._ids[piece]] if piece in self._ids else list(piece)
        return tokens


def measure_steps(
    name: str, texts: Sequence[str], tokenizer: Words, arguments: Arguments, *, random: bool
) -> dict[str, Any]:
    """Measures the steps of one score.

    Args:
        name: The score.
        texts: Texts to cut references and responses from.
        tokenizer: The tokenizer.
        arguments: The sizes.
        random: If True, responses are random tokens; if False, words of the texts.

    Returns:
        Milliseconds: "mean", "p999" (the 99.9 % quantile), "longest", and "gc", the longest pause of the collector.
    """
    rng, lanes = np.random.default_rng(0), np.arange(arguments.lanes)
    stream = np.array([token for text in texts for token in tokenizer.encode(text)])
    starts = rng.integers(len(stream), size=arguments.lanes)
    scorer: Any = make_reward(name).scorer(arguments.lanes, tokenizer)
    collected, began = 0.0, 0.0

    def count(phase: str, _: dict[str, int]) -> None:
        nonlocal collected, began
        if phase == "start":
            began = time.perf_counter()
        else:
            collected += time.perf_counter() - began

    times, pauses = np.zeros(arguments.steps), np.zeros(arguments.steps)
    gc.callbacks.append(count)
    try:
        for step in range(arguments.steps):
            tokens = stream[(starts + step) % len(stream)]
            if random:
                tokens = rng.integers(tokenizer.vocab_size, size=arguments.lanes)
            first = step // arguments.tokens * arguments.lanes
            # A number of its own in each reference: no example is seen twice.
            new = [
                Example("", (f"{texts[(first + lane) % len(texts)][:1000]} {first + lane}",))
                for lane in (lanes if step % arguments.tokens == 0 else ())
            ]
            before, start = collected, time.thread_time()
            if new:
                scorer.reset(lanes, new)
            scorer.push(lanes, tokens)
            pauses[step] = collected - before
            times[step] = time.thread_time() - start - pauses[step]
    finally:
        gc.callbacks.remove(count)
    return {
        "score": name,
        "tokens": "random" if random else "text",
        "mean": 1e3 * float(times.mean()),
        "p999": 1e3 * float(np.quantile(times, 0.999)),
        "longest": 1e3 * float(times.max()),
        "gc": 1e3 * float(pauses.max()),
    }


def measure_whole(name: str, texts: Sequence[str], rounds: int = 4) -> dict[str, Any]:
    """Measures whole texts under one score and under the library that it equals.

    Args:
        name: The score.
        texts: Texts; each is scored against the one before it.
        rounds: Turns of each; medians are taken.

    Returns:
        Microseconds a text: "first" (text of an example) and "library" (None where it is not installed), both on texts
        that neither has seen, since sacrebleu remembers how it has cut texts; and "later", texts of known examples.
    """
    library, warm = libraries().get(name), make_reward(name)
    costs: dict[str, list[float]] = {"first": [], "later": [], "library": []}

    def cost(score: Any, suffix: str) -> float:
        pairs = [
            (Example("", (text + suffix,)), texts[(row + 1) % len(texts)] + suffix) for row, text in enumerate(texts)
        ]
        start = time.process_time()
        for example, response in pairs:
            score(example, response)
        return (time.process_time() - start) / len(texts) * 1e6

    cost(warm.score, "")
    for number in range(rounds):
        costs["first"].append(cost(make_reward(name).score, f" {number}"))
        costs["later"].append(cost(warm.score, ""))
        if library is not None:
            costs["library"].append(cost(library, f" {rounds + number}"))
    return {"score": name, **{what: statistics.median(row) if row else None for what, row in costs.items()}}


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        results: The measurement.
    """
    note = (
        f"One process. Steps of {results['lanes']} lanes that start again every {results['tokens']} steps, each with "
        f"one reference of at most 1,000 characters that has not been seen before; {results['steps']:,} steps, "
        f"{results['vocabulary']:,} tokens. Processor time, the garbage collector's apart."
    )
    steps = [
        [row["score"], row["tokens"], *(f"{row[what]:,.1f}" for what in ("mean", "p999", "longest", "gc"))]
        for row in results["rows"]
    ]
    whole = [
        [row["score"], *("" if row[what] is None else f"{row[what]:,.0f}" for what in ("first", "later", "library"))]
        for row in results["whole"]
    ]
    lines = [
        *heading("The longest step of scores with references", results, note),
        *table(["score", "responses", "mean, ms", "99.9 %, ms", "longest, ms", "longest pause of gc, ms"], steps),
        "",
        f"Microseconds for a whole text of up to 800 characters, medians over {results['texts']} texts: the first text "
        "of an example, later ones, and the library that the score equals.",
        "",
        *table(["score", "first", "later", "library"], whole),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks steps")
    settings = {name: getattr(arguments, name) for name in ("steps", "lanes", "tokens", "vocabulary", "texts")}
    if arguments.quick:
        settings = {"steps": 12, "lanes": 4, "tokens": 5, "vocabulary": 2000, "texts": 4}
        arguments = Arguments(**settings, only=arguments.only, data=arguments.data, output=arguments.output)
    about, texts = machine(), _texts(arguments)
    tokenizer, rows = Words(texts, arguments.vocabulary), []
    for name in arguments.only:
        for random in (False, True):
            rows.append(measure_steps(name, texts, tokenizer, arguments, random=random))
            print(f"{name}: longest step {rows[-1]['longest']:.1f} ms", flush=True)
    results = {
        "command": command_line("steps", argv),
        "machine": about,
        **settings,
        "rows": rows,
        "whole": [measure_whole(name, [text[:800] for text in texts[: arguments.texts]]) for name in WHOLE],
    }
    write(arguments.output, results, page(results))


def _texts(arguments: Arguments) -> list[str]:
    """Returns some thousand texts of about 1,000 characters."""
    if arguments.data is not None:
        task: Any = load_dataset(arguments.data, prompt="text")
        return [task.example("train", row).prompt for row in range(task.num_examples("train"))]
    task = make_task("stories")
    count = min(task.num_examples("train"), 8 * max(arguments.lanes, arguments.texts))
    stories = [task.demonstration(task.example("train", row)) for row in range(count)]
    return [" ".join(stories[(row + place) % count] for place in range(8)) for row in range(count)]
