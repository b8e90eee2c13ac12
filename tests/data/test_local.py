import dataclasses
import gzip
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from posweep import data
from posweep.errors import DataError
from posweep.records import Example, PreferencePair
from posweep.settings import LocalData

REAL = Path(__file__).parents[3] / "shared/data/alpaca_prefs"


def line(prompt="p", chosen="good", rejected="bad", **more) -> str:
    return json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}, ensure_ascii=False)


@pytest.fixture
def write(tmp_path):
    def files(train=None, iid=None, ood=None) -> LocalData:
        given = {"train": train or [line()], "iid": iid or [line("q")], "ood": ood or [line("r")]}
        for name, lines in given.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
        return LocalData(path=str(tmp_path))

    return files


def problems(settings: LocalData) -> list[str]:
    with pytest.raises(DataError) as caught:
        data.load(settings)
    return [problem.replace(f"{settings.path}/", "") for problem in caught.value.problems]


def test_reading(write):
    loaded = data.load(write([line("a"), "", line("b", "ja ä", "nein", source="x")]))
    assert loaded.train == (PreferencePair("a", "good", "bad"), PreferencePair("b", "ja ä", "nein"))
    assert loaded.sft == (Example("a", "good"), Example("b", "ja ä"))
    assert loaded.judge == ()
    assert loaded.evaluation == {
        "iid": (PreferencePair("q", "good", "bad"),),
        "ood": (PreferencePair("r", "good", "bad"),),
    }


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.jsonl.gz", "TRAIN.JSONL"])
def test_a_byte_order_mark_is_no_part_of_a_line(write, tmp_path, name):
    text = BOM + line("a").encode() + b"\r\n" + BOM + line("b").encode() + b"\n"  # two files, one behind the other
    settings = write()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (tmp_path / "iid.jsonl").write_bytes(BOM + line("q").encode())
    loaded = data.load(dataclasses.replace(settings, train=name))
    assert [pair.prompt for pair in loaded.train] == ["a", "b"]
    assert loaded.evaluation["iid"][0].prompt == "q"


