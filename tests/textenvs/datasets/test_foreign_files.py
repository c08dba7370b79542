"""Data files that somebody else made, in whatever form: each is read, or refused in a sentence."""

import gzip
import json
import os
import socket
import time
from dataclasses import dataclass, field

import pytest

from textenvs import load_dataset, make_tokenizer
from textenvs.datasets import text_files
from textenvs.pool import PromptEncoder, build_pools
from textenvs.tokenizer import SubwordTokenizer


@pytest.fixture
def named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    return tmp_path / "pipe.jsonl"


def test_what_is_no_plain_file_is_not_waited_for(named_pipe, tmp_path):
    with pytest.raises(ValueError, match=r"pipe.jsonl': it is a named pipe"):
        load_dataset(named_pipe)
    for name in ("zero.jsonl", "zero.csv.gz"):
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(ValueError, match=rf"{name}': it is a device"):
            load_dataset(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.txt"))
        with pytest.raises(ValueError, match=r"s.txt': it is a socket"):
            load_dataset(tmp_path / "s.txt")
    with pytest.raises(ValueError, match=r"Expected a file that can be read, got .*null"):
        load_dataset({"a": "a\0.en", "b": "b.de"})
    (tmp_path / "rows.txt").write_text("a line\n")
    (tmp_path / "link.txt").symlink_to("rows.txt")
    assert load_dataset(tmp_path / "link.txt").example("train", 0).prompt == "a line"


def test_many_columns_cost_as_much_as_they_are_many(tmp_path, monkeypatch):
    columns = [f"c{number}" for number in range(50_000)]
    file = tmp_path / "wide.csv"
    file.write_text(",".join(columns) + "\n" + ",".join("x" for _ in columns) + "\n")
    began = time.perf_counter()
    assert load_dataset(file, prompt="c49999").example("train", 0).prompt == "x"
    assert time.perf_counter() - began < 5  # it took 24 s when each name was looked for among all
    file.write_text(",".join([*columns, "c7"]) + "\n")
    with pytest.raises(ValueError, match=r"name each column once, got \['c7'\] again"):
        load_dataset(file)
    monkeypatch.setattr(text_files, "MOST_COLUMNS", 3)
    file.write_text('text,b\n"a, b, c",1\n')
    assert load_dataset(file).report.rows == 1
    file.write_text("text,b,c,d,e\n")
    with pytest.raises(ValueError, match="Expected at most 3 fields, got more between ',' in line 1 of"):
        load_dataset(file)


@pytest.mark.parametrize(
    "encoding", ["rot13", "base64", "zlib", "idna", "punycode", "undefined", "unicode_escape", "cp037", "utf-16-le",
                 "no such", "a\0b", "\ud800", ""]
)  # fmt: skip
def test_what_is_no_encoding_of_lines_is_refused(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("a line\n")
    with pytest.raises(ValueError, match="Expected an encoding"):
        load_dataset(tmp_path / "a.txt", encoding=encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "gb18030", "euc_kr", "utf-8-sig", "koi8-r"])
def test_encodings_of_lines_are_read(tmp_path, encoding):
    text = {"shift_jis": "日本", "gb18030": "北京", "euc_kr": "한국", "koi8-r": "да"}.get(encoding, "café")
    (tmp_path / "a.csv").write_bytes(f"text,b\n{text},1\n".encode(encoding))
    assert load_dataset(tmp_path / "a.csv", encoding=encoding).example("train", 0).prompt == text


def test_a_packed_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """The limits are 4 MB and 512 MB; small ones here show the same."""
    monkeypatch.setattr(text_files, "_ALWAYS_UNPACKED", 10_000)
    for name in ("bomb.jsonl.gz", "bomb.txt.gz", "bomb.csv.gz", "bomb.json.gz"):
        with gzip.open(tmp_path / name, "wb") as stream:
            first = b'{"text": "a"}\n' if "json" in name else b"text\n"
            stream.write(first + b"\n" * 500_000)
        with pytest.raises(ValueError, match=rf"{name}' to unpack to at most 200 times its size, got more"):
            load_dataset(tmp_path / name)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps({"text": f"row {number}"}) + "\n" for number in range(20_000))
    assert load_dataset(tmp_path / "rows.jsonl.gz").report.rows == 20_000
    monkeypatch.setattr(text_files, "LARGEST_JSON", 1000)
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "a" * 100}] * 20, indent=1))
    with pytest.raises(ValueError, match=r"Expected at most 1,000 bytes in .*rows.json', got more. .* as \.jsonl"):
        load_dataset(tmp_path / "rows.json")


def test_metadata_nested_too_deeply_is_an_error_of_its_row(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = ['{"text": "a", "m": ' + "[" * depth + "]" * depth + "}" for depth in (900, 90)]
    file.write_text(rows[1])
    assert load_dataset(file, metadata=["m"]).digest
    file.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"at most 100 levels of lists and objects in field 'm' of line 1"):
        load_dataset(file, metadata=["m"])


def test_a_record_that_swallows_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1000)
    file = tmp_path / "a.csv"
    file.write_text('text,b\n"fine\n",1\n"never closed' + "\nline" * 1000)
    with pytest.raises(ValueError, match=r"records of at most 1,000 bytes and .* begins in line 4 .* never be closed"):
        load_dataset(file, on_error="skip")
    monkeypatch.setattr(text_files, "_MOST_LINES", 10)
    file.write_text('text,b\n"' + "\n" * 20)
    with pytest.raises(ValueError, match=r"and 10 lines, got a longer one, which begins in line 2 of"):
        load_dataset(file)
    file.write_text("text,b\n" + '"two\nlines",1\n' * 1000)
    assert load_dataset(file).report.rows == 1000


@dataclass
class Listener:
    """A tokenizer that notes how many characters it was given at once."""

    tokenizer: SubwordTokenizer
    batches: list[int] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode_batch(self, texts):
        self.batches.append(sum(map(len, texts)))
        return self.tokenizer.encode_batch(texts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_are_cut_batch_by_batch(monkeypatch, side):
    monkeypatch.setattr("textenvs.pool._BATCH", 100)
    tokenizer = Listener(make_tokenizer("stories"))
    prompts = [f"{number} " + "the cat sat " * (number % 30) for number in range(50)] + [""]
    encoded = PromptEncoder(tokenizer, 5, side).encode(prompts)
    whole = [ids or [tokenizer.bos_token_id] for ids in tokenizer.tokenizer.encode_batch(prompts)]
    assert encoded == [ids[:5] if side == "right" else ids[-5:] for ids in whole]
    assert sum(tokenizer.batches) == sum(map(len, prompts))
    assert max(tokenizer.batches) <= max(100, *map(len, prompts))


def test_prompts_that_would_end_the_process_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("textenvs.pool.LONGEST_PROMPT", 1000)
    encoder = PromptEncoder(make_tokenizer("stories"), 5)
    assert len(encoder.encode(["a" * 1000])[0]) == 5
    with pytest.raises(ValueError, match="Expected prompts of at most 1,000 characters, got one of 1,001, which begin"):
        encoder.encode(["short", "a" * 1001])
    (tmp_path / "a.txt").write_text("short\n" * 9 + "a longer line\n")
    monkeypatch.setattr("textenvs.pool._MOST_CELLS", 10)
    with pytest.raises(ValueError, match=r"2 of up to .* tokens, each padded to the longest: cut them, prompt_tokens="):
        build_pools(load_dataset(tmp_path / "a.txt"), PromptEncoder(make_tokenizer("stories")))
