"""Real data as tasks: files, data sets on the Hugging Face Hub, and presets of public data sets."""

from textenvs.datasets.dataset import Dataset, Report, load_dataset
from textenvs.datasets.fields import Row
from textenvs.datasets.pairs import pair_of
from textenvs.datasets.presets import PRESETS, FinalNumber, Preset, Source
from textenvs.datasets.readers import Format, Table, absolute_source, read_tables
from textenvs.datasets.splits import hashed_split

__all__ = [
    "PRESETS",
    "Dataset",
    "FinalNumber",
    "Format",
    "Preset",
    "Report",
    "Row",
    "Source",
    "Table",
    "absolute_source",
    "hashed_split",
    "load_dataset",
    "pair_of",
    "read_tables",
]
