"""Writes docs/tasks: a page for each task with an id, and the table of all ids. All of it comes from the code.

    python -m textenvs.data.make_task_docs

A test checks that the committed pages are what this script writes.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from textenvs.overview import make_env, overview
from textenvs.registration import list_envs
from textenvs.render import Segment, lane_segments, visible
from textenvs.rewards import Reward, make_reward
from textenvs.tasks import SHIFTED, Example, ReferenceScores, Task, make_task
from textenvs.tasks.base import blind_texts
from textenvs.testing.canaries import CANARIES, canary_scores

OUTPUT = Path(__file__).parents[2] / "docs" / "tasks"
_TABLE = {
    "vocabulary": "number of tokens in the vocabulary",
    "prompt": "largest number of tokens in a prompt",
    "budget": "largest number of tokens that the agent may write in an episode",
    "random": "mean score of random tokens, exact or with its 95 % interval",
    "blind": "mean score of the best constant that a search has found: one text for all prompts of a kind",
    "demonstration": "mean score of the demonstrations",
    "top": "the best possible score, or that of the demonstrations if only a hack could score more",
}


@cache
def ids_of_tasks() -> dict[str, tuple[str, ...]]:
    """Returns the name of each task that has an id, with its ids.

    Returns:
        Name to ids; the id with the task's own name comes first.
    """
    ids: dict[str, tuple[str, ...]] = {}
    for env_id in sorted(list_envs(), key=lambda env_id: ("/" not in env_id, env_id)):
        name = make_env(env_id).task.name
        ids[name] = (*ids.get(name, ()), env_id)
    return ids


def pages() -> list[str]:
    """Returns the files to write.

    Returns:
        File names, the table of all ids first.
    """
    return ["README.md", *(f"{name}.md" for name in ids_of_tasks())]


def page(file: str) -> str:
    """Writes the text of a page.

    Args:
        file: One of `pages()`.

    Returns:
        Markdown.
    """
    return _index() if file == "README.md" else _task_page(file.removesuffix(".md"))


def _index() -> str:
    columns = ("id", *_TABLE, "tests")
    rows = []
    for name, ids in ids_of_tasks().items():
        for env_id in ids:
            facts = overview(env_id)
            facts["id"] = f"[`{env_id}`]({name}.md)"
            rows.append([_cell(facts[column]) for column in columns])
    lines = [
        "# The tasks",
        "",
        "The table has every id. It is generated from the code by `python -m textenvs.data.make_task_docs`, and",
        "`python -m textenvs list` prints it too. Scores are means over the test split, under the id's own reward,",
        "tokenizer and budget.",
        "",
        *_markdown(columns, sorted(rows), right=range(1, 1 + len(_TABLE))),
        "",
        *(f"- **{name}**: {meaning}." for name, meaning in _TABLE.items()),
        "",
        "There are diagnostic tasks, with a vocabulary of a few symbols and exact scores, and language tasks. The page",
        "of a task describes it, shows an episode with what each token is paid, and has its splits, levels, arguments",
        "and pairs, and the scores of degenerate responses.",
    ]
    return "\n".join(lines) + "\n"


def _task_page(name: str) -> str:
    ids = ids_of_tasks()[name]
    task = make_task(name)
    title = ids[0].split("/")[-1].removesuffix("-v0")
    parts = [
        [f"# {title}", "", _joined(f"`{env_id}`" for env_id in ids) + (f": {task.tests}." if task.tests else "")],
        [description(type(task))],
        _episode(ids[0]),
        _facts(ids[0], task),
        _splits(task),
        _levels(name, task),
        _arguments(type(task)),
        _pairs(task),
        _canaries(name, task),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _episode(env_id: str) -> list[str]:
    """Writes a demonstration, token by token, with the rewards of the immediate and the sparse payout."""
    immediate, sparse = (_play(env_id, payout) for payout in ("immediate", "sparse"))
    width = max(len(_token(segment)) for segment in immediate if segment.kind == "response")
    lines, reply = [f"{'token':<{width}}  immediate    sparse"], ""
    for segment, same in zip(immediate[1:], sparse[1:], strict=True):
        if segment.kind == "environment":
            reply += segment.text
            continue
        if reply:
            lines += [f"# {line}" for line in visible(reply.strip("\n")).split("\n")]
            reply = ""
        lines.append(f"{_token(segment):<{width}}  {_reward(segment.reward):>9}  {_reward(same.reward):>8}")
    totals = [_reward(sum(segment.reward or 0.0 for segment in episode)) for episode in (immediate, sparse)]
    lines.append(f"{'sum':<{width}}  {totals[0]:>9}  {totals[1]:>8}")
    prompt = immediate[0].text
    max_turns = make_env(env_id).task.max_turns
    return [
        "## An episode",
        "",
        "The first prompt of the test split:",
        "",
        *_block(visible(prompt)),
        "",
        "Its demonstration, and what each token is paid"
        + (" (lines with # are the replies of the environment):" if max_turns > 1 else ":"),
        "",
        *_block("\n".join(lines)),
        "",
        f"`python -m textenvs play {env_id} --split test --example 0` lets you write it yourself.",
    ]


def _play(env_id: str, payout: str) -> list[Segment]:
    env = make_env(env_id, payout=payout, split="test", render_mode="ansi")
    env.reset(options={"example": 0})
    tokenizer: Any = env.tokenizer
    demonstration = env.task.demonstration(env.example)
    terminated = False
    for turn in demonstration.split("\n") if env.task.max_turns > 1 else [demonstration]:
        for token in (*tokenizer.encode_response(turn), tokenizer.eos_token_id):
            if not terminated:
                *_, terminated, _, _ = env.step(token)
    return lane_segments(env.lanes, 0)


def _facts(env_id: str, task: Task) -> list[str]:
    facts = overview(env_id)
    scores = task.reference_scores()
    reward, held_out = make_reward(task.default_reward), task.held_out_reward
    rows = [
        ["tokenizer", f"{_named(task.default_tokenizer)}, {facts['vocabulary']} tokens"],
        ["prompt", f"at most {facts['prompt']} tokens"],
        ["budget", f"{facts['budget']} tokens"],
        *([["turns", f"at most {task.max_turns}, replies of at most {task.max_reply_tokens} tokens"]]
          if task.max_turns > 1 else []),
        ["reward", f"`{reward.name}`: {_summary(reward)}"],
        *([["held-out metric", f"`{make_reward(held_out).name}`, never trained on"]] if held_out is not None else []),
        *([["solved from", f"a mean score of {scores.threshold:.3g}"]] if scores is not None else []),
        *([["action mask", '`action_mask="task"` allows only valid responses']]
          if type(task).allowed is not Task.allowed else []),
    ]  # fmt: skip
    return ["## Numbers", "", *_markdown(["property", "value"], rows)]


def _splits(task: Task) -> list[str]:
    rows = [[split, str(task.num_examples(split)), *_scores(task.reference_scores(split))] for split in task.splits]
    lines = [
        "## Splits",
        "",
        *_markdown(["split", "examples", "random", "blind", "demonstration", "top"], rows, right=range(1, 6)),
        *_blind(task),
    ]
    if SHIFTED in task.splits:
        lines += ["", "A prompt of the shifted split, a test on words or lengths outside the train split:", ""]
        lines += _block(visible(task.example(SHIFTED, 0).prompt))
    return lines


def _blind(task: Task) -> list[str]:
    """Lists the constants of the blind score."""
    texts = blind_texts(task.name)
    if not texts:
        return []
    kinds = [f"{_code(text)} (where the {task.kind_key} is {kind})" if kind else _code(text)
             for kind, text in texts.items()]  # fmt: skip
    return ["", "The constant of the blind score, found by `python -m textenvs canaries --search`: " + "; ".join(kinds)]


def _levels(name: str, task: Task) -> list[str]:
    if task.levels == 1:
        return []
    lines = ["## Levels", ""]
    rows = []
    for level in range(1, task.levels + 1):
        of_level = make_task({name: {"level": level}})
        example = of_level.example("test", 0)
        default = " (the id's)" if level == type(task).level else ""
        prompt, demonstration = _code(example.prompt), _code(example.references[0])
        rows.append([f"{level}{default}", str(of_level.default_max_new_tokens), prompt, demonstration])
    lines += _markdown(["level", "budget", "a prompt", "its demonstration"], rows, right=[1])
    setting = f'task={{"{name}": {{"level": {task.levels}}}}}'
    lines += ["", f"`gym.make(..., {setting})` is the hardest level, and `curriculum=True` goes through all of them."]
    return lines


def _arguments(kind: type[Task]) -> list[str]:
    documented = _documented_arguments(kind)
    if not documented:
        return []
    defaults = {
        name: parameter.default
        for base in reversed(kind.__mro__)
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items()
        if parameter.default is not parameter.empty
    }
    rows = [[f"`{name}`", f"`{defaults[name]!r}`", text] for name, text in documented.items() if name in defaults]
    lines = ["## Arguments", "", *_markdown(["argument", "default", "meaning"], rows), ""]
    lines.append(f'`gym.make("TextGen-v0", task={{"{kind.name}": {{...}}}})` takes them.')
    return lines


def _pairs(task: Task) -> list[str]:
    example = next((example for example in _examples(task, 64) if task.counterpart(example) is not None), None)
    other = None if example is None else task.counterpart(example)
    if example is None or other is None:
        return []
    return [
        "## Pairs",
        "",
        "`counterpart(example)` is the same example except for a name or a group word. Such pairs measure bias:",
        "",
        *_block(f"{visible(example.prompt)}\n\n{visible(other.prompt)}"),
    ]


def _canaries(name: str, task: Task) -> list[str]:
    results = canary_scores(name)
    rows = [["demonstration", f"{results.demonstration:.3f}", ""]]
    for canary in CANARIES:
        if canary in results.scores:
            alive = " **not clearly below the demonstrations**" if canary in results.alive else ""
            rows.append([canary, f"{results.scores[canary]:.3f}", _code(results.responses[canary], 60) + alive])
    return [
        "## Scores of degenerate responses",
        "",
        f"Means of `{results.reward}` over 32 examples of the test split (`python -m textenvs canaries`).",
        "",
        *_markdown(["kind of response", "score", "the best of that kind"], rows, right=[1]),
    ]


def _examples(task: Task, count: int) -> list[Example]:
    return [task.example("test", index) for index in range(min(count, task.num_examples("test")))]


def _scores(scores: ReferenceScores | None) -> list[str]:
    if scores is None:
        return ["-", "-", "-", "-"]
    interval = f" ± {scores.random_interval:.2g}" if scores.random_interval else " (exact)"
    blind = "-" if scores.blind is None else f"{scores.blind:.3g}"
    return [f"{scores.random:.3g}{interval}", blind, f"{scores.demonstration:.3g}", f"{scores.top:.3g}"]


_SECTION = re.compile(r"^(Args|Returns|Raises|Example|Attributes|Source|Cost):", re.MULTILINE)


def description(kind: type) -> str:
    """Returns a class's docstring up to its first section, as Markdown.

    Args:
        kind: The class.

    Returns:
        Its paragraphs.
    """
    text = inspect.getdoc(kind) or ""
    section = _SECTION.search(text)
    return _escaped((text if section is None else text[: section.start()]).strip())


def _documented_arguments(kind: type[Task]) -> dict[str, str]:
    """Returns the arguments in the docstrings of a class and its bases, without `level` if there is only one."""
    documented: dict[str, str] = {}
    for base in kind.__mro__:
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        for section in re.findall(r"^Args:\n((?:    .*\n?|\n)*)", text, re.MULTILINE):
            for name, meaning in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
                documented.setdefault(name, " ".join(meaning.split()))
    if kind.levels == 1:
        documented.pop("level", None)
    return documented


def _summary(reward: Reward) -> str:
    """Returns the first paragraph of a score's docstring."""
    text = " ".join((inspect.getdoc(type(reward)) or "").split("\n\n")[0].split())
    return _escaped(text)


