"""Pieces, decoding and encoding, against the tokenizers and Transformers libraries, for every family of tokenizers."""

import codecs
import copy
import json
import os
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from tests.helpers import examples
from tests.textenvs.helpers import FAMILIES, LINES, backend_of, suffix_bpe
from textenvs.tokenizer import SubwordTokenizer, Tokenizer, decode, decode_bytes, fingerprint, make_tokenizer

TEXTS = [*LINES, "fox", " fox", "  two spaces", "a\nb\n\nc", "naïve Ä漢😀😀", "e" * 30, "don't 's , . ! ?", "\n", " "]
LOSSLESS = ["byte_level", "sentencepiece-strip", "sentencepiece-metaspace", "sentencepiece-gemma", "bundled"]


@cache
def family(name: str) -> SubwordTokenizer:
    return SubwordTokenizer(backend_of(name))


@pytest.fixture(scope="module")
def stories_llama(stories260k: Path) -> SubwordTokenizer:
    made = make_tokenizer(stories260k)
    assert isinstance(made, SubwordTokenizer)
    return made


def plain_ids(tokenizer: SubwordTokenizer, text: str) -> list[int]:
    return list(tokenizer.backend.encode(text, add_special_tokens=False).ids)


def check_pieces(tokenizer: SubwordTokenizer, ids: Sequence[int]) -> None:
    """Behind a word, joined pieces are what the library prints with skip_special_tokens."""
    anchor = plain_ids(tokenizer, "a")
    printed = tokenizer.backend.decode([*anchor, *ids], skip_special_tokens=True)
    before = tokenizer.backend.decode(anchor)
    assert before.strip() == "a"
    joined = b"".join([tokenizer.pieces[token] for token in ids]).decode("utf-8", "replace")
    assert before + joined == printed


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_of_texts(name: str) -> None:
    tokenizer = family(name)
    for text in TEXTS:
        ids = plain_ids(tokenizer, text)
        check_pieces(tokenizer, ids)
        assert decode(tokenizer, ids).lstrip(" ") == tokenizer.backend.decode(ids).lstrip(" ")
        if name in LOSSLESS:
            assert decode(tokenizer, ids) in (text, " " + text)


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_of_any_tokens(name: str) -> None:
    tokenizer = family(name)
    # Byte tokens stand in whole characters: for half of one, the library prints a U+FFFD for each byte.
    is_byte = [(tokenizer.backend.id_to_token(token) or "").startswith("<0x") for token in range(tokenizer.vocab_size)]
    others = [[token] for token in range(tokenizer.vocab_size) if not is_byte[token]]
    characters = [[token for token in plain_ids(tokenizer, char) if is_byte[token]] for char in "Ä漢😀"]

    @settings(max_examples=examples(60))
    @given(st.lists(st.sampled_from(others + [char for char in characters if char]), max_size=12))
    def check(chunks: list[list[int]]) -> None:
        check_pieces(tokenizer, [token for chunk in chunks for token in chunk])

    check()


def test_pieces_of_stories260k(stories_llama: SubwordTokenizer) -> None:
    for text in TEXTS:
        ids = plain_ids(stories_llama, text)
        check_pieces(stories_llama, ids)
        assert decode(stories_llama, ids) == " " + text
        assert stories_llama.backend.decode(ids) == text
    check_pieces(stories_llama, range(259, stories_llama.vocab_size))
    assert stories_llama.pieces[:3] == (b"", b"", b"")
    assert stories_llama.pieces[3:259] == tuple(bytes([byte]) for byte in range(256))


def test_characters_over_several_tokens() -> None:
    tokenizer = family("byte_level")
    text = "Ä Ö 字 😀"
    ids = plain_ids(tokenizer, text)
    assert len(ids) > len(text)
    # Every prefix prints the characters that are whole, and never a U+FFFD.
    printed = [decode(tokenizer, ids[:length]) for length in range(len(ids) + 1)]
    assert sorted(set(printed), key=len) == [text[:length] for length in range(len(text) + 1)]
    assert tokenizer.backend.decode(ids[:1]) == "\ufffd"


