"""From several records to one page that says what needs more than one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from posweep.errors import ConfigError
from posweep.records import SweepRecord
from posweep.report.chapters.tasks import chapters_of
from posweep.report.comparison import Comparison
from posweep.report.drawing.style import publication
from posweep.report.page.comparison import comparison_page
from posweep.report.tables import Tables, summary
from posweep.report.write import write_chapters, write_text


def write_comparison(records: Sequence[SweepRecord], folder: Path, pages: Mapping[str, str] | None = None) -> Path:
    """Write `report.html`, `summary.json`, `figures/` and `tables/` of several sweeps; the same records give the same bytes.

    Configurations are matched by method and point, so that sweeps of different models and data sets can be compared.

    Args:
        records: what a tracker holds of each sweep, or `read_table` made of a table; at least two, of different names.
        folder: made where it is missing; files of the same names are replaced.
        pages: sweep → address of its own page, from `folder`; a sweep without one gets no link.

    Returns:
        The path of `report.html`.

    Raises:
        ConfigError: fewer than two sweeps, or two of one name.
    """
    names = [record.name for record in records]
    if len(set(names)) < max(len(names), 2):
        raise ConfigError(f"sweep=[{','.join(names)}]: a comparison needs two sweeps or more, each of another name.")
    comparison = Comparison(tuple(map(Tables.of, records)))
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    found = {"sweeps": {tables.record.name: summary(tables) for tables in comparison.tables}}
    write_text(folder / "summary.json", json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    with publication():
        told, pictures = write_chapters(chapters_of(comparison), folder)
    return write_text(folder / "report.html", comparison_page(comparison, told, pictures, pages or {}))
