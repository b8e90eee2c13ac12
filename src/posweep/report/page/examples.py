"""What the policies wrote: a few prompts, chosen by a rule, with the responses of each method side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from posweep.records import Opponents, Response, SweepRecord, TrialSpec
from posweep.report.page.markup import Safe, Section, count, decimals, folded, html, link, named, paragraph, section
from posweep.report.page.sections import configuration_words, metric_words
from posweep.report.tables import Tables, status, title

EVENLY = 4  # prompts, beside the one where methods differ most
LABEL = 90  # characters of a prompt on the line that unfolds it
APART = "where methods differ most"
HOW = (
    "Prompts of {place}: {evenly}. Of each method, the configuration with the highest {metric}, mean over seeds, and the "
    "one in the middle of its order, both with the first seed that finished: the best is chosen on these very prompts "
    "and flatters.{opponents}"
)


@dataclass(frozen=True)
class Speaker:
    """A policy that is shown: a method's best or median configuration, by one of its trials."""

    spec: TrialSpec
    role: str


def examples_section(tables: Tables) -> Section:
    """Example generations; empty where no responses are recorded."""
    record, place = tables.record, tables.place
    shown = speakers(tables)
    said = {one.spec.key: _on(record.responses[one.spec.key], place) for one in shown}
    prompts = sorted(set.intersection(*map(set, said.values()))) if said else []
    chosen = chosen_prompts(tables, prompts)
    opponents = {one.index: one for one in record.opponents if one.set == place}
    blocks = [
        _prompt_block(tables, index, label, shown, said, opponents.get(index), unfolded=position == 0)
        for position, (index, label) in enumerate(chosen.items())
    ]
    return section(
        "examples", "What do the policies write?", *((_how(tables, chosen, opponents), *blocks) if blocks else ())
    )


