"""Overlap with references in scripts other than Latin, counted by hand and against sacrebleu."""

from __future__ import annotations

import pytest
from sacrebleu.metrics import CHRF

from textenvs import Example, make_reward

# "The cat sleeps on the mat" and "... on the floor": units of the first, of the second, and of both. In the scripts
# without spaces, a unit is a letter with its marks, or a run of Katakana.
PAIRS = {
    "Thai": ("แมวนอนบนเสื่อ", "แมวนอนบนพื้น", 11, 10, 8),
    "Chinese": ("猫在垫子上睡觉。", "猫在地上睡觉。", 7, 6, 5),
    "Japanese": ("猫はマットの上で寝ている。", "猫は床の上で寝ている。", 10, 10, 9),
    "Devanagari": ("बिल्ली चटाई पर सोती है।", "बिल्ली ज़मीन पर सोती है।", 5, 5, 4),
    "Arabic": ("القطة تنام على السجادة", "القطة تنام على الأرض", 4, 4, 3),
    "Khmer": ("ឆ្មាដេកលើកន្ទេល", "ឆ្មាដេកលើដី", 9, 6, 5),
}


@pytest.mark.parametrize("script", PAIRS)
def test_words_in_common(script: str) -> None:
    reference, response, wanted, written, shared = PAIRS[script]
    for reward in ("token_f1", {"rouge_1": {"tokenizer": "unicode"}}):
        made, example = make_reward(reward), Example("", (reference,))
        assert made.score(example, response) == pytest.approx(2 * shared / (wanted + written), abs=1e-12)
        assert made.score(example, reference) == 1


@pytest.mark.parametrize("script", PAIRS)
def test_chrf_is_the_library_s(script: str) -> None:
    reference, response, *_ = PAIRS[script]
    for name, metric in {"chrf": CHRF(), "chrfpp": CHRF(word_order=2)}.items():
        made, example = make_reward(name), Example("", (reference,))
        for end in range(1, len(response) + 1):
            expected = metric.sentence_score(response[:end], [reference]).score / 100
            assert made.score(example, response[:end]) == pytest.approx(expected, abs=1e-9)