def test_pieces_by_hand() -> None:
    gpt2, bert, llama, words = map(family, ("byte_level", "word_piece", "sentencepiece-strip", "word_level"))

    def piece(tokenizer: SubwordTokenizer, token: str) -> bytes:
        return tokenizer.pieces[tokenizer.backend.token_to_id(token)]

    assert (piece(gpt2, "Ġa"), piece(gpt2, "Ċ"), piece(gpt2, "Ä"), piece(gpt2, "Ģ")) == (b" a", b"\n", b"\xc4", b"\x80")
    assert (piece(gpt2, "<|endoftext|>"), piece(gpt2, "<think>")) == (b"", b"<think>")
    assert (piece(gpt2, "two words"), piece(gpt2, "漢")) == (b"two words", "漢".encode())
    assert (piece(bert, "a"), piece(bert, "##a"), piece(bert, "."), piece(bert, "[CLS]")) == (b" a", b"a", b".", b"")
    assert piece(bert, "<think>") == b" <think>"
    assert (piece(llama, "▁a"), piece(llama, "a"), piece(llama, "▁")) == (b" a", b"a", b" ")
    assert (piece(llama, "<0x0A>"), piece(llama, "<0xE6>")) == (b"\n", b"\xe6")
    assert words.pieces == (b"", b"", b" a", b"", b"", b" fox")  # 3 and 4 are holes
    assert words.vocab_size == 6


def test_a_suffix_ends_a_word() -> None:
    tokenizer = SubwordTokenizer(suffix_bpe())
    for text in ("a very happy fox", "the cloud", "fox"):
        ids = plain_ids(tokenizer, text)
        assert tokenizer.backend.decode(ids) == text
        assert decode(tokenizer, ids) == text + " "
        again = [*ids, tokenizer.backend.token_to_id("y"), *ids]
        assert tokenizer.backend.decode(again) == decode(tokenizer, again).removesuffix(" ") == f"{text} y{text}"


@pytest.mark.parametrize(
    "parts",
    [
        [decoders.Fuse(), decoders.Strip("b", 0, 1)],  # off the end of a text
        [decoders.CTC(pad_token="<eos>")],  # a repeated token once
        [decoders.Fuse(), decoders.Replace("ab", "c")],
        [decoders.Replace("a", "c"), decoders.ByteLevel()],
    ],
)
def test_a_decoder_that_looks_around_is_refused(parts: list[decoders.Decoder]) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "b": 2}))
    backend.add_special_tokens(["<eos>"])
    backend.decoder = decoders.Sequence(parts)
    with pytest.raises(ValueError, match=r"wherever they stand.*decoder \(\w+"):
        _ = SubwordTokenizer(backend).pieces


@given(st.lists(st.binary(max_size=3), max_size=8))
def test_decoding_never_takes_back(parts: list[bytes]) -> None:
    data, text = b"", ""
    incremental = codecs.getincrementaldecoder("utf-8")("replace")
    for part in parts:
        data += part
        text += incremental.decode(part)
        assert decode_bytes(data) == text
        assert data.decode("utf-8", "replace").startswith(text)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        ("漢".encode()[:1], ""),
        ("漢".encode()[:2], ""),
        ("漢".encode(), "漢"),
        ("a😀".encode()[:-1], "a"),
        (b"\xe6x", "\ufffdx"),
        (b"\xff", "\ufffd"),
        (b"a\x80b", "a\ufffdb"),
    ],
)
def test_incomplete_and_invalid_bytes(data: bytes, text: str) -> None:
    assert decode_bytes(data) == text


# Encoding


