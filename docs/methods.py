"""Writes docs/methods.md from the objectives themselves: `make docs`. A test holds that the page is current."""

from __future__ import annotations

import inspect
from pathlib import Path

from omegaconf import OmegaConf

from posweep.objectives import OBJECTIVES, hyperparameters, needs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
NEEDS = {
    "mismatched": "log-probs of responses to other prompts, drawn once for the data set",
    "sampled": "log-probs token by token, of as many tokens of both responses, drawn per epoch",
    "shared": "log-probs token by token, of the first tokens up to the shorter length",
    "collisions": "Σ_v π(v)² at each position",
}
HEAD = """# Methods

Generated from the objectives (`src/posweep/objectives/`) and their grids (`conf/method/`) by `make docs`; do not edit.

ρ = log π(y|x) − log π_ref(y|x) is the gain of a response over the reference, summed over its tokens, in nats;
|y| its length in tokens, end token included; p̄ = exp(log π(y|x)/|y|); σ the logistic function; w and l the chosen and
the rejected response. NLL terms are per token.

β has no common scale across methods: each has its own grid, and the report prints it beside every result. "Remembered"
marks a default that could not be confirmed in a source. Equation numbers are as public implementations cite them,
those of DPO, SimPO and IRPO as remembered; where none is given, none was found.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *table(), "", *(line for name in OBJECTIVES for line in section(name))])


def table() -> list[str]:
    """A row per method: loss, reference, hyperparameters."""
    rows = ["| method | name | loss per pair | reference | hyperparameters |", "|---|---|---|---|---|"]
    for name, objective in OBJECTIVES.items():
        known = (
            ", ".join(f"{about.symbol} {default(name, n):g}" for n, about in hyperparameters(objective).items()) or "–"
        )
        link = f"[{objective.title}](#{objective.title.lower().replace(' ', '-')})"
        reference = "no" if objective.reference_free else "yes"
        rows.append(f"| {link} | `{name}` | {code(loss(name))} | {reference} | {known} |")
    return rows


def section(name: str) -> list[str]:
    """What there is to know of one method: words, formula, hyperparameters, grid, source."""
    objective, parts = OBJECTIVES[name], paragraphs(name)
    formula = next(i for i, part in enumerate(parts) if part.startswith("    "))
    words = [part for part in parts[formula + 1 :] if not part.startswith(("Args", "Returns", "Raises", "Source"))]
    lines = [
        f"## {objective.title}",
        "",
        f"`{name}`: {parts[0]}",
        "",
        "```text",
        inspect.cleandoc(parts[formula]),
        "```",
        "",
    ]
    lines += [part for text in words for part in (unwrapped(text), "")]
    return [*lines, *hyperparameter_table(name), facts(name), "", unwrapped(parts[-1]), ""]


def hyperparameter_table(name: str) -> list[str]:
    """A row per hyperparameter: what it may be, what it is by default and why, where to look first."""
    known, grid = hyperparameters(OBJECTIVES[name]), recommended(name)
    if not known:
        return []
    rows = [
        "| hyperparameter | | range | default | source of the default | recommended grid |",
        "|---|---|---|---|---|---|",
    ]
    for field, about in known.items():
        values = ", ".join(f"{value:g}" for value in grid.get(field, ())) or "–"
        rows.append(
            f"| `{field}` | {about.symbol} | {about.rule()} | {default(name, field):g} | {about.source} | {values} |"
        )
    return [*rows, ""]


def facts(name: str) -> str:
    """Reference, separability and needs in one line."""
    objective = OBJECTIVES[name]
    words = ["Reference-free." if objective.reference_free else "Reference-dependent."]
    if not objective.separable:
        words.append(
            "Not separable: the loss of a batch is not the mean of its parts; the step is exact for any micro-batch."
        )
    return " ".join([*words, *(f"Needs {NEEDS[need]}." for need in needs(objective))])


def paragraphs(name: str) -> list[str]:
    """The paragraphs of an objective's docstring."""
    return inspect.cleandoc(OBJECTIVES[name].__doc__ or "").split("\n\n")


def loss(name: str) -> str:
    """The formula's first line without what defines its letters, which stands behind three spaces."""
    formula = next(part for part in paragraphs(name) if part.startswith("    "))
    return inspect.cleandoc(formula).splitlines()[0].partition("   ")[0].rstrip(",")


def default(name: str, field: str) -> float:
    """The default of a hyperparameter."""
    return float(getattr(OBJECTIVES[name](), field))


def recommended(name: str) -> dict[str, list[float]]:
    """The grid of `conf/method/<name>.yaml`."""
    return dict(OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "method" / f"{name}.yaml"))["grid"])  # type: ignore[index,call-overload]


def code(text: str) -> str:
    """As code inside a table, where a bar would end the cell."""
    return "`" + text.replace("|", "\\|") + "`"


def unwrapped(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
