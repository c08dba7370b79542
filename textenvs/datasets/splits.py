"""Splits by a hash: rows that name no split are divided by a text of theirs, the same way on every machine."""

from __future__ import annotations

from hashlib import sha256

SHARES = {"train": 80, "validation": 10, "test": 10}
"""Split to its share of the texts, in per cent."""

_SPLIT_OF_REMAINDER = [split for split, share in SHARES.items() for _ in range(share)]


def hashed_split(text: str) -> str:
    """Returns the split that a text belongs to by its hash.

    Args:
        text: Rows with equal texts are in the same split.

    Returns:
        "train" for 80 % of texts, "validation" and "test" for 10 % each.

    Example:
        >>> [hashed_split(prompt) for prompt in ("Once", "There", "One day", "Long ago")]
        ['train', 'train', 'test', 'train']
    """
    return _SPLIT_OF_REMAINDER[hash_of(text) % 100]


def hash_of(text: str) -> int:
    """Returns the first 64 bits of a text's SHA-256, the same in every process and on every machine."""
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
