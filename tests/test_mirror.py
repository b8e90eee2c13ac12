import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from posweep import mirror as module
from posweep.artifacts.store import Store
from posweep.errors import StorageUnavailable
from posweep.folder import STOP, take_over, taken_over
from posweep.ledger import Ledger
from posweep.mirror import DriverMirror, NoMirror, WorkerMirror, driver_mirror, own_folder, worker_mirror
from posweep.records import Outcome, TrialFailure, TrialResult
from posweep.storage import Storage


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path / "store"), "sweep")


@pytest.fixture
def worker(tmp_path, storage) -> WorkerMirror:
    return WorkerMirror(tmp_path / "node", storage)


@pytest.fixture
def driver(tmp_path, storage) -> DriverMirror:
    (tmp_path / "driver").mkdir()
    return DriverMirror(tmp_path / "driver", storage)


def outcome(key: str, score_key: str = "s") -> Outcome:
    return Outcome(TrialResult(key, "r", score_key, "finished", seconds={"train": 1.0}))


def spec(key: str, score_key: str = "s"):
    return SimpleNamespace(key=key, score_key=score_key)


def put(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def soon(there):
    """What `there` says as soon as it says anything, within ten seconds."""
    until = time.monotonic() + 10
    while not (found := there()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def test_a_result_goes_from_worker_to_driver_and_leaves_nothing_on_the_node(worker, driver) -> None:
    with worker.trial("k"):
        put(worker.folder, "policies/k/adapter/weights", "w")
        Ledger(worker.folder).write(outcome("k"))
    driver.collect("k")
    assert Ledger(driver.folder).outcome("k").result.key == "k"
    assert (driver.folder / "policies/k/adapter/weights").read_text() == "w"
    assert [file for file in worker.folder.rglob("*") if file.is_file()] == []


def test_the_result_is_pushed_last(worker, storage, monkeypatch) -> None:
    pushed: list[str] = []
    monkeypatch.setattr(Storage, "push", lambda self, file, name: pushed.append(name))
    with worker.trial("k"):
        put(worker.folder, "policies/k/weights", "w")
        Ledger(worker.folder).write(outcome("k"))
    assert pushed == ["policies/k/weights", "responses/k.json", "ledger/k.json"]


def test_a_failure_arrives_with_its_log_where_it_lies_now_and_a_result_takes_it_away(worker, driver, storage) -> None:
    with worker.trial("k"):
        ledger = Ledger(worker.folder)
        ledger.fail(TrialFailure("k", "OSError", "no", str(ledger.log("k"))), "the story")
    driver.collect("k")
    failure = Ledger(driver.folder).failures([spec("k")])["k"]
    assert failure.log == str(driver.folder / "logs" / "k.log")
    assert Path(failure.log).read_text() == "the story"
    with worker.trial("k"):
        Ledger(worker.folder).write(outcome("k"))
    assert storage.names("logs") == set()


def test_a_lost_trial_is_not_taken_for_its_failure_of_the_last_launch(worker, driver) -> None:
    with worker.trial("k"):
        Ledger(worker.folder).fail(TrialFailure("k", "OSError", "no", ""), "the story")
    driver.prepare(["k"])
    driver.collect("k")
    assert Ledger(driver.folder).failures([spec("k")]) == {}


def test_a_checkpoint_follows_its_trial_to_another_node(worker, storage, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)

    def die() -> None:
        with worker.trial("k"):
            put(worker.folder, "checkpoints/k.pt", "step 10")
            assert soon(lambda: storage.read("checkpoints/k.pt")) == b"step 10"
            raise SystemExit

    with pytest.raises(SystemExit):
        die()
    other = WorkerMirror(tmp_path / "other", storage)
    with other.trial("k"):
        assert (other.folder / "checkpoints/k.pt").read_text() == "step 10"
        put(other.folder, "checkpoints/k.pt", "step 20")  # it is stopped, and says so by a last checkpoint
    assert storage.read("checkpoints/k.pt") == b"step 20"
    with worker.trial("k"):
        assert (worker.folder / "checkpoints/k.pt").read_text() == "step 20"
        (worker.folder / "checkpoints/k.pt").unlink()
        Ledger(worker.folder).write(outcome("k"))
    assert storage.names("checkpoints") == set()


def test_the_request_to_stop_reaches_workers_before_and_during_a_trial(worker, driver, monkeypatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    with worker.trial("k"):
        assert not (worker.folder / STOP).exists()
        driver.ask_to_stop()
        assert soon((worker.folder / STOP).exists)
    with worker.trial("k"):
        assert (worker.folder / STOP).exists()
    driver.go_on()
    with worker.trial("k"):
        assert not (worker.folder / STOP).exists()


def test_a_driver_that_was_superseded_does_not_take_the_sweep_back_when_it_ends(
    worker, driver, tmp_path, storage
) -> None:
    (tmp_path / "later").mkdir()
    later = DriverMirror(tmp_path / "later", storage)
    first = take_over(driver.folder)
    driver.take_over()
    second = take_over(later.folder)
    later.take_over()
    driver.go_on()
    with worker.trial("k"):
        assert taken_over(worker.folder, first)
        assert not taken_over(worker.folder, second)


def test_failures_of_another_machine_are_known_here(worker, driver, tmp_path, storage) -> None:
    with worker.trial("k"):
        Ledger(worker.folder).fail(TrialFailure("k", "OSError", "disk on fire"), "story")
    driver.gather([spec("k")])
    assert Ledger(driver.folder).failures([spec("k")])["k"].message == "disk on fire"


def test_a_driver_elsewhere_takes_what_is_finished_and_only_that(worker, driver, tmp_path, storage) -> None:
    for key, score_key in (("a", "s"), ("b", "s"), ("c", "of another judge")):
        with worker.trial(key):
            Ledger(worker.folder).write(outcome(key, score_key))
    Ledger(driver.folder).write(outcome("b"))
    before = (driver.folder / "ledger/b.json").stat().st_mtime_ns
    plan = [spec(key) for key in "abcd"]
    driver.gather(plan)
    assert set(Ledger(driver.folder).finished(plan)) == {"a", "b"}
    assert Ledger(driver.folder).outcome("c") is not None  # only its judging is left
    assert (driver.folder / "ledger/b.json").stat().st_mtime_ns == before


def test_rows_and_checkpoints_from_before_there_was_a_storage_reach_the_workers(worker, driver) -> None:
    Ledger(driver.folder).write(outcome("k", "of another judge"))
    put(driver.folder, "checkpoints/l.pt", "step 10")
    driver.prepare(["k", "l"])
    with worker.trial("k"):
        assert Ledger(worker.folder).outcome("k").result.score_key == "of another judge"
    with worker.trial("l"):
        assert (worker.folder / "checkpoints/l.pt").read_text() == "step 10"


def test_what_cannot_be_taken_now_is_taken_in_the_end(worker, driver, monkeypatch) -> None:
    with worker.trial("k"):
        Ledger(worker.folder).write(outcome("k"))

    def gone(*_):
        raise StorageUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(Storage, "pull", gone)
        driver.collect("k")
        with pytest.raises(StorageUnavailable):
            driver.settle()
    assert Ledger(driver.folder).result("k") is None
    driver.settle()
    assert Ledger(driver.folder).result("k") is not None


def test_policies_that_were_not_kept_in_the_end_leave_the_storage_too(worker, driver, storage) -> None:
    for key in "ab":
        with worker.trial(key):
            put(worker.folder, f"policies/{key}/weights", key)
            Ledger(worker.folder).write(outcome(key))
        driver.collect(key)
    module.shutil.rmtree(driver.folder / "policies/a")
    driver.settle()
    assert storage.names("policies") == {"b"}


def test_artifacts_are_made_once_for_all_machines(worker, driver) -> None:
    made: list[str] = []

    def make(folder: Path) -> None:
        made.append("x")
        put(folder, "deep/x", "content")

    on_driver = Store(driver.folder / "artifacts", mirror=driver).get("sft", {"of": 1}, make)
    on_node = Store(worker.folder / "artifacts", mirror=worker).get("sft", {"of": 1}, make)
    assert made == ["x"]
    assert on_node != on_driver
    assert (on_node / "deep/x").read_text() == "content"
    (on_node / "deep/x").write_text("broken beyond its size")  # found incomplete, and fetched again
    assert (
        Store(worker.folder / "artifacts", mirror=worker).get("sft", {"of": 1}, make) / "deep/x"
    ).read_text() == "content"
    assert made == ["x"]


def test_artifacts_from_before_there_was_a_storage_are_offered(worker, driver) -> None:
    Store(driver.folder / "artifacts").get("sft", {"of": 1}, lambda folder: put(folder, "x", "content") and None)
    Store(driver.folder / "artifacts", mirror=driver).get("sft", {"of": 1}, pytest.fail)
    Store(worker.folder / "artifacts", mirror=worker).get("sft", {"of": 1}, pytest.fail)


def test_half_an_artifact_in_the_storage_is_made_again(worker, storage, tmp_path) -> None:
    made = Store(tmp_path / "artifacts").get("sft", {"of": 1}, lambda folder: put(folder, "x", "content") and None)
    storage.write(f"artifacts/sft/{made.name}/x", b"con")
    (manifest := json.loads((made / "manifest.json").read_text()))
    storage.write(f"artifacts/sft/{made.name}/manifest.json", json.dumps(manifest).encode())
    again = Store(worker.folder / "artifacts", mirror=worker).get(
        "sft", {"of": 1}, lambda folder: put(folder, "x", "content") and None
    )
    assert (again / "x").read_text() == "content"


def test_without_a_storage_nothing_is_copied(smoke, tmp_path) -> None:
    for mirror in (driver_mirror(smoke, tmp_path), worker_mirror(smoke, tmp_path)):
        assert type(mirror) is NoMirror
        assert mirror.folder == tmp_path


def test_a_node_keeps_its_copies_in_a_folder_of_the_user_and_the_storage(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    one, other = own_folder(Storage("s3://a", "sweep")), own_folder(Storage("s3://b", "sweep"))
    assert one != other
    assert one.parent == other.parent
    assert one.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(module.os, "getuid", lambda: 12345)
    (tmp_path / "posweep-12345").mkdir()
    with pytest.raises(StorageUnavailable, match="belongs to another user"):
        own_folder(Storage("s3://a", "sweep"))
