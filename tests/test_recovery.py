"""What was trained or paid for is never done again: judges that go away, other judges, processes that die."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from posweep.executors import keep as keeping
from posweep.ledger import Ledger
from posweep.trial import training as trial

from .judges.endpoint import Endpoint, longer, refusal
from .judges.models import WORDS, judge_folder
from .tiny import changed, make_world, planned, posweep

DEMO = [
    "sweep=smoke", "executor=local", "tracking=none", "method=[dpo]", "evaluation.sets=[ood]", "evaluation.prompts=4",
    "data.evaluation_prompts=8", "model.hidden_size=16", "model.sft.steps=10", "evaluation.baseline_responses=2",
    "train.keep=all", "train.learning_rate=1e-2",
]  # fmt: skip
"""Two trials of DPO on the demo world."""
SWEEP = Path("outputs/smoke")

pytestmark = pytest.mark.xdist_group("recovery")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def count(patch: pytest.MonkeyPatch, trained: list[int]) -> None:
    """Every optimisation of a trial from now on."""
    real = trial.optimise_all

    def counted(*arguments):
        trained.append(len(trained))
        return real(*arguments)

    patch.setattr(trial, "optimise_all", counted)


@pytest.fixture
def trainings(monkeypatch):
    seen: list[int] = []
    count(monkeypatch, seen)
    return seen


@pytest.fixture
def endpoint():
    with Endpoint(longer) as running:
        yield running


def asking(endpoint: Endpoint, name: str = "llm") -> list[str]:
    """A judge at that endpoint, which is soon given up."""
    settings = {"base_url": endpoint.url, "model": "judge", "attempts": 1, "timeout": 10, "concurrency": 2}
    return [f"judge.{name}.{setting}={value}" for setting, value in settings.items()]


def dies(endpoint: Endpoint, calls: int) -> None:
    """From now on it answers so many comparisons, and then nothing but errors."""
    until = len(endpoint.judged) + calls

    def verdict(*texts: str) -> str:
        if len(endpoint.judged) + 1 >= until:
            endpoint.reply = refusal(503, "gone")
        return longer(*texts)

    endpoint.verdict = verdict


def asked_again(endpoint: Endpoint) -> list[tuple[str, str, str]]:
    """Comparisons that were answered in both orders, and then asked again; one that was broken off may be."""
    times = Counter(endpoint.judged)
    return [one for one, count in times.items() if count > 1 and times[(one[0], one[2], one[1])] != 1]


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file with its size and time."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def keys(arguments: list[str]) -> list[str]:
    return [spec.key for spec in planned(arguments)]


def results(sweep: Path, arguments: list[str]) -> dict[str, dict]:
    """What the ledger holds of the plan, under its own judges."""
    finished = Ledger(sweep).finished(planned(arguments))
    return {key: dict(result.measures) for key, result in finished.items()}


def texts(key: str, sweep: Path = SWEEP) -> list[str]:
    return [row["text"] for row in json.loads((sweep / "responses" / f"{key}.json").read_text())["responses"]]


# --- a judge that goes away


@pytest.fixture(scope="module")
def abandoned(tmp_path_factory):
    """A sweep whose endpoint dies for good while the second trial is judged: its folder, arguments, what was said."""
    home, trained = tmp_path_factory.mktemp("abandoned"), []
    with Endpoint() as endpoint, pytest.MonkeyPatch.context() as patch:

        def until_the_second_trial(*asked: str) -> str:
            if len(trained) == 2:
                dies(endpoint, 6)
            return longer(*asked)

        endpoint.verdict = until_the_second_trial
        arguments = [*DEMO, "judge=[llm]", *asking(endpoint)]
        patch.chdir(home)
        count(patch, trained)
        ran = posweep(*arguments)
        assert len(trained) == 2
        yield home, arguments, ran, endpoint, tuple(endpoint.judged)


@pytest.fixture
def left(abandoned, here):
    """The same as it was left, in a folder of the test's own; the endpoint is still away."""
    home, arguments, _, endpoint, paid = abandoned
    shutil.copytree(home / "outputs", here / "outputs")
    endpoint.judged, endpoint.reply = list(paid), refusal(503, "gone")
    return arguments


def back(endpoint: Endpoint) -> None:
    endpoint.reply, endpoint.verdict = None, longer


