"""`make bridge NAME=...`: runs the tests with one outside library in an environment of its own, and records the result.

Each library gets `.venv-bridges/NAME`, since together they ask for versions that exclude each other. The row in
docs/bridges.md is written when the tests have passed; a test that skips is counted, so that a library that is not there
cannot look like one that works.
"""

import argparse
import subprocess
import sys
import venv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "bridges.md"
HEADER = """\
# Outside libraries

Each was installed into an environment of its own, with the versions in constraints.txt, and ran the tests that concern
it. `make bridge NAME=...` writes its row; `tests/bridges/__main__.py` lists what is installed and which tests run.

| name | version | passed | skipped | date |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Bridge:
    """An outside library.

    Args:
        distribution: The distribution whose version the table names.
        tests: The files and folders of tests to run.
        requirements: What else to install. Versions come from constraints.txt.
        extras: Extras of this project that the tests need.
        without_dependencies: What to install without the requirements that it declares, because they exclude versions
            that it works with. `requirements` then lists what it imports.
        unpinned: Distributions of which the library asks for other versions than those of constraints.txt.
    """

    distribution: str
    tests: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    unpinned: tuple[str, ...] = ()


BRIDGES = {
    "datasets": Bridge("datasets", ("tests/textenvs/datasets",), extras=("data",)),
    "gymnasium": Bridge(
        "gymnasium", ("tests/bridges/test_gymnasium.py",), ("torch", "array-api-compat"), extras=("render",)
    ),
    "minari": Bridge("minari", ("tests/bridges/test_minari.py",), ("minari[create]", "h5py", "pillow")),
    # moviepy asks for pillow<12.
    "moviepy": Bridge(
        "moviepy",
        ("tests/bridges/test_moviepy.py",),
        ("decorator", "imageio", "imageio-ffmpeg", "proglog", "python-dotenv"),
        extras=("render",),
        without_dependencies=("moviepy",),
    ),
    # Ray asks for gymnasium==1.2.2.
    "rllib": Bridge("ray", ("tests/bridges/test_rllib.py",), ("torch", "ray[rllib]", "lz4"), unpinned=("gymnasium",)),
    "sb3": Bridge(
        "stable-baselines3",
        (
            "tests/bridges/test_sb3.py",
            "tests/textenvs/test_env.py",
            "tests/agents/test_sb3.py",
            "tests/agents/test_sb3_policy.py",
        ),
        ("torch", "sb3-contrib"),
        extras=("agents", "sb3"),
    ),
    # tianshou asks for virtualenv<21.
    "tianshou": Bridge(
        "tianshou",
        ("tests/bridges/test_tianshou.py",),
        (
            *("torch", "h5py", "deepdiff", "numba", "overrides", "pandas", "pettingzoo", "sensai-utils"),
            *("matplotlib", "tensorboard", "tqdm"),
        ),
        without_dependencies=("tianshou",),
    ),
    "torchrl": Bridge("torchrl", ("tests/bridges/test_torchrl.py",), ("torch", "torchrl")),
}


def install(bridge: Bridge, folder: Path) -> Path:
    """Makes the environment of a bridge, or brings it up to date.

    Returns:
        Its Python.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    constraints = folder / "constraints.txt"
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [pin for pin in pins if pin.partition("==")[0].lower() not in bridge.unpinned]
    constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    if "torch" in bridge.requirements:  # first and alone: see `make setup`
        subprocess.run([*pip, "torch"], check=True)
    project = f"{ROOT}[{','.join(bridge.extras)}]" if bridge.extras else str(ROOT)
    subprocess.run([*pip, "pytest", "hypothesis", *bridge.requirements, "--editable", project], check=True)
    if bridge.without_dependencies:
        subprocess.run([*pip, "--no-deps", *bridge.without_dependencies], check=True)
    return python


def run_tests(bridge: Bridge, python: Path, report: Path) -> tuple[int, int]:
    """Runs the tests of a bridge.

    Returns:
        How many passed and how many skipped.

    Raises:
        SystemExit: One failed, or none passed.
    """
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *bridge.tests]
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(code)
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    if total == skipped:
        sys.exit(f"Expected at least one test to pass, but all {total} skipped")
    return total - skipped, skipped


def record(name: str, version: str, passed: int, skipped: int, table: Path = TABLE) -> None:
    """Writes a bridge's row into the table, in the place of its last one. Rows stand in the order of their names."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    rows.pop("name", None)
    rows[name] = f"| {name} | {version} | {passed} | {skipped} | {datetime.now(UTC):%Y-%m-%d} |"
    table.write_text(HEADER + "".join(f"{rows[key]}\n" for key in sorted(rows)), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Reads the name, and installs, tests and records."""
    parser = argparse.ArgumentParser(prog="make bridge", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", metavar="NAME", choices=sorted(BRIDGES), help=", ".join(sorted(BRIDGES)))
    name = parser.parse_args(argv).name
    bridge, folder = BRIDGES[name], ROOT / ".venv-bridges" / name
    python = install(bridge, folder)
    passed, skipped = run_tests(bridge, python, folder / "report.xml")
    ask = f"from importlib.metadata import version; print(version({bridge.distribution!r}))"
    version = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    record(name, version, passed, skipped)
    print(f"{name} {version}: {passed} passed, {skipped} skipped; see {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
