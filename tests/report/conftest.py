"""A sweep as a tracker would hold it, made up: three methods of twelve configurations, three evaluation sets."""

import dataclasses
import itertools
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from posweep.records import Opponents, Response, SweepRecord, TrialResult, TrialSpec
from posweep.report import Chapter, Tables, write_report
from posweep.report.chapters import chapters
from posweep.report.drawing.style import publication

RATES = (1e-4, 3e-4, 1e-3)
GRIDS = {
    "dpo": {"beta": (0.03, 0.1, 0.3, 0.9), "gamma": (0.0,)},
    "ln_dpo": {"beta": (1.0, 2.0, 3.5, 5.0), "gamma": (0.0,)},
    "simpo": {"beta": (2.0, 5.0), "gamma": (0.5, 1.0)},
}
SETS = {"iid": 0.03, "ood": 0.0, "ood_counts": -0.04}


@dataclass(frozen=True)
class Truth:
    """What a made-up trial should measure."""

    win: float
    kl: float
    length: float


def spec(method: str, point: dict, rate: float, seed: int) -> TrialSpec:
    name = "-".join([method, *(f"{value:g}" for value in point.values()), f"{rate:g}"])
    train = {"learning_rate": rate, "epochs": 1.0, "batch_size": 32}
    key = f"{name}-{seed}"
    return TrialSpec(key, f"r{key}", f"s{key}", name, method, point, train, seed, prior="custom")


def specs(methods=tuple(GRIDS), seeds=(0,), configurations=None) -> tuple[TrialSpec, ...]:
    """The plan: each method's own grid times learning rates, times seeds."""
    plan = []
    for method in methods:
        values = itertools.product(*GRIDS[method].values(), RATES)
        points = [(dict(zip(GRIDS[method], row, strict=False)), row[-1]) for row in values][:configurations]
        plan += [spec(method, point, rate, seed) for (point, rate), seed in itertools.product(points, seeds)]
    return tuple(plan)


def truth(trial: TrialSpec, shift: float) -> Truth:
    """Strong steps move far; too far loses. Weak steps stay at the SFT model."""
    strength = math.log(trial.train["learning_rate"] / 1e-4) / math.log(10)
    pull = {"dpo": 1.2 - math.log10(trial.hyperparameters["beta"] / 0.03), "ln_dpo": 0.9, "simpo": 1.0}[trial.method]
    kl = 0.6 * 10 ** (1.3 * strength * pull + 0.1 * pull)
    win = 0.5 + 0.12 * math.sqrt(min(kl, 4) / 4) - 0.07 * max(0.0, math.log(kl / 6)) + shift * min(kl, 3) / 3
    length = 21 + (1.2 if trial.method != "simpo" else -1.5) * math.log1p(kl)
    return Truth(min(max(win, 0.02), 0.95), kl, max(length, 4.0))


def second_opinion(trial: TrialSpec, wins: np.ndarray) -> np.ndarray:
    """What another judge makes of the same responses: of four opponents it often judges one differently."""
    rng = np.random.default_rng(zlib.crc32(trial.key.encode()))
    return np.clip(wins + rng.choice([-0.25, 0, 0.25], wins.shape), 0, 1)


def responses(trial: TrialSpec, prompts: int, rng: np.random.Generator) -> list[Response]:
    rows = []
    for name, shift in SETS.items():
        expected = truth(trial, shift)
        wins = rng.binomial(4, expected.win, prompts) / 4
        others = second_opinion(trial, wins)
        lengths = rng.poisson(expected.length, prompts) + 1
        kls = rng.gamma(2.0, expected.kl / 2, prompts)
        for index, (win, other, length, kl) in enumerate(zip(wins, others, lengths, kls, strict=True)):
            scores = {"vs_sft": float(win), "vs_chosen": float(win) / 2, "proxy/vs_sft": float(other)}
            row = Response(name, index, "p", "t", int(length), False, float(kl), int(length), {}, scores)
            rows.append(row)
    return rows


def measures(rows: list[Response]) -> dict[str, float]:
    found = {}
    for name in SETS:
        mine = [row for row in rows if row.set == name]
        columns = {
            "win_rate_vs_sft": [row.wins["vs_sft"] for row in mine],
            "win_rate_vs_chosen": [row.wins["vs_chosen"] for row in mine],
            "kl_to_sft": [row.kl for row in mine],
            "response_length": [row.length for row in mine],
        }
        for measure, values in columns.items():
            found[f"{name}/{measure}"] = float(np.mean(values))
            found[f"{name}/{measure}_se"] = (
                float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
            )
        found |= {f"{name}/truncated": 0.01, f"{name}/distinct": 0.97}
    return found


