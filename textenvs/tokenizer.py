"""Tokenizers: they turn text into the ids that are actions, and know the bytes that each id adds to a text.

The environment never decodes a whole response twice. It needs one fact about every token, the bytes it appends to a
text that has begun (its *piece*), and joins pieces. That holds for byte-level BPE (GPT-2, Qwen, Llama 3), for BPE and
Unigram with the SentencePiece alphabet (Llama 2, Mistral, Gemma, T5), for WordPiece (BERT) and for BPE with a suffix at
the end of a word (GPT). A tokenizer for which it does not hold is refused.
"""

from __future__ import annotations

import codecs
import copy
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tokenizers
from numpy.typing import NDArray

from textenvs.arguments import check_path
from textenvs.chat_template import TEMPLATE_FILE, as_template, find_chat_template, render_chat
from textenvs.files import read_json, read_text

DATA_FOLDER = Path(__file__).parent / "data"
BUNDLED = {"stories": DATA_FOLDER / "stories_tokenizer.json"}
"""The tokenizers that come with the package: their files, by name."""

# Well-known names of EOS, BOS and PAD, for files that do not name the roles of their special tokens.
_EOS_NAMES = ("<eos>", "</s>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "[EOS]", "[SEP]")
_BOS_NAMES = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "[CLS]")
_MOST_TOKENS = 1 << 24
"""Ids from which on a tokenizer is taken for a mistake: every table over the vocabulary has this many rows."""

_PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a tokenizer that an environment needs. Any object with these attributes will do."""

    @property
    def vocab_size(self) -> int:
        """The number of actions: one more than the largest token id."""

    @property
    def bos_token_id(self) -> int:
        """The token that starts a text, and the whole prompt where the text is empty."""

    @property
    def eos_token_id(self) -> int:
        """The action that ends a response."""

    @property
    def pad_token_id(self) -> int:
        """The token that fills the observation behind the text. It may equal EOS: masks tell them apart."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """`pieces[i]` is the UTF-8 that token `i` adds to a text that has begun. Special tokens add nothing."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns token ids of each text, with the tokens that models expect in front of a prompt (often BOS).

        No list is empty.
        """


class SubwordTokenizer:
    """A `tokenizers.Tokenizer` (the Rust library behind Transformers' fast tokenizers), seen as a `Tokenizer`.

    Args:
        backend: The tokenizer itself. It is copied, so that padding or truncation, which Transformers switches on and
            off in the object that its users share, never changes a prompt here.
        eos_token: The text of the token that ends a response. None looks for a well-known name.
        bos_token: The text of the token that starts a text. None looks for a well-known name, then takes EOS.
        pad_token: The text of the token that pads. None looks for a well-known name, then takes EOS.
        chat_template: The Jinja template of an instruct model's conversations; None for other models.
        special_tokens: The special tokens that the chat template reads, by role (`bos_token`, ...); None: those of
            EOS, BOS and PAD that were named or found.

    Raises:
        ValueError: If there is no EOS token, or a named token is not in the vocabulary.

    Attributes:
        backend: The copy, without padding and truncation.
        end_token_ids: The tokens that end a response, EOS first. A model may have others beside it, see `ending_with`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str | None = None,
        bos_token: str | None = None,
        pad_token: str | None = None,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.chat_template = chat_template
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values(), default=-1) + 1
        if self.vocab_size > _MOST_TOKENS:  # before the copy, which counts all ids up to the last
            raise ValueError(f"Expected a tokenizer with ids below {_MOST_TOKENS:,}, got {self.vocab_size - 1:,}")
        self.backend: tokenizers.Tokenizer = copy.deepcopy(backend)
        self.backend.encode_special_tokens = backend.encode_special_tokens  # a copy forgets this setting
        self.backend.no_padding()
        self.backend.no_truncation()

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
        self.end_token_ids: tuple[int, ...] = (eos,)
        if special_tokens is None:
            found = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
            special_tokens = {
                role: str(backend.id_to_token(token)) for role, token in found.items() if token is not None
            }
        self.special_tokens: dict[str, str] = dict(special_tokens)
        self._with_ends: dict[tuple[int, ...], SubwordTokenizer] = {}

    def ending_with(self, token_ids: Iterable[int]) -> SubwordTokenizer:
        """Returns this tokenizer with further tokens that end a response, as the end of a chat model's turn does.

        Args:
            token_ids: The tokens; ids that the vocabulary does not have are left out.

        Returns:
            This tokenizer, where they end a response already; otherwise one that shares all its tables, and is the
            same one for the same tokens.
        """
        more = {int(token) for token in token_ids if 0 <= token < self.vocab_size} - set(self.end_token_ids)
        if not more:
            return self
        ends = (*self.end_token_ids, *sorted(more))
        if ends not in self._with_ends:
            _ = self.pieces  # computed once for both
            other = copy.copy(self)
            other.end_token_ids, other._with_ends = ends, {}
            self._with_ends[ends] = other
        return self._with_ends[ends]

    @cached_property
    def special_names(self) -> tuple[str, ...]:
        """The texts of the special tokens, which print nothing."""
        added = self.backend.get_added_tokens_decoder()
        return tuple(entry.content for token, entry in sorted(added.items()) if entry.special)

    def special_token_id(self, text: str) -> int | None:
        """Returns the special token that a text names ("<|im_end|>"), or None: such a token prints nothing."""
        token: int | None = self.backend.token_to_id(text)
        return None if token is None or self.pieces[token] else token

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes that each token adds to a text that has begun: `vocab_size` of them, empty for special tokens.

        Raises:
            ValueError: If a token's bytes depend on the tokens around it.
        """
        return _pieces(self.backend, self.vocab_size)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes prompts, with the special tokens that the model was trained with, as Transformers does.

        Args:
            texts: The prompts.

        Returns:
            One list of ids for each text, never empty: an empty text is BOS alone.
        """
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=True)
        return [list(encoding.ids) or [self.bos_token_id] for encoding in encodings]

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Encodes a conversation, as the chat template writes it.

        Args:
            messages: `{"role": "user" | "assistant" | "system", "content": text}` each.
            add_generation_prompt: If True, the ids end where the assistant is to speak.
            variables: Further variables of the template, as `textenvs.chat_template.render_chat` takes them.

        Returns:
            The ids, with the special tokens of the template and no others.

        Raises:
            ValueError: If there is no chat template, or it refuses the conversation.
        """
        text = self.write_chat(messages, add_generation_prompt=add_generation_prompt, variables=variables)
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def write_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Writes a conversation by the chat template; arguments and errors as in `encode_chat`."""
        if self.chat_template is None:
            raise ValueError(f"Expected a tokenizer with a chat template, got {self!r}, which has none")
        return render_chat(
            self.chat_template,
            messages,
            add_generation_prompt=add_generation_prompt,
            special_tokens=self.special_tokens,
            variables=variables,
        )

    def encode_response(self, text: str) -> list[int]:
        """Encodes a text that continues another, without special tokens, as a policy would have written it.

        A special token's name in the text ("</s>") is text like any other, and left out if the tokenizer has no other
        way to write it: EOS is never among the ids.

        Args:
            text: The continuation, its leading space included.

        Returns:
            The ids. `decode` gives the text again, unless the tokenizer cannot write it (BERT's lower case, say).
        """
        first: list[int] | None = None
        for ids in self._continuations(text):
            first = ids if first is None else first
            if _leading_spaces(decode(self, ids)) == _leading_spaces(text):
                return ids
        return first or []

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        """A copy of the backend that reads no special tokens in texts."""
        return copy.deepcopy(self.backend)

    def _continuations(self, text: str) -> Iterator[list[int]]:
        """Yields ways to write a text, the plain one first. Some tokenizers put a space in front, which must go."""
        plain = self._plain_backend
        plain.encode_special_tokens = True  # set at each use, since copies of this object forget it

        def encode(part: str) -> list[int]:
            ids = plain.encode(part, add_special_tokens=False).ids
            return [token for token in ids if token != self.eos_token_id]  # in some vocabularies, EOS is also a word

        yield encode(text)
        # No merge crosses a newline or a full stop: behind one, the text is encoded without the space, and cut off.
        for anchor in ("\n", "."):
            before, both = encode(anchor), encode(anchor + text)
            if both[: len(before)] == before:
                yield both[len(before) :]

    def __repr__(self) -> str:
        """Shows the vocabulary's size and the special ids."""
        return (
            f"SubwordTokenizer(vocab_size={self.vocab_size}, bos_token_id={self.bos_token_id}, "
            f"eos_token_id={self.eos_token_id}, pad_token_id={self.pad_token_id})"
        )


