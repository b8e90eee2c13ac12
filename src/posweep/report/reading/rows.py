"""A table's cells, and where in the file each row stands: CSV, JSON lines, parquet, or a data frame."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from posweep.errors import DataError, first_line

KINDS = "a file that ends in .csv, .tsv, .jsonl, .json or .parquet"
DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
NOTHING = frozenset(("", "nan", "na", "n/a", "<na>", "none", "null"))
"""Cells of a text file that hold nothing, in whatever case."""


@dataclass(frozen=True)
class Row:
    """One row: where it stands (`results.csv:3`) and its cells that hold something."""

    place: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """A table before anyone knows what its columns are."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def values(self, column: str) -> list[Any]:
        """What a column's cells hold, without the empty ones."""
        return [row.cells[column] for row in self.rows if column in row.cells]


def rows_of(table: pd.DataFrame | Path | str) -> Rows:
    """The rows of a file or a data frame, as plain numbers, texts and truths; mappings become columns `outer.inner`.

    Raises:
        DataError: the file is not there, of no kind that is read, damaged (every bad line at once), or without rows.
    """
    if isinstance(table, pd.DataFrame):
        found = _of_frame("table", table)
    else:
        path = Path(table)
        if not path.is_file():
            raise DataError(f"{path}: is not there; name {KINDS}.")
        readers = {".csv": _of_text, ".tsv": _of_text, ".jsonl": _of_json, ".json": _of_json, ".parquet": _of_parquet}
        if path.suffix.lower() not in readers:
            raise DataError(f"{path}: is of no kind that is read; name {KINDS}.")
        found = readers[path.suffix.lower()](path)
    if not found.rows:
        raise DataError(f"{found.name}: holds no rows; it needs one per trial.")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}).") from None


def _of_text(path: Path) -> Rows:
    """Comma, semicolon or tab: whichever the heading has most of."""
    text = _text(path)
    signs = DELIMITERS[path.suffix.lower()]
    heading = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text), delimiter=max(signs, key=heading.count), strict=True)
    try:
        columns = [name.strip() for name in next(lines, [])]
        listed = [(lines.line_num, cells) for cells in lines if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num}: is no row that can be read ({error}).") from None
    problems = [f"{path}:1: two columns are called {name!r}; rename one." for name in _repeated(columns)]
    problems += [
        f"{path}:{line}: has {len(cells)} cells where the heading has {len(columns)}."
        for line, cells in listed
        if len(cells) != len(columns)
    ]
    if problems:
        raise DataError(problems)
    read = [(f"{path}:{line}", dict(zip(columns, cells, strict=True))) for line, cells in listed]
    return _rows(str(path), columns, read)


def _repeated(columns: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(columns).items() if count > 1 and name]


def _cell(text: str) -> Any:
    """A cell written as text: a number or a truth where it reads as one, a mapping where W&B printed one, else text."""
    text = text.strip()
    if text.casefold() in NOTHING:
        return None
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    if text.startswith("{"):
        return _mapping(text)
    try:
        number = float(text)
    except ValueError:
        return text
    return text if "_" in text else int(number) if text.lstrip("+-").isdecimal() and abs(number) < 2**53 else number


def _mapping(text: str) -> Any:
    """JSON or the way Python prints a dictionary; text that is neither stays as it is."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError):
            continue
    return text


def _of_json(path: Path) -> Rows:
    """One object a line, or one list of objects."""
    text, problems, read = _text(path), [], []
    if text.lstrip().startswith("["):
        try:
            listed = [(f"{path} item {number}", one) for number, one in enumerate(json.loads(text), start=1)]
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: is no list of JSON objects ({error.msg}).") from None
    else:
        lines = enumerate(text.split("\n"), start=1)
        listed = [(f"{path}:{number}", _object(line)) for number, line in lines if line.strip()]
    for place, one in listed:
        if isinstance(one, dict):
            read.append((place, one))
        else:
            problems.append(f"{place}: is no JSON object; every trial must be one.")
    if problems:
        raise DataError(problems)
    return _rows(str(path), dict.fromkeys(name for _, one in read for name in one), read)


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _of_parquet(path: Path) -> Rows:
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # whatever the parser raises
        raise DataError(f"{path}: is no parquet file that can be read ({first_line(error)}).") from None
    return _of_frame(str(path), frame)


def _of_frame(name: str, frame: pd.DataFrame) -> Rows:
    """Rows by their position, from 1: an index need not be unique."""
    columns = [str(column) for column in frame.columns]
    if repeated := _repeated(columns):
        raise DataError(f"{name}: two columns are called {one!r}; rename one." for one in repeated)
    frame = frame.set_axis(columns, axis=1)
    plain = frame.astype(object).to_dict("records")
    return _rows(name, columns, [(f"{name} row {n}", row) for n, row in enumerate(plain, start=1)])  # type: ignore[misc]


def _rows(name: str, columns: Iterable[str], read: list[tuple[str, dict[str, Any]]]) -> Rows:
    listed = tuple(Row(place, _flat(cells)) for place, cells in read)
    present = dict.fromkeys(column for row in listed for column in row.cells)
    whole = {column: None for column in columns if column in present or not _spread(column, present)}
    return Rows(name, tuple(whole | present), listed)


def _spread(column: str, present: Mapping[str, Any]) -> bool:
    """Whether a column held mappings, which are columns of their own now."""
    return any(name.startswith(f"{column}.") for name in present)


def _flat(cells: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Cells that hold something, as plain values, with those of mappings under `outer.inner`."""
    found: dict[str, Any] = {}
    for name, value in cells.items():
        plain = _plain(value)
        if isinstance(plain, Mapping):
            found |= _flat(plain, f"{before}{name}.")
        elif plain is not None:
            found[f"{before}{name}"] = plain
    return found


def _plain(value: Any) -> Any:
    """A number, truth, text or mapping; None where there is nothing, which data frames write as NaN."""
    if isinstance(value, str):
        return _cell(value)
    if isinstance(value, Mapping):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, list | tuple):
        return None if value is None else str(list(value))
    if pd.isna(value):
        return None
    return value if isinstance(value, bool | int | float) else str(value)
