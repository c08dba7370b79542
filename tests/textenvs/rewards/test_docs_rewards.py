"""The pages of rewards: every block of Python runs, and the tables have every score with its range."""

import re
from pathlib import Path

import pytest

from textenvs.rewards import list_rewards, make_reward, registry
from textenvs.rewards.ngram_model import BUNDLED, load_ngrams
from textenvs.rewards.style import _formality

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = ["rewards-content.md", "rewards-style.md", "rewards-diversity.md", "write-your-own-score.md"]
TEXTS = {page: (DOCS / page).read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
    (page, text[: match.start()].count("\n") + 1, match[1])
    for page, text in TEXTS.items()
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]
NAMES = {
    "rewards-content.md": """keywords concepts plot_points regex length sentences readability increasing_numbers dates
        numeric_answer""",
    "rewards-style.md": "mood sentiment vader formality ngram_lm",
    "rewards-diversity.md": "distinct repetition copying",
}


@pytest.mark.parametrize(("page", "line", "code"), BLOCKS, ids=[f"{page}:{line}" for page, line, _ in BLOCKS])
def test_a_block_runs(page: str, line: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REWARDS", dict(registry.REWARDS))
    exec(compile("\n" * line + code, f"docs/{page}", "exec"), {"__name__": "page"})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == sum(text.count("\n```python") for text in TEXTS.values()) >= 10


@pytest.mark.parametrize("page", NAMES)
def test_the_table_has_every_score_with_its_range(page: str) -> None:
    assert set(NAMES[page].split()) <= set(list_rewards())
    for name in NAMES[page].split():
        row = re.findall(rf"^\| `{name}` \|.*\|$", TEXTS[page], re.MULTILINE)[0]
        reward = make_reward(name)
        assert f"| {reward.low:g} to {reward.high:g},".replace("-", "−") in row


@pytest.mark.parametrize("page", PAGES)
def test_links_are_good(page: str) -> None:
    assert [link for link in re.findall(r"\]\(([^)h][^)]*)\)", TEXTS[page]) if not (DOCS / link).is_file()] == []


def test_numbers_on_the_page_of_style() -> None:
    signs = list(_formality().values())
    page = " ".join(TEXTS["rewards-style.md"].split())
    assert f"marks {signs.count(1)} words as formal and {signs.count(-1)} as informal" in page
    for name, file in BUNDLED.items():
        model, size = load_ngrams(name), file.stat().st_size / 1000
        numbers = rf"{len(model.words)} \| {len(model.counts):,} \| {size:.0f} \|"
        assert re.search(rf"\| `{name}`[^|]*\|[^|]*\| {numbers}", page)


def test_a_score_of_your_own_has_fifteen_lines() -> None:
    for name in ("rhymes", "Alliteration"):
        (code,) = [code for page, _, code in BLOCKS if page == PAGES[3] and re.search(rf"(def|class) {name}\b", code)]
        body = re.split(r"\n(?=\S)", re.split(rf"^(?:def|class) {name}", code, flags=re.MULTILINE)[1])[0]
        assert len([line for line in body.splitlines() if line.strip()]) <= 15
