"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """In the order of the page, in one namespace, with a smaller budget than a reader would give it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    code = "\n".join(blocks).replace("total_timesteps=100_000", "total_timesteps=200").replace("(300,", "(20,")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert isinstance(namespace["action"], int)
    assert (tmp_path / "runs" / "first" / "checkpoints").is_dir()
    env = namespace["env"]
    assert env.unwrapped.setting.reward.name == "mentions_of_the_sea"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *map(str, Path("docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_the_commands_of_the_readme_exist():
    """Every option that the README names is one that the command line takes."""
    import contextlib
    import io

    from agents.__main__ import main

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in re.findall(r"^    python -m agents (\w+) (.*)$", readme, flags=re.MULTILINE):
        name, rest = command
        output = io.StringIO()
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        for option in re.findall(r"--[\w-]+", rest):
            assert option in output.getvalue(), option
