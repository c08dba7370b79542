"""Every registered reward, over every kind of tokenizer. A new reward is held to the contract as it is there."""

from functools import cache
from typing import Any

import pytest

from tests.textenvs.helpers import OUR_REWARDS, Letters, byte_level_bpe, sentencepiece_bpe
from textenvs.testing import check_reward
from textenvs.tokenizer import Tokenizer, make_tokenizer


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    made: dict[str, Any] = {
        "words": lambda: make_tokenizer("stories"),
        "letters": Letters,
        "GPT-2's byte-level BPE": lambda: make_tokenizer(byte_level_bpe()),
        "SentencePiece's BPE": lambda: make_tokenizer(sentencepiece_bpe("strip")),
    }
    tokenizer: Tokenizer = made[kind]()
    return tokenizer


@pytest.mark.parametrize("kind", ["words", "letters", "GPT-2's byte-level BPE", "SentencePiece's BPE"])
@pytest.mark.parametrize("reward", OUR_REWARDS)
def test_it_keeps_the_contract(reward: str, kind: str) -> None:
    check_reward(reward, tokenizer_of(kind), max_examples=20 if kind == "words" else 6)


@pytest.mark.parametrize("reward", OUR_REWARDS)
def test_it_keeps_the_contract_over_the_tokenizer_of_a_real_model(reward: str, stories260k: Any) -> None:
    check_reward(reward, stories260k, max_examples=10)
