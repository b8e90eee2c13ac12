"""Rows of files, saved data sets and data sets of the hub, each with its place for messages. The door to `datasets`."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posweep import hub
from posweep.errors import DataError, first_line

JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")
"""How a file says which of how many it is."""
PATTERN = re.compile(r"[*?\[\]{}]|::")
"""What `datasets` and fsspec take for a pattern, or for a chain of addresses, in a path that a user wrote."""
KINDS = "a file of JSON lines (.jsonl, .json, also .gz), a .parquet file, or a folder that Dataset.save_to_disk wrote"


@dataclass(frozen=True)
class Row:
    """One row: where it stands, its columns, and what is wrong with it where it could not be read."""

    place: str
    values: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = ""


@dataclass(frozen=True)
class Asked:
    """Which rows of a data set are asked for, and the settings that say so, for messages."""

    place: str
    name: str
    split: str
    split_setting: str
    subset: str | None = None
    folder: str | None = None
    is_folder: bool = False  # a folder of the user's, whose files may change, and no commit of the hub


def of_file(path: Path) -> Iterator[Row]:
    """The rows of one file, or of one split that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: it is not there or cannot be read; a malformed line is a row that says what is wrong.
    """
    if not path.exists():
        raise DataError(f"{path}: is not there; name {KINDS}.")
    if path.is_dir():
        return _of_saved(path)
    if path.name.lower().endswith(JSON_LINES):
        return _of_text(path, _text(path))
    if path.suffix.lower() == ".parquet":
        return _of_parquet(path)
    raise DataError(f"{path}: is of no kind that is read; name {KINDS}.")


def of_folder(path: Path, asked: Asked) -> Iterator[Row]:
    """The rows of one split of a data set in a folder, laid out as on the hub or written by `DatasetDict.save_to_disk`.

    Raises:
        DataError: it has no such split, subset or folder; or it cannot be read.
    """
    if (path / "state.json").is_file():
        return _of_saved(path)
    saved = path / "dataset_dict.json"
    if saved.is_file():
        _check_split(asked, json.loads(saved.read_text(encoding="utf-8"))["splits"])
        return _of_saved(path / asked.split)
    return _of_repository(path, asked)


# --- JSON


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); write it again.") from None


def _of_text(path: Path, text: str) -> Iterator[Row]:
    """One object a line, or in a .json file one list of objects, or one object over several lines.

    Only a newline ends a line: JSON may hold the others. Files that were put together hold byte-order marks in their middle.
    """
    is_json = path.name.lower().endswith((".json", ".json.gz"))
    if text.lstrip().startswith("["):
        if is_json:
            return _of_list(path, text)
        if isinstance(_whole(text), list):
            raise DataError(f"{path}: is one JSON list, and .jsonl has one object a line; name it .json.")
    if is_json and isinstance(single := _whole(text), dict):
        return iter([Row(str(path), single)])
    lines = ((number, line.lstrip("\ufeff")) for number, line in enumerate(text.split("\n"), start=1))
    return (_of_line(f"{path}:{number}", line) for number, line in lines if line.strip())


def _of_line(place: str, line: str) -> Row:
    try:
        return _object(place, json.loads(line))
    except json.JSONDecodeError as error:
        wrong = f"is no JSON object ({error.msg} at column {error.colno}); every line must be one."
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        wrong = f"is no JSON object that can be read ({first_line(error)})."
    return Row(place, wrong=wrong)


def _of_list(path: Path, text: str) -> Iterator[Row]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is no list of JSON objects ({error.msg}).") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no list of JSON objects that can be read ({first_line(error)}).") from None
    return (_object(f"{path} item {number}", item) for number, item in enumerate(items))


def _whole(text: str) -> Any:
    """A text as one JSON value; None where it is none, as JSON lines are."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(place: str, found: Any) -> Row:
    if isinstance(found, dict):
        return Row(place, found)
    return Row(place, wrong=f"must be a JSON object, got {str(found)[:60]!r}.")


# --- datasets


def _library() -> Any:
    """`datasets`, silent: what goes wrong becomes a sentence, and the progress display is ours."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a README without metadata is no trouble
    return datasets


def _of_parquet(path: Path) -> Iterator[Row]:
    """By pyarrow, on which `datasets` stands, from the open file: `datasets` takes a path for a pattern, and keeps a copy of
    its rows that it takes for current while the file's time stays."""
    import pyarrow.parquet

    try:
        with path.open("rb") as stream:
            rows = pyarrow.parquet.ParquetFile(stream).read().to_pylist()
    except Exception as error:  # whatever the parser raises
        raise DataError(f"{path}: is no parquet file that can be read ({first_line(error)}).") from None
    return _rows(str(path), rows)


def _of_saved(path: Path) -> Iterator[Row]:
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise DataError(
            f"{path}: holds several splits; name one of {', '.join(f'{path.name}/{one}' for one in splits)}."
        )
    if not (path / "state.json").is_file():
        raise DataError(f"{path}: is no saved data set; name {KINDS} (data=hub reads other folders, by data.name).")
    try:
        with _under_plain_name(path) as (plain, _):
            return _rows(str(path), list(_library().load_from_disk(str(plain))))
    except Exception as error:  # whatever the library makes of a damaged folder
        raise DataError(f"{path}: is no saved data set that can be read ({first_line(error)}).") from None


