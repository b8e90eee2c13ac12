"""An exported policy is the one that the trial measured, and other programs write prompts for it as it was trained."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posweep.policy.base import Policy
from posweep.policy.load import export_policy
from posweep.policy.pretrained import open_texts
from posweep.policy.reproducible import stream
from posweep.policy.sample import sample
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.policy.texts import Texts
from posweep.records import Message, Prompt, messages
from posweep.settings import ScratchModel
from posweep.trial import training as trial

from .tiny import changed, configured, make_world, planned, posweep

DEMO = [
    "sweep=smoke", "executor=local", "tracking=none", "method=[dpo]", "evaluation.sets=[ood]", "evaluation.prompts=4",
    "data.evaluation_prompts=8", "model.hidden_size=16", "model.sft.steps=10", "evaluation.baseline_responses=2",
    "train.learning_rate=1e-2", "train.keep=all",
]  # fmt: skip

pytestmark = pytest.mark.xdist_group("export")


def key_of(arguments: list[str]) -> str:
    """The second trial: what the first left behind in a worker must not show."""
    return [spec.key for spec in planned(arguments)][1]


def ran(home: Path, arguments: list[str]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert posweep(*arguments).code == 0
    return home


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Two trials of a model of our own, their policies kept."""
    return ran(tmp_path_factory.mktemp("scratch"), DEMO)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lora(world, tmp_path_factory):
    """Two trials of a model by its name through LoRA, their adapters kept; the folder and the arguments."""
    settings = ["model.lora.rank=4", "sweep.learning_rates=[1e-2,3e-2]", "tracking=none", "evaluation.sets=[iid]"]
    arguments = world.arguments(*settings)
    return ran(tmp_path_factory.mktemp("lora"), arguments), arguments


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the test's own, to which finished sweeps are copied."""
    monkeypatch.chdir(tmp_path)

    def copy(home: Path) -> Path:
        shutil.copytree(home / "outputs", tmp_path / "outputs")
        return tmp_path

    return copy


@pytest.fixture
def trainings(monkeypatch):
    seen: list[int] = []
    real = trial.optimise_all
    monkeypatch.setattr(trial, "optimise_all", lambda *given: seen.append(1) or real(*given))
    return seen


def export(arguments: list[str], *more: str) -> str:
    done = posweep("export", *arguments, f"key={key_of(arguments)}", *more)
    assert done.code == 0, done
    return done.out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def said(policy: Policy, prompts: list[Prompt], arguments: list[str]) -> list[str]:
    """Responses drawn with the noise of the trial."""
    configuration, spec = configured(arguments), planned(arguments).of(key_of(arguments))
    settings, [name] = configuration.sample, configuration.sets
    noise = stream("trial", settings.seed, spec.seed, name).random((len(prompts), settings.max_new_tokens))
    asked = policy.texts.prompts(prompts, configuration.data.max_prompt_tokens).rows
    return policy.texts.decode([one.tokens for one in sample(policy, asked, noise)])


