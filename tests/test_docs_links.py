"""Links of README, CONTRIBUTING and docs lead to files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            wrong.append(target)
        elif anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if anchor not in map(slug, headings):
                wrong.append(target)
    assert not wrong, f"{page.name} links to what is not there: {wrong}"


def test_the_walk_of_a_batch_names_what_there_is():
    """Each stop of docs/how-a-batch-flows.md is defined in the file that it links to."""
    page = ROOT / "docs" / "how-a-batch-flows.md"
    stops = re.findall(r"\[([^\]]*`)\]\(\.\./([\w/]+\.py)\)", page.read_text(encoding="utf-8"))
    assert len(stops) >= 12
    for names, file in stops:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            defined = rf"^\s*(class|def) {name.rpartition('.')[2]}\b"
            assert re.search(defined, source, flags=re.MULTILINE), f"{name} is not defined in {file}"
    assert len(re.findall(r"^\d+\. ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)) == 12