def _of_repository(path: Path, asked: Asked) -> Iterator[Row]:
    """By `datasets`, from the files: without network, and no code of the data set's own runs."""
    _check_folder(path, asked)
    _check_shards(path, asked)
    with _under_plain_name(path, asked.folder) as (plain, folder):
        cache = _cache(path, asked) if plain == path else str(plain.parent / "cache")
        options = {"name": asked.subset, "data_dir": folder, "cache_dir": cache}
        return _rows(f"{asked.name}[{asked.split}]", _of_plain(plain, options, asked))


def _of_plain(path: Path, options: Mapping[str, Any], asked: Asked) -> list[Mapping[str, Any]]:
    """The rows of a split in a folder whose path `datasets` takes for what it is."""
    library = _library()
    try:
        splits = library.load_dataset_builder(str(path), **options).config.data_files
    except Exception as error:  # whatever the library makes of the files
        raise DataError(_no_subset(library, path, asked) or _unreadable(asked, error)) from None
    _check_split(asked, [str(split) for split in splits])
    try:
        return list(library.load_dataset(str(path), **options, split=asked.split))
    except Exception as error:  # whatever the parser raises
        raise DataError(_unreadable(asked, error)) from None


def _cache(path: Path, asked: Asked) -> str | None:
    """Where `datasets` keeps the rows of a user's folder: by its content, since the library looks at times only, and files
    that were copied or unpacked keep theirs. None takes its own place, which is right for a commit of the hub."""
    if not asked.is_folder:
        return None
    return str(Path(_library().config.HF_DATASETS_CACHE) / f"posweep-{hub.content_hash(path)}")


@contextmanager
def _under_plain_name(path: Path, folder: str | None = None) -> Iterator[tuple[Path, str | None]]:
    """A folder, and one within it, by names that hold no pattern: their own, or those of links that are gone afterwards.

    Each file has a link: `datasets` would follow one to the folder, and take the path that it finds for a pattern.
    """
    if not PATTERN.search(f"{path.resolve()}/{folder or ''}"):
        yield path, folder
        return
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    with tempfile.TemporaryDirectory(dir=next((one for one in places if not PATTERN.search(one)), None)) as temporary:
        plain = Path(temporary, "data")
        _link_files(path, plain)
        if folder is not None and PATTERN.search(folder):
            _link_files(path / folder, plain / "folder")
            folder = "folder"
        yield plain, folder


def _link_files(folder: Path, links: Path) -> None:
    links.mkdir()
    for entry in os.scandir(folder.resolve()):
        if entry.is_dir(follow_symlinks=False):
            _link_files(Path(entry.path), links / entry.name)
        else:
            (links / entry.name).symlink_to(entry.path)


def _check_folder(path: Path, asked: Asked) -> None:
    if asked.folder and not (path / asked.folder).is_dir():
        there = sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
        raise DataError(
            f"{asked.place}.folder: {asked.name} has no folder {asked.folder!r}; there are {', '.join(there) or 'none'}."
        )


def _check_shards(path: Path, asked: Asked) -> None:
    """Files that say which of how many they are must all be there: half a download is another data set."""
    found: dict[tuple[str, int], int] = Counter()
    for file in path.rglob("*"):
        if numbered := SHARD.search(file.name):
            found[f"{file.parent}/{file.name[: numbered.start()]}", int(numbered[2])] += 1
    lacking = [
        f"{Path(stem).name} ({count} of {total} files)" for (stem, total), count in found.items() if count < total
    ]
    if lacking:
        raise DataError(f"{asked.place}.name: {asked.name} is not whole here: {', '.join(lacking)}; fetch it again.")


def _no_subset(library: Any, path: Path, asked: Asked) -> str:
    """What is wrong with the subset; empty where it is something else."""
    try:
        there = [str(one) for one in library.get_dataset_config_names(str(path))]
    except Exception:  # then the files are to blame
        return ""
    if asked.subset is None and len(there) > 1:
        return f"{asked.place}.subset: must name one of the subsets of {asked.name}: {', '.join(there)}."
    if asked.subset not in (None, *there):
        return f"{asked.place}.subset: {asked.name} has no subset {asked.subset!r}; there are {', '.join(there)}."
    return ""


def _check_split(asked: Asked, splits: Iterable[str]) -> None:
    there = list(splits)
    if asked.split not in there:
        raise DataError(
            f"{asked.split_setting}: {asked.name} has no split {asked.split!r}; there are {', '.join(there)}."
        )


def _rows(name: str, found: Any) -> Iterator[Row]:
    return (Row(f"{name} row {number}", values) for number, values in enumerate(found))


def _unreadable(asked: Asked, error: Exception) -> str:
    return f"{asked.place}.name: {asked.name} cannot be read as a data set ({first_line(error.__cause__ or error)})."