def make_tokenizer(tokenizer: Any) -> Tokenizer:
    """Makes a `Tokenizer` from a name, a file or another library's tokenizer.

    Args:
        tokenizer: A bundled name (`"stories"`), `{"symbols": "abc"}` (see `symbol_tokenizer`), the path of a
            `tokenizer.json` or of a folder with one, a `tokenizers.Tokenizer`, a fast Transformers tokenizer, or
            anything that fits the `Tokenizer` protocol.

    Returns:
        The tokenizer. The same name or path gives the same object while the file stays as it is, so that environments
        share its tables.

    Raises:
        ValueError: If there is no such name or file, there is no EOS token, or sizes and ids do not fit each other.
        TypeError: If it is of another type, or a slow Transformers tokenizer.
    """
    if isinstance(tokenizer, (str, os.PathLike)):
        return _from_file(tokenizer)
    if isinstance(tokenizer, Mapping) and set(tokenizer) == {"symbols"}:
        return symbol_tokenizer(tokenizer["symbols"])
    if isinstance(tokenizer, SubwordTokenizer):
        return tokenizer
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return SubwordTokenizer(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, tokenizers.Tokenizer):
        return _from_transformers(tokenizer, backend)
    if isinstance(tokenizer, Tokenizer) and not isinstance(tokenizer, type):
        _check_protocol(tokenizer)
        return tokenizer
    raise TypeError(
        "Expected a tokenizer name, a path, a tokenizers.Tokenizer, a fast Transformers tokenizer or an object with "
        "vocab_size, bos_token_id, eos_token_id, pad_token_id, pieces and encode_batch, got "
        f"{type(tokenizer).__name__}"
    )


def symbol_tokenizer(symbols: str) -> SubwordTokenizer:
    """Makes a tokenizer with EOS, id 0, and one token for each of a few characters, for diagnostic tasks.

    It puts nothing in front of a prompt, EOS also begins texts and pads, and it leaves out characters that it cannot
    write.

    Args:
        symbols: The characters, in the order of their ids from 1.

    Returns:
        The tokenizer; the same one for the same symbols.

    Raises:
        ValueError: If there is no symbol, or one comes twice.
        TypeError: If `symbols` is not a string.

    Example:
        >>> tokenizer = symbol_tokenizer("abc")
        >>> tokenizer.vocab_size, tokenizer.encode_response("cab!")
        (4, [3, 1, 2])
    """
    if not isinstance(symbols, str):
        raise TypeError(f"Expected symbols as a string, got {symbols!r}")
    if not symbols or len(set(symbols)) < len(symbols):
        raise ValueError(f"Expected symbols to be different characters, at least one of them, got {symbols!r}")
    return _symbol_tokenizer(symbols)


@lru_cache(maxsize=64)
def _symbol_tokenizer(symbols: str) -> SubwordTokenizer:
    vocabulary = {token: number for number, token in enumerate(("<eos>", *symbols))}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))  # without merges: a character a token
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(["<eos>"])
    return SubwordTokenizer(backend)


def decode(tokenizer: Tokenizer, token_ids: Iterable[int]) -> str:
    """Decodes a response: joins its pieces, and holds back an incomplete UTF-8 sequence at the end.

    Args:
        tokenizer: The tokenizer of the ids.
        token_ids: The response's tokens.

    Returns:
        The text as a continuation of the text before it: a leading space stays. Invalid bytes become U+FFFD.
    """
    pieces = tokenizer.pieces
    return decode_bytes(b"".join([pieces[token] for token in token_ids]))


def decode_batch(pieces: NDArray[Any], token_ids: NDArray[Any], mask: NDArray[np.bool_]) -> list[str]:
    """Decodes many rows of tokens at once, each as `decode` does.

    Args:
        pieces: `(vocab_size,)` of objects, a tokenizer's pieces.
        token_ids: `(batch, time)` ids.
        mask: `(batch, time)` bool, True for the tokens that count.

    Returns:
        `batch` texts.
    """
    data: list[bytes] = pieces[token_ids[mask]].tolist()
    ends = np.cumsum(np.count_nonzero(mask, axis=1)).tolist()
    return [decode_bytes(b"".join(data[begin:end])) for begin, end in zip([0, *ends], ends, strict=False)]


def decode_prompt(tokenizer: Tokenizer, token_ids: Iterable[int]) -> str:
    """Decodes a prompt, without the space that SentencePiece puts in front of a text.

    Args:
        tokenizer: The tokenizer of the ids.
        token_ids: The prompt's tokens.

    Returns:
        The text. Invalid and cut bytes become U+FFFD.
    """
    pieces = tokenizer.pieces
    return b"".join([pieces[token] for token in token_ids]).decode("utf-8", "replace").removeprefix(" ")


