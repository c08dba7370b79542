"""The table in docs/bridges.md: one row a library, the newest result of each."""

from pathlib import Path

from tests.bridges.__main__ import BRIDGES, HEADER, ROOT, TABLE, record


def test_a_row_takes_the_place_of_its_last_one(tmp_path: Path) -> None:
    table = tmp_path / "bridges.md"
    record("torchrl", "0.14.0", 1, 0, table)
    record("minari", "0.5.3", 1, 0, table)
    record("torchrl", "0.15.0", 2, 1, table)
    minari, torchrl = table.read_text(encoding="utf-8").removeprefix(HEADER).splitlines()
    assert minari.startswith("| minari | 0.5.3 | 1 | 0 | ")
    assert torchrl.startswith("| torchrl | 0.15.0 | 2 | 1 | ")


def test_the_committed_table_has_known_names_only_and_all_tests_are_there() -> None:
    rows = TABLE.read_text(encoding="utf-8").removeprefix(HEADER).splitlines()
    assert {row.split("|")[1].strip() for row in rows} <= BRIDGES.keys()
    assert all((ROOT / path).exists() for bridge in BRIDGES.values() for path in bridge.tests)
