"""One trial from spec to result: train → generate → judge → measure."""

from posweep.trial.course import Course
from posweep.trial.halving import out_of_memory
from posweep.trial.measure import baseline_measures, opponents
from posweep.trial.run import rescore, run_cohort, run_trial
from posweep.trial.training import settings_of, train

__all__ = [
    "Course", "baseline_measures", "opponents", "out_of_memory", "rescore", "run_cohort", "run_trial", "settings_of",
    "train",
]  # fmt: skip
