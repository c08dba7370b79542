"""The lowest versions that `make lowest` installs are those of pyproject.toml."""

import tomllib
from typing import Any

import pytest

from tests.lowest import GROUPS, ROOT, lowest, pins


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_a_lower_bound_becomes_the_version() -> None:
    assert lowest("numpy>=1.26") == "numpy==1.26"
    assert lowest("minari[create] >= 0.5") == "minari[create]==0.5"
    for other in ("numpy", "numpy>=1.26,<3", "numpy==1.26", "numpy>=1.26; python_version < '3.12'"):
        with pytest.raises(ValueError, match="a requirement with a lower bound alone"):
            lowest(other)


def test_every_dependency_is_pinned(project: Any) -> None:
    pinned = pins(project, GROUPS["textenvs"])
    assert {lowest(requirement) for requirement in project["dependencies"]} <= set(pinned)
    assert pins(project, GROUPS["agents"])[:3] == [*pinned[:2], "tokenizers>=0.21"]
    assert {pin.partition("==")[0] for pin in pinned} >= {"numpy", "gymnasium", "tokenizers", "pillow", "pytest"}


def test_every_bound_has_a_lowest_version_and_all_tests_are_there(project: Any) -> None:
    for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
        assert "==" in lowest(requirement)
    paths = [path for group in GROUPS.values() for path in group.tests if path.endswith(".py")]
    assert all((ROOT / path).exists() for path in paths)
