"""What cannot work is refused by a sentence that names place, value and way out: before anything is trained or written."""

import json
import re
import shutil
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest

from .judges.endpoint import Endpoint, always
from .judges.models import judge_folder
from .policy.families import FAMILIES, in_cache, make_model
from .tiny import QUESTIONS, changed, make_world, pairs, planned, posweep, write

KEY = "sk-a-key-that-nobody-may-read"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + FAMILIES["qwen"][2]
)

pytestmark = pytest.mark.xdist_group("preflight")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def offline(patch: pytest.MonkeyPatch, cache: Path) -> None:
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder; a hub that is away, with an empty cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    offline(monkeypatch, tmp_path / "hub")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "work"


@pytest.fixture
def refused(world, here):
    """Launch with some settings in place of those that work; the sentences it was refused with."""

    def run(*changes: str, judge: str = "reward_model", verb: str = "") -> list[str]:
        ran = posweep(*([verb] if verb else []), *world.arguments(*changes, judge=judge))
        assert ran.code == 2, ran
        assert "making" not in ran.out
        assert all(line.endswith(".") and re.match(r"[\w./\[\]{} →=-]+: ", line) for line in ran.said), ran.err
        assert list(here.iterdir()) == []
        return ran.said

    return run


def one(found: list[str]) -> str:
    [sentence] = found
    return sentence


# --- the model


def test_a_model_without_a_pad_token(refused, tmp_path):
    made = make_model("llama", tmp_path / "llama")
    assert one(refused(f"model.name={made}")) == (
        f"model.pad_token: the tokenizer of {made} has no padding token; set model.pad_token to one of its tokens "
        "(its end token '<|end_of_text|>' will do: padding is never read)."
    )


def test_a_model_without_an_end_token(refused, tmp_path):
    made = make_model("qwen", tmp_path / "endless")
    tokenizer = json.loads((made / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "eos_token": None}))
    assert one(refused(f"model.name={made}")) == (
        f"model.end_token: the tokenizer of {made} has no end token; set model.end_token to one of its tokens."
    )


def test_a_chat_template_that_is_missing(refused, tmp_path):
    made = make_model("neox", tmp_path / "neox", pad="<|endoftext|>")
    assert one(refused(f"model.name={made}")) == (
        f"model.prompt_format: the tokenizer of {made} has no chat template; set model.prompt_format=transcript "
        "(Human: … Assistant:) or text (the prompt as it is)."
    )


def test_a_chat_template_that_refuses_a_turn_of_the_system(refused, tmp_path):
    """Only the data that ask for it show it."""
    made = make_model("qwen", tmp_path / "strict", template=NO_SYSTEM)
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "who?"}]
    kind = [{"prompt": turns, "chosen": "nobody", "rejected": "a dog"}]
    data = write(tmp_path / "data", train=pairs(QUESTIONS[:16]), iid=pairs(QUESTIONS[16:]), ood=kind)
    assert one(refused(f"model.name={made}", f"data.path={data}")) == (
        f"model.prompt_format: the chat template of {made} refuses the turns system, user (no system); "
        "set model.prompt_format=transcript, or name another model."
    )


def test_sequences_longer_than_the_models_context(refused, world):
    assert one(refused("data.max_response_tokens=512")) == (
        f"model.name: {world.model} reads 256 tokens, but prompts and responses may take 560; lower "
        "data.max_prompt_tokens, data.max_response_tokens or sample.max_new_tokens."
    )


def test_responses_drawn_longer_than_the_models_context(refused):
    assert "may take 560" in one(refused("sample.max_new_tokens=512"))


def test_prompts_shared_by_a_model_that_cannot(refused, tmp_path):
    """One whose layers see four tokens back, and one whose attention is not told."""
    near = make_model("qwen", tmp_path / "near", use_sliding_window=True, sliding_window=4, max_window_layers=0)
    sharing = "train.prefix_sharing=true"
    assert one(refused(sharing, f"model.name={near}")) == (
        f"train.prefix_sharing: {near} has layers that see only some of the tokens before; set "
        "train.prefix_sharing=false, or name another model."
    )
    assert one(refused(sharing, "model.attention=eager")) == (
        "train.prefix_sharing: model.attention=eager cannot look at responses that share a prompt; set "
        "model.attention=sdpa, or train.prefix_sharing=false."
    )