def decode_tokens(tokenizer: Tokenizer, token_ids: Iterable[int]) -> list[str]:
    """Decodes each token of a response by itself. A split character shows with the token that completes it.

    Args:
        tokenizer: The tokenizer of the ids.
        token_ids: The response's tokens.

    Returns:
        One string for each token, empty for special tokens.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = tokenizer.pieces
    return [decoder.decode(pieces[token]) for token in token_ids]


def decode_bytes(data: bytes) -> str:
    """Decodes UTF-8; invalid bytes become U+FFFD, and an incomplete sequence at the end is held back.

    Args:
        data: The bytes so far.

    Returns:
        The text that no later byte can change.
    """
    return codecs.utf_8_decode(data, "replace", False)[0]


def _leading_spaces(text: str) -> int:
    return len(text) - len(text.lstrip(" "))


def fingerprint(tokenizer: Tokenizer) -> str:
    """Hashes a tokenizer's vocabulary: two have the same fingerprint exactly when each id means the same to both.

    It says nothing about encoding: two tokenizers with one vocabulary may still cut a text, or start it, differently.

    Args:
        tokenizer: Any tokenizer.

    Returns:
        A hash of the pieces and the special ids.
    """
    digest = sha256()
    for piece in tokenizer.pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    special = (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    digest.update(repr([int(number) for number in special]).encode())
    return digest.hexdigest()


def is_panic(error: BaseException) -> bool:
    """Returns True for the error of a bug in a library written in Rust, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


_GENERATION_CONFIG = "generation_config.json"
_CONFIG_NAMES = ("special_tokens_map.json", "tokenizer_config.json")  # where both name a token, the later wins


def _from_file(name: str | os.PathLike[str]) -> Tokenizer:
    if isinstance(name, str) and name in BUNDLED:
        file = BUNDLED[name]
    else:
        # Not resolved: the Hub's cache holds links, each alone in its folder.
        path = check_path("tokenizer", name).expanduser().absolute()
        file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"Expected a bundled tokenizer ({', '.join(map(repr, BUNDLED))}), a tokenizer.json or a folder that holds "
            f"one, got {str(name)!r}: there is no file {str(file)!r}. For a name on the Hugging Face Hub, pass what "
            "AutoTokenizer.from_pretrained(name) gives"
        )
    files = (file, *(file.with_name(config) for config in (*_CONFIG_NAMES, _GENERATION_CONFIG, TEMPLATE_FILE)))
    return _load_tokenizer(file, tuple(path.stat().st_mtime_ns for path in files if path.is_file()))


@lru_cache(maxsize=32)
def _load_tokenizer(file: Path, written: tuple[int, ...]) -> Tokenizer:
    """Reads a file, once for each time that it, or a file beside it, was `written`."""
    try:
        backend = tokenizers.Tokenizer.from_str(read_text(file))
    except BaseException as error:  # the Rust library raises bare Exception, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"Expected {str(file)!r} to be a tokenizer.json, but it could not be read: {error}") from error
    configs = [read_json(path) for name in _CONFIG_NAMES if (path := file.with_name(name)).is_file()]
    # Kept beside the file, which has no place for it: True reads "</s>" in a prompt as text.
    backend.encode_special_tokens = any(config.get("split_special_tokens") is True for config in configs)
    named = _named_special_tokens(configs)
    roles = {role: named[role] for role in ("eos_token", "bos_token", "pad_token") if role in named}
    tokenizer = SubwordTokenizer(
        backend, **roles, chat_template=find_chat_template(file.parent), special_tokens=named or None
    )
    _check_encodes(tokenizer, repr(str(file)))
    return tokenizer.ending_with(_generation_ends(file.parent))


def _check_encodes(tokenizer: SubwordTokenizer, name: str) -> None:
    """Raises a ValueError for a tokenizer that is read, and then cannot encode a text."""
    try:
        tokenizer.encode_batch(["a b", ""])
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"Expected a tokenizer that encodes texts in {name}, got: {error}") from error


