"""Public data sets under names of their own: finds their data, and makes tasks of it.

The data comes from `data=`, from the folder of the set's name below the folder that `TEXTENVS_DATA` names, or from the
Hugging Face Hub, where the `datasets` library is installed. Where there is none, one message says how to get it.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from textenvs.datasets.dataset import Dataset, sources_of
from textenvs.datasets.presets import PRESETS, Hub, Preset, Source
from textenvs.datasets.readers import Format, Table, expand_rows, is_in_memory, load_from_hub, read_tables
from textenvs.datasets.reading import DataSource, Report, RowReader
from textenvs.datasets.text_files import Rows, TextFile, read_parallel
from textenvs.registration import DATA_ENVS
from textenvs.tasks.base import Example

DATA_VARIABLE: Final = "TEXTENVS_DATA"
"""The environment variable that names a folder with a sub-folder for each data set."""

MOST_DOCUMENTS = 50_000
"""The number of texts that are read of a file of documents, whose publishers have millions in one."""

_DOCUMENT_END = "<|endoftext|>"
_SPLIT_FILE = re.compile(
    r"(?P<split>train|validation|valid|val|dev|test)(?:[-_.].*)?\.(?:jsonl|ndjson|json|csv|tsv|parquet)(?:\.gz)?"
)
_SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}


class PublicDataset(Dataset):
    """A public data set. `textenvs.list_envs(data=True)` has an id for each.

    A split is the source's own where it has it. A set without a validation split gets a tenth of its train split as
    one; a file without splits is divided by a hash. A prompt longer than the limit is cut in its middle, and a warning
    counts such prompts.

    Args:
        preset: The name of the set, one of `textenvs.datasets.PRESETS`.
        data: The set's folder, as its publishers have it or with a file for each split; a file in the publishers' form
            or with the hub's columns; the id of a copy on the hub; rows in memory; or a dict of split to any of these.
            None looks below `TEXTENVS_DATA`, and then on the hub.
        template: The prompt as a text with columns in braces; None is the preset's.
        limit: The most examples of a split, see `Dataset`.
        on_error: "raise" or "skip", see `Dataset`.

    Raises:
        ValueError: If there is no data, it cannot be read, or a row is not what it should be.
        TypeError: If an argument is of the wrong type.
    """

    def __init__(
        self,
        preset: str,
        data: Any = None,
        *,
        template: str | None = None,
        limit: int | None = None,
        on_error: str = "raise",
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"Expected preset to be one of {sorted(PRESETS)}, got {preset!r}")
        known = PRESETS[preset]
        self.name, self.tests = preset, known.tests
        self.default_reward, self.held_out_reward = known.reward, known.held_out_reward
        self.default_max_new_tokens, self.success_score = known.max_new_tokens, known.success_score
        self.max_prompt_tokens, self.truncation_side = known.max_prompt_tokens, "middle"
        if template is not None and not isinstance(template, str):
            raise TypeError(f"Expected template to be a text, got {template!r:.200}")
        reader = RowReader(
            "", known.template if template is None else template, (known.references,), known.metadata, {}
        )
        place = find_data(preset) if data is None else data
        key = _key_of(preset, place)
        self.contents = None if key is None else (key, reader.template, limit, on_error)
        if self.contents in _LOADED:
            self._template = reader.template
            self._examples, self.report = _LOADED[self.contents]
            _LOADED.move_to_end(self.contents)
            return
        sources = [DataSource(table, known.adapt, known.divide_by) for table in _tables(preset, place)]
        self._read(sources, reader, on_error, limit, repr(str(place) if isinstance(place, Path) else place)[:200])
        if self.contents is not None:
            _LOADED[self.contents] = (self._examples, self.report)
            if len(_LOADED) > _MOST_LOADED:
                _LOADED.popitem(last=False)

    @property
    def preset(self) -> Preset:
        """The settings of the set."""
        return PRESETS[self.name]

    def facts(self) -> dict[str, str]:
        """Returns what a person wants to know of the data set; see `Task.facts`."""
        return {"data set": f"{self.preset.title}, licence: {self.preset.licence}", **super().facts()}

    def demonstration(self, example: Example) -> str:
        """Returns the example's first reference, with a space in front where it continues a line."""
        text = example.references[0]
        if self.preset.demonstration is not None:
            text = self.preset.demonstration(text)
        continues = not example.prompt[-1:].isspace() and not text[:1].isspace()
        return f" {text}" if continues else text