def test_prompts_shared_by_responses_that_have_none_in_common(refused, tmp_path):
    asked = (f"data.path={labelled(tmp_path)}", "method=[kto]", "train.prefix_sharing=true", "~method.dpo.grid.beta")
    assert one(refused(*asked)) == (
        "train.prefix_sharing: data=local labels responses one by one, so that the responses of a pair have no prompt in "
        "common; set train.prefix_sharing=false."
    )


def test_a_model_folder_without_weights(refused, tmp_path):
    made = make_model("qwen", tmp_path / "empty")
    (made / "model.safetensors").unlink()
    assert f"model.name: {made} has no weights" in one(refused(f"model.name={made}"))


def test_a_folder_that_is_not_there(refused, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert one(refused(f"model.name={nowhere}")) == (
        f"model.name: {nowhere} is not there; name a folder on this machine, or OWNER/NAME on the hub."
    )
    assert one(refused(f"judge.reward_model.name={nowhere}")).startswith(f"judge.reward_model.name: {nowhere} is not")
    assert one(refused(f"data.path={nowhere}")) == (
        f"data.path: {nowhere} has no train.jsonl, iid.jsonl, ood.jsonl; it must hold train.jsonl, iid.jsonl, ood.jsonl "
        "(data.train and data.evaluation name them)."
    )


@pytest.mark.parametrize("place", ["model", "judge.reward_model"])
def test_a_name_that_is_nowhere(refused, place):
    assert one(refused(f"{place}.name=nobody/nothing")) == (
        f"{place}.name: no model 'nobody/nothing' at revision 'main' (HF_HUB_OFFLINE is set, and its cache does not hold "
        "it); name another, or a folder on this machine. One that asks for a licence needs HF_TOKEN in the environment."
    )


def test_a_name_that_is_none(refused):
    assert "'no name' is no name on the hub" in one(refused("model.name='no name'"))
    assert one(refused("model.name=''")).startswith("model.name: names nothing; set model.name to")


def test_a_hub_that_does_not_answer(refused, monkeypatch):
    """Not offline by name: there is no network."""

    def no_network(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    found = one(refused("model.name=nobody/nothing"))
    assert found.startswith("model.name: no model 'nobody/nothing' at revision 'main' (the hub does not answer: ")
    assert found.count("its cache does not hold it") == 1


# --- the data


def test_columns_that_fit_no_format_are_shown(refused, tmp_path):
    rows = [{"question": q, "better": "you", "worse": "a dog"} for q in QUESTIONS]
    data = write(tmp_path / "data", train=rows, iid=pairs(["a?"]), ood=pairs(["b?"]))
    found = one(refused(f"data.path={data}"))
    assert found.startswith(f"data: {data / 'train.jsonl'}") or found.startswith(f"{data / 'train.jsonl'}: ")
    assert "has the columns question, better, worse, but preferences need prompt, chosen, rejected" in found
    assert "+data.columns.chosen=COLUMN says which" in found


def test_two_responses_without_a_chosen_preference(refused, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    rows = [
        {"prompt": q, "response_0": "you", "response_1": "a dog", "better_response_id": 0, "safer_response_id": 1}
        for q in QUESTIONS
    ]
    data = write(tmp_path / "pku", train=rows[:16], test=rows[16:])
    sentence = one(refused("data=pku_saferlhf", "~data.path", f"data.name={data}"))
    assert sentence == (
        "data.columns.preference: must name the column that says which response is preferred, one of "
        "better_response_id, safer_response_id; add data.columns.preference=better_response_id."
    )


def labelled(tmp_path) -> Path:
    rows = [{"prompt": q, "response": "you", "label": i % 2 == 0} for i, q in enumerate(QUESTIONS)]
    return write(tmp_path / "labelled", train=rows[:16], iid=rows[16:20], ood=rows[20:])


def test_responses_labelled_one_by_one_for_a_method_that_compares_two(refused, tmp_path):
    found = one(refused(f"data.path={labelled(tmp_path)}", "method=[dpo,kto,simpo]"))
    assert found == (
        "method: DPO, SimPO compares two responses to one prompt, and data=local labels responses one by one; take some "
        "of method=[sft,kto,apo_zero,simper,nca,sppo,bco]."
    )


def test_a_source_named_like_a_set_of_the_data(refused, world):
    source = ["+evaluation.sources.iid.name=" + str(world.data / "ood.jsonl"), "+evaluation.sources.iid.split=test"]
    assert one(refused(*source)) == "evaluation.sources.iid: data=local has a set of that name; give this one another."


def test_fewer_pairs_than_a_step_takes(refused):
    assert one(refused("train.batch_size=17")) == (
        "train.batch_size: 17 pairs a step, but data=local has 16 pairs to train on."
    )


# --- judges that are models


@pytest.fixture
def judged(refused, tmp_path):
    """The sentence for a judge made like this."""

    def run(*changes: str, **made) -> str:
        folder = judge_folder(tmp_path / "other", **made)
        return one(refused(f"judge.reward_model.name={folder}", *changes)).replace(str(folder), "JUDGE")

    return run


def test_a_reward_model_with_two_outputs(judged):
    assert judged(outputs=2) == (
        "judge.reward_model.name: JUDGE has 2 outputs, and this judge reads one; name a model with one."
    )


def test_a_reward_model_that_is_no_classifier(refused, world):
    assert one(refused(f"judge.reward_model.name={world.model}")) == (
        f"judge.reward_model.name: {world.model} is a Qwen2ForCausalLM, no sequence classifier; name one whose "
        "architecture in config.json ends with ForSequenceClassification."
    )


def test_more_tokens_than_the_reward_model_reads(judged):
    assert judged("judge.reward_model.max_tokens=512", context=128) == (
        "judge.reward_model.max_tokens: 512 tokens, but JUDGE reads 128; set it to 128 or less, or null for all it reads."
    )


def test_a_reward_model_without_a_chat_template(judged):
    assert "set judge.reward_model.template=pair" in judged(chat=None)


def test_a_reward_model_folder_that_holds_nothing(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    found = one(refused(f"judge.reward_model.name={tmp_path / 'empty'}"))
    assert found.startswith(f"judge.reward_model.name: {tmp_path / 'empty'} cannot be opened (")


# --- judges behind an endpoint


@pytest.fixture
def endpoint():
    with Endpoint(always("[[A]]"), key=KEY) as running:
        yield running


@pytest.fixture
def asked(refused, endpoint, monkeypatch):
    """The sentence for an endpoint with some settings in place of those that work."""
    monkeypatch.setenv("THE_KEY", KEY)

    def run(*changes: str, **options) -> str:
        works = [f"judge.llm.base_url={endpoint.url}", "judge.llm.model=judge", "judge.llm.key_from=THE_KEY"]
        names = {change.partition("=")[0] for change in changes}
        kept = [one for one in works if one.partition("=")[0] not in names]
        return one(refused("judge=[llm]", *kept, *changes, judge="llm", **options))

    return run


def test_an_endpoint_that_refuses_the_key(asked, endpoint, monkeypatch):
    monkeypatch.setenv("THE_KEY", "sk-another-key")
    found = asked()
    assert found == (
        f"judge.llm.key_from: {endpoint.url} refuses the key in THE_KEY (401); export a valid key in THE_KEY."
    )
    assert endpoint.calls == 1


def test_an_endpoint_that_cannot_be_reached(asked):
    with Endpoint() as gone:
        url = gone.url
    found = asked(f"judge.llm.base_url={url}")
    assert found.startswith(f"judge.llm.base_url: {url} cannot be reached (")
    assert found.endswith("see whether it is running, and whether this machine may call it.")


def test_an_endpoint_that_does_not_know_the_model(asked, endpoint):
    assert asked("judge.llm.model=other") == (
        f"judge.llm.model: {endpoint.url} has no chat model 'other' (404); see judge.llm.model and judge.llm.base_url."
    )


def test_an_endpoint_without_a_model(asked, endpoint):
    found = asked("judge.llm.model=''")
    assert found.startswith("judge.llm.model: must name a model of judge.llm.base_url, got ''")
    assert endpoint.calls == 0


def test_a_key_that_is_not_in_the_environment(asked):
    url = "https://judge.invalid/v1"
    assert asked(f"judge.llm.base_url={url}", "judge.llm.key_from=NOT_SET_HERE") == (
        f"judge.llm.key_from: the environment variable NOT_SET_HERE is not set in this process, and {url} is not on this "
        "machine; export NOT_SET_HERE, or set judge.llm.key_from='' if the endpoint asks for no key."
    )


@pytest.mark.parametrize("verb", ["", "plan", "judge", "status", "report"])
def test_a_password_in_an_address_is_never_repeated(world, here, verb):
    address = "judge.llm.base_url=https://me:hunter2@judge.invalid/v1"
    arguments = world.arguments("judge=[llm]", address, "judge.llm.model=judge", judge="llm")
    ran = posweep(*([verb] if verb else []), *arguments)
    assert "hunter2" not in ran.out + ran.err
    assert not any(b"hunter2" in file.read_bytes() for file in here.rglob("*") if file.is_file())
    if verb in ("", "judge"):
        assert ran.code == 2
        assert one(ran.said).startswith("judge.llm.base_url: must hold no credentials")
        assert "judge.llm.key_from names" in one(ran.said)
        assert list(here.iterdir()) == []


def test_more_opponents_than_responses_of_the_sft_model(asked, endpoint):
    assert asked("judge.llm.opponents=3") == (
        "judge.llm.opponents: compares with 3 responses of the SFT model, and there are 2; set it to 2 or less, or "
        "evaluation.baseline_responses=3."
    )
    assert endpoint.calls == 0


def test_a_mean_score_of_a_judge_that_only_compares(asked, endpoint):
    found = asked("sweep.primary_metric=iid/mean_score")
    assert found.startswith(
        "sweeps/own.yaml → sweep.primary_metric: no measure 'mean_score'; there are win_rate_vs_sft"
    )
    assert endpoint.calls == 0


# --- memory

LITTLE = ("executor.trial_resources.gpu=1", "executor.trial_resources.gpu_memory=0.5")


def test_a_plan_says_what_does_not_fit(refused):
    found = one(refused(*LITTLE, verb="plan"))
    assert found.startswith("executor.trial_resources.gpu: a trial needs 1.0 GB while ")
    assert found.endswith("and has 0.5 GB; take a larger GPU.")


def test_a_launch_says_it_too_and_that_there_is_no_gpu(refused, monkeypatch):
    from posweep.executors import local

    monkeypatch.setattr(local, "gpus_here", lambda: 0)
    fits, there = sorted(refused(*LITTLE))
    assert fits.startswith("executor.trial_resources.gpu: a trial needs")
    assert there.startswith("executor.trial_resources.gpu: each trial asks for 1 GPU and this machine has 0.")


def test_a_machine_that_is_too_small(refused, monkeypatch):
    from posweep import capacity

    monkeypatch.setattr(capacity, "memory_here", lambda: 1e8)
    found = one(refused())
    assert found.startswith("model: a trial needs")
    assert found.endswith("take a larger machine.")


# --- at once


def test_what_is_wrong_with_data_model_and_surroundings_is_said_at_once(refused, tmp_path):
    made = make_model("llama", tmp_path / "llama")
    data = write(tmp_path / "data", train=[{"prompt": "x"}], iid=pairs(["a?"]), ood=[{"chosen": "x"}])
    found = refused(
        f"model.name={made}", f"data.path={data}", "data.max_response_tokens=512", "tracking.uri=gopher://there",
        "judge.reward_model.max_tokens=9999", *LITTLE,
    )  # fmt: skip
    places = [sentence.partition(":")[0].replace(f"{data}/", "") for sentence in found]
    assert places[:4] == ["train.jsonl", "ood.jsonl", "model.pad_token", "model.name"]
    assert {"tracking.uri", "executor.trial_resources.gpu"} <= set(places)
    assert not any(place.startswith("judge") for place in places)  # these may cost: they come when all else is well


def test_what_is_wrong_with_all_judges_is_said_at_once(refused, world, tmp_path, endpoint):
    two = judge_folder(tmp_path / "two", outputs=2)
    three = judge_folder(tmp_path / "three", outputs=3)
    found = refused(
        "judge=[reward_model,pairwise_model,llm]", f"judge.reward_model.name={two}",
        f"judge.pairwise_model.name={three}", f"judge.llm.base_url={endpoint.url}", "judge.llm.model=judge",
    )  # fmt: skip
    assert [sentence.partition(":")[0] for sentence in found] == [
        "judge.reward_model.name", "judge.pairwise_model.name", "judge.llm.key_from",
    ]  # fmt: skip


def test_what_settings_alone_show_is_said_at_once(refused, tmp_path):
    found = refused(
        f"model.name={tmp_path / 'nowhere'}", "judge.reward_model.name=''", "sweep.primary_metric=moon/loss",
        "train.evaluate_at=[0.5]",
    )  # fmt: skip
    assert [sentence.partition(":")[0] for sentence in found] == [
        "model.name", "judge.reward_model.name", "sweeps/own.yaml → sweep.primary_metric",
        "sweeps/own.yaml → sweep.primary_metric", "train.evaluate_at",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["judge", "trial", "export"])
def test_every_verb_that_needs_the_model_refuses_it_likewise(world, here, tmp_path, verb):
    made = make_model("llama", tmp_path / "llama")
    arguments = world.arguments(f"model.name={made}")
    key = next(iter(planned(arguments))).key
    ran = posweep(verb, *arguments, *([f"key={key}"] if verb != "judge" else []))
    assert ran.code == 2
    assert one(ran.said).startswith("model.pad_token: the tokenizer of")
    assert list(here.iterdir()) == []


# --- a revision that moved


@pytest.fixture(scope="module")
def moved(world, tmp_path_factory):
    """A launch of a model by its name, whose `main` then became another commit; both commits, and the arguments."""
    home, old, new = tmp_path_factory.mktemp("moved"), "a" * 40, "b" * 40
    in_cache(make_model("qwen", home / "one"), home / "hub", "some/qwen", commit=old)
    arguments = world.arguments("model.name=some/qwen", "tracking=none")
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, home / "hub")
        patch.chdir(home)
        assert posweep(*arguments).code == 0
    model = home / "hub" / "models--some--qwen"
    make_model("qwen", home / "two", seed=1).rename(model / "snapshots" / new)
    (model / "refs" / "main").write_text(new)
    return home, old, new, arguments


@pytest.fixture
def moving(moved, here, monkeypatch):
    """The same in this test's folder."""
    home, *rest = moved
    offline(monkeypatch, home / "hub")
    shutil.copytree(home / "outputs", here / "outputs")
    return rest


def test_a_revision_that_moved_is_refused_and_goes_on_at_the_commit_it_was(moving, here):
    """Nothing is trained again: the revision is still what the sweep calls it."""
    old, new, arguments = moving
    sweep = here / "outputs" / "own"
    known = {"name": "some/qwen", "revision": "main", "commit": old}
    assert json.loads((sweep / "commits.json").read_text())["model"] == known
    before = {file: file.read_bytes() for file in sweep.rglob("*") if file.is_file()}
    for verb in ([], ["judge"]):
        ran = posweep(*verb, *arguments)
        assert ran.code == 2
        assert one(ran.said) == (
            f"model.revision: 'main' of some/qwen was commit {old[:12]} when this sweep began and is {new[:12]} now; set "
            f"+model.commit={old} to go on with that one, or give the sweep another name."
        )
        assert {file: file.read_bytes() for file in sweep.rglob("*") if file.is_file()} == before
    went_on = posweep(*arguments, f"+model.commit={old}")
    assert went_on.code == 0, went_on
    assert "Nothing is left to do: all 1 trials of sweep own are finished." in went_on.out
    assert json.loads((sweep / "commits.json").read_text())["model"] == known


def test_a_trial_added_to_a_sweep_whose_model_moved_starts_from_the_model_it_was(moving, here):
    old, _, arguments = moving
    more = changed(arguments, "sweep.learning_rates=[1e-2,3e-2]")
    ran = posweep(*more, f"+model.commit={old}")
    assert ran.code == 0, ran
    assert "making" not in ran.out
    assert len(list((here / "outputs" / "own" / "ledger").iterdir())) == 2


def test_a_commit_that_is_nowhere(moving):
    ran = posweep(*changed(moving[2], "sweep.name=third"), f"+model.commit={'c' * 40}")
    assert ran.code == 2
    assert one(ran.said).startswith("model.name: no model 'some/qwen' at revision 'main' (")


def test_another_name_takes_the_new_commit(moving, here):
    _, new, arguments = moving
    assert posweep(*arguments, "sweep.name=other").code == 0
    assert json.loads((here / "outputs" / "other" / "commits.json").read_text())["model"]["commit"] == new
