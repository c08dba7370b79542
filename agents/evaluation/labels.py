"""Responses as class labels: accuracy, precision, recall and F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textenvs import Example


@dataclass(frozen=True)
class Labels:
    """The quality of responses as class labels, for tasks whose examples have `metadata["label"]`.

    Attributes:
        accuracy: Share of the responses that are the label.
        precision: Mean over labels of the share of a label's responses that are right; 0 for a label never given.
        recall: Mean over labels of the share of a label's examples that got it.
        f1: Mean over labels of the harmonic mean of the two.
        invalid: Share of the responses that are no label at all. They count as wrong.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    invalid: float


def label_scores(examples: Sequence[Example], responses: Sequence[str]) -> Labels | None:
    """Computes accuracy, and precision, recall and F1 as means over labels.

    A response is the label that its last line spells, without white space at its ends.

    Args:
        examples: The examples that the responses answer.
        responses: The texts.

    Returns:
        The scores; None unless every example's `metadata["label"]` is its reference: then responses are no labels.

    Raises:
        ImportError: If there are labels and scikit-learn is not installed.
    """
    labels = [example.metadata.get("label") for example in examples]
    answers = [example.references[0].strip() if example.references else None for example in examples]
    known = sorted({answer for answer in answers if answer is not None})
    if not known or labels != answers:
        return None
    try:
        from sklearn.metrics import precision_recall_fscore_support
    except ImportError as error:
        raise ImportError(
            'scikit-learn is needed to judge labels. Install it with: pip install "textenvs[benchmarks]"'
        ) from error
    predictions = [response.strip().rsplit("\n", 1)[-1].strip() for response in responses]
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=known, average="macro", zero_division=0
    )
    return Labels(
        accuracy=float(np.mean([label == prediction for label, prediction in zip(labels, predictions, strict=True)])),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        invalid=float(np.mean([prediction not in known for prediction in predictions])),
    )
