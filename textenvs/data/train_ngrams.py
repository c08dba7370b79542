"""Trains an n-gram language model for the `ngram_lm` score.

    python -m textenvs.data.train_ngrams                                  # the bundled models
    python -m textenvs.data.train_ngrams texts.jsonl --output mine.json   # your own

The bundled models are trigram models: `stories_ngrams.json` of 4,000 corpus stories of the stories task,
`reviews_ngrams.json` of those and the training examples of the sentiment task, demonstrations included. The same code
writes the same files. Your texts are a `.jsonl` file, whose `--field` is read ("text"), or a `.txt` file with one text
a line. Every tenth text is held out, and the model's perplexity on the held-out texts is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from textenvs.rewards.ngram_model import BUNDLED, train
from textenvs.tasks.reviews import Reviews
from textenvs.tasks.stories import Stories

NUM_STORIES = 4_000
NUM_HELD_OUT = 500
ORDER = 3


def stories(start: int, number: int) -> list[str]:
    """Returns some corpus stories of the stories task."""
    task = Stories()
    return [task.corpus_story(index) for index in range(start, start + number)]


def reviews(split: str) -> list[str]:
    """Returns the reviews of one split of the sentiment task, each as prompt + demonstration."""
    task = Reviews()
    examples = [task.example(split, index) for index in range(task.num_examples(split))]
    return [example.prompt + task.demonstration(example) for example in examples]


def bundled(name: str) -> tuple[list[str], list[str], str]:
    """Returns the training texts of a bundled model, its held-out texts, and a description of the training texts."""
    training, source = stories(0, NUM_STORIES), f"{NUM_STORIES} corpus stories of textenvs/tasks/stories.py"
    if name == "stories":
        return training, stories(NUM_STORIES, NUM_HELD_OUT), source
    # With the stories, so that the sentences that the bundled language model writes are likelier than nonsense.
    return reviews("train") + training, reviews("test"), f"the train split of textenvs/tasks/reviews.py, and {source}"


def read_texts(path: Path, field: str) -> list[str]:
    """Reads the texts of a file.

    Args:
        path: A `.jsonl` file, or a file with one text a line.
        field: The field of a line of JSON that has the text.

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
    """Trains a model, writes it to a file, and prints its perplexity on held-out texts.

    Args:
        arguments: The command-line arguments; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m textenvs.data.train_ngrams", description=__doc__.split("\n")[0])
    parser.add_argument("texts", nargs="?", type=Path, help=".jsonl or .txt file; the bundled models' by default")
    parser.add_argument("--field", default="text", help="the field of a .jsonl file (text)")
    parser.add_argument("--order", type=int, default=ORDER, help=f"number of words of an n-gram ({ORDER})")
    parser.add_argument("--min-count", type=int, default=2, help="rarer words are outside the vocabulary (2)")
    parser.add_argument("--output", type=Path, help="file to write the model to; for the bundled ones, a folder")
    options = parser.parse_args(arguments)
    models: list[tuple[list[str], list[str], str, Path]] = []
    if options.texts is None:
        for name, file in BUNDLED.items():
            output = file if options.output is None else options.output / file.name
            models.append((*bundled(name), output))
    else:
        if options.output is None:
            parser.error("Expected --output, the file to write")
        if not options.texts.is_file():
            parser.error(f"Expected a file of texts, got {str(options.texts)!r}: there is none")
        try:
            texts = read_texts(options.texts, options.field)
        except ValueError as error:
            parser.error(str(error))
        training = [text for index, text in enumerate(texts) if index % 10 != 9]
        models.append((training, texts[9::10], options.texts.name, options.output))
    for training, held_out, source, output in models:
        model = train(training, options.order, options.min_count)
        model.save(output, source)
        size = f"{len(model.words)} words, {len(model.counts)} {model.order}-grams of {len(training)} texts"
        print(f"Wrote {output}: {size}")
        if held_out:
            print(f"Perplexity of a word on {len(held_out)} other texts: {model.perplexity(held_out):.2f}")


if __name__ == "__main__":
    main()
