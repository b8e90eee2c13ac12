"""Best-of-n sampling from the SFT model: what needs no training, beside what the methods reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.records import Opponents
from posweep.report.chapter import Column, Part, Sheet
from posweep.report.chapters.cost.sweep import SAID, SIGNIFICANT, Sweep, points, titles
from posweep.robustness import (
    Interval,
    Sample,
    best_of_n,
    best_of_n_kl,
    configuration_scores,
    cross_fitted_choice,
    crossed_interval,
    holm,
    p_value,
    winner,
)

Table = NDArray[np.float64]


def sampled(sweep: Sweep) -> Part:
    """The part of the chapter about sampling."""
    rows = sweep.opponents(sweep.place, sweep.prompts)
    if rows is None:
        return Part(silences=("Best-of-n needs scored responses of the SFT model, which this record does not hold.",))
    found = rivals(sweep)
    if found.empty:
        return Part(silences=(f"Best-of-n needs a judge that scores; {sweep.judged} only compares.",))
    against = _against(sweep, rows)
    sheets = (_sheet(found, sweep), *([_against_sheet(against, found, sweep)] if against is not None else []))
    return Part(_words(found, against, sweep), sheets)


def rivals(sweep: Sweep) -> pd.DataFrame:
    """Best of n by each judge that scores: selector, oracle, n, win_rate and its ends, kl (nats), length (tokens), over."""
    rows = sweep.opponents(sweep.place, sweep.prompts)
    judges = _scoring(rows, sweep) if rows else []
    return (
        pd.concat([_rival(sweep, rows or [], judge) for judge in judges], ignore_index=True)
        if judges
        else pd.DataFrame()
    )


def _scoring(rows: list[Opponents], sweep: Sweep) -> list[str]:
    """The judges that scored every fresh response, that of the metric first; none without the wins of those."""
    first = rows[0]
    if sweep.wins_name not in first.fresh_wins or not first.fresh:
        return []
    names = [name for name, known in first.scores.items() if len(known.get("fresh", ())) == len(first.fresh)]
    return sorted(names, key=lambda name: name != sweep.judge)


def _rival(sweep: Sweep, rows: list[Opponents], judge: str) -> pd.DataFrame:
    wins, lengths = _by_prompt(sweep, rows, judge)
    n = np.arange(1, wins.shape[0] + 1)
    found = crossed_interval(lambda sample: configuration_scores(wins[:, None], sample), 1, wins.shape[1], sweep.rng())
    columns = {"n": n, "win_rate": found.value, "low": found.low, "high": found.high, "kl": best_of_n_kl(n)}
    table = pd.DataFrame({**columns, "length": lengths.mean(axis=1), "over": found.over})
    table.insert(0, "selector", judge)
    table.insert(1, "oracle", judge == sweep.judge)
    return table


def _by_prompt(sweep: Sweep, rows: list[Opponents], judge: str) -> tuple[Table, Table]:
    """Expected wins and length of the best of n by a judge's scores, (n, prompts) each."""
    scores = np.array([row.scores[judge]["fresh"] for row in rows], dtype=np.float64)
    wins = np.array([row.fresh_wins[sweep.wins_name] for row in rows], dtype=np.float64)
    lengths = np.array([row.fresh_lengths for row in rows], dtype=np.float64)
    return best_of_n(scores, wins).T, best_of_n(scores, lengths).T


def _against(sweep: Sweep, rows: list[Opponents]) -> tuple[Interval, Table] | None:
    """Each method's cross-fitted best less the best of all K by the metric's own judge, and p-values after Holm."""
    judges = _scoring(rows, sweep)
    if sweep.judge not in judges or sweep.prompts < 2:
        return None
    rival = _by_prompt(sweep, rows, sweep.judge)[0][-1]

    def statistic(sample: Sample) -> Table:
        splits = sweep.splits()
        best = [cross_fitted_choice(winner, wins, wins, [wins], sample, splits)[:, 0] for wins in sweep.wins.values()]
        return np.stack(best, axis=1) - (sample.prompts @ rival)[:, None]

    found = crossed_interval(statistic, sweep.seeds, sweep.prompts, sweep.rng())
    return found, holm(p_value(found))


def _sheet(found: pd.DataFrame, sweep: Sweep) -> Sheet:
    own = ", which is an oracle: the judge that chooses is the judge that counts" if found["oracle"].any() else ""
    caption = (
        f"The best of n responses of the SFT model by the scores of the judge named{own}; its win-rate on {sweep.place} "
        f"by {sweep.judged}, over all subsets of the recorded responses. It needs no training and n responses for every "
        f"prompt. KL: at most log n − (n − 1)/n. Intervals: 95 %, over {found['over'].iloc[0]}."
    )
    columns = {
        "selector": Column("chosen by", "text"),
        "n": Column("n", "count"),
        "win_rate": Column("win-rate", interval=("low", "high")),
        "kl": Column("KL, at most (nats)", digits=2),
        "length": Column("length (tokens)", digits=1),
    }
    return Sheet("best_of_n", "Best-of-n: what sampling alone buys", caption, found, columns)


def _against_sheet(against: tuple[Interval, Table], found: pd.DataFrame, sweep: Sweep) -> Sheet:
    interval, adjusted = against
    data = pd.DataFrame({"method": sweep.methods, "difference": interval.value})
    data = data.assign(low=interval.low, high=interval.high, p_holm=adjusted)
    caption = (
        f"Win-rate of each method's best configuration (chosen on one half of the prompts, scored on the other) less that "
        f"of the best of {found['n'].max()} responses of the SFT model by the judge's own scores. Intervals: 95 %, over "
        f"{interval.over}; p-values after Holm."
    )
    columns = {
        "method": Column("method", "method"),
        "difference": Column("best less best-of-n", interval=("low", "high")),
        "p_holm": Column("p", "p"),
    }
    return Sheet("best_of_n_against_methods", "Training against sampling", caption, data, columns)


def _words(found: pd.DataFrame, against: tuple[Interval, Table] | None, sweep: Sweep) -> tuple[str, ...]:
    top = found[found["n"] == found["n"].max()]
    words = [
        f"Without any training, the best of {row.n} responses of the SFT model by {row.selector}"
        f"{' itself (an oracle)' if row.oracle else ''} wins {row.win_rate:.3f} [{row.low:.3f}, {row.high:.3f}] for at "
        f"most {row.kl:.2f} nats."
        for row in top.itertuples()
        if row.low == row.low
    ]
    return (*words, *(_ahead(against, sweep) if against is not None else ()))


def _ahead(against: tuple[Interval, Table], sweep: Sweep) -> tuple[str, ...]:
    """Whose best is beyond doubt better or worse than sampling."""
    interval, adjusted = against
    sure = adjusted < SIGNIFICANT
    found = []
    for sign, word in ((1, "beats"), (-1, "falls short of")):
        places = [place for place in np.flatnonzero(sure) if sign * interval.value[place] > 0]
        if places:
            least = min(places, key=lambda place: sign * interval.value[place])
            among = (
                f", by at least {points(sign * interval.value[least])[1:]} points"
                if len(places) > 1
                else (f", by {points(sign * interval.value[least])[1:]} points")
            )
            names = titles([sweep.methods[place] for place in places])
            names = f"{len(places)} of {len(sweep.methods)} methods" if len(places) > SAID else names
            found.append(f"Beyond doubt (Holm) the best configuration of {names} {word} that sampling{among}.")
    return tuple(found)
