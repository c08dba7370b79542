"""The report: matrices and aggregates from rows, by hand, and a page that shows all of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from agents import Algorithm
from benchmarks.learn import analysis, page, report
from benchmarks.learn.analysis import cells, matrices, sooner
from benchmarks.learn.page import Section, html
from benchmarks.learn.sb3_and_trl import OUTSIDE
from benchmarks.learn.suite import SUITES, UNTRAINED, is_own

pytest.importorskip("rliable", reason="rliable is not installed: pip install 'textenvs[benchmarks]'")


def row(agent="a", env="E", payout="immediate", seed=0, score=0.5, to=100, **more):
    return {
        "suite": "s", "agent": agent, "env": env, "payout": payout, "budget": 10, "seed": seed, "status": "ok",
        "score": 2 * score, "normalised": score, "normalised_shifted": score / 2, "threshold": 1.8, "tokens": 1000,
        "tokens_to_threshold": to, "cpu_seconds_to_threshold": to, "late_deviation": 0.1, "cpu_seconds": 3.0,
        "curve": [[10, 1.0, 0.0], [20, 2.0, 2 * score]], "machine": "M", **more,
    }  # fmt: skip


def failed(**columns):
    made = row(**columns)
    kept = ("suite", "agent", "env", "payout", "budget", "seed")
    return {**{name: made[name] for name in kept}, "status": "failed", "reason": "ValueError: <why>"}


def test_matrices_have_a_row_a_run_and_a_column_a_task():
    rows = [
        row("a", "E", seed=1, score=0.2), row("a", "E", seed=0, score=0.1), row("a", "F", seed=0, score=0.3),
        row("a", "F", seed=1, score=0.4), row("a", "F", seed=2, score=0.5),
        failed(agent="b", env="E"), row("b", "F", score=0.9), row("c", "E"),
    ]  # fmt: skip
    found = matrices(rows)
    assert found.tasks == [("E", "immediate"), ("F", "immediate")]
    np.testing.assert_array_equal(found.scores["a"], [[0.1, 0.3], [0.2, 0.4]])  # as many seeds as every task has
    np.testing.assert_array_equal(found.scores["b"], [[0.0, 0.9]])  # a failure is a 0
    assert found.left_out == {"c": "no runs on 1 of 2 tasks"}
    rows = [row("a", "E"), failed(agent="a", env="E", payout="sparse"), failed(agent="a", env="F")]
    assert matrices(rows).tasks == [("E", "immediate"), ("E", "sparse")], "a scale is the environment's"
    np.testing.assert_array_equal(matrices(rows).scores["a"], [[0.5, 0.0]])
    raw = matrices([{**row(), "normalised": None}])
    assert (raw.scores, raw.left_out) == ({}, {"a": "no task has a scale"})


def test_aggregates_are_those_of_the_paper():
    scores = {"a": np.array([[0.0, 0.2], [0.4, 0.6], [0.8, 1.0], [1.0, 1.0]]), "same": np.full((4, 2), 0.7)}
    found = analysis.aggregates(scores, replications=200)
    # Sorted: 0, .2, .4, .6, .8, 1, 1, 1. The middle half is .4, .6, .8, 1.
    assert found["a"]["IQM"].value == pytest.approx(0.7)
    assert found["a"]["mean"].value == pytest.approx(5 / 8)
    assert found["a"]["optimality gap"].value == pytest.approx(3 / 8)
    assert found["a"]["mean"].low < 5 / 8 < found["a"]["mean"].high
    assert (found["same"]["IQM"].low, found["same"]["IQM"].high) == pytest.approx((0.7, 0.7))
    assert analysis.aggregates(scores, replications=200) == found, "the bootstrap has a seed"


def test_probability_of_improvement_counts_pairs_of_runs():
    scores = {"a": np.array([[0.1, 0.5], [0.9, 0.5]]), "b": np.array([[0.5, 0.5], [0.3, 0.5]])}
    found = analysis.improvements(scores)
    # Task 1: 0.9 beats both, 0.1 none: 2 of 4. Task 2: all ties: a half.
    assert found["a", "b"].value == pytest.approx(0.5)
    scores["a"][1, 1] = 0.6  # task 2: two wins and two ties of four
    found = analysis.improvements(scores)
    assert found["a", "b"].value == pytest.approx((0.5 + 0.75) / 2)
    assert found["b", "a"].value == pytest.approx(1 - found["a", "b"].value)
    assert found["b", "a"].low == pytest.approx(1 - found["a", "b"].high)
    assert analysis.improvements({"a": scores["a"]}) == {}


def test_profiles_are_shares_above():
    taus, values, bounds = analysis.profiles({"a": np.array([[0.25], [0.75]])}, points=5)
    np.testing.assert_array_equal(taus, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(values["a"], [1, 0.5, 0.5, 0, 0])
    assert bounds["a"].shape == (2, 5)


def test_cells_summarise_seeds():
    rows = [
        row(seed=0, score=0.2, to=100), row(seed=1, score=0.6, to=None), row(seed=2, score=0.7, to=300),
        failed(seed=3), {**row("skipper"), "status": "skipped", "reason": "no"},
    ]  # fmt: skip
    (cell,) = cells(rows)
    assert (cell.runs, cell.failed, cell.reached) == (4, 1, 2)
    assert cell.score == pytest.approx(1.5 / 4)
    assert cell.spread == pytest.approx(np.std([0.2, 0.6, 0.7, 0], ddof=1))
    assert cell.shifted == pytest.approx(0.25)
    assert cell.tokens == np.inf  # 100, 300, never, never
    (cell,) = cells([row(seed=seed, to=to) for seed, to in enumerate((100, 300, None))])
    assert cell.tokens == 300
    (raw,) = cells([{**row(score=0.4), "normalised": None, "normalised_shifted": None, "score_shifted": 0.1}])
    assert (raw.score, raw.shifted, raw.spread) == (0.8, 0.1, None)


def test_where_all_runs_failed_the_score_is_that_of_random_tokens_and_the_threshold_is_never_reached():
    rows = [row("a"), *(failed(agent=agent, seed=seed) for agent in ("b", "random") for seed in (0, 1))]
    _, cell, untrained = cells(rows)
    assert (cell.runs, cell.failed, cell.score, cell.spread, cell.reached) == (2, 2, 0.0, 0.0, 0)
    assert cell.tokens == cell.cpu_seconds == np.inf
    assert (untrained.score, untrained.tokens) == (0.0, None)
    raw = [{**row(score=0.4), "normalised": None}, failed(seed=1), *(failed(agent="b", seed=seed) for seed in (0, 1))]
    kept, lost = cells(raw)
    assert (kept.runs, kept.failed, kept.score, kept.spread) == (2, 1, 0.8, None), "no scale has a 0 to count"
    assert (lost.score, lost.tokens) == (None, None)


def test_tokens_used_are_those_of_the_runs_that_did_not_fail():
    (cell,) = cells([row(tokens=1000), row(seed=1, tokens=1300), failed(seed=2)])
    assert cell.used == 1150
    assert cells([failed()])[0].used is None


def test_runs_with_other_settings_are_warned_of():
    rows = [
        row(config={"lr": 1, "seed": 0}), row(seed=1, config={"lr": 2, "seed": 1}), row(env="F", config={"lr": 3}),
        row("b", config={"lr": 1}), row("b", seed=1, config={"lr": 1}), row("b", "F", config={"lr": 2}),
        row("c", config={"lr": 1, "new": {"x": 1}}), row("c", seed=1, config={"lr": 1}), failed(agent="c", seed=2),
    ]  # fmt: skip
    assert analysis.differing(rows) == {"a": {"lr": [1, 2]}, "c": {"new": [{"x": 1}, None]}}
    (notes,) = [one for one in report.sections([{**one, "model": "runs/warm"} for one in rows]) if one.title == "Notes"]
    assert "Warning: runs of a on one task had different settings (lr: 1 or 2)" in notes.text[0]
    assert "one and the same start model, runs/warm:" in notes.text[2]
    assert all(one.title != "Notes" for one in report.sections(rows[3:5])), "nothing to say"


def test_which_payout_is_sooner():
    pairs = {"E": (1, 2), "F": (None, 2), "G": (3, 3), "H": (None, None), "I": (1, None), "J": (3, 3)}
    rows = [
        row("a", env, payout, to=to)
        for env, both in pairs.items()
        for payout, to in zip(("immediate", "sparse"), both, strict=True)
    ]
    rows.append(row("b", "E", "immediate"))
    rows += [row("c", "E", to=5), failed(agent="c", env="E", payout="sparse")]
    assert sooner(cells(rows)) == {"a": (2, 1, 2, 1), "c": (1, 0, 0, 0)}


def test_curves_are_joined_up_to_where_the_shortest_ends():
    curves = [[[0, 0.0, 0.0], [10, 5.0, 1.0]], [[0, 0.0, 1.0], [20, 8.0, 1.0]]]
    x, mean, low, high = report.joined_curves(curves, 0, points=3)
    np.testing.assert_allclose(x, [0, 5, 10])
    np.testing.assert_allclose(mean, [0.5, 0.75, 1])
    np.testing.assert_allclose(low, [0, 0.5, 1])
    np.testing.assert_allclose(high, [1, 1, 1])
    np.testing.assert_allclose(report.joined_curves(curves, 1, points=2)[0], [0, 5])


def test_a_mean_curve_is_over_tasks_on_their_scales_and_over_shares_of_the_budget():
    scale = {"random": 1.0, "top": 3.0, "budget": 10}
    rows = [
        {**row(seed=0), **scale, "curve": [[0, 0.0, 1.0], [10, 0.0, 3.0]]},  # 0 to 1
        {**row(seed=1), **scale, "curve": [[0, 0.0, 1.0], [10, 0.0, 1.0]]},  # 0, so that the task's mean is half
        {**row(env="F"), **scale, "budget": 20, "curve": [[10, 0.0, 2.0], [20, 0.0, 3.0]]},  # half, half, 1
        {**row(env="G"), "curve": []}, failed(), {**row(env="H"), "curve": [[1, 1.0, 5.0]]},  # no scale
    ]  # fmt: skip
    shares, mean = analysis.mean_curve(rows, points=3)
    np.testing.assert_array_equal(shares, [0, 0.5, 1])
    np.testing.assert_allclose(mean, [0.25, 0.375, 0.75])
    assert analysis.mean_curve(rows[3:]) is None


def test_the_page_shows_everything(tmp_path, capsys):
    rows = [
        row(agent, env, payout, seed, score=0.1 * seed + (0.4 if agent == "b" else 0.2))
        for agent in ("a", "b") for env in ("E", "F") for payout in ("immediate", "sparse") for seed in range(3)
    ]  # fmt: skip
    rows[0] |= {"kl": 1.0, "held_out": 0.7, "textenvs": "1.2"}
    rows[1] |= {"kl": 3.0, "held_out": None}
    rows += [failed(agent="a", seed=9), {**failed(agent="c"), "status": "skipped", "reason": "not <installed>"}]
    rows += [{**row("random", env, payout), "curve": []} for env in ("E", "F") for payout in ("immediate", "sparse")]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    report.main(["--results", str(file), "--command", "python -m <this>", "--replications", "50"])
    assert str(tmp_path / "x.html") in capsys.readouterr().out
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    text = (tmp_path / "x.md").read_text(encoding="utf-8")
    for part in ("At a glance", "Aggregates", "Probability of improvement", "Immediate against sparse", "Every task",
                 "failed or were skipped"):  # fmt: skip
        assert part in page
        assert part in text
    for part in ("Performance profiles", "by environment tokens", "by CPU-seconds"):
        assert part in page
        assert part not in text
    assert page.count("data:image/png;base64,") == 5
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG"), "the figure for a README"
    glance = text.split("## At a glance")[1].split("## ")[0]
    assert "| agent | IQM, immediate | IQM, sparse |" in glance
    assert "| b | 0.50 [" in glance, "scores are 0.4, 0.5 and 0.6"
    assert "| late deviation | KL | held-out |" in text, "what some rows have, distinct-2 not"
    assert "| E | immediate | a | 3/4 | 1,000 | 0.23 |" in text, "0.2, 0.3, 0.4 and a failure"
    assert "M; textenvs 1.2." in text
    assert "| 0.100 | 2.00 | 0.70 |" in text, "means over the runs that have it"
    assert "not &lt;installed&gt;" in page
    assert "python -m &lt;this&gt;" in page
    assert "| a | E | immediate | failed |" in text
    assert "Not in here: c (no runs on 4 of 4 tasks)" in text
    assert "equally soon on 2" in text
    order = [line.split(" | ")[0] for line in text.split("optimality gap |")[1].splitlines()[2:5]]
    assert order[0] == "| b", "the best first"


def test_two_budgets_are_two_reports(tmp_path):
    rows = [
        row(),
        {**row(), "budget": 20},
        {**row(), "model": "runs/warm"},
        {**row(), "max_seconds": 1.5},
        {**row(), "suite": "t", "normalised": None, "curve": []},
    ]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    report.main(["--results", str(file), "--output", str(tmp_path / "there" / "y"), "--replications", "20"])
    text = (tmp_path / "there" / "y.md").read_text(encoding="utf-8")
    for head in ("s, 10 tokens a run: Every task", "s, 20 tokens a run: Every task", "t, 10 tokens a run: Aggregates",
                 "s, 10 tokens a run from runs/warm: Every task",
                 "s, 10 tokens a run, at most 1.5 seconds: Every task"):  # fmt: skip
        assert f"## {head}" in text


def test_a_suites_own_budgets_are_one_report(tmp_path):
    budgets = {one.name: one.tokens for one in SUITES["diagnostics"].experiments}
    assert budgets["Needle"] != budgets["Copy"]
    rows = [
        {**row(env=env), "suite": "diagnostics", "budget": budgets[env], "model": "tiny"} for env in ("Needle", "Copy")
    ]
    assert is_own("diagnostics", "Copy", budgets["Copy"], "tiny", None)
    assert not is_own("diagnostics", "Copy", budgets["Copy"], "tiny", 1.0), "nobody knows how much of it was used"
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    report.main(["--results", str(file), "--replications", "20"])
    text = (tmp_path / "x.md").read_text(encoding="utf-8")
    assert "over 2 tasks" in text
    assert f"Budget of a run: {budgets['Needle']:,}, {budgets['Copy']:,} environment tokens." in text


def test_all_pages_of_a_folder_are_made_again_with_their_commands(tmp_path):
    """Rows know their command; those that do not, leave it to the page that was made of them."""
    old, new = row(), {**row("b"), "command": "python -m benchmarks learn --agents b"}
    for name, rows in {"old": [old], "new": [new], "both": [old, new]}.items():
        (tmp_path / f"learn-{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "other.jsonl").write_text("{}\n")
    for name in ("old", "both"):
        report.write_report(tmp_path / f"learn-{name}.jsonl", command="first\nsecond", replications=20)
    pages = {page.name: page.with_suffix(".md") for page in report.write_reports(tmp_path, replications=20)}
    heads = {name: page.read_text().split("## ")[0] for name, page in pages.items()}
    assert list(heads) == ["learn-both", "learn-new", "learn-old"]
    commands = {name: re.findall(r"^    (.*)$", head, flags=re.MULTILINE) for name, head in heads.items()}
    assert commands["learn-old"] == ["first", "second"]
    assert commands["learn-new"] == [new["command"]]
    assert commands["learn-both"] == ["first", "second", new["command"]]
    before = pages["learn-both"].read_text()
    report.write_reports(tmp_path, replications=20)
    assert pages["learn-both"].read_text() == before
    assert all(page.with_suffix(".html").exists() for page in pages.values())


def test_names_with_many_settings_may_break_between_two():
    page = html(["x"], [Section("T", table=[["agent"], ["ppo[epochs=1;critic=<a&b>]"]])])
    assert "ppo<wbr>[epochs=1;<wbr>critic=&lt;a&amp;b&gt;]</td>" in page


def test_no_results(tmp_path):
    with pytest.raises(SystemExit, match="got none"):
        report.main(["--results", str(tmp_path / "none.jsonl")])


def test_the_python_of_docs_benchmark_runs(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[3] / "docs" / "benchmark.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {"__name__": "page"})
    assert "Minus start" in capsys.readouterr().out
    assert (tmp_path / "runs" / "compared" / "comparison.html").is_file()


def test_docs_benchmark_names_every_suite_and_agent():
    text = (Path(__file__).parents[3] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    for suite in SUITES.values():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{suite.name}` |")]
        for one in suite.experiments:
            said = re.search(rf"{one.name} ([\d,]+)", line) or re.search(r"([\d,]+) tokens", line)
            assert said[1] == f"{one.tokens:,}", one
        assert line.endswith(f"| {suite.seeds} |"), suite.name
    for name in (*OUTSIDE, *UNTRAINED, *Algorithm.known):
        assert f"`{name}`" in text, name


def test_a_name_in_a_table_is_neither_html_nor_a_border():
    section = page.Section("Names", table=[["agent"], ["<img src=x>|&\x1b[2J\nb"]])
    assert r"| &lt;img src=x>\|&amp;\x1b[2J b |" in page.markdown(["Title"], [section])
