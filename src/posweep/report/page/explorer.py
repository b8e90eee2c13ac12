"""The interactive figures: the sweep's numbers as compact JSON, plotly.js to draw them, controls; all inside the page."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from plotly.offline import get_plotlyjs

from posweep.records import SweepRecord, TrialSpec
from posweep.report.drawing.axes import declared, symbol
from posweep.report.drawing.style import look
from posweep.report.page.frame import source
from posweep.report.page.markup import Safe, Section, html, named, paragraph, safe_url, section
from posweep.report.page.sections import MEASURES, configuration_words, metric_words
from posweep.report.tables import Tables, evaluation_sets, measures_of, status, title

SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
}  # fmt: skip
AGAINST = ("kl_to_sft", "response_length")
AT_EASE = 16  # methods whose distributions stand above the other panels
DIGITS, ERROR_DIGITS = 4, 2  # significant
WORDS = (
    "One point per finished trial, drawn from the same numbers as the figures above. Point at one to see its configuration, "
    "and the same trial in the other panels; click to open its run in MLflow (on a touch screen: the link below). "
    "Boxes: quartiles and median, whiskers: extremes. No interval is drawn; ± is one standard error over prompts."
)
WITHOUT_SCRIPTS = "The explorer needs JavaScript; everything else on this page is there without it."


def explorer_section(tables: Tables) -> Section:
    """Three linked panels over all finished trials; empty where none has a measure that is shown."""
    found = explored(tables)
    if not found["measures"] or not found["trials"]["key"]:
        return section("explorer", "Explore every trial")
    return section(
        "explorer",
        "Explore every trial",
        Safe(f"<noscript><p>{WITHOUT_SCRIPTS}</p></noscript>"),
        Safe(f'<div id="explore" hidden>{paragraph(WORDS)}{_controls(tables, found)}{_panels(tables)}</div>'),
        _packed("explore-data", json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)),
        _library(),
        Safe(f"<script>\n{source('explorer.js')}</script>"),
    )


def explored(tables: Tables) -> dict[str, Any]:
    """Everything the explorer draws, by columns: finished trials, their points, measures and errors."""
    record = tables.record
    plan = [spec for spec in record.plan if status(record, spec.key) == "finished"]
    places, measured = evaluation_sets(record), set(measures_of(tables.trials))
    measures = [name for name in _measures(measured) if any(f"{place}/{name}" in measured for place in places)]
    columns = [f"{place}/{name}" for place in places for name in measures]
    errors = [name for name in columns if f"{name}_se" in measured]
    return {
        "primary": tables.metric.partition("/")[::2],
        "methods": [_method(name) for name in tables.methods],
        "sets": places,
        "measures": [{"name": name, "words": metric_words(f"/{name}"), "nats": _nats(name)} for name in measures],
        "lines": _lines(record, columns),
        "settings": _settings(plan),
        "trials": _trials(tables, plan),
        "values": {name: _column(record, plan, name, DIGITS) for name in columns},
        "errors": {name: _column(record, plan, f"{name}_se", ERROR_DIGITS) for name in errors},
    }


def _measures(measured: Iterable[str]) -> list[str]:
    """Those of `MEASURES` without their set, in that order, the first judge's before others'."""
    kept = sorted({name.partition("/")[2] for name in measured if name.rpartition("/")[2] in MEASURES})
    order = list(MEASURES)
    return sorted(kept, key=lambda name: (name.count("/"), order.index(name.rpartition("/")[2])))


def _nats(name: str) -> bool:
    """Whether a measure is drawn on a √ scale."""
    return name.startswith("kl_to_sft")


def _lines(record: SweepRecord, columns: Sequence[str]) -> dict[str, float]:
    """Where the SFT model stands: ½ against itself, 0 nats away, else its own measure."""
    own = {n: _rounded(record.baseline.get(n), DIGITS) for n in columns}
    known = {n: 0.5 if n.endswith("win_rate_vs_sft") else 0.0 if "/kl_to_sft" in n else own[n] for n in columns}
    return {name: value for name, value in known.items() if value is not None}


def _method(name: str) -> dict[str, str]:
    return {"title": title(name), "colour": look(name).colour, "symbol": SYMBOLS[look(name).marker]}


def _settings(plan: Sequence[TrialSpec]) -> list[dict[str, Any]]:
    """Every hyperparameter or setting that takes more than one value, with its scale and its values by trial."""
    names = dict.fromkeys(name for spec in plan for name in spec.point)
    found = []
    for name in names:
        values = [_setting(spec.point.get(name)) for spec in plan]
        methods = dict.fromkeys(spec.method for spec in plan if name in spec.point)
        if len(set(values) - {None}) > 1:
            written = list(dict.fromkeys(symbol(method, name) for method in methods))
            words = "/".join(written) if written == [name.replace("_", " ")] else f"{'/'.join(written)} ({name})"
            log = any(declared(method, name).scale == "log" for method in methods)
            found.append({"name": name, "words": words, "log": log, "values": values})
    return found


def _setting(value: Any) -> float | str | None:
    """Numbers stay numbers, everything else becomes a word."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return str(value)