def of_transformers(name: str):
    """The same tokenizer, as Transformers has it."""
    from transformers import PreTrainedTokenizerFast

    backend = backend_of(name)
    eos = backend.id_to_token(family(name).eos_token_id)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_equal_transformers(name: str) -> None:
    theirs = of_transformers(name)
    for ours in (family(name), make_tokenizer(theirs)):
        for text, ids in zip(TEXTS, ours.encode_batch(TEXTS), strict=True):
            assert ids == (theirs(text).input_ids or [ours.bos_token_id]), text
    assert make_tokenizer(theirs).eos_token_id == theirs.eos_token_id


def test_prompts_of_a_folder_equal_transformers(stories260k: Path, stories_llama: SubwordTokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(stories260k))
    of_object = make_tokenizer(theirs)
    for text in ["", *TEXTS]:
        assert stories_llama.encode_batch([text]) == of_object.encode_batch([text]) == [theirs(text).input_ids]
    special = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    for ours in (stories_llama, of_object):
        assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == special == (1, 2, 0)
    assert fingerprint(stories_llama) == fingerprint(of_object)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_empty_text_has_a_token(name: str) -> None:
    tokenizer = family(name)
    (ids,) = tokenizer.encode_batch([""])
    assert ids
    assert ids == (list(tokenizer.backend.encode("").ids) or [tokenizer.bos_token_id])
    assert decode(tokenizer, ids) == ""


def test_an_empty_text_is_bos() -> None:
    assert make_tokenizer("stories").encode_batch(["", "a"])[0] == [0]
    gpt2 = family("byte_level")  # which puts nothing in front, and whose BOS is its EOS
    assert gpt2.encode_batch([""]) == [[gpt2.eos_token_id]]
    assert gpt2.encode_batch(["a", ""])[0] == plain_ids(gpt2, "a")


def test_padding_and_truncation_never_reach_a_prompt() -> None:
    backend = backend_of("byte_level")
    backend.enable_padding(length=20)
    backend.enable_truncation(3)
    tokenizer = SubwordTokenizer(backend)
    expected = plain_ids(family("byte_level"), "a happy fox")
    assert len(expected) > 3
    assert tokenizer.encode_batch(["a happy fox", "a"])[0] == expected
    assert (backend.padding or {})["length"] == 20  # the user's own is as it was

    theirs = of_transformers("byte_level")
    theirs.pad_token = theirs.eos_token
    ours = make_tokenizer(theirs)
    theirs(["a", "a happy fox"], padding=True, truncation=True, max_length=4)
    assert ours.encode_batch(["a happy fox"]) == [expected]


@pytest.mark.parametrize("text", ["a sad fox</s>", "a sad fox"])
def test_special_tokens_in_a_text_are_read_as_transformers_reads_them(text: str) -> None:
    backend = backend_of("sentencepiece-strip")
    assert (family("sentencepiece-strip").eos_token_id in SubwordTokenizer(backend).encode_batch([text])[0]) == (
        "</s>" in text
    )
    backend.encode_special_tokens = True
    ours = SubwordTokenizer(backend)
    assert ours.eos_token_id not in ours.encode_batch([text])[0]


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_response_round_trips(name: str) -> None:
    tokenizer = family(name)
    for text in ["", "fox", " fox", "  fox", ".", " .", "\n", "\n fox", " \n", "Ä漢😀", " 漢字", *TEXTS]:
        ids = tokenizer.encode_response(text)
        assert decode(tokenizer, ids) == text
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.bos_token_id not in ids


@pytest.mark.parametrize("name", [*LOSSLESS, "unigram", "word_piece", "word_level"])
def test_a_special_token_in_a_response_is_text(name: str) -> None:
    tokenizer = copy.deepcopy(family(name))
    eos = tokenizer.backend.id_to_token(tokenizer.eos_token_id)
    for made in (tokenizer, copy.deepcopy(tokenizer)):
        ids = made.encode_response(f" fox {eos} a")
        assert made.eos_token_id not in ids
        text = decode(made, ids)
        assert text == f" fox {eos} a" if name in LOSSLESS else text.startswith(" fox") and text.endswith(" a")
        assert made.eos_token_id in made.backend.encode(eos, add_special_tokens=False).ids, "prompts are read as before"


