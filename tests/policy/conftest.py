"""Models by their names and sequences of tokens, for several files."""

import numpy as np
import pytest

from posweep.policy.load import load_policy

from .families import FAMILIES, make_model, settings


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("families")
    return {family: make_model(family, made / family) for family in FAMILIES}


@pytest.fixture
def opened(folders):
    def make(family: str, **changes):
        return load_policy(settings(family, folders[family], **changes), folders[family])

    return make


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 7, size=n).tolist() for n in (1, 5, 3, 2, 8)]
    responses = [rng.integers(2, 7, size=n).tolist() for n in (4, 1, 6, 2, 3)]
    return prompts, responses