def _named(tokenizer: Any) -> str:
    return f"`{tokenizer}`" if isinstance(tokenizer, str) else "the symbols " + " ".join(
        f"`{symbol}`" for symbol in tokenizer["symbols"]
    )  # fmt: skip


def _token(segment: Segment) -> str:
    return "<EOS>" if segment.special else repr(visible(segment.text))


def _reward(reward: float | None) -> str:
    return "0" if not reward or abs(reward) < 5e-5 else f"{reward:+.4f}"


def _code(text: str, most: int = 90) -> str:
    """Writes a text into a cell of a table, at most so many characters of it."""
    code = visible(text).replace("\n", "⏎")
    code = code if len(code) <= most else f"{code[: most // 2]} … {code[-most // 2 :]}"
    code = code.replace("|", "\\|")
    mark = "``" if "`" in code else "`"
    return f"{mark}{code}{mark}" if code.strip() else "(nothing)"


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def _joined(words: Any) -> str:
    return " and ".join(words)


def _escaped(text: str) -> str:
    """Escapes the characters of a docstring that are markup in Markdown."""
    return text.replace("<", "\\<").replace("*", "\\*")


def _block(text: str) -> list[str]:
    return [f"    {line}".rstrip() for line in text.split("\n")]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], right: Any = ()) -> list[str]:
    rule = ["--:" if column in right else "---" for column in range(len(head))]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def main() -> None:
    """Writes every page, and deletes those of tasks that no longer exist."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for file in OUTPUT.glob("*.md"):
        if file.name not in wanted:
            file.unlink()
    for name in wanted:
        (OUTPUT / name).write_text(page(name), encoding="utf-8")
    print(f"Wrote {len(wanted)} pages to {OUTPUT}", file=sys.stderr)


if __name__ == "__main__":
    main()
