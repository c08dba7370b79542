"""Real data as tasks: files, data sets on the Hugging Face Hub, and presets of public data sets."""

from textenvs.datasets.dataset import Dataset, Report, load_dataset
from textenvs.datasets.presets import PRESETS, FinalNumber, Preset, Source
from textenvs.datasets.readers import Row, read_tables
from textenvs.datasets.splits import hashed_split

__all__ = [
    "PRESETS",
    "Dataset",
    "FinalNumber",
    "Preset",
    "Report",
    "Row",
    "Source",
    "hashed_split",
    "load_dataset",
    "read_tables",
]
