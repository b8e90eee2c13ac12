"""One trial from spec to result: train → generate → judge → measure."""

from posweep.trial.measure import baseline_measures, opponents
from posweep.trial.run import Stopwatch, rescore, run_trial, train

__all__ = ["Stopwatch", "baseline_measures", "opponents", "rescore", "run_trial", "train"]