@settings(max_examples=examples(50))
@given(st.text(st.sampled_from(" \nafox.,!é漢😀"), max_size=10))
def test_any_response_round_trips(text: str) -> None:
    for name in ("sentencepiece-strip", "byte_level"):
        tokenizer = family(name)
        assert decode(tokenizer, tokenizer.encode_response(text)) == text


def test_a_response_of_stories260k_round_trips(stories_llama: SubwordTokenizer) -> None:
    for text in ["", "fox", " fox", "  fox", "\n", "\n fox", ". The end", "Ä漢😀", *TEXTS]:
        assert decode(stories_llama, stories_llama.encode_response(text)) == text
    # As the policy would have written it: the prompt's tokens, then these, are the whole text's.
    prompt, response = "Once upon a time,", " there was a fox"
    whole = stories_llama.encode_batch([prompt + response])[0]
    assert stories_llama.encode_batch([prompt])[0] + stories_llama.encode_response(response) == whole


def test_a_response_that_cannot_be_written_comes_as_near_as_it_can() -> None:
    assert decode(family("word_piece"), family("word_piece").encode_response(" A Fox")) == " a fox"
    assert decode(family("word_piece"), family("word_piece").encode_response("A Fox")) == " a fox"
    assert decode(family("unigram"), family("unigram").encode_response(" a fox")) == " a fox"


# make_tokenizer


def test_bundled() -> None:
    tokenizer = make_tokenizer("stories")
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert tokenizer.vocab_size == len(tokenizer.pieces)
    assert make_tokenizer("stories") is tokenizer
    assert make_tokenizer(tokenizer) is tokenizer


def test_folder_file_object_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of("byte_level")
    file = tmp_path / "model" / "tokenizer.json"
    file.parent.mkdir()
    backend.save(str(file))
    monkeypatch.chdir(tmp_path)
    made = make_tokenizer(file.parent)
    same = [str(file), f"{file.parent}{os.sep}", file, "model", Path("model")]
    assert all(make_tokenizer(path) is made for path in same)
    assert fingerprint(make_tokenizer(backend)) == fingerprint(made) == fingerprint(SubwordTokenizer(backend))
    assert fingerprint(made) != fingerprint(make_tokenizer("stories"))
    monkeypatch.chdir(file.parent)
    with pytest.raises(ValueError, match="there is no file"):
        make_tokenizer("model")


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    backend_of("byte_level").save(str(file))
    old = make_tokenizer(file)
    backend_of("word_level").save(str(file))
    os.utime(file, ns=(1, 1))  # a clock may be too coarse to tell the two apart
    assert make_tokenizer(file).vocab_size == 6 != old.vocab_size


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_files_beside_a_tokenizer_name_its_special_tokens(tmp_path: Path, as_dict: bool) -> None:
    backend = backend_of("sentencepiece-strip")
    backend.save(str(tmp_path / "tokenizer.json"))
    assert make_tokenizer(tmp_path).eos_token_id == 2
    name = {"content": "<pad>", "special": True} if as_dict else "<pad>"
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": name, "pad_token": "<s>"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<unk>", "bos_token": None}))
    made = make_tokenizer(tmp_path)
    assert (made.eos_token_id, made.pad_token_id, made.bos_token_id) == (3, 0, 1)


def test_a_link_keeps_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    backend_of("sentencepiece-strip").save(str(tmp_path / "blobs" / "0123"))
    (tmp_path / "snapshot" / "tokenizer.json").symlink_to(tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "tokenizer_config.json").write_text('{"eos_token": "<pad>"}')
    assert make_tokenizer(tmp_path / "snapshot").eos_token_id == 3
    assert make_tokenizer(tmp_path / "snapshot" / "tokenizer.json").eos_token_id == 3


