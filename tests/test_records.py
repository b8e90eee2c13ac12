"""Every record survives the way to disk and back."""

import dataclasses
import json

import pytest

from posweep.cost import Probed
from posweep.identity import Identity
from posweep.records import (
    Example,
    HeldOutPair,
    JsonRecord,
    Message,
    Opponents,
    Outcome,
    PreferencePair,
    Response,
    SweepHeader,
    TrialFailure,
    TrialResult,
    TrialSpec,
)

SPEC = TrialSpec(
    "k", "r", "s", "c", "simpo", {"beta": 2.0, "gamma": 0.5}, {"learning_rate": 5e-7, "epochs": 1.0, "batch_size": 8},
    seed=1, varied=("beta", "learning_rate", "batch_size"), block=2, prior="published",
)  # fmt: skip
RESULT = TrialResult(
    "k", "r", "s", "finished", {"ood/win_rate_vs_sft": 0.1 + 0.2}, ({"at": 0.5, "measures": {"ood/x": 1e-300}},),
    {"loss": [[1, 0.5], [2, 0.25]]}, {"total": 1.5}, "γ → ∞", 12.5,
)  # fmt: skip
RESPONSE = Response("ood", 3, "name\ntwo", "a « b »", 5, False, 0.25, 6, {"gold": 1.0}, {"gold": 0.5})
HELD_OUT = HeldOutPair("iid", 0, 1.5, -0.5, -3.0, 2.0)
RECORDS = [
    PreferencePair("prompt", "chosen", "rejected"),
    Message("user", "who?"),
    PreferencePair((Message("system", "be kind"), Message("user", "who?")), "chosen", "rejected", "another prompt"),
    Example("prompt", "ünïcode \u2028 response"),
    SPEC,
    RESPONSE,
    HELD_OUT,
    RESULT,
    TrialResult("k", "r", "s", "diverged"),
    Outcome(RESULT, (RESPONSE, RESPONSE), (HELD_OUT,)),
    Outcome(RESULT),
    SweepHeader("demo", "ood/win_rate_vs_sft", {"ood/mean_score": 0.5}, {"commit": "abc", "pairs": 3}),
    TrialFailure("k", "ValueError", "message", "logs/k.log"),
    Identity("demo", "0.1.0", 1, {"dpo": 1}, {"model": {"seed": 0}}),
    Probed(0.1, 32, 2000, 1.5, 0.2, 4096),
    Opponents(
        "ood",
        3,
        "name\ntwo",
        "cod eel",
        2,
        ("a", "b"),
        (1, 1),
        ("c", "d"),
        (1, 2),
        {"gold": {"chosen": [1.0], "sft": [0.5, 0.0], "fresh": [0.25, 1e-300]}},
        {"vs_sft": [0.5, 1.0]},
    ),
]


def test_every_record_is_in_the_table():
    assert {type(record) for record in RECORDS} == set(JsonRecord.__subclasses__())


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_json_round_trip(record):
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_frozen(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")


def test_a_point_is_what_tells_a_configuration_from_its_neighbours():
    """Hyperparameters, the learning rate always, and what the block varied; not every training setting."""
    assert SPEC.point == {"beta": 2.0, "gamma": 0.5, "learning_rate": 5e-7, "batch_size": 8}
    assert dataclasses.replace(SPEC, varied=()).point == {"beta": 2.0, "gamma": 0.5, "learning_rate": 5e-7}
