"""Data sets by their names, from the hub's cache and without network; evaluation sets of other sources."""

import dataclasses
import json
import logging
import os

import pytest

from posweep import data
from posweep.errors import ConfigError, DataError
from posweep.records import Message, PreferencePair
from posweep.settings import DemoData, EvaluationSource, HubData, LocalData

HH, PKU, ULTRAFEEDBACK, TLDR = (
    "Anthropic/hh-rlhf",
    "PKU-Alignment/PKU-SafeRLHF",
    "HuggingFaceH4/ultrafeedback_binarized",
    "trl-lib/tldr-preference",
)
DEMO = DemoData(pairs=32, sft_examples=32, evaluation_prompts=8)


def hh(question: str) -> dict:
    start = f"\n\nHuman: Hello\n\nAssistant: Yes?\n\nHuman: {question}\n\nAssistant:"
    return {"chosen": f"{start} good", "rejected": f"{start} bad"}


def ultrafeedback(question: str) -> dict:
    asked = {"content": question, "role": "user"}
    chosen, rejected = ([asked, {"content": text, "role": "assistant"}] for text in ("good", "bad"))
    return {
        "prompt": question, "prompt_id": "c0ffee", "chosen": chosen, "rejected": rejected, "messages": chosen,
        "score_chosen": 8.0, "score_rejected": 3.5,
    }  # fmt: skip


def pku(question: str) -> dict:
    return {
        "prompt": question, "response_0": "zero", "response_1": "one", "prompt_source": "Alpaca3-8B",
        "is_response_0_safe": False, "is_response_1_safe": True, "response_0_severity_level": 2,
        "response_0_harm_category": {"Animal Abuse": False}, "better_response_id": 0, "safer_response_id": 1,
    }  # fmt: skip


def plain(question: str) -> dict:
    return {"prompt": question, "chosen": "good", "rejected": "bad"}


def pair(question: str, chosen: str = "good", rejected: str = "bad") -> PreferencePair:
    return PreferencePair(question, chosen, rejected)


