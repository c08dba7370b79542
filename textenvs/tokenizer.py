"""Tokenizers: what turns text into the ids that are actions, and what each id adds to a text.

The environment never decodes a whole response twice. It needs one fact about every token, the bytes it appends to a
text that has begun (its *piece*), and joins pieces. That holds for byte-level BPE (GPT-2, Qwen, Llama 3), for BPE and
Unigram with the SentencePiece alphabet (Llama 2, Mistral, Gemma, T5) and for WordPiece (BERT).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import tokenizers

DATA_FOLDER = Path(__file__).parent / "data"
BUNDLED = {"stories": DATA_FOLDER / "stories_tokenizer.json"}
"""Name to file, for the tokenizers that come with the package."""

# Names under which EOS, BOS and PAD go when a file does not say which of its special tokens is which.
_EOS_NAMES = ("<eos>", "</s>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "[EOS]", "[SEP]")
_BOS_NAMES = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "[CLS]")
_PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")


@runtime_checkable
class Tokenizer(Protocol):
    """What an environment needs of a tokenizer. Anything with these attributes will do.

    Attributes:
        vocab_size: Number of actions: one more than the largest token id.
        bos_token_id: The token that starts a text, and the whole prompt where the text is empty.
        eos_token_id: The action that ends a response.
        pad_token_id: What fills the observation behind the text. May equal EOS: masks tell them apart.
        pieces: `pieces[i]` is the UTF-8 that token `i` adds to a text that has begun. Special tokens add nothing.
    """

    vocab_size: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    pieces: Sequence[bytes]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with what a model expects in front of a prompt (often BOS)."""


class SubwordTokenizer:
    """A `tokenizers.Tokenizer` (the Rust library behind Transformers' fast tokenizers), seen as a `Tokenizer`.

    Args:
        backend: The tokenizer itself.
        eos_token: Text of the token that ends a response. None looks for a well-known name.
        bos_token: Text of the token that starts a text. None looks for a well-known name, then takes EOS.
        pad_token: Text of the token that pads. None looks for a well-known name, then takes EOS.

    Raises:
        ValueError: If there is no EOS token, or a named token is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str | None = None,
        bos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        self.backend = backend
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1

        def token_id(given: str | None, names: tuple[str, ...], role: str) -> int | None:
            if given is not None:
                if given not in vocabulary:
                    raise ValueError(f"Expected the {role} token to be in the vocabulary, got {given!r}, which is not")
                return vocabulary[given]
            return next((vocabulary[name] for name in names if name in vocabulary), None)

        eos = token_id(eos_token, _EOS_NAMES, "EOS")
        if eos is None:
            raise ValueError(
                "Expected a tokenizer with an EOS token, since EOS is the action that ends a response, but found none "
                f"of {list(_EOS_NAMES)}. Name it: SubwordTokenizer(backend, eos_token=...)"
            )
        bos = token_id(bos_token, _BOS_NAMES, "BOS")
        pad = token_id(pad_token, _PAD_NAMES, "PAD")
        self.eos_token_id: int = eos
        self.bos_token_id: int = eos if bos is None else bos
        self.pad_token_id: int = eos if pad is None else pad

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """What each token adds to a text that has begun: `vocab_size` byte strings, empty for special tokens."""
        return _pieces(self.backend, self.vocab_size)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens in front as the model was trained on them.

        Args:
            texts: The prompts.

        Returns:
            One list of ids a text, never empty: BOS alone where nothing else is left.
        """
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=True)
        return [list(encoding.ids) or [self.bos_token_id] for encoding in encodings]

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a text that continues another, without special tokens.

        Args:
            text: The continuation, its leading space included.

        Returns:
            The ids. For SentencePiece tokenizers, the space that they put in front is taken off again.
        """
        ids = list(self.backend.encode(text, add_special_tokens=False).ids)
        if ids and not text.startswith(" ") and self.pieces[ids[0]].startswith(b" "):
            # "▁" was put in front of the text: encode behind a newline, which no merge crosses, and cut there.
            anchor = self.backend.encode("\n", add_special_tokens=False).ids
            whole = self.backend.encode("\n" + text, add_special_tokens=False).ids
            if whole[: len(anchor)] == anchor:
                ids = list(whole[len(anchor) :])
        elif text.startswith(" ") and decode(self, ids) == " " + text:
            ids = list(self.backend.encode(text[1:], add_special_tokens=False).ids)
        return ids

    def __repr__(self) -> str:
        """Vocabulary size and the special ids."""
        return f"SubwordTokenizer(vocab_size={self.vocab_size}, eos_token_id={self.eos_token_id})"


def make_tokenizer(tokenizer: Any) -> Tokenizer:
    """A `Tokenizer` from whatever a user has.

    Args:
        tokenizer: A bundled name (`"stories"`), the path of a `tokenizer.json` or of a folder with one, a
            `tokenizers.Tokenizer`, a fast Transformers tokenizer, or anything that fits the `Tokenizer` protocol.

    Returns:
        The tokenizer. The same name or path gives the same object, so environments share its tables.

    Raises:
        ValueError: If there is no such name or file, or the tokenizer has no EOS token.
        TypeError: If it is of another type, or a slow Transformers tokenizer.
    """
    if isinstance(tokenizer, (str, Path)):
        return _load_tokenizer(str(tokenizer))
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return SubwordTokenizer(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, tokenizers.Tokenizer):
        return _of_transformers(tokenizer, backend)
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    raise TypeError(
        "Expected a tokenizer name, a path, a tokenizers.Tokenizer, a fast Transformers tokenizer or an object with "
        f"{', '.join(Tokenizer.__annotations__)} and encode_batch, got {type(tokenizer).__name__}"
    )


def decode(tokenizer: Tokenizer, token_ids: Iterable[int]) -> str:
    """The text of a response: its pieces joined, an incomplete UTF-8 sequence at the end held back.

    Args:
        tokenizer: Whose ids they are.
        token_ids: The response's tokens.

    Returns:
        The text as a continuation of what stands before it: a leading space stays. Invalid bytes become U+FFFD.
    """
    pieces = tokenizer.pieces
    return decode_bytes(b"".join([pieces[token] for token in token_ids]))


def decode_bytes(data: bytes) -> str:
    """UTF-8 to text; invalid bytes become U+FFFD, and an incomplete sequence at the end is held back.

    Args:
        data: The bytes so far.

    Returns:
        The text that no later byte can change.
    """
    return codecs.utf_8_decode(data, "replace", False)[0]


def fingerprint(tokenizer: Tokenizer) -> str:
    """What two tokenizers have in common exactly when an id means the same to both.

    Args:
        tokenizer: Any tokenizer.

    Returns:
        A hash of the pieces and the special ids.
    """
    digest = sha256()
    for piece in tokenizer.pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    special = (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    digest.update(repr(special).encode())
    return digest.hexdigest()


@lru_cache(maxsize=32)
def _load_tokenizer(name: str) -> Tokenizer:
    if name in BUNDLED:
        return SubwordTokenizer(tokenizers.Tokenizer.from_file(str(BUNDLED[name])))
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"Expected a bundled tokenizer ({', '.join(map(repr, BUNDLED))}), a tokenizer.json or a folder that holds "
            f"one, got {name!r}: there is no file {str(file)!r}"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises bare Exception
        raise ValueError(f"Expected {str(file)!r} to be a tokenizer.json, but it could not be read: {error}") from error
    return SubwordTokenizer(backend, **_named_special_tokens(file.parent))


def _named_special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that the files beside a tokenizer.json name."""
    named: dict[str, str] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if not file.is_file():
            continue
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Expected {str(file)!r} to hold JSON, but it could not be read: {error}") from error
        for role in ("eos_token", "bos_token", "pad_token"):
            token = config.get(role)
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                named[role] = token
    return named


