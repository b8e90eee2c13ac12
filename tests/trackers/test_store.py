"""Where MLflow's store lies and whether it is one: addresses, folders of any name, other versions, first commands."""

import multiprocessing
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from posweep.errors import PreflightError, TrackerUnavailable
from posweep.trackers import schema, store
from posweep.trackers.address import absolute, address_problems, database, url_of
from posweep.trackers.mlflow import MlflowTracker
from posweep.trackers.schema import make_store, schema_problems

pytestmark = pytest.mark.xdist_group("mlflow")

NAMES = ["what?", "job%2Fbranch", "a%20b", "50%", "a b", "x#y", "exp[v1]", "a@b:c", "größe-β", "a%3Fmode=ro?x=1&y"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that MLflow has just made, to be copied."""
    file = tmp_path_factory.mktemp("whole") / "mlflow.db"
    make_store(file)
    return file


def copied(whole: Path, folder: Path, *statements: str) -> Path:
    file = folder / "mlflow.db"
    shutil.copyfile(whole, file)
    with closing(sqlite3.connect(file)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return file


# --- addresses


@pytest.mark.parametrize("name", NAMES)
def test_sqlalchemy_opens_the_file_of_the_very_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    file = tmp_path / name / "mlflow.db"
    uri = absolute("sqlite:///mlflow.db")
    assert make_url(uri).database == str(file)
    assert database(uri) == file
    assert absolute(uri) == uri
    assert address_problems(uri) == []


def test_an_ordinary_address_stays_as_it_was() -> None:
    """MLflow keeps stores by their address."""
    assert url_of(Path("/data/a b/mlflow.db")) == "sqlite:////data/a b/mlflow.db"
    assert absolute("sqlite:////data/x.db") == "sqlite:////data/x.db"
    assert absolute("https://Host/Path") == "https://Host/Path"


@pytest.mark.parametrize(
    ("uri", "file"),
    {
        "sqlite:///a b.db": "a b.db", "sqlite:///dir/x.db": "dir/x.db", "sqlite:////abs/x.db": "/abs/x.db",
        "SQLite:///x.db": "x.db", "sqlite+pysqlite:///x%3F.db": "x?.db", "sqlite:///a%20b.db": "a b.db",
    }.items(),
)  # fmt: skip
def test_an_address_names_a_file(uri: str, file: str) -> None:
    assert database(uri) == Path(file)
    assert address_problems(uri) == []


@pytest.mark.parametrize(
    ("uri", "said"),
    {
        "sqlite://": "names no file", "sqlite:///": "names no file", "sqlite:///:memory:": "names no file",
        "sqlite://x.db": "three slashes", "sqlite:///~/x.db": f"write sqlite:///{Path.home()}/x.db",
        "sqlite:///x.db?mode=ro": "takes no options; a ? in a file's name is written %3F",
        "sqlite:///a\udce9.db": "is not UTF-8", "": "must be sqlite:///FILE", "mlruns": "must be sqlite:///FILE",
        "file:///tmp/x": "must be sqlite:///FILE", "postgresql://host/x": "must be sqlite:///FILE",
        "http://": "must be sqlite:///FILE", "http://host:port": "must be sqlite:///FILE", "http://[::1": "Invalid IPv6",
        "http://me:secret@host": "must hold no user or password",
    }.items(),
)  # fmt: skip
def test_an_address_that_is_none_is_a_sentence(uri: str, said: str) -> None:
    (problem,) = MlflowTracker(uri).preflight()
    assert problem.startswith("tracking.uri: ")
    assert said in problem
    assert "secret" not in problem


def test_a_folder_whose_percents_were_decoded_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a%20b").mkdir()
    (problem,) = MlflowTracker(f"sqlite:///{tmp_path}/a%20b/mlflow.db").preflight()
    assert "a b is no folder that can be written (%XX in it was decoded; a % is written %25)" in problem
    assert MlflowTracker(f"sqlite:///{tmp_path}/a%2520b/mlflow.db").preflight() == []


@pytest.mark.parametrize("name", ["what?", "job%2Fbranch", "a%20b#[v1] ü@:"])
def test_a_store_and_its_artifacts_lie_in_a_folder_of_any_name(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copyfile(whole, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    tracker = MlflowTracker("sqlite:///mlflow.db")
    assert tracker.preflight() == []
    tracker.open("smoke", [])
    assert tracker.read("smoke") is None  # it has only just begun
    assert tracker._files() == {"plan.jsonl"}
    assert list((folder / "mlruns" / "smoke").glob("*/artifacts/plan.jsonl"))
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        assert ("smoke",) in database.execute("SELECT name FROM experiments").fetchall()


# --- stores that MLflow would not open


OTHERS: dict[str, tuple[str, ...]] = {
    "a newer MLflow than this": ("UPDATE alembic_version SET version_num = 'ffffffffffff'",),
    "an older MLflow than this": ("UPDATE alembic_version SET version_num = '451aebb31d03'",),
    "are not whole": ("UPDATE alembic_version SET version_num = '451aebb31d03'", "DELETE FROM experiments"),
}


@pytest.mark.parametrize(("said", "statements"), OTHERS.items())
def test_tables_of_another_version_are_found_and_left_alone(
    said: str, statements: tuple[str, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SETTLED", 0.3)
    file = copied(whole, tmp_path, *statements)
    before = file.read_bytes()
    tracker = MlflowTracker(f"sqlite:///{file}")
    (problem,) = tracker.preflight()
    assert said in problem
    assert f"mlflow db upgrade '{tracker.uri}'" in problem or "older" not in said
    with pytest.raises(PreflightError, match=said):  # it is not taken for one that is away
        tracker.open("smoke", [])
    assert file.read_bytes() == before


def test_tables_that_somebody_is_making_are_waited_for(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SETTLED", 10.0)
    file = copied(whole, tmp_path, *OTHERS["are not whole"])
    (newest,) = sqlite3.connect(whole).execute("SELECT version_num FROM alembic_version").fetchone()

    def finish() -> None:
        with closing(sqlite3.connect(file)) as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (newest,))
            database.commit()

    threading.Timer(0.5, finish).start()
    assert schema_problems(file) == []


def other_program(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE photos (name TEXT)")


@pytest.mark.parametrize(
    ("make", "said"),
    {
        other_program: "is of another program (tables photos); name another file",
        lambda file: file.write_text("not a database, and long enough to be seen as none" * 30): "file is not a database",
        lambda file: file.mkdir(): "unable to open database file",
    }.items(),
)  # fmt: skip
def test_a_file_that_is_no_store_is_a_sentence(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    make(tmp_path / "mlflow.db")
    (problem,) = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db").preflight()
    assert said in problem


def test_a_store_that_was_cut_off_is_a_sentence(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(whole.read_bytes()[:50_000])
    (problem,) = MlflowTracker(f"sqlite:///{file}").preflight()
    assert "cannot be read (database disk image is malformed); name another file" in problem


def test_a_store_that_another_program_locks_is_a_sentence(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCKED", 0.1)
    file = copied(whole, tmp_path)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        (problem,) = MlflowTracker(f"sqlite:///{file}").preflight()
    assert "another program has locked" in problem
    assert "tracking=none" in problem


def test_what_mlflow_refuses_for_good_is_not_taken_for_away(whole: Path, tmp_path: Path) -> None:
    """Here experiments of a workspace, which a store without workspaces does not open."""
    file = copied(whole, tmp_path, "UPDATE experiments SET workspace = 'team'")
    with pytest.raises(PreflightError, match=r"tracking\.uri: MLflow does not open .*workspace"):
        MlflowTracker(f"sqlite:///{file}").open("smoke", [])


# --- first commands


def made_by(file: Path, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    make_store(file)


def test_the_first_of_several_makes_the_store_and_the_others_wait(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(file: Path, _: Path) -> None:
        made.append(file)
        shutil.copyfile(whole, file)

    monkeypatch.setattr(schema, "_make_tables", make)
    threads = [threading.Thread(target=make_store, args=(tmp_path / "mlflow.db",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("links", [True, False])
def test_where_locks_or_links_do_nothing_the_first_store_stays(
    links: bool, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mlflow.db"

    def no_locks(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def another_is_faster(made: Path, _: Path) -> None:
        shutil.copyfile(whole, made)
        file.write_bytes(b"the first")

    monkeypatch.setattr(schema.FileLock, "acquire", no_locks)
    if not links:
        monkeypatch.setattr(schema.os, "link", no_links)
        monkeypatch.setattr(schema, "_make_tables", lambda made, _: shutil.copyfile(whole, made))
        make_store(file)
        assert file.read_bytes() == whole.read_bytes()
    else:
        monkeypatch.setattr(schema, "_make_tables", another_is_faster)
        monkeypatch.setattr(schema.Path, "exists", lambda _: False)
        make_store(file)
        assert file.read_bytes() == b"the first"
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_store_is_made_where_a_link_points_and_over_a_file_without_a_byte(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_make_tables", lambda made, _: shutil.copyfile(whole, made))
    (tmp_path / "disk").mkdir()
    (tmp_path / "linked.db").symlink_to(tmp_path / "disk" / "mlflow.db")
    (tmp_path / "empty.db").touch()
    for name in ("linked.db", "empty.db"):
        make_store(tmp_path / name)
        assert schema_problems(tmp_path / name) == []
    assert (tmp_path / "linked.db").is_symlink()


def test_a_disk_that_is_full_leaves_no_half_store(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(schema.shutil, "copyfile", full)
    monkeypatch.setattr(schema, "_make_tables", lambda made, _: made.write_bytes(whole.read_bytes()))
    with pytest.raises(TrackerUnavailable, match="No space left on device"):
        MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db").open("smoke", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torture
def test_processes_that_start_together_find_a_whole_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for turn in range(5):
        file, start = tmp_path / str(turn) / "mlflow.db", context.Event()
        file.parent.mkdir()
        makers = [context.Process(target=made_by, args=(file, start)) for _ in range(4)]
        for maker in makers:
            maker.start()
        start.set()
        for maker in makers:
            maker.join()
        assert [maker.exitcode for maker in makers] == [0] * 4
        assert schema_problems(file) == []
        assert [file.name for file in file.parent.iterdir()] == ["mlflow.db"]


# --- network disks


MOUNTED = """\
overlay / overlay rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/me/fast tmpfs rw 0 0
lustre@tcp:/s /scratch\\040big lustre rw 0 0
"""


@pytest.mark.parametrize(
    ("file", "kind"),
    {
        "/home/me/mlflow.db": "nfs4", "/home/me/fast/mlflow.db": "", "/homely/mlflow.db": "", "/mlflow.db": "",
        "/scratch big/a/mlflow.db": "lustre",
    }.items(),
)  # fmt: skip
def test_a_network_disk_is_known_by_its_mount(
    file: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(MOUNTED)
    monkeypatch.setattr(store, "MOUNTS", tmp_path / "mounts")
    assert store.network_file_system(Path(file)) == kind
    (tmp_path / "mounts").unlink()
    assert store.network_file_system(Path(file)) == ""


def test_on_a_network_disk_there_is_no_shared_memory_and_it_is_said(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copied(whole, tmp_path, "PRAGMA journal_mode=WAL")
    tracker = MlflowTracker(f"sqlite:///{file}")
    assert tracker.notes() == []
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(store, "MOUNTS", tmp_path / "mounts")
    tracker.open("smoke", [])
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    (note,) = tracker.notes()
    assert f"{file} is on a network disk (nfs4), where SQLite is safe on one machine at a time only" in note