_LOADED: OrderedDict[Hashable, tuple[dict[str, list[Example]], Report]] = OrderedDict()
"""What was read last, since an agent makes environments over the same data many times."""

_MOST_LOADED = 4


def factories() -> dict[str, Any]:
    """Returns the factory of each public data set's task, by name."""
    return {name: partial(PublicDataset, name) for name in PRESETS}


def env_id_of(preset: str) -> str:
    """Returns the id over a public data set.

    Args:
        preset: The name of the set.

    Returns:
        The id.
    """
    return next(env_id for env_id, registration in DATA_ENVS.items() if registration.kwargs["task"] == preset)


# Finding --------------------------------------------------------------------------------------------------------------


def find_data(preset: str) -> Path | Hub:
    """Finds the data of a set that was asked for without any.

    Args:
        preset: The name of the set.

    Returns:
        The folder of that name below `TEXTENVS_DATA`, or else the set on the hub.

    Raises:
        ValueError: If there is no such folder, and no library that reads from the hub.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if folder:
        path = Path(folder).expanduser() / preset
        if path.is_dir():
            return path
    if find_spec("datasets") is None:
        raise ValueError(how_to_get(preset))
    return PRESETS[preset].hub


def how_to_get(preset: str) -> str:
    """Writes how to get the data of a set, in one message.

    Args:
        preset: The name of the set.

    Returns:
        The message of an error.
    """
    known, folder = PRESETS[preset], os.environ.get(DATA_VARIABLE)
    lacking = f", which {DATA_VARIABLE}={folder!r} does not hold in a folder {preset!r}" if folder else ""
    commands = dict.fromkeys([known.command, 'pip install "textenvs[data]"'])
    return (
        f"Expected data for {env_id_of(preset)}, {known.title} (licence: {known.licence}){lacking}. Get it: "
        f"{' or '.join(commands)} (which reads {known.hub.name!r} from the Hugging Face Hub). Then pass "
        f"data='path/to/it', or set {DATA_VARIABLE} to a folder that holds it as {preset!r}. Without data, there is "
        f"{known.twin}: bundled, and synthetic"
    )


def _key_of(preset: str, place: Any) -> Hashable | None:
    """Returns a key that changes with the data; None for data that has none, rows in memory say."""
    if isinstance(place, Hub):
        return preset, place.name
    if not isinstance(place, (str, Path)):
        return None
    path = Path(place).expanduser()
    if not path.exists():
        return preset, str(place)
    files = [path]
    if path.is_dir():
        files = sorted(
            file for folder in _folders(PRESETS[preset], path) for file in folder.iterdir() if file.is_file()
        )
    stamps = tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)
    return preset, str(path.absolute()), stamps


# Reading --------------------------------------------------------------------------------------------------------------


def _tables(preset: str, place: Any) -> list[Table]:
    """Returns the tables of a set's data."""
    known = PRESETS[preset]
    if isinstance(place, Hub):
        try:
            tables = _hub_tables(place)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{how_to_get(preset)}. It could not be read from the hub: {error}") from error
    elif isinstance(place, (str, Path)) and Path(place).expanduser().is_dir():
        tables = _folder_tables(known, Path(place).expanduser())
    elif str(place).partition(":")[0] == known.hub.name:
        tables = _hub_tables(known.hub)
    elif isinstance(place, Mapping) or is_in_memory(place):
        tables = [source.table for source in sources_of(place, None, Format())]
    else:
        tables = _file_tables(known, place)
    # The hint of a table without a header names an argument that sets of known columns do not have.
    tables = [table._replace(remedy="") for table in tables]
    if known.rows is None:
        return tables
    return [table._replace(rows=_expanded(table.rows, known.rows)) for table in tables]


def _file_tables(preset: Preset, place: Any) -> list[Table]:
    """Returns the table of one file: in the publishers' form, where it has their name, or one of rows."""
    name = Path(str(place)).name.removesuffix(".gz")
    for source in (source for layout in preset.layouts for source in layout):
        if source.form != "rows" and len(source.files) == 1 and any(name in names for names in source.files.values()):
            return [_read_source(source, {column: Path(str(place)) for column in source.files})._replace(split=None)]
    return read_tables(place)