def test_a_trial_that_could_not_be_judged_is_kept_and_failed(abandoned, left):
    ran = abandoned[2]
    first, second = keys(left)
    assert ran.code == 3
    assert len(ran.said) == 2
    assert ran.said[0].startswith("1 of 2 trials failed; the first: JudgeUnavailable: judge.llm: http://127.0.0.1")
    assert "does not answer as asked" in ran.said[0]
    assert ran.said[1] == "posweep status outputs/smoke lists them; posweep outputs/smoke retry=failed runs them again."
    assert list(results(SWEEP, left)) == [first]
    assert len(texts(second)) == 4
    assert {folder.name for folder in (SWEEP / "policies").iterdir()} == {first, second}


def test_status_counts_it_as_failed_and_the_report_leaves_it_out(left):
    status = posweep("status", *left)
    assert status.out.count("JudgeUnavailable") == 1
    assert "2         1        0       1         0     0" in status.out
    row = json.loads((SWEEP / "report" / "summary.json").read_text())["methods"]["dpo"]
    assert (row["trials"], row["finished"]) == (2, 1)


def test_as_long_as_the_endpoint_is_away_nothing_begins(left, trainings):
    before = written(SWEEP)
    ran = posweep(*left)
    assert ran.code == 2
    assert len(ran.said) == 1
    assert trainings == []
    assert written(SWEEP) == before


@pytest.mark.parametrize("verb", ["launch", "judge"])
def test_when_the_endpoint_is_back_nothing_is_trained_and_nothing_asked_twice(abandoned, left, trainings, verb):
    endpoint, paid = abandoned[3:]
    second = keys(left)[1]
    said, weights = texts(second), (SWEEP / "policies" / second / "model.safetensors").read_bytes()
    back(endpoint)
    ran = posweep(*([verb] if verb == "judge" else []), *left)
    assert ran.code == 0, ran
    assert trainings == []
    assert "making" not in ran.out
    assert set(results(SWEEP, left)) == set(keys(left))
    assert texts(second) == said
    assert (SWEEP / "policies" / second / "model.safetensors").read_bytes() == weights
    assert len(endpoint.judged) > len(paid)
    assert asked_again(endpoint) == []
    assert not list((SWEEP / "logs").iterdir())
    assert "JudgeUnavailable" not in posweep("status", *left).out


def test_the_numbers_are_those_of_a_sweep_without_trouble(abandoned, left, here, monkeypatch):
    back(abandoned[3])
    assert posweep(*left).code == 0
    found = results(SWEEP, left)
    (here / "calm").mkdir()
    monkeypatch.chdir(here / "calm")
    assert posweep(*left).code == 0
    assert json.dumps(results(SWEEP, left)) == json.dumps(found)


def test_an_endpoint_that_dies_before_the_first_trial_is_one_sentence(here, endpoint, trainings):
    """While SFT responses are compared: there is no report yet to be shown."""
    dies(endpoint, 4)
    arguments = [*DEMO, "judge=[llm]", *asking(endpoint)]
    ran = posweep(*arguments)
    assert ran.code == 3
    assert len(ran.said) == 1
    assert ran.said[0].startswith("judge.llm: http://127.0.0.1")
    assert trainings == []
    back(endpoint)
    assert posweep(*arguments).code == 0
    assert asked_again(endpoint) == []


# --- other judges


@pytest.fixture(scope="module")
def judged_by_gold(tmp_path_factory):
    """A finished sweep, and its arguments."""
    home = tmp_path_factory.mktemp("gold")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert posweep(*DEMO).code == 0
    return home


@pytest.fixture
def finished(judged_by_gold, here):
    """A copy of it, to be judged again."""
    shutil.copytree(judged_by_gold / "outputs", here / "outputs")
    return here


def test_other_judges_read_what_is_stored(finished, endpoint, trainings):
    gold = results(SWEEP, DEMO)
    arguments = [*DEMO, "judge=[gold,llm]", *asking(endpoint)]
    ran = posweep("judge", *arguments)
    assert ran.code == 0, ran
    assert "no stored responses" not in ran.out
    assert trainings == []
    both = results(SWEEP, arguments)
    for key, before in gold.items():
        assert {name: both[key][name] for name in before} == before
        assert 0 <= both[key]["ood/llm/win_rate_vs_sft"] <= 1
    assert (
        len(endpoint.judged) <= 2 * 3 * 8
    )  # both orders; SFT and both trials; against SFT and against the chosen ones


def test_a_judge_that_only_compares_may_be_the_primary_one(finished, endpoint, trainings):
    arguments = [*DEMO, "judge=[llm]", *asking(endpoint)]
    ran = posweep("judge", *arguments)
    assert ran.code == 0, ran
    assert trainings == []
    assert "Open " in ran.out
    for measures in results(SWEEP, arguments).values():
        assert 0 <= measures["ood/win_rate_vs_sft"] <= 1
        assert not any("mean_score" in name for name in measures)
    summary = json.loads((SWEEP / "report" / "summary.json").read_text())
    assert summary["methods"]["dpo"]["finished"] == 2
    assert "ood/win_rate_vs_sft" in (SWEEP / "report" / "report.html").read_text()