def problems(settings, sources=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        data.load(settings, sources)
    return list(caught.value.problems)


# --- the data sets that are shipped by name


def test_hh_rlhf_has_a_folder_per_tranche(cached, encoded):
    cached(HH, {
        "README.md": b"---\nlicense: mit\n---\n# HH\n",
        "red-team-attempts/red_team_attempts.jsonl.gz": encoded.gz([{"transcript": "x", "rating": 4.0}]),
        **{f"{folder}/{split}.jsonl.gz": encoded.gz([hh(f"{folder} {split}")])
           for folder in ("helpful-base", "harmless-base") for split in ("train", "test")},
    })  # fmt: skip
    start = (Message("user", "Hello"), Message("assistant", "Yes?"))
    loaded = data.load(HubData(name=HH, folder="helpful-base"))
    assert loaded.train == (pair((*start, Message("user", "helpful-base train"))),)
    assert loaded.evaluation == {"iid": (pair((*start, Message("user", "helpful-base test"))),)}
    assert {one.prompt[-1].content for one in data.load(HubData(name=HH)).train} == {
        "helpful-base train",
        "harmless-base train",
    }
    assert problems(HubData(name=HH, folder="helpful")) == [
        f"data.folder: {HH} has no folder 'helpful'; there are harmless-base, helpful-base, red-team-attempts."
    ]


@pytest.mark.parametrize(("column", "chosen"), [("better_response_id", "zero"), ("safer_response_id", "one")])
def test_pku_saferlhf(cached, encoded, column, chosen):
    files = {split: encoded.jsonl([pku(split)]) for split in ("train", "test")}
    subset = {"train": "data/Alpaca-7B/train.jsonl", "test": "data/Alpaca-7B/test.jsonl"}
    cached(PKU, {"README.md": encoded.card({"alpaca-7b": subset, "default": {s: f"data/*/{s}.jsonl" for s in files}}),
                 **{f"data/{model}/{split}.jsonl": content for model in ("Alpaca-7B", "Alpaca2-7B")
                    for split, content in files.items()}})  # fmt: skip
    settings = HubData(name=PKU, columns={"preference": column})
    for found in (settings, dataclasses.replace(settings, folder="data/Alpaca-7B")):
        assert [one.chosen for one in data.load(found).train] == [chosen]
    whole, part = data.load(settings), data.load(dataclasses.replace(settings, subset="alpaca-7b"))
    assert (whole.counts["train/rows"], part.counts["train/rows"]) == (2, 1)
    (problem,) = problems(dataclasses.replace(settings, columns={"preference": None}))
    assert problem.startswith(
        "data.columns.preference: must name the column that says which response is preferred, one of bet"
    )


def test_ultrafeedback(cached, encoded):
    splits = ("train_prefs", "train_sft", "test_prefs", "test_sft")
    cached(ULTRAFEEDBACK, {
        "README.md": encoded.card({"default": {split: f"data/{split}-*" for split in splits}}),
        **{f"data/{split}-00000-of-00001.parquet": encoded.parquet([ultrafeedback(split)]) for split in splits},
    })  # fmt: skip
    loaded = data.load(HubData(name=ULTRAFEEDBACK, train="train_prefs", evaluation={"iid": "test_prefs"}))
    assert (loaded.train, loaded.evaluation) == ((pair("train_prefs"),), {"iid": (pair("test_prefs"),)})
    assert problems(HubData(name=ULTRAFEEDBACK)) == [
        f"data.train: {ULTRAFEEDBACK} has no split 'train'; there are {', '.join(splits)}.",
        f"data.evaluation.iid: {ULTRAFEEDBACK} has no split 'test'; there are {', '.join(splits)}.",
    ]


@pytest.fixture
def tldr(cached, encoded):
    return cached(TLDR, {
        "README.md": encoded.card({"default": {"train": "data/train-*", "validation": "data/validation-*"}}),
        "data/train-00000-of-00002.parquet": encoded.parquet([plain("a"), plain("b")]),
        "data/train-00001-of-00002.parquet": encoded.parquet([plain("c")]),
        "data/validation-00000-of-00001.parquet": encoded.parquet([plain("d"), plain("d") | {"rejected": "worse"}]),
    })  # fmt: skip


SETTINGS = HubData(name=TLDR, evaluation={"iid": "validation"})


def test_tldr(tldr):
    loaded = data.load(SETTINGS)
    assert loaded.train == (pair("a"), pair("b"), pair("c"))
    assert loaded.evaluation == {"iid": (pair("d"),)}
    assert loaded.counts == {
        "train/rows": 3, "train/pairs": 3, "iid/rows": 2, "iid/pairs": 1, "iid/further pairs of a prompt": 1,
    }  # fmt: skip


def test_a_commit_is_read_where_it_is_known(tldr):
    (tldr.parents[1] / "refs/main").unlink()
    assert data.load(dataclasses.replace(SETTINGS, commit=tldr.name)).train == (pair("a"), pair("b"), pair("c"))


def test_a_subset_that_is_not_there(tldr):
    assert problems(dataclasses.replace(SETTINGS, subset="small")) == [
        f"data.subset: {TLDR} has no subset 'small'; there are default."
    ]


def test_a_subset_that_must_be_named(cached, encoded):
    files = {f"{one}/train.jsonl": encoded.jsonl([plain(one)]) for one in ("big", "small")}
    cached(
        "me/mine",
        {"README.md": encoded.card({one: {"train": f"{one}/train.jsonl"} for one in ("big", "small")}), **files},
    )
    settings = HubData(name="me/mine", evaluation={}, subset="small")
    assert data.load(settings).train == (pair("small"),)
    assert problems(dataclasses.replace(settings, subset=None)) == [
        "data.subset: must name one of the subsets of me/mine: big, small."
    ]


def test_a_name_that_is_neither_cached_nor_asked_for(quiet_cache):
    (problem, other) = problems(HubData(name="no/where"), {"x": EvaluationSource(name="no/where")})
    assert problem.startswith("data.name: no data set 'no/where' at revision 'main'")
    assert other.startswith("evaluation.sources.x.name: no data set 'no/where' at revision 'main'")


def test_malformed_rows_are_named_by_data_set_split_and_row(cached, encoded):
    rows = [plain("a") | {"chosen": [number]} for number in range(9)]
    cached("me/mine", {"train.jsonl": encoded.jsonl(rows)})
    found = problems(HubData(name="me/mine", evaluation={}))
    assert found[0].startswith("me/mine[train] row 0: chosen must be a list of messages with role and content, got 0.")
    assert found[5] == "me/mine[train]: 4 more malformed rows."
    assert len(found) == 6


def test_files_that_no_data_set_is_made_of(cached, capfd, caplog):
    """One sentence, and nothing of what the library says on its own."""
    log = logging.getLogger("datasets")
    log.addHandler(caplog.handler)
    cached("me/mine", {"train.jsonl": b'{"prompt": 1}\n{"prompt": \n', "README.md": b"---\n---\n"})
    (problem,) = problems(HubData(name="me/mine", evaluation={}))
    log.removeHandler(caplog.handler)
    assert problem.startswith("data.name: me/mine cannot be read as a data set (JSON parse error")
    assert "\n" not in problem
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# --- folders by name


def test_a_folder_laid_out_like_a_data_set(quiet_cache, encoded):
    (quiet_cache / "mine/data").mkdir(parents=True)
    for split in ("train", "test"):
        (quiet_cache / f"mine/data/{split}.jsonl").write_bytes(encoded.jsonl([plain(split)]))
    settings = HubData(name=str(quiet_cache / "mine"))
    loaded = data.load(settings)
    assert (loaded.train, loaded.evaluation) == ((pair("train"),), {"iid": (pair("test"),)})
    moved = (quiet_cache / "mine").rename(quiet_cache / "moved")
    there = dataclasses.replace(settings, name=str(moved))
    before = data.fingerprints(there)
    (moved / "data/test.jsonl").write_bytes(encoded.jsonl([plain("changed")]))
    assert data.fingerprints(there) != before
    (problem,) = problems(dataclasses.replace(there, name=str(moved / "data/test.jsonl"), evaluation={}))
    assert problem.startswith(f"data.name: {moved}/data/test.jsonl is no folder; data=local reads files")


def folder_of_splits(folder, encoded, name="train") -> HubData:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_bytes(encoded.jsonl([plain(f"{name} {split}")]))
    return HubData(name=str(folder))


@pytest.mark.parametrize("name", ["v[12]", "v?", "v*", "a::b", "{v1,v2}", "a b", "50%20"])
def test_a_folder_is_read_by_its_very_name(quiet_cache, encoded, name):
    """Its own name, that of the folder above it, and that of a folder within it."""
    folder_of_splits(quiet_cache / "v1", encoded, "other")
    settings = folder_of_splits(quiet_cache / name, encoded, "mine")
    inner = folder_of_splits(quiet_cache / "whole" / name, encoded, "inner")
    folder_of_splits(quiet_cache / "whole" / "v1", encoded, "other")
    below = folder_of_splits(quiet_cache / "above" / name / "below", encoded, "below")
    within = HubData(name=str(quiet_cache / "whole"), folder=name)
    for found, prompt in ((settings, "mine"), (inner, "inner"), (within, "inner"), (below, "below")):
        assert data.load(found).train == (pair(f"{prompt} train"),)
    source = EvaluationSource(name=str(quiet_cache / name))
    assert data.load(DEMO, {"x": source}).evaluation["x"] == (pair("mine test"),)


def test_a_changed_folder_is_read_anew_though_its_times_stay(quiet_cache, encoded):
    settings = folder_of_splits(quiet_cache / "mine", encoded)
    for prompt in ("before", "after!"):
        for split in ("train", "test"):
            (quiet_cache / f"mine/{split}.jsonl").write_bytes(encoded.jsonl([plain(f"{prompt} {split}")]))
            os.utime(quiet_cache / f"mine/{split}.jsonl", (1e9, 1e9))
        assert data.load(settings).train == (pair(f"{prompt} train"),)


def test_a_byte_order_mark_in_a_folder(quiet_cache, encoded):
    settings = folder_of_splits(quiet_cache / "mine", encoded)
    file = quiet_cache / "mine/train.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert data.load(settings).train == (pair("train train"),)


def test_columns_of_a_source_that_are_not_used(mine, quiet_cache, encoded):
    local, file = mine
    (quiet_cache / "mine.jsonl").write_bytes(encoded.jsonl([plain("m") | {"system": "Be brief."}]))
    assert data.load(local, {"mine": file}).notes == (
        "evaluation.sources.mine: 1 column is not used in mine: system; +evaluation.sources.mine.columns.system=system "
        "reads it as a system turn before the prompt.",
    )
    named = dataclasses.replace(file, columns={"system": "system"})
    assert [turn.role for turn in data.load(DEMO, {"mine": named}).evaluation["mine"][0].prompt] == ["system", "user"]


def test_a_saved_dictionary_by_its_folder(quiet_cache):
    import datasets

    folder = quiet_cache / "saved"
    datasets.DatasetDict({s: datasets.Dataset.from_list([plain(s)]) for s in ("train", "test")}).save_to_disk(folder)
    assert data.load(HubData(name=str(folder))).train == (pair("train"),)
    assert problems(HubData(name=str(folder), evaluation={"iid": "dev"})) == [
        f"data.evaluation.iid: {folder} has no split 'dev'; there are train, test."
    ]


# --- evaluation sets of other sources


@pytest.fixture
def mine(quiet_cache, encoded):
    """Files of one's own: `mine.jsonl` beside the three of data=local."""
    names = {"train": "t", "iid": "i", "ood": "o", "mine": "m"}
    for name, letter in names.items():
        (quiet_cache / f"{name}.jsonl").write_bytes(encoded.jsonl([plain(f"{letter}{i}") for i in range(3)]))
    return LocalData(path=str(quiet_cache)), EvaluationSource(name=str(quiet_cache / "mine.jsonl"))


def test_sources_stand_beside_the_sets_of_any_data(mine, tldr):
    local, file = mine
    sources = {"tldr": EvaluationSource(name=TLDR, split="validation"), "mine": file}
    for settings, own in ((DEMO, DEMO.sets), (local, ("iid", "ood")), (SETTINGS, ("iid",))):
        kept = {"mine": file} if settings is SETTINGS else sources
        loaded, alone = data.load(settings, kept), data.load(settings)
        assert tuple(loaded.evaluation) == (*own, *kept)
        assert loaded.evaluation["mine"] == (pair("m0"), pair("m1"), pair("m2"))
        assert loaded.counts["mine/pairs"] == 3
        assert (loaded.train, loaded.sft) == (alone.train, alone.sft)


def test_a_source_may_be_parquet_or_saved(mine, quiet_cache, encoded):
    import datasets

    local, _ = mine
    (quiet_cache / "x.parquet").write_bytes(encoded.parquet([plain("x")]))
    datasets.Dataset.from_list([plain("y")]).save_to_disk(quiet_cache / "saved")
    sources = {
        name: EvaluationSource(name=str(quiet_cache / path)) for name, path in (("x", "x.parquet"), ("y", "saved"))
    }
    loaded = data.load(local, sources)
    assert (loaded.evaluation["x"], loaded.evaluation["y"]) == ((pair("x"),), (pair("y"),))


def test_what_is_wrong_with_a_source_names_its_settings(mine, quiet_cache, encoded):
    local, file = mine
    (quiet_cache / "two.jsonl").write_bytes(encoded.jsonl([pku("a")]))
    sources = {
        "two": EvaluationSource(name=str(quiet_cache / "two.jsonl")),
        "other": dataclasses.replace(file, columns={"prompt": "question"}),
    }
    two, other = problems(local, sources)
    assert two.endswith("; add +evaluation.sources.two.columns.preference=better_response_id.")
    assert other.startswith(
        f"evaluation.sources.other.columns: {file.name} has no column question (prompt); it has prompt,"
    )


def test_prompts_of_a_source_may_not_be_trained_on(mine, quiet_cache, encoded):
    local, file = mine
    (quiet_cache / "mine.jsonl").write_bytes(encoded.jsonl([plain("t1"), plain("m")]))
    assert problems(local, {"mine": file})[0].startswith(
        "evaluation set mine: 1 of its 2 prompts also stand in the training"
    )
    without = data.load(dataclasses.replace(local, shared_prompts="drop"), {"mine": file})
    assert [one.prompt for one in without.train] == ["t0", "t2"]
    asked = data.load(DEMO).train[0].prompt
    (quiet_cache / "mine.jsonl").write_bytes(encoded.jsonl([plain(asked)]))
    (problem,) = problems(DEMO, {"mine": file})
    assert problem.endswith("; remove them from it.")


# --- fingerprints


def test_the_fingerprints_of_names_need_neither_network_nor_cache(quiet_cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    train, evaluation = data.fingerprints(SETTINGS, {"hh": EvaluationSource(name=HH)})
    assert (train["name"], train["revision"], train["train"]) == (TLDR, "main", "train")
    assert (evaluation["evaluation"], evaluation["sources"]["hh"]["name"]) == ({"iid": "validation"}, HH)


@pytest.mark.parametrize(
    ("change", "train", "evaluation"),
    [({"name": "a/b"}, 1, 1), ({"revision": "v2"}, 1, 1), ({"subset": "x"}, 1, 1), ({"folder": "x"}, 1, 1),
     ({"columns": {"prompt": "q"}}, 1, 1), ({"train": "other"}, 1, 0), ({"pairs": 9}, 1, 1), ({"seed": 3}, 1, 1),
     ({"evaluation": {"iid": "test"}}, 0, 1), ({"commit": "0" * 40}, 0, 0), ({"shared_prompts": "allow"}, 0, 0),
     ({"shared_prompts": "drop"}, 1, 0)],
)  # fmt: skip
def test_what_determines_data_by_name(change, train, evaluation):
    before, after = data.fingerprints(SETTINGS), data.fingerprints(dataclasses.replace(SETTINGS, **change))
    assert (before[0] != after[0], before[1] != after[1]) == (train, evaluation)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"split": "train"}, True),
        ({"columns": {"prompt": "q"}}, True),
        ({"distribution": "iid"}, False),
        ({"commit": "0"}, False),
    ],
)
def test_what_determines_a_source(change, differs):
    source = EvaluationSource(name=HH)
    alone = data.fingerprints(DEMO)
    one, other = (data.fingerprints(DEMO, {"x": s}) for s in (source, dataclasses.replace(source, **change)))
    assert (one != other) == differs
    assert one[0] == alone[0]
    assert one[1] != alone[1] == data.fingerprints(DEMO, {})[1]


def test_a_source_that_is_a_file_is_known_by_its_content(mine, quiet_cache):
    local, file = mine
    before = data.fingerprints(local, {"mine": file})
    moved = (quiet_cache / "mine.jsonl").rename(quiet_cache / "moved.jsonl")
    there = dataclasses.replace(file, name=str(moved))
    assert data.fingerprints(local, {"mine": there}) == before
    moved.write_text(json.dumps(plain("new")))
    assert data.fingerprints(local, {"mine": there}) != before
    dropping = dataclasses.replace(local, shared_prompts="drop")
    assert data.fingerprints(dropping, {"mine": there})[0] != data.fingerprints(dropping)[0]


def test_all_that_is_wrong_comes_at_once(mine, quiet_cache):
    local, _ = mine
    (quiet_cache / "train.jsonl").write_text("{")
    with pytest.raises(DataError) as caught:
        data.load(
            local, {"x": EvaluationSource(name="no/where"), "y": EvaluationSource(name=str(quiet_cache / "ood.jsonl"))}
        )
    assert len(caught.value.problems) == 2
