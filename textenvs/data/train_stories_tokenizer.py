"""Trains the tokenizer of the stories task and writes `stories_tokenizer.json` beside this file.

    python -m textenvs.data.train_stories_tokenizer

It is a byte-level BPE of 1024 tokens: `<bos>`, `<eos>` and `<pad>` (ids 0, 1 and 2), the 256 bytes, so that any text
can be encoded and decoded unchanged, and merges learned from 20,000 corpus stories. Most words of the stories are one
token. It puts `<bos>` before a text, as the bundled language model was trained. The same code writes the same file.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from textenvs.tasks.stories import Stories

OUTPUT = Path(__file__).parent / "stories_tokenizer.json"
VOCAB_SIZE = 1024
NUM_STORIES = 20_000
SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>")


def train() -> Tokenizer:
    """Trains the tokenizer.

    Returns:
        A byte-level BPE with exactly `VOCAB_SIZE` tokens.

    Raises:
        RuntimeError: If the corpus has too few words for that many tokens.
    """
    task = Stories()
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((task.corpus_story(index) for index in range(NUM_STORIES)), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"Expected {VOCAB_SIZE} tokens, got {tokenizer.get_vocab_size()}")
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return tokenizer


if __name__ == "__main__":
    train().save(str(OUTPUT))
    print(f"Wrote {OUTPUT.name}: {VOCAB_SIZE} tokens")