def test_a_model_that_compares_may_be_the_primary_one(finished, tmp_path_factory, trainings):
    folder = judge_folder(tmp_path_factory.mktemp("pairwise") / "model", texts=WORDS, context=512)
    arguments = [
        *DEMO, "judge=[pairwise_model]", f"judge.pairwise_model.name={folder}", "judge.pairwise_model.dtype=float32",
        "judge.pairwise_model.opponents=2",
    ]  # fmt: skip
    ran = posweep("judge", *arguments)
    assert ran.code == 0, ran
    assert trainings == []
    assert len(results(SWEEP, arguments)) == 2
    assert (SWEEP / "report" / "report.html").is_file()


def test_judging_again_with_the_same_judge_has_nothing_to_do(finished, trainings):
    ran = posweep("judge", *DEMO)
    assert (ran.code, trainings) == (0, [])
    assert "Nothing is left to do: all 2 trials of sweep smoke are finished." in ran.out


def test_trials_without_stored_responses_are_counted_and_left(finished, trainings):
    arguments = changed([*DEMO, "judge=[gold,proxy]"], "method=[dpo,ln_dpo,simpo]")
    ran = posweep("judge", *arguments)
    assert ran.code == 0, ran
    assert trainings == []
    assert "4 of 6 trials have no stored responses to judge" in ran.out
    assert "posweep outputs/smoke runs them." in ran.out
    assert len(results(SWEEP, arguments)) == 2
    assert json.loads((SWEEP / "report" / "summary.json").read_text())["methods"]["simpo"]["finished"] == 0


def test_judging_before_anything_was_trained_trains_nothing(here, trainings):
    ran = posweep("judge", *DEMO)
    assert trainings == []
    assert ran.code == 0, ran
    assert "2 of 2 trials have no stored responses to judge" in ran.out


def test_a_judge_that_goes_away_leaves_what_was_judged_before(finished, endpoint, trainings):
    arguments = [*DEMO, "judge=[llm]", *asking(endpoint)]
    gold = results(SWEEP, DEMO)
    ledger = {file.name: file.read_text() for file in (SWEEP / "ledger").iterdir()}
    dies(endpoint, 20)
    ran = posweep("judge", *arguments)
    assert ran.code == 3, ran
    assert trainings == []
    assert {file.name: file.read_text() for file in (SWEEP / "ledger").iterdir()} == ledger
    assert results(SWEEP, DEMO) == gold
    back(endpoint)
    assert posweep("judge", *arguments).code == 0
    assert asked_again(endpoint) == []
    assert len(results(SWEEP, arguments)) == 2


# --- LoRA: the same numbers wherever and however it runs


LORA = ["model.lora.rank=4", "tracking=none", "sweep.learning_rates=[1e-2,3e-2]", "evaluation.sets=[iid]"]
OWN = Path("outputs/own")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lora(world, tmp_path_factory):
    """Two trials through LoRA from a cold cache; the sweep's folder and the arguments."""
    home, arguments = tmp_path_factory.mktemp("lora"), world.arguments(*LORA)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert posweep(*arguments).code == 0
    return home / OWN, arguments


@pytest.fixture
def warm(lora, here):
    """A folder that holds the artifacts of that sweep and nothing else."""
    OWN.mkdir(parents=True)
    (OWN / "artifacts").symlink_to(lora[0] / "artifacts")
    return here


