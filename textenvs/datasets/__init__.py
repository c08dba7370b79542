"""Real data as tasks: files, data sets on the Hugging Face Hub, and presets of public data sets."""

from textenvs.datasets.dataset import Dataset, load_dataset
from textenvs.datasets.fields import Row
from textenvs.datasets.pairs import pair_of
from textenvs.datasets.presets import PRESETS, Preset
from textenvs.datasets.public import DATA_VARIABLE, PublicDataset, env_id_of, factories, find_data, how_to_get
from textenvs.datasets.readers import Format, Table, absolute_source, read_tables
from textenvs.datasets.reading import Report
from textenvs.datasets.splits import hashed_split

__all__ = [
    "DATA_VARIABLE",
    "PRESETS",
    "Dataset",
    "Format",
    "Preset",
    "PublicDataset",
    "Report",
    "Row",
    "Table",
    "absolute_source",
    "env_id_of",
    "factories",
    "find_data",
    "hashed_split",
    "how_to_get",
    "load_dataset",
    "pair_of",
    "read_tables",
]
