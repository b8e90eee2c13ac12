"""From a record to files: the page, the figures in two formats, every table as CSV and LaTeX, the summary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pandas as pd
from loky import cpu_count, get_reusable_executor
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from posweep.records import SweepRecord
from posweep.report.chapter import Chapter
from posweep.report.chapters import chapters
from posweep.report.drawing.style import publication
from posweep.report.latex import latex
from posweep.report.page.document import page
from posweep.report.page.judges import judge_agreement
from posweep.report.tables import Tables, summary

DRAUGHTSMEN = 4  # processes that draw, where there are so many cores
HEAVY = 220_000  # bytes of an SVG: thousands of marks are slow to open and no sharper than pixels
UNDATED = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def write_report(record: SweepRecord, folder: Path) -> Path:
    """Write `report.html`, `summary.json`, `figures/*.png|svg` and `tables/*.csv|tex`; the same record gives the same bytes.

    Args:
        record: what a tracker holds of a sweep, or `read_table` made of a table.
        folder: made where it is missing; files of the same names are replaced.

    Returns:
        The path of `report.html`.
    """
    tables = Tables.of(record)
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found = summary(tables)
    write_text(folder / "summary.json", json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_table(folder / "tables" / "trials.csv", tables.trials)
    write_table(folder / "tables" / "configurations.csv", tables.configurations)
    agreed = judge_agreement(tables.record)
    if len(agreed):
        write_table(folder / "tables" / "judge_agreement.csv", agreed)
    # sums on several threads round by their number: on one, the same record gives the same bytes on every machine
    with publication(), threadpool_limits(1):
        told, pictures = write_chapters(chapters(tables), folder)
    return write_text(folder / "report.html", page(tables, found, told, pictures, agreed))


def write_chapters(made: Iterable[Chapter], folder: Path) -> tuple[list[Chapter], dict[str, bytes]]:
    """Every sheet as CSV and LaTeX, every figure in both formats with the table behind it.

    Drawing takes half of a report's time: other processes do it, while the next chapter is made.

    Args:
        made: the chapters, as they come.
        folder: holds `figures` and `tables`.

    Returns:
        The chapters, and what the page shows of each drawing, by name.
    """
    told, drawn = [], {}
    draughtsmen = get_reusable_executor(max_workers=min(max(cpu_count() - 1, 1), DRAUGHTSMEN))
    for chapter in made:
        told.append(chapter)
        for sheet in chapter.sheets:
            write_table(folder / "tables" / f"{sheet.name}.csv", sheet.data)
            write_text(folder / "tables" / f"{sheet.name}.tex", latex(sheet))
        for drawing in chapter.drawings:
            write_table(folder / "tables" / f"{drawing.name}.csv", drawing.data)
            stem = folder / "figures" / drawing.name
            drawn[drawing.name] = draughtsmen.submit(_write_figure, stem, drawing.figure)
    return told, {name: picture.result() for name, picture in drawn.items()}


def _write_figure(stem: Path, figure: Figure) -> bytes:
    """`<stem>.svg` and `<stem>.png` without dates; returns what the page shows: the SVG, or pixels where that is heavy."""
    with publication():
        for kind, metadata in UNDATED.items():
            image = BytesIO()
            figure.savefig(image, format=kind, metadata=metadata)
            stem.with_name(f"{stem.name}.{kind}").write_bytes(image.getvalue())
        svg = stem.with_name(f"{stem.name}.svg").read_bytes()
        return svg if len(svg) <= HEAVY else _pixels(figure)


def _pixels(figure: Figure) -> bytes:
    image = BytesIO()
    figure.savefig(image, format="webp", dpi=150, pil_kwargs={"quality": 90})
    return image.getvalue()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as CSV with the same bytes everywhere."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> Path:
    """Text with the same bytes everywhere; returns its path."""
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
