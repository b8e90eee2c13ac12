"""Tables that LaTeX takes as they are: balanced, escaped, every row with the columns it was declared with."""

import dataclasses
import re
import shutil
import subprocess

import pandas as pd
import pytest

from posweep.report.chapter import Column, Sheet
from posweep.report.latex import KNOWN, latex, plain

SPECIAL = set("&%$#_{}~^\\")
COMMAND = re.compile(r"\\(?:[a-zA-Z]+(?:\{\})?|[&%$#_{}\\])")


def sheet(headings: dict[str, Column], **columns: list) -> Sheet:
    return Sheet("odd", "Odd & sods", "100 % of_it.", pd.DataFrame(columns), headings)


ODD = sheet(
    {
        "name": Column("name_of #", "text"),
        "method": Column("method", "method"),
        "value": Column("win-rate ± (95 %)", interval=("low", "high")),
        "p": Column("p", "p"),
        "share": Column("β ≥ ½", "percent"),
    },
    name=["a_b & c% $d #e {f} ~g ^h \\i", "naïve – “quoted” … it’s\u00a0so", "[a bracket]"],
    method=["ln_dpo", "some_other", "dpo"],
    value=[-0.5, 0.25, float("nan")],
    low=[-0.75, float("nan"), 0.0],
    high=[0.0, 0.5, 1.0],
    p=[1e-9, 0.5, float("nan")],
    share=[0.5, 1.0, 0.0],
)


def body(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("%"))


def problems(text: str) -> list[str]:
    """What would stop or mislead LaTeX, in a table's lines."""
    found = []
    for line in body(text).splitlines():
        bare = COMMAND.sub("", line)
        depth = [bare[:place].count("{") - bare[:place].count("}") for place in range(len(bare) + 1)]
        found += [f"braces: {line}"] if min(depth) < 0 or depth[-1] else []
        found += [f"mathematics: {line}"] if bare.count("$") % 2 else []
        outside = re.sub(r"\$[^$]*\$", "", bare)
        found += [f"{sign!r} in {line}" for sign in set("%#_^") & set(outside)]
    return found


def rows(text: str) -> list[list[str]]:
    """The cells between the rules, heading first."""
    lines = [line.removesuffix(r"\\").strip() for line in body(text).splitlines() if line.endswith(r"\\")]
    return [re.split(r"(?<!\\)&", line) for line in lines]


def declared(text: str) -> str:
    return re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]


def test_odd_cells_are_escaped_and_every_row_is_complete():
    text = latex(ODD)
    assert problems(text) == []
    assert declared(text) == "llrrr"
    assert [len(row) for row in rows(text)] == [5] * 4
    assert [cell.strip() for cell in rows(text)[1]] == [
        r"a\_b \& c\% \$d \#e \{f\} \textasciitilde{}g \textasciicircum{}h \textbackslash{}i", "LN-DPO",
        "$-$0.500 [$-$0.750, 0.000]", r"\textless{} 0.001", r"50\%",
    ]  # fmt: skip


def test_what_stands_first_in_a_row_is_no_argument_of_the_row_before():
    assert rows(latex(ODD))[3][0].strip() == "{}[a bracket]"


def test_a_caption_of_several_lines_stays_a_comment():
    long = dataclasses.replace(ODD, caption="one\ntwo_2\n\nthree")
    assert body(latex(long)) == body(latex(ODD))


def test_every_special_sign_has_an_escape_that_is_none():
    assert set(KNOWN) >= SPECIAL
    assert problems(plain("".join(KNOWN))) == []


def test_the_rules_find_what_latex_would_not_take():
    for line in ("a_b", "50% of", "#1", "{open", "close}", "}{", "$odd", "x^2"):
        assert problems(line), line
    for line in (r"a\_b", r"50\%", r"$\beta$ {a}", r"$x^2$", r"\textless{} 1"):
        assert problems(line) == [], line


def test_greek_and_signs_that_fonts_lack_are_mathematics(told):
    text = "".join(latex(one) for chapter in told for one in chapter.sheets) + latex(ODD)
    left = {sign for sign in body(text) if not sign.isascii()}
    assert {sign for sign in left if not sign.isalpha() or "Ͱ" <= sign <= "Ͽ"} == set()


def test_the_report_s_own_tables_are_taken(told):
    for chapter in told:
        for one in chapter.sheets:
            text = latex(one)
            assert problems(text) == [], one.name
            assert {len(row) for row in rows(text)} == {len(one.columns)} == {len(declared(text))}
            assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_pdflatex_takes_it(tmp_path):
    head = r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "odd.tex").write_text(f"{head}\n{latex(ODD)}\n\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "odd.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]