def kept(sweep: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The adapters of each trial."""
    return {one.name: load_file(one / "adapter_model.safetensors") for one in sorted((sweep / "policies").iterdir())}


def same(one: Path, other: Path, arguments: list[str]) -> bool:
    """Measures, responses and adapters, to the last bit."""
    numbers = [json.dumps(results(sweep, arguments), sort_keys=True) for sweep in (one, other)]
    said = [[texts(key, sweep) for key in keys(arguments)] for sweep in (one, other)]
    left, right = kept(one), kept(other)
    weights = all(torch.equal(value, right[key][name]) for key in left for name, value in left[key].items())
    return numbers[0] == numbers[1] and said[0] == said[1] and left.keys() == right.keys() and weights


def test_a_warm_cache_gives_the_numbers_of_a_cold_one(lora, warm):
    ran = posweep(*lora[1])
    assert ran.code == 0, ran
    assert "making" not in ran.out
    assert same(lora[0], OWN, lora[1])


def test_training_changed_the_adapters_and_the_trials_differ(lora):
    one, other = kept(lora[0]).values()
    assert any(value.abs().max() > 0 for name, value in one.items() if "lora_B" in name)
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_checkpointing_changes_no_key_and_no_number(lora, warm):
    arguments = [*lora[1], "model.gradient_checkpointing=true"]
    assert keys(arguments) == keys(lora[1])
    ran = posweep(*arguments)
    assert ran.code == 0, ran
    assert "making" not in ran.out
    assert same(lora[0], OWN, lora[1])


def test_checkpointing_changes_nothing_of_a_model_that_is_trained_whole(world, here, monkeypatch):
    arguments = world.arguments("tracking=none", "train.keep=all", "evaluation.sets=[iid]")
    numbers = []
    for checkpointing in ("false", "true"):
        (here / checkpointing).mkdir()
        monkeypatch.chdir(here / checkpointing)
        assert posweep(*arguments, f"model.gradient_checkpointing={checkpointing}").code == 0
        [policy] = (OWN / "policies").iterdir()
        numbers.append((results(OWN, arguments), (policy / "model.safetensors").read_bytes()))
    assert numbers[0] == numbers[1]


def test_the_micro_batch_changes_no_key_and_rounding_only(lora, warm):
    arguments = changed(lora[1], "train.micro_batch_size=3")
    assert keys(arguments) == keys(lora[1])
    assert posweep(*arguments).code == 0
    expected = kept(lora[0])
    for key, adapters in kept(OWN).items():
        for name, found in adapters.items():
            torch.testing.assert_close(found, expected[key][name], rtol=1e-3, atol=1e-4)
    for key, measures in results(OWN, arguments).items():
        assert measures["iid/kl_to_sft"] == pytest.approx(results(lora[0], arguments)[key]["iid/kl_to_sft"], rel=0.05)


# --- a process that dies


@pytest.fixture(scope="module")
def killed(world, lora, tmp_path_factory):
    """The same sweep in another process, killed when its second policy is kept and its result is not written yet."""
    home, arguments = tmp_path_factory.mktemp("killed"), [*lora[1], f"output_dir={tmp_path_factory.mktemp('killed')}"]
    script = (
        "import os, sys; from posweep.ledger import Ledger; write, done = Ledger.write, []\n"
        "def dies(*given):\n"
        "    os._exit(9) if done else done.append(write(*given))\n"
        "Ledger.write = dies\n"
        "from posweep.cli import main; main()"
    )
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 9, ran.stderr
    return Path(arguments[-1].partition("=")[2]) / "own", arguments


def test_another_process_comes_to_the_same_numbers(lora, killed):
    sweep, arguments = killed
    first = keys(arguments)[0]
    assert json.dumps(results(sweep, arguments)[first]) == json.dumps(results(lora[0], arguments)[first])
    assert texts(first, sweep) == texts(first, lora[0])
    assert all(torch.equal(value, kept(lora[0])[first][name]) for name, value in kept(sweep)[first].items())


def test_a_trial_whose_result_was_not_written_runs_again_and_its_policy_is_replaced(lora, killed, here, trainings):
    sweep, arguments = killed
    second = keys(arguments)[1]
    assert list(results(sweep, arguments)) == keys(arguments)[:1]
    assert (sweep / "policies" / second / "adapter_model.safetensors").is_file()
    (sweep / "policies" / second / "of-the-dead-process").touch()
    ran = posweep(*arguments)
    assert ran.code == 0, ran
    assert len(trainings) == 1
    assert not (sweep / "policies" / second / "of-the-dead-process").exists()
    assert same(lora[0], sweep, arguments)
    assert [one.name for one in (sweep / "policies").iterdir() if one.name.startswith(".")] == []


def test_half_a_policy_is_never_taken_for_a_whole_one(lora, here, monkeypatch):
    """A process that dies while it writes a policy leaves no folder of the trial's name."""
    from posweep.policy import load

    def torn(policy, folder):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "save_adapter", torn)
    ran = posweep(*lora[1])
    assert ran.code == 130
    first = keys(lora[1])[0]
    assert not (OWN / "policies" / first).exists()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert posweep(*lora[1]).code == 0
    assert same(lora[0], OWN, lora[1])


def test_a_policy_that_cannot_be_kept_costs_its_trial_nothing_but_a_note(lora, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping, "keep_policy", full)
    ran = posweep(*lora[1])
    assert ran.code == 0, ran
    found = Ledger(OWN).finished(planned(lora[1]))
    assert {one.notes["policy"] for one in found.values()} == {"not kept: [Errno 28] No space left on device"}
    assert not (OWN / "policies").exists()