def test_one_object_over_several_lines_is_a_row_of_a_json_file(write, tmp_path):
    settings = write()
    (tmp_path / "one.json").write_text(json.dumps(json.loads(line("a")), indent=1))
    assert [pair.prompt for pair in data.load(dataclasses.replace(settings, train="one.json")).train] == ["a"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_line(write, character):
    """JSON text may hold these as they are; str.splitlines() would break at each."""
    assert [pair.prompt for pair in data.load(write([line(f"a{character}b")])).train] == [f"a{character}b"]


def test_duplicates_collapse_and_a_prompt_may_have_several_pairs(write):
    loaded = data.load(write([line("a"), line("a"), line("a", rejected="worse")]))
    assert [pair.rejected for pair in loaded.train] == ["bad", "worse"]
    assert loaded.sft == (Example("a", "good"),)


def test_an_evaluation_set_keeps_the_first_pair_of_each_prompt(write):
    loaded = data.load(write(iid=[line("q", "first"), line("s"), line("q", "second")]))
    assert [(pair.prompt, pair.chosen) for pair in loaded.evaluation["iid"]] == [("q", "first"), ("s", "good")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON object"),
        ("[1, 2]", "must be a JSON object, got '[1, 2]'."),
        ('{"prompt": "x"}', "must have prompt, chosen, rejected; it has prompt."),
        (line(prompt=3), "prompt must be text or a list of messages (role, content), got 3."),
        (line(chosen=["x"]), "chosen must be a list of messages with role and content, got 'x'."),
        (
            '{"prompt": "p", "chosen": "\\ud800", "rejected": "r"}',
            "chosen must be text that can be written, got half a",
        ),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(write, text, said):
    [problem] = problems(write([line("a"), "", text]))
    assert problem.startswith(f"train.jsonl:3: {said}")


def test_all_mistakes_come_at_once_and_many_are_counted(write):
    found = problems(write(train=["{"] * 8, iid=["{"], ood=[line("r"), "{"]))
    places = [problem.split(" ")[0] for problem in found]
    assert places == [*(f"train.jsonl:{i}:" for i in range(1, 6)), "train.jsonl:", "iid.jsonl:1:", "ood.jsonl:2:"]
    assert found[5] == "train.jsonl: 3 more malformed rows."


def test_a_file_without_rows(write):
    assert problems(write(iid=[""])) == ["iid.jsonl: holds no rows; it needs one per pair."]


def test_a_file_of_which_no_row_makes_a_pair(write):
    lines = [line("a", chosen=""), line("b", "same", "same"), line("c", "same", " same")]
    assert problems(write(iid=lines)) == [
        "iid.jsonl: none of its 3 rows makes a pair: dropped: empty response (1), dropped: chosen equals rejected (2)."
    ]


def test_a_file_in_another_encoding_is_named(write):
    settings = write()
    (Path(settings.path) / "train.jsonl").write_bytes(line("caf\u00e9").encode("latin-1"))
    [problem] = problems(settings)
    assert problem.startswith("train.jsonl")
    assert "UTF-8" in problem


def test_what_is_dropped_is_counted(write):
    loaded = data.load(
        write(
            [line("a"), line("a"), line("b", " "), line("c", "x", "x"), line("d")], iid=[line("q"), line("q", "other")]
        )
    )
    assert loaded.counts == {
        "train/rows": 5, "train/duplicates": 1, "train/dropped: empty response": 1, "train/pairs": 2,
        "train/dropped: chosen equals rejected": 1, "iid/rows": 2, "iid/pairs": 1, "iid/further pairs of a prompt": 1,
        "ood/rows": 1, "ood/pairs": 1,
    }  # fmt: skip


# --- prompts in two places

SHARED = {"train": [line("a"), line("b"), line("z")], "iid": [line("b"), line("c")], "ood": [line("a"), line("b")]}


def test_a_prompt_may_not_be_trained_and_evaluated_on(write):
    assert problems(write(**SHARED)) == [
        f"evaluation set {name}: {number} of its 2 prompts also stand in the training data, such as {example!r}; "
        "set data.shared_prompts=drop to train without them, or data.shared_prompts=allow to keep them."
        for name, number, example in (("iid", 1, "b"), ("ood", 2, "a"))
    ]


def test_shared_prompts_may_be_dropped_from_training(write):
    loaded = data.load(dataclasses.replace(write(**SHARED), shared_prompts="drop"))
    assert [pair.prompt for pair in loaded.train] == ["z"]
    assert {name: len(pairs) for name, pairs in loaded.evaluation.items()} == {"iid": 2, "ood": 2}
    assert loaded.counts["train/dropped: prompt in an evaluation set"] == 2


def test_shared_prompts_may_be_allowed(write):
    loaded = data.load(dataclasses.replace(write(**SHARED), shared_prompts="allow"))
    assert [pair.prompt for pair in loaded.train] == ["a", "b", "z"]


def test_something_must_be_left_to_train_on(write):
    settings = write([line("a")], iid=[line("a")])
    assert problems(dataclasses.replace(settings, shared_prompts="drop")) == [
        "train.jsonl: leaves no pairs to train on; all its prompts stand in evaluation sets too."
    ]


# --- files


def test_files_that_are_missing(write, tmp_path):
    settings = write()
    (tmp_path / "ood.jsonl").unlink()
    for check in (data.load, data.fingerprints):
        with pytest.raises(DataError, match=r"has no ood\.jsonl; it must hold train\.jsonl, iid\.jsonl, ood\.jsonl"):
            check(settings)


def test_a_folder_that_is_not_named():
    assert problems(LocalData())[0].startswith("data.path: names no folder")


@pytest.mark.parametrize("name", ["train.json", "train.jsonl.gz", "train.parquet", "saved"])
def test_every_kind_of_file_holds_the_same_pairs(write, quiet_cache, encoded, name):
    settings = write([line("a"), line("b", "ja ä", "nein")])
    rows = [json.loads(one) for one in (quiet_cache / "train.jsonl").read_text().splitlines()]
    if name == "saved":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(quiet_cache / name)
    else:
        content = {
            ".json": json.dumps(rows, indent=1).encode,
            ".gz": lambda: encoded.gz(rows),
            ".parquet": lambda: encoded.parquet(rows),
        }
        (quiet_cache / name).write_bytes(content[Path(name).suffix]())
    assert data.load(dataclasses.replace(settings, train=name)).train == data.load(settings).train


def test_a_split_of_a_saved_dictionary_is_named_by_its_folder(write, quiet_cache):
    import datasets

    settings = write()
    rows = datasets.Dataset.from_list([json.loads(line("a"))])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(quiet_cache / "saved")
    assert data.load(dataclasses.replace(settings, train="saved/train")).train == (PreferencePair("a", "good", "bad"),)
    assert problems(dataclasses.replace(settings, train="saved")) == [
        "saved: holds several splits; name one of saved/train, saved/test."
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.csv", b"a,b", "train.csv: is of no kind that is read; name a file of JSON lines"),
        ("train.json", b"[{]", "train.json:1: is no list of JSON objects"),
        (
            "train.json",
            b'[{"prompt": "p", "chosen": "a", "rejected": "b"}, 3]',
            "train.json item 1: must be a JSON object, got",
        ),
        ("train.jsonl.gz", b"not zipped", "train.jsonl.gz: cannot be read"),
        ("train.jsonl.gz", gzip.compress(b"x" * 99)[:-12] + b"\xff" * 12, "train.jsonl.gz: cannot be read"),
        ("train.jsonl", b'[{"prompt": "p"}]', "train.jsonl: is one JSON list, and .jsonl has one object a line; name"),
        ("train.jsonl", b'{"prompt": ' + b"9" * 9999 + b"}", "train.jsonl:1: is no JSON object that can be read"),
        ("train.jsonl", b"[" * 99999, "train.jsonl:1: is no JSON object that can be read"),
        ("train.jsonl", line("a").encode("utf-16"), "train.jsonl: is not UTF-8 (byte 0); save it as UTF-8"),
        ("train.parquet", b"not parquet", "train.parquet: is no parquet file that can be read"),
        ("folder/x", b"", "folder: is no saved data set; name a file"),
    ],
)
def test_files_that_cannot_be_read(write, quiet_cache, capfd, name, content, said):
    settings = write()
    (quiet_cache / "folder").mkdir()
    (quiet_cache / name).write_bytes(content)
    (problem,) = problems(dataclasses.replace(settings, train=name.split("/")[0]))
    assert problem.startswith(said)
    assert problem.endswith(".")
    assert capfd.readouterr() == ("", "")


# --- names that are patterns elsewhere

NAMES = ["v[12]", "v?", "v*", "{v1,v2}", "a::b", "50%20", "a b", "#~ü", "c:d"]


@pytest.mark.parametrize("kind", ["x.parquet", "x.jsonl", "saved"])
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_read_by_its_very_name(write, quiet_cache, encoded, name, kind):
    """Beside it lie folders that its name would match as a pattern."""
    import datasets

    settings, rows = write(), {"v1": [json.loads(line("other"))], name: [json.loads(line("mine"))]}
    for folder, content in rows.items():
        (quiet_cache / folder).mkdir()
        if kind == "saved":
            datasets.Dataset.from_list(content).save_to_disk(quiet_cache / "plain")
            shutil.move(quiet_cache / "plain", quiet_cache / folder / kind)
        else:
            (quiet_cache / folder / kind).write_bytes(getattr(encoded, kind[2:])(content))
    loaded = data.load(dataclasses.replace(settings, train=f"{name}/{kind}"))
    assert [pair.prompt for pair in loaded.train] == ["mine"]


def test_a_changed_parquet_file_is_read_anew_though_its_time_stays(write, quiet_cache, encoded):
    settings = dataclasses.replace(write(), train="x.parquet")
    for prompt in ("before", "after!"):
        (quiet_cache / "x.parquet").write_bytes(encoded.parquet([json.loads(line(prompt))]))
        os.utime(quiet_cache / "x.parquet", (1e9, 1e9))
        assert [pair.prompt for pair in data.load(settings).train] == [prompt]


def test_parquet_as_other_programs_write_it(write, quiet_cache):
    """Dictionaries of texts, an index of pandas, nulls, and conversations as lists of structs."""
    import pandas as pd

    said = [{"role": "user", "content": "a"}]
    frame = pd.DataFrame(
        {"prompt": [said, said], "chosen": ["good", None], "rejected": ["bad", "bad"]}, index=pd.Index(["x", "y"])
    )
    frame["rejected"] = frame["rejected"].astype("category")
    frame.to_parquet(quiet_cache / "x.parquet")
    loaded = data.load(dataclasses.replace(write(), train="x.parquet"))
    assert loaded.train == (PreferencePair("a", "good", "bad"),)
    assert loaded.counts["train/dropped: empty response"] == 1
    assert not loaded.unused


# --- columns that are not used


def test_columns_that_are_not_used_are_said_once_for_sets_that_share_them(write):
    more = {"source": "x", "system": "Be brief.", "judge": 3}
    loaded = data.load(write([line("a", **more)], [line("q", **more)], [line("r", input="1")]))
    assert loaded.unused == {**dict.fromkeys(("train", "iid"), ("source", "system", "judge")), "ood": ("input",)}
    assert loaded.notes == (
        "data: 3 columns are not used in train, iid: source, system, judge; +data.columns.system=system reads it as a "
        "system turn before the prompt.",
        "data: 1 column is not used in ood: input; +data.columns.input=input reads it behind the prompt, as Alpaca does.",
    )
    assert loaded.facts["columns not used"] == "source, system, judge (train, iid); input (ood)"
    assert data.load(write()).notes == ()
    assert "columns not used" not in data.load(write()).facts


def test_many_columns_make_a_short_sentence(write):
    (note,) = data.load(write([line("a", **{f"c{i}": i for i in range(20)})])).notes
    assert note == "data: 20 columns are not used in train: c0, c1, c2, c3, c4, c5, c6, c7 and 12 more."


def test_a_system_column_is_read_where_it_is_named(write):
    settings = write(*[[line(name, system="Be brief.")] for name in "aqr"])
    named = dataclasses.replace(settings, columns={"system": "system"})
    loaded = data.load(named)
    assert [turn.content for turn in loaded.train[0].prompt] == ["Be brief.", "a"]
    assert not loaded.notes
    assert data.fingerprints(named) != data.fingerprints(settings)


def test_the_column_that_may_hold_the_prompt(write):
    lines = [json.dumps({"question": "q", "chosen": "a", "rejected": "b"})]
    assert problems(write(lines))[-1] == (
        "data.columns.prompt: if a column of train.jsonl holds the prompt, name it: +data.columns.prompt=COLUMN, one of "
        "question."
    )


def test_columns_of_other_names(write):
    other = [json.dumps({"q": name, "best": "good", "worst": "bad"}) for name in "ab"]
    names = {"prompt": "q", "chosen": "best", "rejected": "worst"}
    settings = dataclasses.replace(write(other[:1], iid=other[1:]), columns=names)
    only = dataclasses.replace(settings, evaluation={"iid": "iid.jsonl"})
    assert data.load(only).train == (PreferencePair("a", "good", "bad"),)
    assert problems(settings) == [
        "data.columns: ood.jsonl has no column q (prompt), best (chosen), worst (rejected); it has prompt, chosen, rejected."
    ]


# --- some of many


def test_so_many_pairs_are_drawn_whole_prompts_together(write):
    settings = write([line(f"p{i % 20}", f"c{i}") for i in range(60)])
    some = data.load(dataclasses.replace(settings, pairs=31))
    by_prompt = Counter(pair.prompt for pair in some.train)
    assert sorted(by_prompt.values()) == [1, *[3] * 10]
    assert some.counts["train/not drawn"] == 29
    assert [pair for pair in data.load(settings).train if pair in set(some.train)] == list(some.train)
    other = data.load(dataclasses.replace(settings, pairs=31, seed=1))
    assert {pair.prompt for pair in other.train} != set(by_prompt)
    assert data.load(dataclasses.replace(settings, pairs=31)).train == some.train
    assert len(data.load(dataclasses.replace(settings, pairs=99)).train) == 60


# --- one label per response


def labelled(prompt: str, completion: str, label: bool) -> str:
    return json.dumps({"prompt": prompt, "completion": completion, "label": label})


def test_labels_in_place_of_pairs(write):
    lines = [labelled(f"p{i}", f"r{i}", i % 2 == 0) for i in range(8)]
    loaded = data.load(write([*lines, lines[0], labelled("p1", "better", True), labelled("last", "more", True)]))
    assert loaded.unpaired
    assert not data.load(write()).unpaired
    assert loaded.train[0] == PreferencePair("p1", "better", "r1")
    assert {pair.chosen for pair in loaded.train[1:]} <= {"r0", "r2", "r4", "r6", "more"}
    assert all(pair.rejected == "r" + pair.rejected_prompt[1:] != pair.chosen for pair in loaded.train[1:])
    counts = {"rows": 11, "duplicates": 1, "left out: desirable": 2, "pairs": 4}
    assert {name: loaded.counts[f"train/{name}"] for name in counts} == counts


def test_the_prompt_of_an_undesirable_response_counts_as_trained_on(write):
    settings = write([labelled("p", "x", True), labelled("q", "y", False)])
    assert problems(settings)[0].startswith(
        "evaluation set iid: 1 of its 1 prompts also stand in the training data, such as 'q'"
    )
    assert problems(dataclasses.replace(settings, shared_prompts="drop"))[0].startswith("train.jsonl: leaves no pairs")


def test_labels_leave_nothing_to_a_judge(write):
    settings = write([labelled(f"p{i}", f"r{i}", i % 2 == 0) for i in range(8)])
    assert problems(dataclasses.replace(settings, judge_share=0.5)) == [
        "data.judge_share: must be 0 where the data label responses one by one: judges train on pairs."
    ]


# --- fingerprints


SETTINGS = [{"judge_share": 0.5}, {"seed": 1}, {"max_prompt_tokens": 9}, {"pairs": 2}, {"columns": {"prompt": "p"}}]


def test_files_are_known_by_content_and_not_by_place(write, tmp_path):
    settings = write()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for old, new in (("train", "pairs"), ("iid", "iid"), ("ood", "ood")):
        (moved / f"{new}.jsonl").write_bytes((tmp_path / f"{old}.jsonl").read_bytes())
    there = dataclasses.replace(settings, path=str(moved), train="pairs.jsonl")
    assert data.fingerprints(there) == data.fingerprints(settings)


@pytest.mark.parametrize(("change", "differs"), [("train", (True, False)), ("iid", (False, True))])
def test_a_changed_file_changes_the_fingerprint_it_determines(write, tmp_path, change, differs):
    settings = write()
    before = data.fingerprints(settings)
    (tmp_path / f"{change}.jsonl").write_text(line("new"))
    assert tuple(a != b for a, b in zip(before, data.fingerprints(settings), strict=True)) == differs


@pytest.mark.parametrize("change", SETTINGS)
def test_settings_change_the_training_fingerprint(write, change):
    settings = write()
    assert data.fingerprints(settings)[0] != data.fingerprints(dataclasses.replace(settings, **change))[0]


def test_what_is_dropped_for_evaluation_is_part_of_the_training_data(write, tmp_path):
    """Only then do the evaluation sets determine the training data; an error or a permission changes nothing."""
    settings = write(**SHARED)
    ways = {way: dataclasses.replace(settings, shared_prompts=way) for way in ("error", "drop", "allow")}
    before = {way: data.fingerprints(one)[0] for way, one in ways.items()}
    assert before["error"] == before["allow"] != before["drop"]
    (tmp_path / "iid.jsonl").write_text(line("new"))
    assert [data.fingerprints(one)[0] == before[way] for way, one in ways.items()] == [True, False, True]


def test_the_judges_share_is_split_by_prompt(write):
    settings = write([line(f"p{i % 20}", f"c{i}") for i in range(60)])
    loaded = data.load(dataclasses.replace(settings, judge_share=0.25))
    trials, judge = ({pair.prompt for pair in part} for part in (loaded.train, loaded.judge))
    assert (len(trials), len(judge)) == (15, 5)
    assert not trials & judge
    assert {example.prompt for example in loaded.sft} == trials


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real preferences at {REAL}")
def test_real_preferences():
    loaded = data.load(LocalData(path=str(REAL), judge_share=0.2))
    assert {name: len(pairs) for name, pairs in loaded.evaluation.items()} == {"iid": 88, "ood": 128}
    assert 2600 < len(loaded.train) + len(loaded.judge) <= 2713
    assert loaded.judge
