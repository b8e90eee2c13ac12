"""An output folder in place of a sweep, and commands that are printed: they mean the configuration that was launched."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from posweep import cli
from posweep.config import configure, configure_each, tracking
from posweep.console import print_status
from posweep.errors import ConfigError
from posweep.folder import CONFIG, IDENTITY, LAUNCH, folder_of
from posweep.identity import identity_of, write_plan
from posweep.invocation import command, names_folder, record_invocation
from posweep.plan import make_plan
from posweep.trackers.address import address_problems, database

SOURCE = Path(__file__).parents[1] / "src" / "posweep"
TYPED = [
    "sweep=smoke",
    "sweep.name=mine",
    "method=[dpo]",
    "output_dir='out dir'",
    "model.hidden_size=16",
    "data.pairs=96",
]
FOLDER = "out dir/mine"


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder with a sweep as a launch leaves it, which trained nothing."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    record(TYPED)
    return work


def record(typed) -> None:
    configuration = configure(typed)
    write_plan(folder_of(configuration), make_plan(configuration), identity_of(configuration))
    record_invocation(folder_of(configuration), configuration)


def settings(arguments):
    """All settings; the file that sentences name is another one for a folder."""
    configuration = configure(arguments)
    return replace(configuration, sweep=replace(configuration.sweep, source=""))


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        configure(arguments)
    return str(error.value)


def keys(*arguments: str) -> list[str]:
    return [spec.key for spec in make_plan(configure(arguments))]


def test_a_folder_is_the_sweep_that_was_launched(work, monkeypatch):
    wanted = keys(*TYPED)
    (work / "link").symlink_to(work / FOLDER)
    monkeypatch.setenv("HOME", str(work))
    for folder in (FOLDER, f"{FOLDER}/", f"./{FOLDER}", str(work / FOLDER), f"~/{FOLDER}", "link"):
        assert settings([folder]) == settings(TYPED), folder
    monkeypatch.chdir(work / FOLDER)
    assert keys(".") == wanted


def test_from_another_working_folder_it_means_the_same_files(work, tmp_path, monkeypatch):
    (work / "model").mkdir()
    wanted = keys(*TYPED)
    monkeypatch.chdir(tmp_path)
    configuration = configure([f"work/{FOLDER}", "executor.workers=4"])
    assert [spec.key for spec in make_plan(configuration)] == wanted
    assert configuration.executor.workers == 4
    assert folder_of(configuration) == work / FOLDER
    assert configuration.tracking.uri == f"sqlite:///{work}/mlflow.db"
    assert tracking([f"work/{FOLDER}"]).uri == configuration.tracking.uri
    assert configure([f"work/{FOLDER}", "tracking.uri=sqlite:///here.db"]).invocation.overrides[-1] == (
        f'tracking.uri="sqlite:///{tmp_path}/here.db"'
    )


@pytest.mark.parametrize("name", ["what?", "job%2Fbranch", "a%20b"])
def test_a_store_in_a_folder_that_no_url_takes_is_found_from_elsewhere(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    record(TYPED)
    monkeypatch.chdir(tmp_path)
    uri = configure([f"{tmp_path / name}/{FOLDER}"]).tracking.uri
    assert address_problems(uri) == []
    assert database(uri) == tmp_path / name / "mlflow.db"


def test_what_a_folder_s_launch_records_is_the_folder_again(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record([f"work/{FOLDER}", "executor.workers=4", "judge=[gold,proxy]"])
    again = configure([f"work/{FOLDER}"])
    assert (again.executor.workers, list(again.judges)) == (4, ["gold", "proxy"])
    assert list(configure([f"work/{FOLDER}", "judge=[proxy]"]).judges) == ["proxy"]
    monkeypatch.chdir(work)
    assert settings([*TYPED, "executor.workers=4", "judge=[gold,proxy]"]) == settings([FOLDER])


@pytest.mark.parametrize("recorded", [True, False], ids=["this posweep's", "an older one's"])
def test_a_project_that_moved_takes_its_store_with_it(work, tmp_path, monkeypatch, recorded):
    wanted = keys(*TYPED)
    if not recorded:
        (work / FOLDER / LAUNCH).unlink()
    monkeypatch.chdir(tmp_path)
    moved = work.rename(tmp_path / "moved [1]")
    configuration = configure([str(moved / FOLDER)])
    assert folder_of(configuration) == moved / FOLDER
    assert configuration.tracking.uri == f"sqlite:///{moved}/mlflow.db"
    assert [spec.key for spec in make_plan(configuration)] == wanted


def test_a_folder_that_moved_alone_keeps_its_store(work, tmp_path):
    (tmp_path / "away").mkdir()
    (work / FOLDER).rename(tmp_path / "away" / "mine")
    configuration = configure([str(tmp_path / "away" / "mine")])
    assert folder_of(configuration) == tmp_path / "away" / "mine"
    assert configuration.tracking.uri == "sqlite:///mlflow.db"  # this is the working folder of the launch


def test_groups_are_chosen_by_composing_again_or_refused_with_what_to_type(work):
    assert list(configure([FOLDER, "method=[simpo]"]).methods) == ["simpo"]
    (work / FOLDER / LAUNCH).unlink()
    assert refused(FOLDER, "method=[simpo]") == (
        f"method=[simpo]: cannot be chosen on top of {FOLDER} (it was made before posweep recorded what was typed); give "
        "the launch's own arguments in place of the folder: sweep=NAME 'method=[simpo]'."
    )
    record(TYPED)
    text = (work / FOLDER / CONFIG).read_text()
    (work / FOLDER / CONFIG).write_text(text.replace("pairs: 96", "pairs: 97"))
    assert "the files that it was composed from have changed since" in refused(FOLDER, "judge=[proxy]")


def edited(work: Path, section: str, **values) -> None:
    composed = yaml.safe_load((work / FOLDER / CONFIG).read_text())
    composed[section] |= values
    (work / FOLDER / CONFIG).write_text(yaml.safe_dump(composed))


def test_what_is_wrong_with_a_recorded_configuration_names_its_file(work):
    edited(work, "train", gone=1)
    said = refused(FOLDER, "train.epochs=0").splitlines()
    assert said[0].startswith(f"{FOLDER}/{CONFIG}: train.gone: no such setting; train takes learning_rate, ")
    assert said[1] == "train.epochs: epochs must be > 0, got 0.0."


def test_a_setting_that_an_older_posweep_had_not_is_at_its_default(work):
    wanted = keys(*TYPED)
    composed = yaml.safe_load((work / FOLDER / CONFIG).read_text())
    del composed["train"]["bucket_batches"], composed["search"]
    (work / FOLDER / CONFIG).write_text(yaml.safe_dump(composed))
    assert keys(FOLDER) == wanted


@pytest.mark.parametrize("content", [b"", b"a: [b", b"\xff", b"- a", b"sweep: {name: 3}"])
def test_a_damaged_configuration_is_a_sentence(work, content):
    (work / FOLDER / CONFIG).write_bytes(content)
    assert refused(FOLDER).startswith(f"{FOLDER}/{CONFIG}: cannot be read (")


@pytest.mark.parametrize("content", ["{", "[]", '{"overrides": 3, "working_folder": "x"}', '{"overrides": []}'])
def test_a_damaged_record_of_what_was_typed_is_a_sentence(work, content):
    (work / FOLDER / LAUNCH).write_text(content)
    assert "launch.json: cannot be read (" in refused(FOLDER)


def test_what_is_no_folder_of_a_sweep(work):
    assert refused("nowhere/x").startswith("nowhere/x: is no folder; ")
    assert refused("out dir").endswith(
        f"(config.yaml is not there); name the output folder of one; there are ./{FOLDER}."
    )
    assert refused(FOLDER, "sweep=demo").startswith(f"sweep=demo: {FOLDER} names a sweep already; ")
    assert refused(FOLDER, "train.epochz=1").startswith("train.epochz: no such setting; train takes learning_rate, ")
    assert "takes one folder" in refused(FOLDER, FOLDER)
    (work / FOLDER / IDENTITY).write_text('{"name": "mine", "schema": 99}')
    assert "is newer than this posweep" in refused(FOLDER)
    (work / FOLDER).rename(work / "other")
    assert refused("other").startswith("other: holds sweep mine, and a sweep's folder has its name; rename it to ")


def test_several_folders_are_compared(work):
    record([*TYPED, "sweep.name=second"])
    assert [each.sweep.name for each in configure_each([FOLDER, "out dir/second"])] == ["mine", "second"]


@pytest.mark.parametrize("argument", ["outputs/a", "./a=b", "/x/a=b", "~/a", ".", ".."])
def test_an_argument_that_names_a_folder(argument):
    assert names_folder(argument)


@pytest.mark.parametrize("argument", ["sweep=a", "data.path=a/b", "~search", "+a=b", "-m", "--cfg", "", "train.epochs"])
def test_an_argument_that_names_none(argument):
    assert not names_folder(argument)


def test_a_printed_command_means_the_configuration_at_hand(work, capsys):
    other = [*TYPED, "data.pairs=128", "sweep.primary_metric=iid/win_rate_vs_sft"]
    for typed in (TYPED, other, [FOLDER], [FOLDER, "train.epochs=2"]):
        configuration = configure(typed)
        for verb, more in (("launch", []), ("launch", ["retry=failed"]), ("status", []), ("plan", ["keys=all"])):
            first, *words = shlex.split(command(configuration, verb, *more))
            assert first == "posweep"
            if verb != "launch":
                assert words.pop(0) == verb
            assert settings(words[: len(words) - len(more)]) == settings(typed)
    assert command(configure(TYPED), "status") == "posweep status './out dir/mine'"
    assert command(configure(other)) == f"posweep {shlex.join(other)}"
    print_status(configure(TYPED))
    copied = capsys.readouterr().out.splitlines()[-1].partition(" runs all ")[0]
    assert cli.run(["plan", *shlex.split(copied)[1:]]) == 0
    assert "2 trials, 0 finished" in capsys.readouterr().out


def test_no_command_is_put_together_elsewhere():
    """Commands with a sweep's name in place of its arguments are not what was launched."""
    texts = {file.name: file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"posweep (\w+ )?sweep=\{", text)] == []
