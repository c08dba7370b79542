"""The registry of tasks: makes a `Task` of a name, a dict or a `Task`. `textenvs.tasks` registers the built-in ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from textenvs.arguments import check_arguments, did_you_mean, takes_argument
from textenvs.tasks.base import Task

TASKS: dict[str, Callable[..., Task]] = {}
"""Name to the factory of a task. Add to it with `register_task`."""


def register_task(name: str, factory: Callable[..., Task]) -> None:
    """Gives a task a name, under which `make_task` and `gym.make(..., task=name)` find it.

    Args:
        name: The name.
        factory: Makes the task: a `Task` class, or a function that returns one.

    Raises:
        ValueError: If the name is taken or empty.
        TypeError: If `name` is not a string or `factory` cannot be called.
    """
    if not isinstance(name, str):
        raise TypeError(f"Expected a task's name to be a string, got {type(name).__name__}")
    if not callable(factory):
        raise TypeError(f"Expected the factory of task {name!r} to be callable, got {type(factory).__name__}")
    if not name:
        raise ValueError("Expected a task's name to have at least one character, got ''")
    if name in TASKS:
        raise ValueError(f"Expected a new task name, got {name!r}, which is registered already")
    TASKS[name] = factory


def list_tasks() -> list[str]:
    """Returns the names that `make_task` knows, sorted."""
    return sorted(TASKS)


def with_data(task: str | Task | Mapping[str, Mapping[str, Any]], data: Any) -> dict[str, dict[str, Any]]:
    """Puts data among the arguments of a task.

    Example:
        >>> with_data({"dataset": {"references": "answer"}}, "sums.csv")
        {'dataset': {'references': 'answer', 'data': 'sums.csv'}}

    Args:
        task: A registered name, or `{name: keyword arguments}`.
        data: The task's argument of that name.

    Returns:
        The name with all arguments.

    Raises:
        ValueError: If it is a `Task`, the arguments have data already, or the task reads none.
    """
    if isinstance(task, Task):
        raise ValueError(f"Expected data= with a task's name, got it with {task.name!r}, which has its data already")
    [(name, arguments), *others] = [(task, {})] if isinstance(task, str) else task.items()
    if others or not isinstance(arguments, Mapping):
        raise ValueError(f"Expected a dict with one entry, {{name: keyword arguments}}, got {task!r:.200}")
    if "data" in arguments:
        raise ValueError(f"Expected data= once, got it with the argument 'data' of task {name!r}, too")
    if name in TASKS and not takes_argument(TASKS[name], "data"):
        reading = [known for known in list_tasks() if takes_argument(TASKS[known], "data")]
        raise ValueError(
            f"Expected data= with a task that reads data, from {reading}, got it with {name!r}: for data of your own, "
            "task='dataset', or task={'dataset': {'prompt': ..., 'references': ...}}"
        )
    return {name: {**arguments, "data": data}}


def make_task(task: str | Task | Mapping[str, Mapping[str, Any]]) -> Task:
    """Makes a task of its name.

    Example:
        >>> make_task({"stories": {"train": 16}}).num_examples("train")
        16

    Args:
        task: A registered name, a task (returned as it is), or a dict with one entry, `{name: keyword arguments}`.

    Returns:
        The task.

    Raises:
        ValueError: If no task has this name, or the dict has not exactly one entry.
        TypeError: If it is of another type, the task does not take an argument or an argument is missing, or the
            factory does not return a task.
    """
    if isinstance(task, Task):
        return task
    arguments: Mapping[str, Any] = {}
    name: Any = task
    if isinstance(task, Mapping):
        if len(task) != 1:
            raise ValueError(f"Expected a dict with one entry, {{name: keyword arguments}}, got {dict(task)!r}")
        name, arguments = next(iter(task.items()))
        if not isinstance(arguments, Mapping):
            raise TypeError(f"Expected the arguments of task {name!r} as a dict, got {type(arguments).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"Expected a task's name, a Task or {{name: arguments}}, got {type(name).__name__}")
    if name not in TASKS:
        raise ValueError(f"Expected a task from {list_tasks()}, got {name!r}.{did_you_mean(name, TASKS)}")
    check_arguments(f"task {name!r}", TASKS[name], arguments)
    made = TASKS[name](**arguments)
    if not isinstance(made, Task):
        raise TypeError(f"Expected the factory of task {name!r} to return a Task, got {type(made).__name__}")
    return made