def _trials(tables: Tables, plan: Sequence[TrialSpec]) -> dict[str, Any]:
    """Who each trial is: its method by position, seed, the beginning of its key, its configuration in words, its run."""
    return {
        "method": [tables.methods.index(spec.method) for spec in plan],
        "seed": [spec.seed for spec in plan],
        "key": [spec.key[:12] for spec in plan],
        "point": [configuration_words(spec) for spec in plan],
        "url": [safe_url(tables.record.run_urls.get(spec.key)) for spec in plan],
    }


def _column(record: SweepRecord, plan: Sequence[TrialSpec], name: str, digits: int) -> list[float | None]:
    return [_rounded(record.results[spec.key].measures.get(name), digits) for spec in plan]


def _rounded(value: float | None, digits: int) -> float | None:
    """A number with so many significant digits; None for what JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def _packed(name: str, text: str) -> Safe:
    """Text as the page carries it: gzip in base64, a third of the size, and unpacked only when it is needed."""
    packed = base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)).decode("ascii")
    return Safe(f'<script type="application/gzip" id="{name}">{packed}</script>')


def _panels(tables: Tables) -> str:
    """Where the script draws; the distributions of many methods stand beside the other two panels."""
    tall = " tall" if len(tables.methods) > AT_EASE else ""
    return (
        f'<p id="explore-status" role="status">Loading …</p>\n<div class="panels{tall}">'
        '<div class="wide" id="explore-distribution"></div><div id="explore-against"></div>'
        '<div id="explore-setting"></div></div>\n<p id="explore-trial" aria-live="polite"></p>'
    )


@cache
def _library() -> Safe:
    """plotly.js; packing it takes longer than anything else on the page."""
    return _packed("explore-library", get_plotlyjs())


def _controls(tables: Tables, found: Mapping[str, Any]) -> Safe:
    """Which evaluation set, metric, second axis, hyperparameter and methods are drawn."""
    measures = {one["name"]: one["words"] for one in found["measures"]}
    place, metric = found["primary"]
    chosen = [
        _select("set", "Evaluation set", {name: name for name in found["sets"]}, place),
        _select("metric", "Metric", measures, metric),
        _select("against", "Against", {name: measures[name] for name in AGAINST if name in measures}, ""),
        _select("setting", "Hyperparameter", {one["name"]: one["words"] for one in found["settings"]}, ""),
    ]
    boxes = "".join(
        f'<label><input type="checkbox" name="method" value="{position}" checked>{named(name, title(name))}</label>'
        for position, name in enumerate(tables.methods)
    )
    every = '<button type="button" value="all">all</button><button type="button" value="none">none</button>'
    return Safe(
        f'<form id="explore-controls" autocomplete="off"><div class="choices">{"".join(chosen)}</div>'
        f'<fieldset><legend>Methods {every}</legend><div class="methods">{boxes}</div></fieldset></form>'
    )


def _select(name: str, label: str, options: Mapping[str, str], chosen: str) -> str:
    """A labelled list to choose from; nothing where there is nothing to choose."""
    listed = "".join(
        f'<option value="{html(value)}"{" selected" * (value == chosen)}>{html(words)}</option>'
        for value, words in options.items()
    )
    return f'<label>{label}<select name="{name}">{listed}</select></label>' if options else ""
