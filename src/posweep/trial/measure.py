"""From rows to measures, `<set>/<measure>` with `<set>/<measure>_se`: pure functions of what was generated and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posweep.artifacts.baselines import BaselineScores
from posweep.artifacts.shared import EvaluationSet, Shared
from posweep.policy.batch import Batch
from posweep.policy.score import similar_length
from posweep.records import HeldOutPair, Opponents, Response, TrialSpec, prompt_text
from posweep.trial.judge import beaten, prefixed
from posweep.trial.loss import PairLoss, held_out_loss

HELD_OUT_PAIRS = 64
"""Pairs scored at once."""


@dataclass(frozen=True)
class Measured:
    """The measures of a policy and the rows they were computed from."""

    measures: Mapping[str, float]
    responses: tuple[Response, ...]
    held_out: tuple[HeldOutPair, ...]


def measure(responses: Sequence[Response], held_out: Sequence[HeldOutPair], shared: Shared) -> Measured:
    """Every measure on every evaluation set."""
    measures: dict[str, float] = {}
    for evaluation in shared.evaluation:
        rows = [row for row in responses if row.set == evaluation.name]
        pairs = [pair for pair in held_out if pair.set == evaluation.name]
        found = {**of_responses(rows, evaluation), **of_pairs(pairs)}
        measures |= {f"{evaluation.name}/{name}": value for name, value in found.items()}
    return Measured(measures, tuple(responses), tuple(held_out))


def of_responses(rows: Sequence[Response], evaluation: EvaluationSet) -> dict[str, float]:
    """Win-rates, scores, KL (nats) and lengths (tokens); errors are over prompts, whose responses are averaged first.

    Args:
        rows: in prompt order, equally many for each prompt.
    """
    primary = next(iter(evaluation.scores), "")  # a probe may have no judge
    count = len(evaluation.prompts)

    def by_prompt(values: Iterable[float]) -> np.ndarray:
        return np.array(list(values), dtype=float).reshape(count, -1).mean(axis=1)

    measures: dict[str, float] = {}
    for name in rows[0].wins:
        prefix, _, kind = name.rpartition("/")
        measures |= mean(f"{prefix}/win_rate_{kind}".lstrip("/"), by_prompt(row.wins[name] for row in rows))
    for name in rows[0].scores:
        prefix = "" if name == primary else f"{name}/"
        measures |= mean(f"{prefix}mean_score", by_prompt(row.scores[name] for row in rows))
    kl, length = by_prompt(row.kl for row in rows), by_prompt(row.length for row in rows)
    measures |= mean("kl_to_sft", kl)
    measures |= ratio("kl_to_sft_per_token", kl, by_prompt(row.kl_length for row in rows))
    measures |= mean("response_length", length)
    measures["response_length_median"] = float(np.median([row.length for row in rows]))
    measures["response_length_p90"] = float(np.quantile([row.length for row in rows], 0.9))
    measures |= ratio("length_ratio_sft", length, by_prompt(evaluation.sft.lengths))
    measures |= ratio("length_ratio_chosen", length, by_prompt(evaluation.chosen_lengths))
    measures |= mean("truncated", by_prompt(row.truncated for row in rows))
    measures["distinct"] = len({row.text for row in rows}) / len(rows)
    return measures


def of_pairs(pairs: Sequence[HeldOutPair]) -> dict[str, float]:
    """Held-out pairs: how often the method's own reward prefers the chosen response, and likelihood displacement (nats)."""
    if not pairs:
        return {}
    margins = np.array([pair.chosen_reward - pair.rejected_reward for pair in pairs])
    return {
        **mean("preference_accuracy", (margins > 0) + 0.5 * (margins == 0)),
        **mean("chosen_logps_change", np.array([pair.chosen_logps_change for pair in pairs])),
        **mean("rejected_logps_change", np.array([pair.rejected_logps_change for pair in pairs])),
    }


