"""Input that somebody made to do harm is refused, or does none; nonsense ends in a ValueError or a TypeError."""

import json
import pickle
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings

from agents import Policy, load
from agents.__main__ import main
from agents.cli.parsing import read_config
from agents.files import read_json
from agents.supervised import reward_model
from benchmarks.robustness.fuzz_constructors import calls, check
from tests.agents.helpers import edit
from tests.helpers import examples
from textenvs import load_dataset, make_tokenizer, render
from textenvs.datasets import text_files

BOMB = "[" * 100_000
HIDDEN = "\x1b]0;title\x07\x1b[2J\u202e evil \u2066\x9b31m"


def test_a_model_that_wants_its_own_code_to_run(model, tmp_path):
    trace = tmp_path / "ran"
    (model / "modeling_evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass EvilConfig: ...\nclass Evil: ...\n")
    names = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.Evil"}
    edit(model / "config.json", model_type="evil", auto_map=names)
    with pytest.raises(ValueError, match="Expected a language model that loads from safetensors"):
        Policy.from_pretrained(model, device="cpu")
    assert not trace.exists()


def test_a_tokenizer_that_wants_its_own_code_to_run(model, tmp_path):
    trace = tmp_path / "ran"
    (model / "tokenization_evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: ...\n")
    names = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
    edit(model / "tokenizer_config.json", tokenizer_class="Evil", auto_map=names)
    with suppress(ValueError):  # Transformers may fall back on the tokenizer.json, and then all is well
        Policy.from_pretrained(model, device="cpu")
    assert not trace.exists()


class Evil:
    """A function that a pickle calls when it is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_model_that_is_a_pickle(model, tmp_path, name):
    trace = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Evil(str(trace))))
    with pytest.raises(ValueError, match="Expected a language model that loads from safetensors"):
        Policy.from_pretrained(model, device="cpu")
    assert not trace.exists()


def test_a_line_without_an_end(tmp_path, monkeypatch):
    """The limit is 64 MB; a small one here shows the same."""
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1000)
    for suffix in ("jsonl", "txt", "csv"):
        file = tmp_path / f"rows.{suffix}"
        file.write_text("text\n" + "a" * 1001)
        with pytest.raises(ValueError, match=r"Expected lines of at most 1,000 bytes, .* line 2 of"):
            load_dataset(file, on_error="skip")
        file.write_text("text\n" + "a" * 990)
        if suffix != "jsonl":
            load_dataset(file)
    pair = '{"prompt": "p", "chosen": "c", "rejected": "r"}\n'
    file = tmp_path / "pairs.jsonl"
    file.write_text(pair + "a" * 1001)
    with pytest.raises(ValueError, match=r"Expected lines of at most 1,000 bytes, .* line 2 of"):
        reward_model.load_pairs(file)
    file.write_text(pair * 100)
    assert len(reward_model.load_pairs(file)) == 100


def test_json_nested_too_deeply(tmp_path, model, capsys):
    file = tmp_path / "bomb.json"
    file.write_text('{"a": ' + BOMB)
    with pytest.raises(ValueError, match=r"nested too deeply|could not be read"):
        read_json(file)
    rows = tmp_path / "bomb.jsonl"
    rows.write_text(BOMB + "\n")
    for read in (load_dataset, reward_model.load_pairs):
        with pytest.raises(ValueError, match="could not be read"):
            read(rows)
    for words in (["--config", str(file)], ["--reward", '{"sum": ' + BOMB], ["--payout", BOMB], ["--model", BOMB]):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *words])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert "error: Expected" in said
        assert len(said) < 2000
    (model / "tokenizer_config.json").write_text(BOMB)
    with pytest.raises(ValueError, match="nested too deeply"):
        make_tokenizer(str(model))
    (model / "policy.json").write_text(BOMB)
    with pytest.raises(ValueError, match=r"nested too deeply|could not be read"):
        Policy.from_pretrained(model, device="cpu")


def test_a_huge_json_file_is_not_read(tmp_path):
    (tmp_path / "huge.json").write_text(json.dumps({"a": "b" * 100}))
    with pytest.raises(ValueError, match="at most 100 bytes"):
        read_json(tmp_path / "huge.json", largest=100)


def test_what_is_printed_obeys_no_hidden_characters(capsys):
    main(["generate", "--device", "cpu", "-n", "1", "--max-new-tokens", "2", f"Once {HIDDEN}"])
    with pytest.raises(SystemExit):
        main(["train", "--env", f"Nowhere{HIDDEN}-v0"])
    with pytest.raises(SystemExit):
        main(["generate", "--model", f"no/such/{HIDDEN}/model"])
    printed = "".join(capsys.readouterr())
    assert "evil" in printed
    colours = printed.replace("\x1b[0m", "").replace("\x1b[2m", "")
    for character in "\u202e\u2066\x07\x9b":
        assert character not in printed
    assert "\x1b]0" not in colours
    assert "\x1b[2J" not in colours


def test_no_colours_into_pipes_nor_against_the_users_wish(capsys, monkeypatch):
    words = ["generate", "--device", "cpu", "-n", "1", "--max-new-tokens", "2", "Once"]
    main(words)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert render.takes_colors()
    main(words)
    assert "\x1b" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert not render.takes_colors()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--output", ""],
        ["train", "--output="],
        ["train", "--resume", " "],
        ["train", "--init", ""],
        ["sft", "--output", ""],
        ["compare", "--output", "", "--models", "tiny", "b=tiny"],
        ["evaluate", "--run", ""],
        ["reward-model", "--pairs", "", "--output", "x"],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_working_directory(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "to be a path, got" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_empty_paths_in_python(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = Policy.from_pretrained(model, device="cpu")
    for call in (policy.save_pretrained, load, make_tokenizer):
        with pytest.raises(ValueError, match="to be a path, got ''"):
            call("")
    (tmp_path / "options.json").write_text('{"output": ""}')
    with pytest.raises(ValueError, match="Expected output to be a path"):
        read_config(tmp_path / "options.json")


@settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
@pytest.mark.filterwarnings("ignore")
def test_constructors_refuse_nonsense_with_a_clear_error(call):
    check(*call)
