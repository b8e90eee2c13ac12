"""How often a 95 % interval holds the truth, by simulation: the table of docs/statistics.md.

    python benchmarks/coverage.py [WORLDS]

Worlds are made of known parts: two methods of twelve configurations, whose scores move with the seed, with the prompt,
with what a configuration makes of either, and by chance. For each number of seeds and each mix of variances the program
counts in how many worlds `crossed_interval` holds what other seeds and prompts would give and, with one seed, what other
prompts would give this very seed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import norm

from posweep.robustness.crossed import Sample, configuration_scores, crossed_interval
from posweep.robustness.improvement import improvement_of_runs
from posweep.robustness.ranking import typical

Table = NDArray[np.float64]

WORLDS = 2000
PROMPTS = 100
DRAWS = 3  # of the tuning curve's value
STATISTICS = ("IQM", "median", "10th percentile", "best of 3", "improvement")
METHODS = np.linspace(0.30, 0.66, 12), np.linspace(0.36, 0.62, 12)
"""The true scores of both methods' configurations."""
OWNER = np.repeat([0, 1], [len(scores) for scores in METHODS])


@dataclass(frozen=True)
class Mix:
    """Standard deviations of what moves a score; `noise` is a response's own."""

    seed: float
    configuration_seed: float
    prompt: float = 0.15
    configuration_prompt: float = 0.10
    noise: float = 0.30


MIXES = {
    "seeds dominate": Mix(seed=0.10, configuration_seed=0.05),
    "mixed": Mix(seed=0.03, configuration_seed=0.03),
    "prompts dominate": Mix(seed=0.002, configuration_seed=0.002),
}


def main(worlds: int) -> None:
    """Print the table, a row per mix, number of seeds and target."""
    print(f"| variance | seeds | over other … | {' | '.join(STATISTICS)} |\n|---|---|---|{'---|' * len(STATISTICS)}")
    for name, mix in MIXES.items():
        for seeds in (1, 2, 3, 5, 10):
            found = coverage(mix, seeds, worlds, np.random.default_rng(seeds))
            targets = ("seeds and prompts", "prompts, given this seed")[: 2 if seeds == 1 else 1]
            for target, shares in zip(targets, found, strict=False):
                print(f"| {name} | {seeds} | {target} | {' | '.join(f'{share:.3f}' for share in shares)} |", flush=True)


def coverage(mix: Mix, seeds: int, worlds: int, rng: Generator) -> Table:
    """The share of worlds in which the interval holds what other seeds would give, and what these would; (2, statistics)."""
    everywhere, held = truth(mix), np.zeros((2, len(STATISTICS)))
    for _ in range(worlds):
        table, runs = world(mix, seeds, rng)
        found = crossed_interval(lambda sample, table=table: statistics(table, sample), seeds, PROMPTS, rng)
        these = statistics(runs, Sample.everything(seeds, 1))[0]
        held += [(found.low <= true) & (true <= found.high) for true in (everywhere, these)]
    return held / worlds


def world(mix: Mix, seeds: int, rng: Generator) -> tuple[Table, Table]:
    """Scores of both methods below each other, (configurations, seeds, prompts), and the same without luck of prompts."""
    scores = np.concatenate(METHODS)[:, None, None]
    runs = (
        scores + rng.normal(0, mix.seed, (1, seeds, 1)) + rng.normal(0, mix.configuration_seed, (len(OWNER), seeds, 1))
    )
    luck = rng.normal(0, mix.prompt, PROMPTS) + rng.normal(0, mix.configuration_prompt, (len(OWNER), 1, PROMPTS))
    return runs + luck + rng.normal(0, mix.noise, (len(OWNER), seeds, PROMPTS)), runs


def statistics(table: Table, sample: Sample) -> Table:
    """Four statistics of the first method, and its improvement on the second; (replicates, statistics)."""
    scores = configuration_scores(table, sample)[:, OWNER == 0]
    improvement = improvement_of_runs(table, OWNER, sample, 2)[:, 0, 1]
    return np.stack([*of_configurations(scores), improvement], axis=1)


def of_configurations(scores: Table) -> list[Table]:
    """Interquartile mean, median, 10th percentile and the expected best of `DRAWS`, each (replicates,)."""
    ranks = np.arange(scores.shape[-1])
    chances = np.array([comb(rank, DRAWS - 1) for rank in ranks]) / comb(len(ranks), DRAWS)
    best = np.sort(scores, axis=-1) @ chances
    return [typical(scores), np.median(scores, axis=-1), np.percentile(scores, 10, axis=-1), best]


def truth(mix: Mix) -> Table:
    """What infinitely many seeds and prompts would say; runs that are compared then have different seeds."""
    first, second = METHODS
    spread = np.sqrt(2 * (mix.seed**2 + mix.configuration_seed**2))
    improvement = norm.cdf((first[:, None] - second) / spread).mean()
    return np.array([*(value[0] for value in of_configurations(first[None])), improvement])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else WORLDS)
