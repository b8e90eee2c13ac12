import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from posweep import storage as module
from posweep.errors import StorageUnavailable
from posweep.storage import Storage, setting_problems


@pytest.fixture(params=["folder", "file", "memory"])
def storage(request, tmp_path: Path) -> Storage:
    """A sweep's files in each kind of storage that needs no network."""
    place = tmp_path / "store"
    urls = {"folder": str(place), "file": place.as_uri(), "memory": f"memory://{uuid.uuid4().hex}/deep"}
    return Storage(urls[request.param], "sweep")


def test_what_is_pushed_is_pulled(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"\x00content")
    storage.push(tmp_path / "here", "ledger/key.json")
    assert storage.has("ledger/key.json")
    assert storage.names("ledger") == {"key.json"}
    assert storage.pull("ledger/key.json", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"\x00content"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["copy"]
    assert Storage(storage.url, "another").names("ledger") == set()


def test_a_second_push_replaces_the_first(storage: Storage) -> None:
    storage.write("note", b"long text")
    storage.write("note", b"short")
    assert storage.read("note") == b"short"


def test_what_is_not_there_is_no_error(storage: Storage, tmp_path: Path) -> None:
    assert not storage.pull("nothing", tmp_path / "copy")
    assert not storage.pull_folder("nothing", tmp_path / "copies")
    assert storage.read("nothing") is None
    assert storage.names("nothing") == set()
    assert not storage.has("nothing")
    storage.remove("nothing")
    assert not (tmp_path / "copy").exists()


def test_folders_come_whole_and_the_last_file_last(storage: Storage, tmp_path: Path, monkeypatch) -> None:
    for name in ("manifest.json", "a", "deep/b"):
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_text(name)
    order: list[str] = []
    push = Storage.push
    monkeypatch.setattr(Storage, "push", lambda self, file, name: (push(self, file, name), order.append(name)))
    storage.push_folder(tmp_path / "made", "artifacts/x", last="manifest.json")
    assert len(order) == 3
    assert order[-1] == "artifacts/x/manifest.json"
    assert storage.pull_folder("artifacts/x", tmp_path / "copy")
    found = {
        str(f.relative_to(tmp_path / "copy")): f.read_text() for f in (tmp_path / "copy").rglob("*") if f.is_file()
    }
    assert found == {name: name for name in ("manifest.json", "a", "deep/b")}
    storage.remove("artifacts/x")
    assert not storage.has("artifacts/x/a")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"), "sweep")
    sizes, content = set(), {n: bytes(n) for n in (2**22, 2**22 + 1)}
    storage.write("file", content[2**22])
    reading = threading.Event()

    def read() -> None:
        while not reading.is_set():
            sizes.add(len(storage.read("file") or b""))

    reader = threading.Thread(target=read)
    reader.start()
    for n in (2**22 + 1, 2**22) * 10:
        storage.write("file", content[n])
    reading.set()
    reader.join()
    assert sizes <= set(content)
    assert storage.names("") == {"file"}


class Flaky:
    """A filesystem whose first calls fail."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)

    def cat_file(self, path: str) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return b"content"


def flaky(monkeypatch, *errors: Exception) -> tuple[Storage, list[float]]:
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    monkeypatch.setattr(module.fsspec.core, "url_to_fs", lambda *_, **__: (Flaky(*errors), "root"))
    return Storage("s3://user:secret@bucket/x", "sweep"), waits


def test_a_hiccup_is_waited_for(monkeypatch) -> None:
    storage, waits = flaky(monkeypatch, OSError("slow down"), TimeoutError("no answer"))
    assert storage.read("file") == b"content"
    assert waits == [1, 2]


def test_a_storage_that_is_gone_is_a_sentence_without_its_password(monkeypatch) -> None:
    storage, waits = flaky(monkeypatch, *[ConnectionError("nobody is there")] * 9)
    with pytest.raises(StorageUnavailable) as caught:
        storage.read("file")
    assert str(caught.value) == "executor.storage: s3://…@bucket/x does not answer (nobody is there)."
    assert waits == [1, 2, 4]


def test_nobody_waits_for_a_permission(monkeypatch) -> None:
    storage, waits = flaky(monkeypatch, PermissionError(13, "Permission denied"))
    with pytest.raises(StorageUnavailable, match=r"does not answer \(Permission denied\)"):
        storage.read("file")
    assert waits == []


@pytest.mark.parametrize("good", [None, "/shared/posweep", "file:///shared", "memory://x"])
def test_settings_that_are_fine(good) -> None:
    assert setting_problems(good) == []


def test_settings_that_are_not(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    said = {url: setting_problems(url) for url in ("s3://me:secret@b/x", "shared", "nosuch://x")}
    assert all(len(sentences) == 1 for sentences in said.values())
    assert said["s3://me:secret@b/x"][0].startswith("executor.storage: s3://…@b/x has a password in it")
    assert "secret" not in said["s3://me:secret@b/x"][0]
    assert said["shared"][0] == (
        "executor.storage: must be a folder by its absolute name or a URL such as s3://BUCKET/FOLDER, got 'shared'; set "
        f"executor.storage={tmp_path}/shared."
    )
    assert said["nosuch://x"][0].startswith("executor.storage: nosuch://x is no kind of storage that fsspec knows")


def test_a_storage_whose_package_is_missing_says_which(monkeypatch) -> None:
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    assert setting_problems("s3://b/x") == [
        "executor.storage: s3://b/x needs a package that is not installed here (Install s3fs to access S3), and on "
        "every node."
    ]


@pytest.mark.parametrize("sweep", ["v[12]", "v?", "v*"])
def test_what_is_removed_is_no_pattern(sweep):
    url = f"memory://{uuid.uuid4().hex}"
    mine, other = Storage(f"{url}/{sweep}"), Storage(f"{url}/v1")
    for storage in (mine, other):
        storage.write("x/file", b"1")
    mine.remove("x")
    assert (mine.read("x/file"), other.read("x/file")) == (None, b"1")


def test_a_chain_of_addresses_is_no_storage():
    assert setting_problems("/shared/a::b")[0].startswith("executor.storage: /shared/a::b has '::' in it")