def _hub_tables(hub: Hub) -> list[Table]:
    return [Table(split, load_from_hub(hub.name, hub.configuration, hub_split, hub.from_parquet))
            for hub_split, split in hub.splits.items()]  # fmt: skip


def _folder_tables(preset: Preset, folder: Path) -> list[Table]:
    whole = [
        (layout, found)
        for layout in preset.layouts
        for below in _folders(preset, folder)
        if (found := _found_files(layout, below))
    ]
    # A layout with its first file is meant before one that shares some other file with what is there.
    whole.sort(key=lambda pair: pair[0][0] is not pair[1][0][0])
    if whole:
        return [_read_source(source, files) for source, files in whole[0][1]]
    named = [
        (match["split"], file)
        for below in _folders(preset, folder)
        for file in sorted(below.iterdir())
        if file.is_file() and (match := _SPLIT_FILE.fullmatch(file.name))
    ]
    if not named:
        names = [
            " or ".join(names) for layout in preset.layouts for source in layout for names in source.files.values()
        ]
        raise ValueError(
            f"Expected a folder with the files of {preset.title}, {', '.join(dict.fromkeys(names))}, or with a file "
            f"for each split (train.jsonl, validation.csv, test.parquet, say), got {str(folder)!r}, which holds "
            f"{sorted(file.name for file in folder.iterdir())!s:.300}"
        )
    return [table for split, file in named for table in read_tables(file, _SPLIT_NAMES.get(split, split))]


def _folders(preset: Preset, folder: Path) -> list[Path]:
    """Returns the folders in which a set's files may be, those that are there."""
    folders = (folder / name for name in dict.fromkeys((*preset.folders, "data")))
    return [path for path in folders if path.is_dir()]


def _found_files(layout: Sequence[Source], folder: Path) -> list[tuple[Source, dict[str, Path]]]:
    """Returns the files of each split that a folder holds whole."""
    found = [(source, _files_of(source, folder)) for source in layout]
    lacking = {source.split for source, files in found if len(files) < len(source.files)}
    return [(source, files) for source, files in found if source.split not in lacking]


def _files_of(source: Source, folder: Path) -> dict[str, Path]:
    """Returns column to file, for the columns whose file is there."""
    files = {}
    for column, names in source.files.items():
        paths = (folder / f"{name}{packed}" for name in names for packed in ("", ".gz"))
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            files[column] = path
    return files


def _read_source(source: Source, files: Mapping[str, Path]) -> Table:
    if source.form == "rows" and list(files) == [""]:
        [table] = read_tables(files[""], source.split)
        return table
    texts = {column: TextFile(path, _encoding_of(path, source.encodings)) for column, path in files.items()}
    rows = _documents(*texts.values()) if source.form == "documents" else read_parallel(texts)
    return Table(source.split, _with_fields(rows, source.fields) if source.fields else rows)


def _encoding_of(path: Path, encodings: Sequence[str]) -> str:
    """Returns the first of some encodings in which a file is text, and the first of all where it is text in none."""
    for encoding in encodings[1:] and encodings:
        try:
            TextFile(path, encoding).text()
        except ValueError:
            continue
        return encoding
    return encodings[0]


def _with_fields(rows: Rows, fields: Mapping[str, Any]) -> Rows:
    for location, row in rows:
        yield location, row if isinstance(row, ValueError) else {**row, **fields}


def _documents(file: TextFile) -> Rows:
    """Yields texts that have a line with a mark between them; at most `MOST_DOCUMENTS`."""
    for count, (number, text) in enumerate(_texts(file)):
        if count == MOST_DOCUMENTS:
            return
        yield f"line {number} of {file.name}", {"text": text}


def _texts(file: TextFile) -> Iterator[tuple[int, str]]:
    begun, lines = 1, list[str]()
    for line in file.lines():
        text = file.decode(line.content, line.start)
        if text.strip() != _DOCUMENT_END:
            lines.append(text)
            continue
        if "".join(lines).strip():
            yield begun, "".join(lines).strip()
        begun, lines = line.number + 1, []
    if "".join(lines).strip():
        yield begun, "".join(lines).strip()


def _expanded(rows: Rows, path: str) -> Rows:
    """Yields the rows inside of objects that have some at a path, and other rows as they are."""
    names = path.split(".")
    for location, row in rows:
        if isinstance(row, Mapping) and isinstance(row.get(names[0]), list):
            yield from expand_rows(iter([(location, row)]), names)
        else:
            yield location, row