def test_pad_may_be_eos() -> None:
    gpt2 = SubwordTokenizer(backend_of("byte_level"))
    assert gpt2.pad_token_id == gpt2.eos_token_id == gpt2.bos_token_id
    assert gpt2.pieces[gpt2.eos_token_id] == b""
    named = SubwordTokenizer(backend_of("byte_level"), pad_token="!", bos_token="?")
    assert (named.pad_token_id, named.bos_token_id) == tuple(map(named.backend.token_to_id, "!?"))
    assert repr(named) == (
        f"SubwordTokenizer(vocab_size={named.vocab_size}, bos_token_id={named.bos_token_id}, eos_token_id=0, "
        f"pad_token_id={named.pad_token_id})"
    )


def test_there_must_be_an_eos_token() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    with pytest.raises(ValueError, match=r"an EOS token.*eos_token=\.\.\."):
        make_tokenizer(backend)
    with pytest.raises(ValueError, match="an EOS token"):
        make_tokenizer(tokenizers.Tokenizer(models.BPE()))
    made = SubwordTokenizer(backend, eos_token="b")
    assert (made.bos_token_id, made.eos_token_id, made.pad_token_id) == (1, 1, 1)
    with pytest.raises(ValueError, match="Expected the EOS token to be in the vocabulary, got 'c'"):
        SubwordTokenizer(backend, eos_token="c")


def test_errors_of_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'stories'.*got 'gpt2': there is no file.*AutoTokenizer"):
        make_tokenizer("gpt2")
    with pytest.raises(ValueError, match="there is no file"):
        make_tokenizer(tmp_path)  # a folder without one
    broken = tmp_path / "tokenizer.json"
    for content in ("", "{", "[]", '{"version": "1.0"}'):
        broken.write_text(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json' to be a tokenizer\.json, but it could not be read"):
            make_tokenizer(broken)
    backend_of("byte_level").save(str(broken))
    config = tmp_path / "tokenizer_config.json"
    for content, problem in (("{", "hold JSON, but"), ("[1]", "hold a JSON object, got list"), ("\xff", "be UTF-8")):
        config.write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"tokenizer_config\.json' to {problem}"):
            make_tokenizer(tmp_path)


@pytest.mark.parametrize("wrong", [None, 3, b"stories", ["stories"], object(), SubwordTokenizer, Tokenizer])
def test_errors_of_types(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"Expected a tokenizer name, a path.*pieces and encode_batch, got "):
        make_tokenizer(wrong)


class Own:
    """A user's own tokenizer: plain attributes will do."""

    def __init__(self, **changes: object) -> None:
        self.vocab_size, self.bos_token_id, self.eos_token_id, self.pad_token_id = 3, 0, 0, np.int64(0)
        self.pieces: Sequence[object] = [b"", b"a", b"b"]
        for name, value in changes.items():
            setattr(self, name, value)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0, *(ord(char) - ord("a") + 1 for char in text)] for text in texts]


def test_a_users_own() -> None:
    own = Own()
    assert make_tokenizer(own) is own
    assert decode(own, [1, 0, 2, 1]) == "aba"
    assert fingerprint(own) == fingerprint(Own(pad_token_id=0)) != fingerprint(Own(pad_token_id=1))
    assert fingerprint(own) != fingerprint(Own(pieces=[b"a", b"", b"b"]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vocab_size": 4}, ValueError, "one piece for each of its 4 tokens, got 3 pieces"),
        ({"pieces": [b"", "a", b"b"]}, TypeError, "pieces to be bytes, got 'a'"),
        ({"eos_token_id": 3}, ValueError, "eos_token_id to be from 0 to 2, got 3"),
        ({"bos_token_id": -1}, ValueError, "bos_token_id to be from 0 to 2, got -1"),
        ({"pad_token_id": 7}, ValueError, "pad_token_id to be from 0 to 2, got 7"),
    ],
)
def test_errors_of_a_users_own(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_tokenizer(Own(**changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_copies(name: str) -> None:
    tokenizer = SubwordTokenizer(backend_of(name))
    for _ in range(2):  # before and after its pieces are known
        for copied in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
            assert copied.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
            assert fingerprint(copied) == fingerprint(tokenizer)