def _of_transformers(tokenizer: Any, backend: tokenizers.Tokenizer) -> SubwordTokenizer:
    return SubwordTokenizer(
        backend, eos_token=tokenizer.eos_token, bos_token=tokenizer.bos_token, pad_token=tokenizer.pad_token
    )


def _pieces(backend: tokenizers.Tokenizer, vocab_size: int) -> tuple[bytes, ...]:
    settings = json.loads(backend.to_str())
    added = {token["id"]: token for token in settings["added_tokens"]}
    decoder_names = {part["type"] for part in _parts(settings["decoder"])}
    pieces = [b""] * vocab_size
    plain: list[int] = []
    for token in range(vocab_size):
        text = backend.id_to_token(token)
        if text is None:  # a hole in the vocabulary: legal as an action, prints nothing
            continue
        if token in added:
            pieces[token] = b"" if added[token]["special"] else text.encode()
        elif "ByteLevel" in decoder_names:
            pieces[token] = bytes(_BYTE_OF_CHAR[char] for char in text) if set(text) <= _BYTE_CHARS else text.encode()
        elif "ByteFallback" in decoder_names and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            pieces[token] = bytes([int(text[3:5], 16)])
        else:
            plain.append(token)
    if plain:
        # Any other decoder works token by token once a text has begun: decode behind an anchor, and cut it off.
        anchor = next((token for token in plain if (backend.decode([token]) or " ").strip().isalnum()), plain[0])
        before = backend.decode([anchor])
        for token, text in zip(plain, backend.decode_batch([[anchor, token] for token in plain]), strict=True):
            pieces[token] = text[len(before) :].encode()
    return tuple(pieces)


def _parts(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [part for inner in decoder["decoders"] for part in _parts(inner)]
    return [decoder]


def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable alphabet for bytes (Radford et al. 2019): printable Latin-1 as it is, the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(256 + offset): byte for offset, byte in enumerate(rest)})
    return table


_BYTE_OF_CHAR = _byte_of_char()
_BYTE_CHARS = frozenset(_BYTE_OF_CHAR)
