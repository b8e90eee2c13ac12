"""A user's own model, data and judges, from the command line to the exported policy: README's section, on stand-ins."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from .judges.endpoint import Endpoint, longer, wants_both
from .judges.models import judge_folder
from .policy.families import make_model
from .tiny import posweep

README = (Path(__file__).parents[1] / "README.md").read_text()
SECTION = README[README.index("## Your own model and data") : README.index("### Without a GPU")]
SMALL = [
    "executor=local", "executor.trial_resources.gpu=0", "model.dtype=float32", "judge.reward_model.dtype=float32",
    "data.max_prompt_tokens=48", "data.max_response_tokens=16", "sample.max_new_tokens=12", "train.batch_size=8",
    "sweep.learning_rates=[1e-2]", "tracking.uri=sqlite:///mlflow.db", "method.dpo.grid.beta=[0.1,0.3]",
    "method.ln_dpo.grid.beta=[2.0]", "method.simpo.grid.beta=[2.0]", "method.simpo.grid.gamma=[1.0]",
]  # fmt: skip
QUESTIONS = [f"who is number {i}?" for i in range(40)]
KEY = "sk-a-key-that-nobody-may-read"

pytestmark = pytest.mark.xdist_group("own")


def write_pairs(folder: Path) -> Path:
    """Three files of three formats: text, conversations, transcripts."""
    folder.mkdir()
    text = [{"prompt": q, "chosen": "nobody and you", "rejected": "a dog"} for q in QUESTIONS[:24]]
    turns = [
        {
            "prompt": [{"role": "system", "content": "be kind"}, {"role": "user", "content": q}],
            "chosen": [{"role": "assistant", "content": "nobody and you"}],
            "rejected": [{"role": "assistant", "content": "a log"}],
        }
        for q in QUESTIONS[24:32]
    ]
    transcripts = [
        {"chosen": f"\n\nHuman: hi\n\nAssistant: a dog\n\nHuman: {q}\n\nAssistant: nobody and you",
         "rejected": f"\n\nHuman: hi\n\nAssistant: a dog\n\nHuman: {q}\n\nAssistant: a log"}
        for q in QUESTIONS[32:]
    ]  # fmt: skip
    for name, rows in {"train": text, "iid": turns, "ood": transcripts}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def commands(names: dict[str, str]) -> list[list[str]]:
    """README's commands with the names filled in."""
    block = re.search(r"```bash\n(.*?)```", SECTION, re.DOTALL)
    assert block
    filled = [re.sub(r"\b([A-Z]{2,})\b", lambda m: names.get(m[1], m[1]), line) for line in block[1].splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in filled]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All four commands, in order, in an empty folder; what each printed, and what the endpoint saw."""
    home = tmp_path_factory.mktemp("own")
    folder = home / "work"
    folder.mkdir()
    names = {
        "MODEL": str(make_model("qwen", home / "model")),
        "JUDGE": str(judge_folder(home / "judge", texts=["nobody and you", "a dog", "a log", *QUESTIONS], context=256)),
        "FOLDER": str(write_pairs(home / "pairs")),
        "NAME": "judge",
        "OUT": "exported",
    }
    with Endpoint(longer, key=KEY) as endpoint, pytest.MonkeyPatch.context() as patch:
        endpoint.form = wants_both  # as newer models of OpenAI
        patch.chdir(folder)
        patch.setenv("OPENAI_API_KEY", KEY)
        # proxies that nothing of this may be asked through: models are folders, and the endpoint is on this machine
        patch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        printed = []
        for arguments in commands({**names, "URL": endpoint.url}):
            if arguments[0] == "export":
                key = next((folder / "outputs" / "own" / "ledger").glob("*.json")).stem
                arguments = [a.replace("KEY", key) for a in arguments]
            done = posweep(*arguments, *SMALL)
            assert done.code == 0, (arguments, done.out, done.err)
            printed.append(done)
        yield folder, printed, endpoint, names


def test_the_plan_says_what_it_takes(ran):
    _, (plan, *_), _, _ = ran
    assert "memory a trial needs" in plan.out
    assert "4 trials" in plan.out


def test_the_sweep_ends_with_a_table_and_the_page(ran):
    folder, (_, sweep, *_), _, _ = ran
    assert "Open " in sweep.out
    summary = json.loads((folder / "outputs" / "own" / "report" / "summary.json").read_text())
    assert {row["finished"] for row in summary["methods"].values()} == {1, 2}


def test_judging_again_trains_nothing_and_asks_in_both_orders(ran):
    folder, (_, _, judged, _), endpoint, _ = ran
    assert "making" not in judged.out.replace("making scores of SFT responses", "")
    header = json.loads((folder / "outputs" / "own" / "sweep.json").read_text())
    assert header["facts"]["judge/llm/calls"] == len(endpoint.judged)
    assert header["facts"]["judge/llm/prompt_tokens"] == 10 * len(endpoint.judged)
    assert sorted((p, a, b) for p, a, b in endpoint.judged) == sorted((p, b, a) for p, a, b in endpoint.judged)
    assert len(set(endpoint.judged)) == len(endpoint.judged)  # nothing is asked twice in a sweep
    for file in (folder / "outputs" / "own" / "ledger").glob("*.json"):
        measures = json.loads(file.read_text())["measures"]
        assert 0 <= measures["iid/llm/win_rate_vs_sft"] <= 1
        assert "iid/llm/mean_score" not in measures
        assert "iid/mean_score" in measures


def test_a_temperature_that_the_endpoint_refuses_is_said_once_and_counted(ran):
    folder, (*_, judged, _), endpoint, _ = ran
    said = [line for line in judged.out.splitlines() if line.startswith("judge.llm.temperature: ")]
    assert len(said) == 1
    assert f"{endpoint.url} refuses 0 (Unsupported value: 'temperature'" in said[0]
    facts = json.loads((folder / "outputs" / "own" / "sweep.json").read_text())["facts"]
    assert 0.9 * facts["judge/llm/calls"] < facts["judge/llm/temperature_left_out"] <= facts["judge/llm/calls"]
    assert "temperature left out" in (folder / "outputs" / "own" / "report" / "report.html").read_text()


def test_the_key_is_written_nowhere(ran):
    folder, printed, endpoint, _ = ran
    assert f"Bearer {KEY}" in endpoint.keys
    assert not any(KEY in done.out + done.err for done in printed)
    holding = [f for f in folder.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()]
    assert holding == []


def test_the_page_shows_how_far_the_judges_agree(ran):
    folder, *_ = ran
    page = (folder / "outputs" / "own" / "report" / "report.html").read_text()
    assert "How far the judges agree" in page
    assert "out of distribution" in page
    assert str(folder.parent) not in page  # no path of this machine


def test_texts_are_scored_once(ran):
    """The reward model is asked for different texts only: its cache holds one score a text."""
    import sqlite3

    folder, *_ = ran
    caches = list((folder / "outputs" / "own" / "artifacts" / "judgements").glob("*.sqlite"))
    assert len(caches) == 2
    counts = [sqlite3.connect(cache).execute("select count(*) from judgements").fetchone()[0] for cache in caches]
    assert min(counts) > 20


def test_the_exported_policy_is_the_trained_one(ran):
    """Transformers alone reads it, and it says with the trial's own noise what the trial said."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, *_ = ran
    model = AutoModelForCausalLM.from_pretrained(folder / "exported")
    tokenizer = AutoTokenizer.from_pretrained(folder / "exported")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    start = AutoModelForCausalLM.from_pretrained(ran[3]["MODEL"])
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, start(ids).logits, atol=1e-3)


def test_adapters_are_kept(ran):
    folder, *_ = ran
    kept = list((folder / "outputs" / "own" / "policies").iterdir())
    assert len(kept) == 4
    assert all((one / "adapter_model.safetensors").is_file() for one in kept)


@pytest.mark.parametrize("line", [line for block in re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)[1:]
                                  for line in block.splitlines()])  # fmt: skip
def test_the_plans_print_offline(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = posweep(*shlex.split(line, comments=True)[1:])
    assert done.code == 0, done.err
    assert "trials, 0 finished" in done.out
    assert "memory a trial needs" in done.out
