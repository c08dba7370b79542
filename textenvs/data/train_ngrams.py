"""Train an n-gram language model for the `ngram_lm` score.

    python -m textenvs.data.train_ngrams                                  # the bundled ones
    python -m textenvs.data.train_ngrams texts.jsonl --output mine.json   # your own

The bundled models have learned trigrams: `stories_ngrams.json` from 4,000 corpus stories of the stories task,
`reviews_ngrams.json` from those and the training examples of the sentiment task, demonstrations included. The same code
writes the same files. Your texts are a `.jsonl` file, whose `--field` is read ("text"), or a `.txt` file with one text
a line; every tenth is held out, and the model's perplexity on those is printed.
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
    """Some corpus stories of the stories task, as they are trained on."""
    task = Stories()
    return [task.corpus_story(index) for index in range(start, start + number)]


def reviews(split: str) -> list[str]:
    """The reviews of one split of the sentiment task, whole, as they are trained on."""
    task = Reviews()
    examples = [task.example(split, index) for index in range(task.num_examples(split))]
    return [example.prompt + task.demonstration(example) for example in examples]


def bundled(name: str) -> tuple[list[str], list[str], str]:
    """What a bundled model is trained on, what it is tried on, and what it is said to come from."""
    training, source = stories(0, NUM_STORIES), f"{NUM_STORIES} corpus stories of textenvs/tasks/stories.py"
    if name == "stories":
        return training, stories(NUM_STORIES, NUM_HELD_OUT), source
    # The stories are in it, so that what the bundled language model knows of English is not all as bad as nonsense.
    return reviews("train") + training, reviews("test"), f"the train split of textenvs/tasks/reviews.py, and {source}"


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
    parser.add_argument("texts", nargs="?", type=Path, help="a .jsonl or .txt file; none is the bundled models' texts")
    parser.add_argument("--field", default="text", help="the field of a .jsonl file (text)")
    parser.add_argument("--order", type=int, default=ORDER, help=f"how many words an n-gram has ({ORDER})")
    parser.add_argument("--min-count", type=int, default=2, help="rarer words are outside the vocabulary (2)")
    parser.add_argument("--output", type=Path, help="where to write the model; for the bundled ones, a folder")
    options = parser.parse_args(arguments)
    work: list[tuple[list[str], list[str], str, Path]] = []
    if options.texts is None:
        for name, file in BUNDLED.items():
            output = file if options.output is None else options.output / file.name
            work.append((*bundled(name), output))
    else:
        if options.output is None:
            parser.error("Expected --output, the file to write")
        if not options.texts.is_file():
            parser.error(f"Expected a file of texts, got {str(options.texts)!r}: there is none")
        try:
            texts = read_texts(options.texts, options.field)
        except ValueError as error:
            parser.error(str(error))
        training = [text for place, text in enumerate(texts) if place % 10 != 9]
        work.append((training, texts[9::10], options.texts.name, options.output))
    for training, held_out, source, output in work:
        model = train(training, options.order, options.min_count)
        model.save(output, source)
        size = f"{len(model.words)} words, {len(model.counts)} {model.order}-grams of {len(training)} texts"
        print(f"Wrote {output}: {size}")
        if held_out:
            print(f"Perplexity of a word on {len(held_out)} other texts: {model.perplexity(held_out):.2f}")


if __name__ == "__main__":
    main()
