"""Train an n-gram language model for the `ngram_lm` score.

    python -m textenvs.data.train_ngrams                                  # the bundled one, of the bundled stories
    python -m textenvs.data.train_ngrams texts.jsonl --output mine.json   # your own

The bundled model, `stories_ngrams.json`, has learned trigrams from 4,000 corpus stories of the stories task. The same
code writes the same file. Your texts are a `.jsonl` file, whose `--field` is read ("text"), or a `.txt` file with one
text a line; every tenth is held out, and the model's perplexity on those is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from textenvs.rewards.ngrams import BUNDLED, train
from textenvs.tasks.stories import Stories

NUM_STORIES = 4_000
NUM_HELD_OUT = 500
ORDER = 3


def stories(start: int, number: int) -> list[str]:
    """Some corpus stories of the stories task, as they are trained on."""
    task = Stories()
    return [task.corpus_story(index) for index in range(start, start + number)]


def read_texts(path: Path, field: str) -> list[str]:
    """The texts of a file.

    Args:
        path: A `.jsonl` file, or one with a text a line.
        field: Where in a line of JSON the text is.

    Returns:
        The texts.

    Raises:
        ValueError: If a line has no such text.
    """
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if path.suffix != ".jsonl":
        return lines
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"Expected a line of JSON, but line {number} of {path} cannot be read: {error}") from error
        text = record.get(field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"Expected a text in field {field!r}, got {text!r} in line {number} of {path}")
        texts.append(text)
    return texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, and say how well the model predicts what it has not seen.

    Args:
        arguments: Those of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m textenvs.data.train_ngrams", description=__doc__.split("\n")[0])
    parser.add_argument("texts", nargs="?", type=Path, help="a .jsonl or .txt file; none is the bundled stories")
    parser.add_argument("--field", default="text", help="the field of a .jsonl file (text)")
    parser.add_argument("--order", type=int, default=ORDER, help=f"how many words an n-gram has ({ORDER})")
    parser.add_argument("--min-count", type=int, default=2, help="rarer words are outside the vocabulary (2)")
    parser.add_argument("--output", type=Path, help="where to write the model")
    options = parser.parse_args(arguments)
    if options.texts is None:
        training, held_out = stories(0, NUM_STORIES), stories(NUM_STORIES, NUM_HELD_OUT)
        output, source = options.output or BUNDLED, f"{NUM_STORIES} corpus stories of textenvs/tasks/stories.py"
    else:
        if options.output is None:
            parser.error("Expected --output, the file to write")
        if not options.texts.is_file():
            parser.error(f"Expected a file of texts, got {str(options.texts)!r}: there is none")
        try:
            texts = read_texts(options.texts, options.field)
        except ValueError as error:
            parser.error(str(error))
        held_out = texts[9::10]
        training = [text for place, text in enumerate(texts) if place % 10 != 9]
        output, source = options.output, options.texts.name
    model = train(training, options.order, options.min_count)
    model.save(output, source)
    print(f"Wrote {output}: {len(model.words)} words, {len(model.counts)} {model.order}-grams of {len(training)} texts")
    if held_out:
        print(f"Perplexity of a word on {len(held_out)} other texts: {model.perplexity(held_out):.2f}")


if __name__ == "__main__":
    main()