def speakers(tables: Tables) -> list[Speaker]:
    """Each method's best and median configuration by the primary metric, of those whose responses are recorded."""
    record = tables.record
    found = []
    for method in tables.methods:
        ranked = _ranked(tables, method)
        if ranked:
            found.append(Speaker(ranked[-1], "best"))
        if len(ranked) > 1:
            found.append(Speaker(ranked[(len(ranked) - 1) // 2], "median"))
    return [one for one in found if _on(record.responses[one.spec.key], tables.place)]


def _ranked(tables: Tables, method: str) -> list[TrialSpec]:
    """One trial of each configuration that has a score and responses, by the configuration's score, lowest first."""
    record, points = tables.record, tables.points(method)
    if tables.metric not in points:
        return []
    scores = dict(zip(points["configuration"], points[tables.metric].astype(float), strict=True))
    first: dict[str, TrialSpec] = {}
    for spec in record.plan:
        heard = status(record, spec.key) == "finished" and record.responses.get(spec.key)
        if spec.method == method and heard and math.isfinite(scores[spec.configuration]):
            first.setdefault(spec.configuration, spec)
    return sorted(first.values(), key=lambda spec: scores[spec.configuration])


def _on(rows: Iterable[Response], place: str) -> dict[int, Response]:
    return {row.index: row for row in rows if row.set == place}


def chosen_prompts(tables: Tables, prompts: Sequence[int]) -> dict[int, str]:
    """Which prompts are shown, with a label: some evenly spaced over their order, and the one where methods differ most.

    Args:
        tables: of the sweep.
        prompts: the indices that every shown policy answered, in order.
    """
    if not prompts:
        return {}
    chosen = {prompts[place * len(prompts) // EVENLY]: "" for place in range(EVENLY)}
    apart = _furthest_apart(tables, prompts)
    return chosen if apart is None else {**chosen, apart: APART}


def _furthest_apart(tables: Tables, prompts: Sequence[int]) -> int | None:
    """The prompt on which the methods' means over trials differ most; None without scores of several methods by prompt."""
    means = [
        np.nanmean(scores, axis=(0, 1))
        for scores in map(tables.scores, tables.methods)
        if scores.shape[2] == len(prompts) > 1 and np.isfinite(scores).any()
    ]
    return prompts[int(np.argmax(np.ptp(means, axis=0)))] if len(means) > 1 else None


def _how(tables: Tables, chosen: dict[int, str], opponents: dict[int, Opponents]) -> Safe:
    """By which rules the prompts and the policies were chosen."""
    even = sum(label == "" for label in chosen.values())
    evenly = f"{even} evenly spaced over their order" + (f", and the one {APART}" if len(chosen) > even else "")
    known = (
        " Of the SFT model's responses the first is shown."
        if opponents
        else " The SFT model's and the chosen responses are not recorded in this sweep and left out."
    )
    metric = metric_words(tables.metric)
    return paragraph(HOW.format(place=tables.place, evenly=evenly, metric=metric, opponents=known))


def _prompt_block(
    tables: Tables,
    index: int,
    label: str,
    shown: Sequence[Speaker],
    said: dict[str, dict[int, Response]],
    opponents: Opponents | None,
    unfolded: bool,
) -> Safe:
    """One prompt and every response to it; folded behind its beginning."""
    prompt = said[shown[0].spec.key][index].prompt
    pairs = [_pair(_opponent_cards(opponents))] if opponents else []
    for method in dict.fromkeys(one.spec.method for one in shown):
        mine = (one for one in shown if one.spec.method == method)
        pairs.append(_pair(_card(_who(tables.record, one), said[one.spec.key][index]) for one in mine))
    begun = prompt if len(prompt) <= LABEL else prompt[:LABEL].rstrip() + " …"
    head = Safe(f"Prompt {index}{html(f' ({label})' if label else '')}: <span>{html(begun)}</span>")
    whole = _text(prompt, "prompt") if begun != prompt or "\n" in prompt else ""
    return folded(head, Safe(f'{whole}<div class="pairs">{"".join(pairs)}</div>'), unfolded)


def _pair(cards: Iterable[Safe]) -> str:
    return f'<div class="pair">{"".join(cards)}</div>'


def _who(record: SweepRecord, one: Speaker) -> Safe:
    run = link("run", record.run_urls.get(one.spec.key))
    point = f"{html(configuration_words(one.spec))}, seed {one.spec.seed}, {run}"
    return Safe(f'{named(one.spec.method, title(one.spec.method))}, {one.role}<br><span class="faint">{point}</span>')


def _card(who: object, row: Response) -> Safe:
    """A response with its scores, wins, length and KL below it."""
    judged = [f"{judge} {decimals(score)}" for judge, score in row.scores.items()]
    won = [f"{_win_words(name)} {decimals(share, 2)}" for name, share in row.wins.items() if name.endswith("vs_sft")]
    cut = " (cut off)" if row.truncated else ""
    length = f"{count(row.length)} tokens{cut}"
    return _speech(who, row.text, [*won, *judged, length, f"KL {decimals(row.kl, 2)} nats"])


def _win_words(name: str) -> str:
    judge = name.rpartition("/")[0]
    return f"wins against SFT{f' ({judge})' if judge else ''}"


def _opponent_cards(found: Opponents) -> list[Safe]:
    """The SFT model's first response and the data's chosen one."""
    texts = {"sft": found.sft[:1], "chosen": (found.chosen,)}
    lengths = {"sft": found.sft_lengths[:1], "chosen": (found.chosen_length,)}
    who = {"sft": "SFT model", "chosen": "Chosen response of the data"}
    return [
        _speech(name, text, [*_scores(found, kind), f"{count(length)} tokens"])
        for kind, name in who.items()
        for text, length in zip(texts[kind], lengths[kind], strict=True)
    ]


def _scores(found: Opponents, kind: str) -> list[str]:
    return [f"{judge} {decimals(known[kind][0])}" for judge, known in found.scores.items() if known.get(kind)]


def _speech(who: object, text: str, below: Sequence[str]) -> Safe:
    facts = html(" · ".join(below))
    return Safe(f'<div class="card"><p>{html(who)}</p>{_text(text)}<p class="faint">{facts}</p></div>')


def _text(text: str, kind: str = "") -> Safe:
    """Text as it was written, right to left where it is; an empty one is said to be."""
    body = html(text) if text.strip() else '<em class="faint">(empty)</em>'
    return Safe(f'<div class="said {kind}" dir="auto">{body}</div>')
