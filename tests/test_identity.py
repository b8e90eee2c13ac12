"""Whose a folder is, who wrote it, and what becomes of files in it that are damaged."""

import json
import shutil

import pytest

from posweep import __version__
from posweep.errors import ConfigError
from posweep.folder import COMMITS, HEADER, IDENTITY, OPPONENTS, PLAN, clear_damaged, read_header, read_opponents
from posweep.identity import identity_of, ownership_problems, read_identity, read_plan, write_plan
from posweep.plan import SCHEMA, Planner, make_plan
from posweep.preflight import commits_so_far

from .tiny import SMOKE, posweep


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def damage(file):
    """As a power failure leaves it."""
    text = file.read_text() if file.exists() else '{"name": "smo'
    file.write_text(text[: len(text) // 2])


def test_what_keys_are_made_of_lies_beside_the_plan(launched, as_it_stands):
    written = json.loads((launched / IDENTITY).read_text())
    assert (written["name"], written["version"], written["schema"]) == ("smoke", __version__, SCHEMA)
    assert written["methods"] == {"dpo": 1, "ln_dpo": 1, "simpo": 1}
    assert {part: written[part] for part in ("train", "response", "score")} == json.loads(
        json.dumps(Planner(as_it_stands).context)
    )
    assert len((launched / IDENTITY).read_text().splitlines()) > 40  # a value a line, for diff
    assert read_plan(launched, "smoke") == make_plan(as_it_stands)


def test_the_file_is_the_same_bytes_whoever_writes_it(launched, as_it_stands):
    before = (launched / IDENTITY).read_bytes()
    write_plan(launched, make_plan(as_it_stands), identity_of(as_it_stands))
    assert (launched / IDENTITY).read_bytes() == before


@pytest.mark.parametrize("verb", [[], ["plan"], ["status"]])
def test_a_folder_of_another_sweep_is_refused_and_left_as_it_is(launched, verb):
    other = launched.with_name("copy")
    shutil.copytree(launched, other)
    before = {file.name: file.read_bytes() for file in other.iterdir()}
    ran = posweep(*verb, *SMOKE, "sweep.name=copy")
    assert (ran.code, ran.out) == (2, "")
    assert ran.said == [
        f"sweep.name: {other} holds sweep smoke, and this is sweep copy; set output_dir to another folder, or delete "
        "identity.json and sweep.json there to take over what it holds."
    ]
    assert {file.name: file.read_bytes() for file in other.iterdir()} == before


def test_the_way_out_of_a_copied_folder_works(launched):
    (launched / IDENTITY).unlink()
    assert ownership_problems(launched, "copy") == []


def test_a_folder_without_identity_is_known_by_its_header(launched):
    (launched / IDENTITY).unlink()
    (launched / HEADER).write_text(json.dumps({"name": "smoke", "primary_metric": "ood/win_rate_vs_sft"}))
    assert "holds sweep smoke, and this is sweep copy" in ownership_problems(launched, "copy")[0]


def newer_schema(launched):
    change(launched / IDENTITY, schema=SCHEMA + 1, version="9.1.0")


def newer_identity(launched):
    change(launched / IDENTITY, version="9.1.0", signature="x")


def newer_plan(launched):
    change(launched / IDENTITY, version="9.1.0")
    lines = [{**json.loads(line), "weather": "fine"} for line in (launched / PLAN).read_text().splitlines()]
    (launched / PLAN).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("newer", [newer_schema, newer_identity, newer_plan])
@pytest.mark.parametrize("verb", [[], ["plan"], ["status"]])
def test_what_a_newer_posweep_wrote_is_refused_and_left_as_it_is(launched, newer, verb):
    newer(launched)
    before = {file.name: file.read_bytes() for file in launched.iterdir()}
    ran = posweep(*verb, *SMOKE)
    assert ran.code == 2
    (line,) = ran.said
    assert line.startswith(f"sweep.name: {launched} was written by posweep 9.1.0 (plans of schema ")
    assert line.endswith(
        f"which is newer than this posweep {__version__} (schema {SCHEMA}); update posweep, or give this sweep another name."
    )
    assert {file.name: file.read_bytes() for file in launched.iterdir()} == before


def test_what_an_older_posweep_wrote_is_read(launched):
    change(launched / IDENTITY, schema=SCHEMA - 1, version="0.0.1")
    assert ownership_problems(launched, "smoke") == []
    assert read_identity(launched).schema == SCHEMA - 1


def test_a_damaged_plan_is_a_sentence_where_it_is_needed(launched):
    damage(launched / PLAN)
    with pytest.raises(ConfigError) as error:
        read_plan(launched, "smoke")
    assert str(error.value).startswith(f"{launched / PLAN}: cannot be read (")
    assert str(error.value).endswith("; the next launch writes it anew.")
    ran = posweep("plan", *SMOKE)
    assert ran.code == 0
    assert f"{launched / PLAN}: cannot be read (" in ran.out
    assert "6 trials, 0 finished, 6 left" in ran.out


def test_a_damaged_identity_only_takes_the_reasons_away(launched):
    damage(launched / IDENTITY)
    assert read_identity(launched) is None
    ran = posweep("plan", *SMOKE, "data.length_bias=0.5")
    assert ran.code == 0
    assert "something that the last launch did not write down changes the key of 6 trials" in ran.out


@pytest.mark.parametrize("name", [HEADER, OPPONENTS])
def test_a_damaged_file_is_a_sentence_for_readers_and_is_cleared_by_a_launch(launched, name):
    damage(launched / name)
    read = {HEADER: read_header, OPPONENTS: read_opponents}[name]
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read \(.*\); the next launch writes it anew\."):
        read(launched)
    (said,) = clear_damaged(launched)
    assert said.endswith("it is written anew.")
    assert not (launched / name).exists()
    assert clear_damaged(launched) == []


def test_damaged_commits_are_not_taken_for_none(launched, as_it_stands):
    """Else a model that moved would be taken for the one that the sweep began with."""
    damage(launched / COMMITS)
    with pytest.raises(ConfigError, match="delete it to go on with the revisions as they are now"):
        commits_so_far(as_it_stands)


def test_what_is_written_is_whole_or_not_there(launched, as_it_stands, monkeypatch):
    """The disk is full while the plan is written: the old one stays."""
    before = (launched / PLAN).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_plan(launched, make_plan(as_it_stands), identity_of(as_it_stands))
    assert (launched / PLAN).read_bytes() == before
    assert sorted(file.name for file in launched.iterdir()) == [IDENTITY, PLAN]
