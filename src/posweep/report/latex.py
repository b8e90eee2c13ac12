"""A sheet as a LaTeX table (booktabs): the cells of the page, to be pasted into a paper."""

from __future__ import annotations

import pandas as pd

from posweep.report.cells import cells
from posweep.report.chapter import Sheet

MATHEMATICAL = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "η": r"\eta", "κ": r"\kappa",
    "λ": r"\lambda", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "χ": r"\chi", "±": r"\pm", "−": "-", "×": r"\times",
    "≥": r"\geq", "≤": r"\leq", "½": r"\frac{1}{2}", "√": r"\surd", "Δ": r"\Delta", "→": r"\to", "∞": r"\infty",
    "≈": r"\approx", "≠": r"\neq", "·": r"\cdot", "π": r"\pi", "θ": r"\theta", "ω": r"\omega", "μ": r"\mu", "φ": r"\varphi",
    "∑": r"\sum",
}  # fmt: skip
WORDS = {"–": "--", "…": r"\ldots{}", "“": "``", "”": "''", "’": "'", "\u00a0": "~"}
ESCAPED = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
           "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}  # fmt: skip
KNOWN = {**ESCAPED, **WORDS, **{sign: f"${name}$" for sign, name in MATHEMATICAL.items()}}


def latex(sheet: Sheet) -> str:
    """A `tabular` between `\\toprule` and `\\bottomrule`, with the caption as a comment above it."""
    headings = [plain(column.heading) for column in sheet.columns.values()]
    rows = [[plain(c or "–") for c in row] for row in cells(sheet)]
    shown = pd.DataFrame([_guarded(row) for row in rows], columns=range(len(headings)))
    shown.columns = pd.Index(headings)
    words = [column.kind in ("text", "method") for column in sheet.columns.values()]
    form = "".join("l" if is_words else "r" for is_words in words)
    body = shown.style.hide(axis="index").to_latex(hrules=True, column_format=form)
    told = " ".join(f"{sheet.heading}. {sheet.caption}".split())
    return f"% {told}\n% \\usepackage{{booktabs}}\n{body}"


def _guarded(row: list[str]) -> list[str]:
    """After the end of a row LaTeX takes a bracket for a length."""
    return [f"{{}}{row[0]}", *row[1:]] if row and row[0].startswith(("[", "*")) else row


def plain(text: str) -> str:
    """Text that LaTeX takes as it is, Greek letters and signs in mathematics."""
    return "".join(KNOWN.get(sign, sign) for sign in text)
