"""Writes small files of rows, and reads all of a data set back."""

from textenvs.tasks import SPLITS


def write(tmp_path, lines, name="texts.jsonl"):
    file = tmp_path / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prompts(task):
    return {split: [task.example(split, index).prompt for index in range(task.num_examples(split))] for split in SPLITS}


def all_examples(task):
    return [task.example(split, index) for split in SPLITS for index in range(task.num_examples(split))]
