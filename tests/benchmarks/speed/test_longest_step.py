"""The measurement of the longest step runs, and its tokenizer writes what it reads."""

import json

from benchmarks.speed.longest_step import Words, main
from textenvs.tokenizer import decode


def test_it_writes_a_row_for_each_score_and_kind_of_response(tmp_path, capsys) -> None:
    main(["--quick", "--only", "bleu", "chrf", "--output", str(tmp_path / "steps")])
    results = json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))
    assert [(row["score"], row["tokens"]) for row in results["rows"]] == [
        ("bleu", "text"), ("bleu", "random"), ("chrf", "text"), ("chrf", "random"),
    ]  # fmt: skip
    assert all(0 < row["mean"] <= row["longest"] for row in results["rows"])
    assert all(row["first"] > 0 for row in results["whole"])
    assert "| chrf | random |" in capsys.readouterr().out


def test_its_tokenizer_writes_what_it_reads() -> None:
    words = Words(["the cat sat"], 300)
    tokens = words.encode("the dog sat")
    assert decode(words, tokens) == " the dog sat"
    assert len(tokens) == 1 + len(" dog") + 1
    assert len(set(words.pieces[:297])) == 297