def _named_special_tokens(configs: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Returns the special tokens that the files beside a tokenizer.json name, by role."""
    named: dict[str, str] = {}
    for config in configs:
        for role, token in config.items():
            if isinstance(token, dict):
                token = token.get("content")
            if role.endswith("_token") and isinstance(token, str):
                named[role] = token
    return named


def _generation_ends(folder: Path) -> list[int]:
    """Returns the tokens that end what a model generates, as the file beside its tokenizer.json says."""
    file = folder / _GENERATION_CONFIG
    ends = read_json(file).get("eos_token_id") if file.is_file() else None
    listed = ends if isinstance(ends, list) else [ends]
    return [end for end in listed if isinstance(end, int)]


def _from_transformers(tokenizer: Any, backend: tokenizers.Tokenizer) -> SubwordTokenizer:
    made = SubwordTokenizer(
        backend,
        eos_token=tokenizer.eos_token,
        bos_token=tokenizer.bos_token,
        pad_token=tokenizer.pad_token,
        chat_template=as_template(getattr(tokenizer, "chat_template", None)),
        special_tokens={role: str(token) for role, token in tokenizer.special_tokens_map.items()},
    )
    _check_encodes(made, repr(getattr(tokenizer, "name_or_path", "")))
    return made


def end_token_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the tokens that end a response, EOS first: those that the tokenizer lists, or EOS alone."""
    listed = getattr(tokenizer, "end_token_ids", ())
    return tuple(dict.fromkeys((tokenizer.eos_token_id, *listed)))


def _check_protocol(tokenizer: Tokenizer) -> None:
    """Raises where a user's own tokenizer would fail later, with a worse message."""
    if len(tokenizer.pieces) != tokenizer.vocab_size:
        raise ValueError(
            f"Expected a tokenizer with one piece for each of its {tokenizer.vocab_size} tokens, "
            f"got {len(tokenizer.pieces)} pieces"
        )
    wrong = next((piece for piece in tokenizer.pieces if not isinstance(piece, bytes)), None)
    if wrong is not None:
        raise TypeError(f"Expected a tokenizer's pieces to be bytes, got {wrong!r}")
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if not 0 <= getattr(tokenizer, role) < tokenizer.vocab_size:
            raise ValueError(
                f"Expected {role} to be from 0 to {tokenizer.vocab_size - 1}, got {getattr(tokenizer, role)}"
            )


def _pieces(backend: tokenizers.Tokenizer, vocab_size: int) -> tuple[bytes, ...]:
    special = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    # A decoder has no attributes for its settings; only its pickle state, which is JSON, tells them.
    decoders = _parts(None if backend.decoder is None else json.loads(backend.decoder.__getstate__()))
    pieces = [b""] * vocab_size
    plain: list[int] = []
    known: list[int] = []
    for token in range(vocab_size):
        text = backend.id_to_token(token)
        if text is None or token in special:  # None: a hole in the vocabulary, legal as an action, prints nothing
            continue
        if "ByteFallback" in decoders and (byte := _BYTE_TOKEN.fullmatch(text)):
            pieces[token] = bytes([int(byte[1], 16)])
        elif "ByteLevel" in decoders:
            pieces[token] = bytes(_BYTE_OF_CHAR[char] for char in text) if set(text) <= _BYTE_CHARS else text.encode()
            known.append(token)
        elif "BPEDecoder" in decoders:
            pieces[token] = text.replace(decoders["BPEDecoder"]["suffix"], " ").encode()
            known.append(token)
        else:
            plain.append(token)
    begun: list[int] = []
    if plain:
        # Any other decoder works token by token once a text has begun: decode behind an anchor, and cut it off.
        anchor = next((token for token in plain if backend.decode([token]).strip().isalnum()), plain[0])
        before = backend.decode([anchor])
        for token, text in zip(plain, backend.decode_batch([[anchor, token] for token in plain]), strict=True):
            pieces[token] = text[len(before) :].encode()
        begun, known = [anchor], [*plain, anchor]
    # The proof: decode all of them at once. A decoder that knows where words end drops a space at the end.
    joined = backend.decode(begun) + b"".join([pieces[token] for token in known]).decode("utf-8", "replace")
    if backend.decode(begun + known).rstrip(" ") != joined.rstrip(" "):
        raise ValueError(
            "Expected a tokenizer whose tokens each add the same text wherever they stand, but this one's decoder "
            f"({', '.join(decoders) or 'none'}) makes that depend on the tokens around them"
        )
    return tuple(pieces)


def _parts(decoder: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Returns the settings of a decoder's parts, by type."""
    if decoder is None:
        return {}
    if decoder["type"] == "Sequence":
        return {name: part for inner in decoder["decoders"] for name, part in _parts(inner).items()}
    return {decoder["type"]: decoder}


def _byte_of_char() -> dict[str, int]:
    """Makes GPT-2's printable alphabet for bytes (Radford et al. 2019): printable Latin-1, the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(256 + offset): byte for offset, byte in enumerate(rest)})
    return table


_BYTE_OF_CHAR = _byte_of_char()
_BYTE_CHARS = frozenset(_BYTE_OF_CHAR)
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
