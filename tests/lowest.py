"""`make lowest`: runs part of the tests on the lowest versions that pyproject.toml allows.

Every lower bound becomes the version itself: `numpy>=1.26` is installed as `numpy==1.26`. Each group of tests has an
environment of its own, in `.venv-lowest/NAME`, without the extras that it can do without. What these libraries ask for
in turn is as new as it can be.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*])?>=(?P<version>[0-9.]+)")


@dataclass(frozen=True)
class Group:
    """Tests that run on the lowest versions of some dependencies.

    Args:
        extras: The extras of the project whose lower bounds are installed, beside its own dependencies.
        tests: The arguments of pytest.
        dev: Distributions of the extra `dev` that the tests need, in their lowest versions.
        newer: Distributions that are not pinned: others of the group need a newer version, or the lowest cannot be had.
    """

    extras: tuple[str, ...]
    tests: tuple[str, ...]
    dev: tuple[str, ...] = ("pytest", "hypothesis")
    newer: tuple[str, ...] = ()


_TEXTENVS = ("test_arguments", "test_env", "test_lanes", "test_render", "test_vector_env", "test_wrappers")
_REWARDS = ("rewards/test_content", "rewards/test_payouts")
_AGENTS = ("cli/test_cli", "policy/test_policy", "test_rollout", "training/test_checkpoints", "training/test_metrics")
GROUPS = {
    "textenvs": Group(
        extras=("render",),
        tests=(*(f"tests/textenvs/{name}.py" for name in (*_TEXTENVS, *_REWARDS)), "textenvs/env.py"),
    ),
    # torch is that of `make setup`: older ones come with gigabytes of GPU libraries. Transformers 5.14 needs newer
    # tokenizers and regex than textenvs does. Old libraries warn about new ones, which is not ours to mend.
    "agents": Group(
        extras=("agents",),
        tests=("-W", "default", *(f"tests/agents/{name}.py" for name in _AGENTS)),
        newer=("torch", "tokenizers", "regex"),
    ),
}


def lowest(requirement: str) -> str:
    """Returns a requirement that only the lower bound of another meets.

    Args:
        requirement: A requirement with a lower bound alone, `numpy>=1.26`.

    Returns:
        `numpy==1.26`.

    Raises:
        ValueError: If it has another form: then this file does not know its lowest version.
    """
    match = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if match is None:
        raise ValueError(f"Expected a requirement with a lower bound alone, as in 'numpy>=1.26', got {requirement!r}")
    return requirement.replace(" ", "").replace(">=", "==")


def pins(project: dict, group: Group) -> list[str]:
    """Lists what a group installs.

    Args:
        project: The table `project` of pyproject.toml.
        group: The group.

    Returns:
        Requirements, all but those of `newer` with exact versions.
    """
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(requirement for extra in group.extras for requirement in extras[extra])]
    needed += [requirement for requirement in extras["dev"] if _name(requirement) in group.dev]
    return [requirement if _name(requirement) in group.newer else lowest(requirement) for requirement in needed]


def _name(requirement: str) -> str:
    """Returns the distribution that a requirement is about."""
    return re.split(r"[\[>= ]", requirement)[0]


def main(argv: list[str] | None = None) -> None:
    """Installs and tests one group, or each of them."""
    parser = argparse.ArgumentParser(prog="make lowest", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", metavar="NAME", nargs="?", choices=sorted(GROUPS), help=", ".join(sorted(GROUPS)))
    name = parser.parse_args(argv).name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    if "{}.{}".format(*sys.version_info) != oldest:
        sys.exit(f"Expected Python {oldest}, the oldest allowed, got {sys.version}: make lowest PYTHON=python{oldest}")
    for group_name in GROUPS if name is None else [name]:
        group, folder = GROUPS[group_name], ROOT / ".venv-lowest" / group_name
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        requirements = pins(project, group)
        print(f"{group_name}: {' '.join(requirements)}", flush=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        if "torch" in group.newer:  # first and alone: see `make setup`
            subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", "torch"], check=True)
        subprocess.run([*pip, *requirements], check=True)
        subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", *group.tests]
        if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
            sys.exit(code)


if __name__ == "__main__":
    main()
