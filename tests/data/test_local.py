import dataclasses
import json
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
        ("[1, 2]", "must have prompt, chosen, rejected; it has list."),
        ('{"prompt": "x"}', "must have prompt, chosen, rejected; it has prompt."),
        (line(chosen=""), "chosen must be text that is not empty, got ''."),
        (line(rejected="  "), "rejected must be text that is not empty"),
        (line(prompt=None), "prompt must be text that is not empty, got None."),
        (line(chosen=["x"]), "chosen must be text that is not empty, got ['x']."),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(write, text, said):
    [problem] = problems(write([line("a"), "", text]))
    assert problem.startswith(f"train.jsonl:3: {said}")


def test_all_mistakes_come_at_once_and_many_are_counted(write):
    found = problems(write(train=["{"] * 8, iid=["{"], ood=[line("r"), "{"]))
    places = [problem.split(" ")[0] for problem in found]
    assert places == [*(f"train.jsonl:{i}:" for i in range(1, 6)), "train.jsonl:", "iid.jsonl:1:", "ood.jsonl:2:"]
    assert found[5] == "train.jsonl: 3 more malformed lines."


def test_a_file_without_pairs(write):
    assert problems(write(iid=[""])) == [
        "iid.jsonl: holds no pairs; it needs one JSON object with prompt, chosen, rejected a line."
    ]


def test_a_file_in_another_encoding_is_named(write):
    settings = write()
    (Path(settings.path) / "train.jsonl").write_bytes(line("caf\u00e9").encode("latin-1"))
    [problem] = problems(settings)
    assert problem.startswith("train.jsonl")
    assert "UTF-8" in problem


def test_a_prompt_may_not_be_trained_and_evaluated_on(write):
    found = problems(write([line("a"), line("b")], iid=[line("b"), line("c")], ood=[line("a"), line("b")]))
    assert [problem.split(" also")[0] for problem in found] == ["iid.jsonl: 1 prompts", "ood.jsonl: 2 prompts"]


def test_files_that_are_missing(write, tmp_path):
    settings = write()
    (tmp_path / "ood.jsonl").unlink()
    for check in (data.load, data.fingerprints):
        with pytest.raises(DataError, match=r"has no ood\.jsonl; it must hold train\.jsonl, iid\.jsonl, ood\.jsonl"):
            check(settings)


def test_a_folder_that_is_not_named():
    assert problems(LocalData())[0].startswith("data.path: names no folder")


# --- fingerprints


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


@pytest.mark.parametrize("change", [{"judge_share": 0.5}, {"seed": 1}, {"max_prompt_tokens": 9}])
def test_settings_change_the_training_fingerprint(write, change):
    settings = write()
    assert data.fingerprints(settings)[0] != data.fingerprints(dataclasses.replace(settings, **change))[0]


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
