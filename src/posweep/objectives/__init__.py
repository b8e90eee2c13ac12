"""The mathematics of each method: frozen dataclasses whose fields are hyperparameters and whose call is the formula."""

from posweep.objectives.base import Objective, PreferenceLogps, PreferenceLoss, hyperparameters
from posweep.objectives.dpo import DPO
from posweep.objectives.ln_dpo import LNDPO
from posweep.objectives.simpo import SimPO

OBJECTIVES: dict[str, type[Objective]] = {
    "dpo": DPO,
    "ln_dpo": LNDPO,
    "simpo": SimPO,
}

__all__ = ["OBJECTIVES", "Objective", "PreferenceLogps", "PreferenceLoss", "hyperparameters"]
