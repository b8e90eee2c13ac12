"""What each hyperparameter does: shares of the variance, curves with the others held, pairs, cliffs between neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.chapters.hyperparameters.numbers import (
    ALONE,
    Design,
    curve_table,
    design,
    designs,
    pair_table,
    share_table,
    step_table,
)
from posweep.report.chapters.paper import sft_line
from posweep.report.drawing.ice import ice
from posweep.report.drawing.importance import importance
from posweep.report.drawing.pairs import FEW, pairs
from posweep.report.tables import Tables, is_win_rate, title
from posweep.robustness import CLIFF

QUESTION = "What does each hyperparameter do?"
HALF = 0.5
SAID = 6  # methods that get a sentence each; of more, the table speaks
PANELS = 40  # heatmaps: with more, a method keeps the pair that explains most
SHOWN = 20  # steps on the page


def chapter(tables: Tables) -> Chapter | None:
    """What each hyperparameter does; nothing where no method varies any."""
    if not any(tables.settings(method) for method in tables.methods):
        return None
    found = designs(tables)
    if not found:
        silence = f"No method has two configurations with a score on {tables.metric} that differ in a hyperparameter."
        return Chapter("hyperparameters", QUESTION, silences=(silence,))
    explained, over = share_table(tables, found)
    threshold = _threshold(tables)
    stepped, drawn = step_table(tables, threshold)
    sheets = [share_sheet(explained, over, tables.metric)]
    sheets += [step_sheet(stepped, drawn, tables.metric, threshold)] if len(stepped) else []
    words = (*said_of_shares(explained), *said_of_steps(stepped, threshold))
    finished = [design(tables, one.method) for one in found]
    drawings = (bars(explained, tables), *heatmaps(finished, explained, tables), *held(finished, tables))
    return Chapter(
        "hyperparameters",
        QUESTION,
        words,
        tuple(sheets),
        drawings,
        tuple(silences(tables, found, explained)),
        finding(explained),
    )


def _threshold(tables: Tables) -> float:
    """What a drop must exceed to be a cliff: a tenth of a share, else a tenth of the range of scores."""
    if is_win_rate(tables.metric) or tables.metric.endswith("accuracy"):
        return CLIFF
    scores = tables.configurations[tables.metric].replace([np.inf, -np.inf], np.nan)
    return float(CLIFF * (scores.max() - scores.min()))


def share_sheet(explained: pd.DataFrame, over: str, metric: str) -> Sheet:
    """The shares with their intervals, and how each was found."""
    caption = (
        f"Share of the variance of {metric} between a method's configurations (means over seeds) that an effect explains, "
        "over the ranges tried. On a full grid ANOVA is exact, and shares add up to 100 %; PED-ANOVA says instead on "
        "what the best tenth of at least 50 configurations agree, and knows no interactions and no interval. Luck is spread "
        "over all shares, so that small ones show nothing. "
    )
    caption += (
        f"Intervals, cut at 0 and 100 %: 95 %, over {over}."
        if explained["low"].notna().any()
        else "No interval can be drawn."
    )
    columns = {
        "method": Column("method", "method"),
        "parameter": Column("hyperparameter or interaction", "text"),
        "share": Column("share of variance", "percent", interval=("low", "high")),
        "how": Column("how", "text"),
    }
    return Sheet("sensitivity", "How much each hyperparameter explains", caption, explained, columns, limit=120)


def step_sheet(stepped: pd.DataFrame, over: str, metric: str, threshold: float) -> Sheet:
    """The largest drops between grid neighbours."""
    drawn = (
        f"Intervals: 95 %, over {over}, not adjusted."
        if np.isfinite(stepped["low"]).any()
        else "No interval can be drawn."
    )
    caption = (
        f"Two configurations that differ by one grid step of one hyperparameter, turned so that {metric} drops; the largest "
        f"drops first. A cliff: the drop exceeds {threshold:.2g} and is significant at 5 % after Holm over all "
        f"{len(stepped)} steps. Diverged trials count as the worst score here. {drawn}"
    )
    columns = {
        "method": Column("method", "method"),
        "hyperparameter": Column("step of", "text"),
        "from": Column("from", "text"),
        "to": Column("to", "text"),
        "held": Column("held", "text"),
        "drop": Column("drop", interval=("low", "high")),
        "p": Column("Holm p", "p"),
        "cliff": Column("cliff", "text"),
    }
    shown = stepped.assign(cliff=np.where(stepped["cliff"], "cliff", ""))
    return Sheet("cliffs", "Cliffs: the largest drops between grid neighbours", caption, shown, columns, SHOWN)


def said_of_shares(explained: pd.DataFrame) -> list[str]:
    """What explains most of each method's variance; of many methods, how many each hyperparameter leads."""
    exact = explained[explained["low"].notna() & (explained["how"] != ALONE)]
    leading = exact.loc[exact.groupby("method", sort=False)["share"].idxmax()] if len(exact) else exact
    if len(leading) <= SAID:
        return [
            f"{title(row.method)}: {row.parameter} explains {row.share:.0%} [{row.low:.0%}, {row.high:.0%}] of what its "
            "configurations differ by, more than any other effect."
            for row in leading.itertuples()
            if row.low > _runner_up(exact, row.method)
        ]
    counts = leading.loc[leading["low"] > HALF, "parameter"].value_counts()
    parts = ", by ".join(f"{name} for {count} of {len(leading)} methods" for name, count in counts.items())
    said = f"More than half of what configurations differ by is explained by {parts} (95 % intervals above one half)."
    return [said] if parts else []


def _runner_up(exact: pd.DataFrame, method: str) -> float:
    """The upper end of the next largest share of a method."""
    mine = exact[exact["method"] == method].nlargest(2, "share")
    return float(mine["high"].iloc[1])