def mean(name: str, values: np.ndarray) -> dict[str, float]:
    """A mean over prompts with its standard error, s/√P."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {name: float(values.mean()), f"{name}_se": float(error)}


def ratio(name: str, above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """Σa/Σb with its delta-method standard error: that of the mean of (a − r b)/b̄."""
    value = above.sum() / below.sum()
    residual = (above - value * below) / below.mean()
    return {name: float(value), f"{name}_se": mean("", residual)["_se"]}


def held_out_pairs(spec: TrialSpec, shared: Shared) -> tuple[HeldOutPair, ...]:
    """What the policy and its objective make of the held-out pairs of every set."""
    return tuple(pair for evaluation in shared.evaluation for pair in _held_out(spec, shared, evaluation))


def _held_out(spec: TrialSpec, shared: Shared, evaluation: EvaluationSet) -> list[HeldOutPair]:
    loss, reference = held_out_loss(spec, shared, evaluation), evaluation.reference
    everything = Batch(np.arange(len(evaluation.pairs)))
    with torch.inference_mode():
        at_once = min(HELD_OUT_PAIRS, shared.configuration.sample.batch_size)
        columns = _forward(loss, everything, evaluation.pairs.lengths(), at_once)
        out = loss.score(everything, columns)
        chosen, rejected = columns["policy_chosen_logps"], columns["policy_rejected_logps"]
        changes = (chosen - reference.chosen, rejected - reference.rejected)
        rows = torch.stack([out.chosen_rewards, out.rejected_rewards, *changes], 1).tolist()
    return [HeldOutPair(evaluation.name, i, *map(float, row)) for i, row in enumerate(rows)]


def _forward(loss: PairLoss, batch: Batch, lengths: np.ndarray, at_once: int = HELD_OUT_PAIRS) -> dict[str, Tensor]:
    """The columns of a batch of any size, computed in parts of similar length."""
    both = zip(loss.pairs.chosen, loss.pairs.rejected, strict=True)
    logits = [(len(chosen) + len(rejected)) * loss.policy.vocabulary for chosen, rejected in both]
    parts = similar_length(lengths.tolist(), at_once, logits)
    found = [loss.forward(Batch(batch.items[part], batch.epoch)) for part in parts]
    back = torch.from_numpy(np.concatenate(parts).argsort())
    return {name: torch.cat([columns[name] for columns in found])[back] for name in found[0]}


def baseline_measures(shared: Shared) -> dict[str, float]:
    """The SFT model measured like a trial: K fresh responses per prompt against its own K. Its win-rate is the A/A row."""
    measures: dict[str, float] = {}
    for evaluation in shared.evaluation:
        found = of_responses(_fresh_rows(evaluation), evaluation)
        measures |= {f"{evaluation.name}/{name}": value for name, value in found.items()}
    return measures


def opponents(shared: Shared) -> tuple[Opponents, ...]:
    """What every response is compared with, as the report needs it: texts, lengths, scores, and the fresh ones' wins."""
    return tuple(row for evaluation in shared.evaluation for row in _opponents(evaluation))


def _opponents(evaluation: EvaluationSet) -> list[Opponents]:
    wins = [row.wins for row in _fresh_rows(evaluation)]
    return [_opponents_at(i, evaluation, wins) for i in range(len(evaluation.prompts))]


def _opponents_at(i: int, evaluation: EvaluationSet, wins: Sequence[Mapping[str, float]]) -> Opponents:
    """Those of one prompt; `wins` are of all fresh responses, in prompt order."""
    sft, fresh = evaluation.sft, evaluation.fresh
    ours, theirs = slice(i * sft.count, (i + 1) * sft.count), slice(i * fresh.count, (i + 1) * fresh.count)
    scored = {name: s for name, s in evaluation.scores.items() if isinstance(s, BaselineScores)}
    return Opponents(
        set=evaluation.name, index=i, prompt=prompt_text(evaluation.prompts[i]),
        chosen=evaluation.chosen[i], chosen_length=evaluation.chosen_lengths[i],
        sft=tuple(sft.texts[ours]), sft_lengths=tuple(sft.lengths[ours]),
        fresh=tuple(fresh.texts[theirs]), fresh_lengths=tuple(fresh.lengths[theirs]),
        scores={
            name: {"chosen": [float(s.chosen[i])], "sft": s.sft[i].tolist(), "fresh": s.fresh[theirs].tolist()}
            for name, s in scored.items()
        },
        fresh_wins={name: [row[name] for row in wins[theirs]] for name in wins[0]},
    )  # fmt: skip


def _fresh_rows(evaluation: EvaluationSet) -> list[Response]:
    """The fresh responses of the SFT model, judged as a trial's are."""
    fresh = evaluation.fresh
    scores: dict[str, np.ndarray] = {}
    columns: dict[str, np.ndarray] = {}
    for place, (name, baseline) in enumerate(evaluation.scores.items()):
        if isinstance(baseline, BaselineScores):
            scores[name] = baseline.fresh
            won = beaten(baseline.fresh, baseline)
        else:
            won = vars(baseline)
        columns |= prefixed(won, name if place else "")
    return [
        Response(
            set=evaluation.name, index=i // fresh.count, prompt=prompt_text(evaluation.prompts[i // fresh.count]), text=text,
            length=fresh.lengths[i], truncated=fresh.truncated[i], kl=0.0, kl_length=fresh.lengths[i],
            scores={name: float(values[i]) for name, values in scores.items()},
            wins={name: float(values[i]) for name, values in columns.items()},
        )
        for i, text in enumerate(fresh.texts)
    ]  # fmt: skip
