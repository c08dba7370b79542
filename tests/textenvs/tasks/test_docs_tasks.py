"""docs/tasks: the committed pages are what the code says."""

from pathlib import Path

import pytest

from textenvs.data.make_task_docs import description, page, pages
from textenvs.registration import list_envs

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "tasks"


# By the files that are there and not by `pages()`, which makes every environment and would do so in every collection.
@pytest.mark.parametrize("file", sorted(file.name for file in FOLDER.iterdir()))
def test_a_page_is_what_the_generator_writes(file: str) -> None:
    committed = (FOLDER / file).read_text(encoding="utf-8")
    assert committed == page(file), "run `python -m textenvs.data.make_task_docs`"


def test_there_is_no_other_page() -> None:
    assert {file.name for file in FOLDER.iterdir()} == set(pages())


def test_the_table_has_every_id_and_its_links_lead_somewhere() -> None:
    text = page("README.md")
    assert all(f"`{env_id}`](" in text for env_id in list_envs())
    links = {line.split("](")[1].split(")")[0] for line in text.splitlines() if "](" in line}
    assert links | {"README.md"} == set(pages())


def test_a_description_ends_where_the_sections_begin() -> None:
    class Documented:
        """One *thing*.

        Two things.

        Args:
            three: No.
        """

    assert description(Documented) == "One \\*thing\\*.\n\nTwo things."
