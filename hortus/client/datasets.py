"""Doors for datasets: files in and out as streams with hashes, and shares."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib.parse import quote

from hortus.client.errors import Altered, HortusError, Refused
from hortus.client.shapes import Dataset, File, Share
from hortus.client.wire import Wire

PIECE = 1024 * 1024

Progress = Callable[[int], None]


def _ignore(_: int) -> None:
    """Take no notice of progress."""


class Datasets:
    """A project's datasets, own and shared in."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, project_id: str, name: str, description: str = "", kind: str = "files") -> Dataset:
        """Make an empty dataset."""
        body = {"name": name, "kind": kind, "description": description}
        return cast("Dataset", self._wire.call("POST", f"/projects/{project_id}/datasets", body))

    def list(self, project_id: str) -> Iterator[Dataset]:
        """The project's datasets."""
        yield from self._wire.pages(f"/projects/{project_id}/datasets")

    def get(self, project_id: str, dataset_id: str) -> Dataset:
        """One dataset."""
        return cast("Dataset", self._wire.call("GET", f"/projects/{project_id}/datasets/{dataset_id}"))

    def change(self, project_id: str, dataset_id: str, *, description: str, version: int | None = None) -> Dataset:
        """Change the description; without ``version`` the newest is changed."""
        if version is None:
            version = self.get(project_id, dataset_id)["version"]
        path = f"/projects/{project_id}/datasets/{dataset_id}"
        return cast("Dataset", self._wire.call("PATCH", path, {"description": description}, version=version))

    def files(self, project_id: str, dataset_id: str) -> Iterator[File]:
        """The files of a dataset."""
        yield from self._wire.pages(f"/projects/{project_id}/datasets/{dataset_id}/files")

    def put(
        self,
        project_id: str,
        dataset_id: str,
        source: Path | Iterable[bytes],
        path: str,
        progress: Progress = _ignore,
    ) -> File:
        """Put a file in as ``path``; ``progress`` hears of every piece in bytes.

        A file on disk is hashed first, so that the other side stores nothing but what was read, and is sent again after
        a lost connection. Bytes that come from a stream can only be compared afterwards. Raises ``Altered`` when the
        stored hash is another.
        """
        door = self._file(project_id, dataset_id, path)
        if isinstance(source, Path):
            size, sha256 = _measure(source)
            headers = {
                "Content-Length": str(size),
                "Content-Type": "application/octet-stream",
                "Hortus-Content-SHA256": sha256,
            }
            file_source = source
            stored = self._wire.send(door, lambda: _pieces(file_source, progress), headers, repeatable=True)
        else:
            digest = hashlib.sha256()
            stream = _hashed(source, digest.update, progress)
            headers = {"Content-Type": "application/octet-stream"}
            stored = self._wire.send(door, lambda: stream, headers, repeatable=False)
            sha256 = digest.hexdigest()
        if stored["sha256"] != sha256:
            raise Altered(f"{path} arrived with another content than was sent.")
        return cast("File", stored)

    def download(self, project_id: str, dataset_id: str, file: File | str, target: Path, progress: Progress = _ignore) -> Path:
        """Take a file out to ``target``: it appears there whole and with the right hash, or not at all."""
        described = self._described(project_id, dataset_id, file) if isinstance(file, str) else file
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._wire.receive(self._file(project_id, dataset_id, described["path"])) as answer:
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
            beside = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as written:
                    for piece in answer.iter_bytes(PIECE):
                        digest.update(piece)
                        written.write(piece)
                        progress(len(piece))
                    written.flush()
                    os.fsync(written.fileno())
                _expect(described, digest.hexdigest())
                beside.replace(target)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        return target

    def share(self, project_id: str, dataset_id: str, target_project_id: str) -> Share:
        """Offer a dataset to another project; no byte moves."""
        path = f"/projects/{project_id}/datasets/{dataset_id}/shares"
        return cast("Share", self._wire.call("POST", path, {"target_project_id": target_project_id}))

    def shares(self, project_id: str, dataset_id: str) -> Iterator[Share]:
        """To whom a dataset was offered."""
        yield from self._wire.pages(f"/projects/{project_id}/datasets/{dataset_id}/shares")

    def unshare(self, project_id: str, dataset_id: str, share_id: str) -> None:
        """Withdraw a share."""
        self._wire.call("DELETE", f"/projects/{project_id}/datasets/{dataset_id}/shares/{share_id}")

    def incoming(self, project_id: str) -> Iterator[Share]:
        """What was offered to a project."""
        yield from self._wire.pages(f"/projects/{project_id}/incoming-shares")

    def accept(self, project_id: str, share_id: str) -> Share:
        """Take an offered dataset into the project."""
        return cast("Share", self._wire.call("POST", f"/projects/{project_id}/incoming-shares/{share_id}/acceptance"))

    def _described(self, project_id: str, dataset_id: str, path: str) -> File:
        for file in self.files(project_id, dataset_id):
            if file["path"] == path:
                return file
        with self._wire.receive(self._file(project_id, dataset_id, path)):  # what is not listed is refused with the reason
            pass
        raise Refused(404, "not-found", f"The dataset has no file {path!r}")

    def _file(self, project_id: str, dataset_id: str, path: str) -> str:
        return f"/projects/{project_id}/datasets/{dataset_id}/files/{quote(path, safe='/')}"


def inside(folder: Path, path: str) -> Path:
    """Where a dataset's file belongs below ``folder``; a name that would leave it is an error."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise HortusError(f"The file name {path!r} would lie outside {folder}.")
    return folder.joinpath(*parts.parts)


def _expect(file: File, sha256: str) -> None:
    if sha256 != file["sha256"]:
        raise Altered(f"{file['path']} came with another content than was stored; nothing was kept.")


def _measure(source: Path) -> tuple[int, str]:
    try:
        with source.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
            return opened.tell(), digest.hexdigest()
    except OSError as error:
        raise HortusError(f"{source} cannot be read: {error.strerror}.") from error


def _pieces(source: Path, progress: Progress) -> Iterator[bytes]:
    with source.open("rb") as opened:
        yield from _read(opened, progress)


def _read(opened: IO[bytes], progress: Progress) -> Iterator[bytes]:
    while piece := opened.read(PIECE):
        yield piece
        progress(len(piece))


def _hashed(source: Iterable[bytes], update: Callable[[bytes], None], progress: Progress) -> Iterator[bytes]:
    for piece in source:
        update(piece)
        yield piece
        progress(len(piece))
