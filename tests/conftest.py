"""What several rooms' tests share. Heavy imports stay inside the fixtures: tests without torch start at once."""

import json
import os
import signal
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

# two workers of one thread each beat two that fight over both cores; set before anything imports torch
os.environ.setdefault("OMP_NUM_THREADS", "1")


NUMERIC = {
    "judges": {"test_judges", "test_pairwise_model", "test_reward_model"},
    "objectives": {"test_objectives", "test_theorems", "test_training"},
    "policy": {"test_classify", "test_divergence", "test_operations", "test_packed", "test_score", "test_train"},
    "robustness": {
        "test_best", "test_best_of_n", "test_chosen", "test_distribution", "test_effects", "test_frontier", "test_grid",
        "test_improvement", "test_length", "test_ranking", "test_sensitivity", "test_shares", "test_transfer",
        "test_tunability", "test_tuned", "test_tuning", "test_variance",
    },
    "tests": {"test_statistics_page"},
    "trial": {"test_measure", "test_tokens"},
}  # fmt: skip
"""Fast tests that compare floats: `make test` runs them once more as another processor would, `make test-portable` all."""


def pytest_collection_modifyitems(items):
    """Mark fast tests of numbers; skip those of a GPU where there is none (torch is imported only if there are such)."""
    for item in items:
        if item.path.stem in NUMERIC.get(item.path.parent.name, ()):
            item.add_marker("numeric")
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        for item in marked if not torch.cuda.is_available() else ():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


FIGURES: dict[str, str] = {}
"""What long tests measured (`figures` of tests/torture/conftest.py), in the process that prints it."""


def pytest_runtest_logreport(report):
    if report.when == "call":
        FIGURES.update(value for name, value in report.user_properties if name == "figure")


def pytest_terminal_summary(terminalreporter):
    if FIGURES:
        terminalreporter.section("what was measured")
    for what, value in FIGURES.items():
        terminalreporter.write_line(f"{what:<{max(map(len, FIGURES))}}  {value}")


class Programs:
    """The modules of a folder of programs, which is no package, by their names."""

    def __getattr__(self, name):
        return import_module(name)


@pytest.fixture(scope="module")
def race():
    """The race's own modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks" / "race")
        yield Programs()


@pytest.fixture(scope="session")
def smoke():
    """The smoke sweep, narrower still, under two judges."""
    from posweep.config import configure

    return configure(["sweep=smoke", "judge=[gold,proxy]", "model.hidden_size=16", "data.pairs=96"])


@pytest.fixture(scope="session")
def as_it_stands():
    """The smoke sweep as its file has it."""
    from posweep.config import configure

    return configure(["sweep=smoke"])


@pytest.fixture(scope="session")
def composed():
    """The same as Hydra composes it, before it is checked."""
    from omegaconf import OmegaConf

    from posweep.config import dump

    return OmegaConf.create(dump(["sweep=smoke"]))


@pytest.fixture
def launched(tmp_path, monkeypatch, as_it_stands) -> Path:
    """The folder of the smoke sweep as a launch leaves it, in the working folder; what it would run is left out."""
    from posweep.identity import identity_of, write_plan
    from posweep.plan import make_plan

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "smoke"
    write_plan(folder, make_plan(as_it_stands), identity_of(as_it_stands))
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    from posweep.artifacts.store import Store

    return Store(tmp_path_factory.mktemp("smoke") / "artifacts")


@pytest.fixture(scope="session")
def shared(smoke, store):
    """The smoke sweep's artifacts. Trials change `policy`; `reference` stays the SFT model."""
    from posweep.artifacts.shared import prepare

    return prepare(smoke, store)


@pytest.fixture(scope="session")
def plan(smoke):
    from posweep.plan import make_plan

    return make_plan(smoke).trials


@pytest.fixture(scope="session")
def toy():
    """Two random policies over seven tokens: a policy and its reference. The output layers are enlarged: no flat π."""
    from posweep.policy.scratch import make_tokenizer, new_policy
    from posweep.settings import ScratchModel

    tokenizer = make_tokenizer(ScratchModel(), ["a b"])
    made = [new_policy(ScratchModel(hidden_size=16, layers=1, heads=2, seed=seed), tokenizer) for seed in (0, 1)]
    for policy in made:
        policy.model.eval().model.embed_tokens.weight.data.mul_(10)
    return made


@pytest.fixture
def within():
    """A block that would hang becomes a failure."""

    @contextmanager
    def limit(seconds: int):
        def late(*_):
            raise TimeoutError(f"not done within {seconds} s")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(seconds)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    return limit


@pytest.fixture
def pairs(tmp_path_factory) -> Path:
    """A folder with the three files of data=local, outside the working folder."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("train", "iid", "ood"):
        rows = [{"prompt": f"{name} {i}", "chosen": "good", "rejected": "bad"} for i in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def saved(tmp_path):
    """A small Llama in a folder."""
    from transformers import LlamaForCausalLM

    from posweep.settings import HubModel

    from .sizes import llama

    model = LlamaForCausalLM(llama())
    model.save_pretrained(tmp_path)
    return model, HubModel(name=str(tmp_path))
