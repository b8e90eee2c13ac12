"""The paper's own figures: their order, their bins, and what is drawn of very many points."""

import dataclasses

import numpy as np
import pytest

from posweep.report.chapters import paper
from posweep.report.drawing.histogram import bins
from posweep.report.drawing.panels import MANY
from posweep.report.tables import Tables

from ..rounding import near

ORDER = [
    "performance_histogram",
    "win_rate_vs_sft",
    "response_length",
    "kl_to_sft",
    "kl_to_sft_per_token",
    "score_by_hyperparameter",
    "kl_against_win_rate",
]


def per_token(record):
    """The record with KL per token beside KL."""
    results = {}
    for key, result in record.results.items():
        found = {name: value for name, value in result.measures.items() if "kl_to_sft" in name}
        more = {name.replace("kl_to_sft", "kl_to_sft_per_token"): value / 20 for name, value in found.items()}
        results[key] = dataclasses.replace(result, measures={**result.measures, **more})
    return dataclasses.replace(record, results=results)


def test_the_figures_come_in_the_papers_order(record):
    drawn = paper.drawings(Tables.of(per_token(record)))
    assert [one.name for one in drawn] == ORDER
    (tokens,) = (one for one in drawn if one.name == "kl_to_sft_per_token")
    assert "standard errors over prompts" in tokens.caption


def test_the_histogram_counts_every_configuration_with_a_score(record):
    (drawing,) = paper.performance(Tables.of(record))
    counted = drawing.data.groupby("method")["configurations"].sum()
    assert counted.to_dict() == {"dpo": 11, "ln_dpo": 11, "simpo": 11}
    assert (drawing.data["low"] < drawing.data["high"]).all()


@pytest.mark.parametrize("values", [[0.31, 0.66], [0.5], [0.0, 1.0], [0.5, 0.5], [-3.2, 410.0], [0.4999, 0.5001]])
def test_bins_are_round_few_and_hold_everything(values):
    edges = bins(values)
    assert 2 <= len(edges) <= 21
    assert edges[0] <= min(values) < edges[-1]
    assert edges[0] <= max(values) < edges[-1] + 1e-12
    assert np.histogram(values, edges)[0].sum() == len(values)
    steps = edges / (edges[1] - edges[0])
    assert steps == near(np.round(steps), terms=1e6, dtype="float64")


def test_a_half_parts_bins():
    assert np.isclose(bins([0.13, 0.71]), 0.5).any()


def test_very_many_points_are_pixels_without_whiskers(made, monkeypatch):
    monkeypatch.setattr("posweep.report.drawing.distributions.MANY", 20)
    monkeypatch.setattr(paper, "MANY", 20)
    (drawing,) = paper.win_rates(Tables.of(made.record(made.specs(("dpo",)))))
    assert "too many points" in drawing.caption
    assert all(dots.get_rasterized() for dots in drawing.figure.axes[0].collections if len(dots.get_offsets()) > 1)
    assert MANY >= 1000


def test_all_panels_of_the_hyperparameters_share_the_scores_axis(record):
    (drawing,) = paper.by_hyperparameter(Tables.of(record))
    assert len({axes.get_ylim() for axes in drawing.figure.axes}) == 1
    assert len(drawing.figure.axes) > 3