def said_of_steps(stepped: pd.DataFrame, threshold: float) -> list[str]:
    """How many steps are cliffs, by method and hyperparameter; silent where none is."""
    steep = stepped[stepped["cliff"]] if len(stepped) else stepped
    if steep.empty:
        return []
    named = steep["hyperparameter"].value_counts()
    by_name = ", ".join(f"{count} of {name}" for name, count in named.items())
    first = steep.iloc[0]
    at = f" at {first['held']}" if first["held"] else ""
    are = "are cliffs, drops" if len(steep) > 1 else "is a cliff, a drop"
    return [
        f"{len(steep)} of {len(stepped)} steps between grid neighbours {are} of more than {threshold:.2g} and no luck: "
        f"{by_name}.",
        f"The steepest: {title(first['method'])} loses {first['drop']:.2f} [{first['low']:.2f}, {first['high']:.2f}] from "
        f"{first['hyperparameter']} {first['from']} to {first['to']}{at}.",
    ]


def finding(explained: pd.DataFrame) -> str:
    """Which hyperparameter decides, where its share is above one half by its interval; else nothing."""
    exact = explained[(explained["order"] == 1) & (explained["how"] != ALONE)]
    clear = exact[exact["low"] > HALF]
    parted = exact["method"].nunique()
    if clear.empty:
        return ""
    parts = []
    for name, rows in clear.groupby("parameter", sort=False):
        names = [title(method) for method in rows["method"]]
        of = " and ".join(", ".join(names).rsplit(", ", 1)) if len(names) <= 3 else f"{len(names)} of {parted} methods"
        parts.append((len(names), f"{name} explains more than half of the variance over the grid for {of}"))
    said = "; ".join(words for _, words in sorted(parts, key=lambda part: -part[0]))
    return f"What to tune: {said} (95 % intervals above one half)."


def bars(explained: pd.DataFrame, tables: Tables) -> Drawing:
    """The shares as stacked bars."""
    caption = (
        f"Shares of the variance of {tables.metric} between each method's configurations; hatched: interactions. The "
        "intervals stand in the table; no interval is drawn."
    )
    return Drawing(
        "hyperparameter_shares", "What explains the variance", caption, explained, importance(explained, tables.note)
    )


def heatmaps(found: Sequence[Design], explained: pd.DataFrame, tables: Tables) -> list[Drawing]:
    """The mean score over each pair; nothing where no method varies two."""
    data = pair_table(found)
    if data.empty:
        return []
    panels = list(data[["method", "y", "x"]].drop_duplicates().itertuples(index=False, name=None))
    cut = len(panels) > PANELS
    if cut:
        panels = _leading_pairs(panels, explained)
    line, label = sft_line(tables.record)
    colours = " Orange: below the SFT model, purple: above, as deep as far." if line is not None else ""
    caption = (
        f"Mean of {tables.metric} over all finished configurations with the two values shown, whatever the other "
        f"hyperparameters; white: none finished.{colours} No interval is drawn."
    )
    pooled = max(data.groupby(["method", "y", "x"])[["y_level", "x_level"]].nunique().max()) > FEW
    caption += " Many values stand in groups of equal size, named by their upper ends." if pooled else ""
    caption += " Of each method the pair that explains most; the table behind the figure holds all." if cut else ""
    figure = pairs(data, panels, label, line, tables.note)
    return [Drawing("hyperparameter_pairs", "Pairs of hyperparameters", caption, data, figure)]


def _leading_pairs(panels: Sequence[tuple[str, str, str]], explained: pd.DataFrame) -> list[tuple[str, str, str]]:
    """For every method the pair of the largest main shares."""
    main = explained[explained["order"] == 1].set_index(["method", "hyperparameters"])["share"].to_dict()

    def worth(panel: tuple[str, str, str]) -> tuple[float, bool]:
        return sum(main.get((panel[0], name), 0.0) for name in panel[1:]), "learning_rate" in panel

    groups = groupby(panels, key=lambda panel: panel[0])
    return [max(mine, key=worth) for _, mine in groups]


def held(found: Sequence[Design], tables: Tables) -> list[Drawing]:
    """Curves with the others held; nothing where no two configurations differ in one hyperparameter only."""
    data = curve_table(found)
    if data.empty:
        return []
    varied = {str(m): list(dict.fromkeys(rows["hyperparameter"])) for m, rows in data.groupby("method", sort=False)}
    line, label = sft_line(tables.record)
    caption = (
        f"{tables.metric} along one hyperparameter; each thin line holds the others at one setting (mean over seeds), the "
        "thick one is the mean over settings that have every level. Lines that cross: the best value depends on the others. "
        "No interval is drawn."
    )
    figure = ice(data, varied, label, line, tables.note)
    return [Drawing("ice", "One hyperparameter at a time, the others held", caption, data, figure)]


def silences(tables: Tables, found: Sequence[Design], explained: pd.DataFrame) -> list[str]:
    """What cannot be taken apart, and why."""
    said = []
    refused = explained[explained["share"].isna() & explained["how"].str.startswith("refused")]
    if len(refused):
        named = ", ".join(title(method) for method in refused["method"])
        said.append(f"Variance is not taken apart for {named}: no full grid and fewer than 50 configurations.")
    absent = [title(method) for method in tables.methods if method not in {one.method for one in found}]
    if absent:
        said.append(f"Nothing can be said of {', '.join(absent)}: fewer than two scores, or no hyperparameter varies.")
    if explained["how"].str.contains("luck of the one seed").any():
        said.append(
            "With one seed the interaction of all hyperparameters cannot be told from the luck of single trainings."
        )
    return said