def recorded(home: Path, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Prompts and responses of the trial as they lie in the sweep's folder."""
    sweep = home / "outputs" / configured(arguments).sweep.name
    rows = json.loads((sweep / "responses" / f"{key_of(arguments)}.json").read_text())["responses"]
    return [row["prompt"] for row in rows], [row["text"] for row in rows]


# --- a model of our own


def test_the_folder_is_read_by_transformers_alone_and_says_what_the_trial_said(scratch, here, trainings):
    home = here(scratch)
    out = export(DEMO)
    assert trainings == []
    folder = home / "outputs" / "smoke" / "exported" / key_of(DEMO)
    assert f"Written to {folder}" in out
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompts, responses = recorded(home, DEMO)
    assert said(Policy(model.eval(), Texts.own(tokenizer)), prompts, DEMO) == responses
    assert len(set(responses)) > 1
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_a_policy_that_was_not_kept_is_trained_again_to_the_same_weights(scratch, here, trainings):
    home = here(scratch)
    export(DEMO, "to=kept")
    shutil.rmtree(home / "outputs" / "smoke" / "policies")
    out = export(changed(DEMO, "train.keep=nothing"), "to=again")
    assert trainings == [1]
    assert "the policy was not kept (train.keep); training it again, to the same numbers" in out
    assert equal(weights(home / "kept"), weights(home / "again"))
    assert sorted(file.name for file in (home / "kept").iterdir()) == sorted(f.name for f in (home / "again").iterdir())


def test_it_is_not_the_policy_that_trials_start_from(scratch, here):
    """Nor that of the other trial."""
    home = here(scratch)
    export(DEMO, "to=out")
    [sft] = (home / "outputs" / "smoke" / "artifacts" / "sft").glob("*/model.safetensors")
    assert not equal(weights(home / "out"), weights(sft.parent))
    kept = {folder.name: weights(folder) for folder in (home / "outputs" / "smoke" / "policies").iterdir()}
    assert [name for name, one in kept.items() if equal(one, weights(home / "out"))] == [key_of(DEMO)]


def test_exporting_needs_nothing_but_the_sweeps_name_and_a_key(scratch, here, trainings):
    """An empty folder: data, SFT policy and trial are made again, to the same weights."""
    home = here(scratch)
    export(DEMO, "to=kept")
    shutil.rmtree(home / "outputs")
    out = export(DEMO, f"to={home / 'new'}")
    assert "making the SFT policy" in out
    assert "making scores" not in out
    assert "making SFT responses" not in out
    assert equal(weights(home / "kept"), weights(home / "new"))


CONVERSATION = (Message("system", "be kind"), Message("user", "name two birds"), Message("assistant", "owl crow"),
                Message("user", "  and two fish? "))  # fmt: skip
PROMPTS = ["name two birds", "  name\n\n two birds ", "naïve café – 漢字 🦊", "", CONVERSATION, CONVERSATION[1:]]


@pytest.mark.parametrize("kind", ["words", "bpe"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_chat_template_writes_exactly_the_tokens_that_are_trained_on(kind, prompt, tmp_path):
    settings = ScratchModel(hidden_size=16, layers=1, heads=2, tokenizer=kind, vocabulary_size=400)
    made = make_tokenizer(settings, ["name two birds and two fish", "owl crow", "be kind", "a naïve café"])
    expected = Texts.own(made).prompts([prompt], 500).rows[0]
    export_policy(new_policy(settings, made), tmp_path / "out", merged=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [turn.to_json() for turn in messages(prompt)]
    found = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    assert (found["input_ids"] if hasattr(found, "keys") else found) == expected
    assert tokenizer.get_vocab() == made.get_vocab()


def test_prompts_of_the_sweep_are_written_as_they_were_trained_on(scratch, here):
    home = here(scratch)
    export(DEMO, "to=out")
    tokenizer = AutoTokenizer.from_pretrained(home / "out")
    for prompt in recorded(home, DEMO)[0]:
        found = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
        assert found["input_ids"] == Texts.own(tokenizer).prompts([prompt], 8).rows[0]


# --- a model by its name


def test_a_model_by_its_name_says_with_merged_adapters_what_the_trial_said(lora, here, trainings):
    """Merging rounds; the draws are the same."""
    home, arguments = here(lora[0]), lora[1]
    export(arguments, "to=out")
    assert trainings == []
    settings = dataclasses.replace(configured(arguments).model, name=str(home / "out"))
    model = AutoModelForCausalLM.from_pretrained(home / "out").eval()
    prompts, responses = recorded(home, arguments)
    assert said(Policy(model, open_texts(settings, home / "out")), prompts, arguments) == responses
    assert not list((home / "out").glob("adapter*"))


def test_adapters_that_were_not_kept_are_trained_again_to_the_same_weights(lora, here, trainings):
    home, arguments = here(lora[0]), lora[1]
    export(arguments, "to=kept")
    shutil.rmtree(home / "outputs" / "own" / "policies")
    export(arguments, "to=again")
    assert trainings == [1]
    assert equal(weights(home / "kept"), weights(home / "again"))


def test_adapters_alone_beside_their_base_are_the_policy(lora, world, here):
    from peft import PeftModel

    home, arguments = here(lora[0]), lora[1]
    out = export(arguments, "to=adapters", "merged=false")
    assert f"Adapters written to {home / 'adapters'}" in out
    assert json.loads((home / "adapters" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        world.model
    )
    assert not (home / "adapters" / "model.safetensors").exists()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.model), home / "adapters").eval()
    assert AutoTokenizer.from_pretrained(home / "adapters").chat_template
    policy = Policy(model, open_texts(configured(arguments).model, world.model))
    prompts, responses = recorded(home, arguments)
    assert said(policy, prompts, arguments) == responses


def test_a_judge_that_is_away_is_not_needed(lora, here):
    home, arguments = here(lora[0]), lora[1]
    away = ["judge.llm.base_url=http://127.0.0.1:9/v1", "judge.llm.model=judge"]
    export([*arguments, "judge=[reward_model,llm]", *away], "to=out")
    assert weights(home / "out")


# --- mistakes


def refused(arguments: list[str], *more: str) -> str:
    done = posweep("export", *arguments, *more)
    assert done.code == 2, done
    [sentence] = done.said
    return sentence


def test_adapters_of_a_model_that_is_trained_whole(scratch, here):
    home = here(scratch)
    assert refused(DEMO, f"key={key_of(DEMO)}", "merged=false", "to=out") == (
        "merged: false writes adapters, but this model is trained whole; leave it out."
    )
    assert not (home / "out").exists()


def test_merged_is_true_or_false():
    assert refused(DEMO, "key=x", "merged=perhaps") == (
        "merged: must be true (one model) or false (adapters alone), got 'perhaps'."
    )


def test_a_folder_that_holds_something_already(scratch, here, trainings):
    home = here(scratch)
    (home / "full").mkdir()
    (home / "full" / "thesis.tex").write_text("years of work")
    for full in (home / "full", home / "full" / "thesis.tex"):
        assert refused(DEMO, f"key={key_of(DEMO)}", f"to={full}") == (
            f"to: {full} holds something already; name a folder that is empty or not there."
        )
    assert (home / "full" / "thesis.tex").read_text() == "years of work"
    assert trainings == []


def test_an_empty_folder_is_written_into(scratch, here):
    home = here(scratch)
    (home / "empty").mkdir()
    export(DEMO, "to=empty")
    assert weights(home / "empty")


def test_exporting_twice_to_the_same_place(scratch, here):
    here(scratch)
    export(DEMO)
    assert "holds something already" in refused(DEMO, f"key={key_of(DEMO)}")


@pytest.mark.parametrize(("key", "said"), [("key=nope", "key=nope: no trials of sweep smoke begin with it"),
                                           ("key=", "key: name one trial with key=KEY")])  # fmt: skip
def test_a_key_that_is_unknown(scratch, here, key, said):
    here(scratch)
    assert refused(DEMO, key).startswith(said)


def test_no_key_at_all(scratch, here):
    here(scratch)
    assert refused(DEMO).startswith("key: name one trial with key=KEY (posweep plan ")


def test_the_beginning_of_a_key_is_enough(scratch, here):
    home = here(scratch)
    assert posweep("export", *DEMO, f"key={key_of(DEMO)[:6]}", "to=out").code == 0
    assert weights(home / "out")