def make_record(plan: tuple[TrialSpec, ...], prompts: int = 64, diverged=(), failed=(), missing=()) -> SweepRecord:
    """The record of a plan, with some of its trials (by position) ended otherwise."""
    rng = np.random.default_rng(0)
    results, rows = {}, {}
    for position, trial in enumerate(plan):
        if position in missing:
            continue
        ids = (trial.key, trial.response_key, trial.score_key)
        if position in diverged:
            results[trial.key] = TrialResult(*ids, "diverged", message="the loss is not finite at step 31")
        elif position in failed:
            results[trial.key] = TrialResult(*ids, "failed", message="worker <lost> & gone")
        else:
            rows[trial.key] = tuple(responses(trial, prompts, rng))
            seconds = {"reset": 0.02, "train": 4.1, "generate": 0.6, "judge": 0.1, "measure": 0.3, "total": 5.2}
            results[trial.key] = TrialResult(*ids, "finished", measures(list(rows[trial.key])), seconds=seconds)
    baseline = {f"{name}/win_rate_vs_sft": 0.503 + shift / 5 for name, shift in SETS.items()}
    baseline |= {f"{name}/win_rate_vs_sft_se": 0.011 for name in SETS}
    baseline |= {f"{name}/response_length": 21.0 + 10 * shift for name, shift in SETS.items()}
    facts = {
        "commit": "abc1234",
        "data": "demo <seed 0>",
        "note": "One seed of a toy world: the order of methods here is no evidence about methods.",
        "judges": "gold, proxy",
        "judge/gold/held_out_accuracy": 0.81,
        "judge/gold/longer_wins_accuracy": 0.55,
        "judge/llm/calls": 6336.0,
        "judge/llm/prompt_tokens": 1234567.0,
        "set/iid/distribution": "iid",
        "set/ood/distribution": "ood",
        "data/iid/rows": 64,
        "data/train/rows": 2713,
        "data/train/prompts truncated": 12,
        "data/train/dropped: chosen equals rejected": 4,
    }
    urls = {trial.key: f"http://127.0.0.1:5000/#/runs/{position}" for position, trial in enumerate(plan)}
    return SweepRecord("demo", "ood/win_rate_vs_sft", plan, results, rows, baseline, facts, others=2, run_urls=urls)


def opponents(place: str, index: int, rng: np.random.Generator, count: int = 4) -> Opponents:
    """What a prompt's responses were compared with; two judges score, the longer a response the better."""
    lengths = rng.poisson(20, (2, count)) + 1
    scores = {judge: 0.05 * lengths + rng.normal(size=(2, count)) for judge in ("gold", "proxy")}
    won = {name: (s[1][:, None] > s[0]).mean(axis=1).tolist() for name, s in scores.items()}
    texts = tuple("s" * count), tuple("f" * count)
    return Opponents(
        place, index, "p", "c", 24, texts[0], tuple(lengths[0].tolist()), texts[1], tuple(lengths[1].tolist()),
        {name: {"chosen": [1.5], "sft": s[0].tolist(), "fresh": s[1].tolist()} for name, s in scores.items()},
        {"vs_sft": won["gold"], "vs_chosen": [0.25] * count, "proxy/vs_sft": won["proxy"]},
    )  # fmt: skip


def with_opponents(record: SweepRecord, scored: bool = True) -> SweepRecord:
    """The record with what responses were compared with, and a score of both judges for each response."""
    rng = np.random.default_rng(1)
    indices = sorted({(row.set, row.index) for rows in record.responses.values() for row in rows})
    rows = {}
    for key, mine in record.responses.items():
        rows[key] = tuple(_scored(row, rng) if scored else row for row in mine)
    found = tuple(opponents(place, index, rng) for place, index in indices)
    if not scored:
        found = tuple(dataclasses.replace(row, scores={}) for row in found)
    return dataclasses.replace(record, responses=rows, opponents=found)


def _scored(row: Response, rng: np.random.Generator) -> Response:
    score = 2 * row.wins["vs_sft"] + 0.05 * row.length + rng.normal(0, 0.3)
    return dataclasses.replace(row, scores={"gold": float(score), "proxy": float(score + rng.normal())})


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The makers of plans and records."""
    return SimpleNamespace(
        spec=spec, specs=specs, record=make_record, with_opponents=with_opponents, methods=list(GRIDS)
    )


@pytest.fixture(scope="session")
def record() -> SweepRecord:
    """Three methods of twelve; one diverged, one failed, one not run."""
    return make_record(specs(), diverged=(2,), failed=(14,), missing=(35,))


@pytest.fixture(scope="session")
def told(record) -> list[Chapter]:
    """Every chapter of that record, with what responses were compared with."""
    with publication():
        return list(chapters(Tables.of(with_opponents(record))))


@pytest.fixture(scope="session")
def page(record, tmp_path_factory) -> Path:
    """Its report."""
    return write_report(with_opponents(record), tmp_path_factory.mktemp("report"))


@pytest.fixture
def undrawn(monkeypatch):
    """Reports whose figures nobody looks at: neither laid out nor written, which takes longer than all the rest."""
    monkeypatch.setattr("posweep.report.write._write_figure", lambda *_: b"<svg/>")
    monkeypatch.setattr("posweep.report.drawing.panels.ConstrainedLayoutEngine.execute", lambda *_: None)
