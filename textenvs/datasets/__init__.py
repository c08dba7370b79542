"""Real data as tasks: files, data sets on the Hugging Face Hub, and presets of public data sets."""

from textenvs.datasets.dataset import Dataset, Report, load_dataset
from textenvs.datasets.presets import PRESETS, FinalNumber, Preset, Source
from textenvs.datasets.readers import Row, read_tables

__all__ = ["PRESETS", "Dataset", "FinalNumber", "Preset", "Report", "Row", "Source", "load_dataset", "read_tables"]
