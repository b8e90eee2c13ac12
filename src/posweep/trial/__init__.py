"""One trial from spec to result: train → generate → judge → measure."""

from posweep.trial.measure import baseline_measures
from posweep.trial.run import rescore, run_trial

__all__ = ["baseline_measures", "rescore", "run_trial"]
