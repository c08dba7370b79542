"""The layers of imports in pyproject.toml fail when an import points the wrong way, and tests import no other tests."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the packages and the contracts, in a folder that may be spoilt."""
    folder = tmp_path_factory.mktemp("layers")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in ("benchmarks", "agents", "textenvs"):
        for file in (ROOT / package).rglob("*.py"):
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return folder


def lint_imports(folder: Path) -> str:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed: pip install import-linter")
    command = [program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("file", "wrong", "contract"),
    [
        ("textenvs/lanes.py", "import torch", "textenvs needs no network library"),
        ("textenvs/lanes.py", "from agents import losses", "Packages: benchmarks -> agents -> textenvs"),
        ("textenvs/lanes.py", "from textenvs import env", "textenvs: each folder imports only what stands below it"),
        ("agents/rollout.py", "from agents import collector", "agents: each folder imports only what stands below it"),
        ("agents/algorithms/ppo.py", "from agents.algorithms import reinforce", "Algorithms do not import each other"),
        ("textenvs/tasks/base.py", "from textenvs.tasks import registry", "No circles, at any depth"),
    ],
)
def test_an_import_in_the_wrong_direction_breaks_its_contract(copy: Path, file: str, wrong: str, contract: str) -> None:
    before = (copy / file).read_text(encoding="utf-8")
    (copy / file).write_text(f"{before}\n\ndef late():\n    {wrong}\n", encoding="utf-8")  # late imports count as well
    try:
        assert re.search(rf"^{re.escape(contract)} BROKEN", lint_imports(copy), re.MULTILINE)
    finally:
        (copy / file).write_text(before, encoding="utf-8")


def test_no_test_module_imports_another() -> None:
    """What tests share stands in helpers.py and conftest.py, and fixtures of a conftest need no import."""
    imports = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*(?:test_\w+|conftest)\b", re.MULTILINE)
    files = {path: imports.findall(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")}
    assert not {str(path): lines for path, lines in files.items() if lines}
