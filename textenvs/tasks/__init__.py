"""The tasks, by name."""

from textenvs.tasks.base import SHIFTED, SPLITS, Example, ReferenceScores, Task
from textenvs.tasks.classification import Classify
from textenvs.tasks.composed import Composed
from textenvs.tasks.credit import Chain, DelayedCue, Password
from textenvs.tasks.diagnostic import Diagnostic
from textenvs.tasks.dialogue import Dialogue
from textenvs.tasks.formal import Arithmetic, Brackets, Length
from textenvs.tasks.levels import Levels
from textenvs.tasks.questions import QuestionAnswering
from textenvs.tasks.recommendation import Recommend
from textenvs.tasks.registry import list_tasks, make_task, register_task
from textenvs.tasks.retrieval import Needle
from textenvs.tasks.reviews import Reviews
from textenvs.tasks.sequences import Copy, Reverse, Sort
from textenvs.tasks.stories import Stories
from textenvs.tasks.summaries import SummarizeAbstractive, SummarizeExtractive
from textenvs.tasks.translation import Translate
from textenvs.tasks.writing import Write

__all__ = [
    "SHIFTED",
    "SPLITS",
    "Composed",
    "Diagnostic",
    "Example",
    "Levels",
    "ReferenceScores",
    "Stories",
    "Task",
    "list_tasks",
    "make_task",
    "register_task",
]

for _task in (
    Stories, Copy, Reverse, Sort, DelayedCue, Chain, Password, Needle, Brackets, Arithmetic, Length,
    Reviews, Dialogue, SummarizeExtractive, SummarizeAbstractive, Translate, QuestionAnswering, Classify, Recommend,
    Write, Levels,
):  # fmt: skip
    register_task(_task.name, _task)
