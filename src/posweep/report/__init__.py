"""What a sweep says, as a page, figures and tables: `write_report` is the door; matplotlib is imported nowhere else."""

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.compare import write_comparison
from posweep.report.reading.table import read_table
from posweep.report.tables import Tables, summary
from posweep.report.write import write_report

__all__ = [
    "Chapter",
    "Column",
    "Drawing",
    "Sheet",
    "Tables",
    "read_table",
    "summary",
    "write_comparison",
    "write_report",
]
