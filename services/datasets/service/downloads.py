"""Bytes out: opened as they go."""

from collections.abc import AsyncIterator
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.datasets import domain, repository, vault
from services.datasets.blobs import Blobs
from services.datasets.models import File
from services.datasets.service.datasets import read
from services.datasets.service.keys import known_key
from services.datasets.service.storage import Storage

PIECE = 128 * 1024
CHUNKS_AT_ONCE = 4


async def leaving_file(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, path: str) -> File:
    """A file that may leave the project. Raises OriginsAreForeign, also for a path that there is none of: names are no oracle."""
    dataset = await read(uow, project_id, dataset_id)
    file = await repository.files.current_file(uow.session, dataset_id, domain.names.file_path(path))
    uploaded = file is not None and not domain.origins.derived(dataset_id, file.origins)
    origins = [dataset_id] if uploaded else dataset.origins or [dataset_id]
    domain.origins.may_leave(project_id, dataset, origins, await repository.datasets.homes(uow.session, origins))
    if file is None:
        raise NotFound
    return file


async def open_file(uow: UnitOfWork, storage: Storage, file: File, span: domain.files.Span) -> AsyncIterator[bytes]:
    """The bytes of a span of a file. The first of them are opened before this returns. Raises DataDamaged."""
    dataset_key = await known_key(uow, storage, file.dataset_id)
    key = vault.unwrap(dataset_key, file.key, file.file_id.bytes)
    stream = _opened(storage, file, key, span)
    first = await anext(stream, b"")
    return _chain(first, stream)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


async def _opened(storage: Storage, file: File, key: bytes, span: domain.files.Span) -> AsyncIterator[bytes]:
    source = _Source(storage.blobs, file)
    opener = vault.Opener(key, file.file_id.bytes, await source.read(0, vault.HEADER))
    if await source.size() != vault.sealed_size(file.size, opener.chunk_size):
        raise vault.DataDamaged
    wanted = list(vault.pieces(file.size, span.start, span.length, opener.chunk_size))
    for begin in range(0, len(wanted), CHUNKS_AT_ONCE):
        group = wanted[begin : begin + CHUNKS_AT_ONCE]
        sealed = await source.read(group[0].start, group[-1].end)
        for piece in group:
            at = piece.start - group[0].start
            plain = opener.open(piece.number, sealed[at : at + piece.end - piece.start], last=piece.last)
            part = plain[piece.skip : piece.skip + piece.take]
            for start in range(0, len(part), PIECE):
                yield bytes(part[start : start + PIECE])


class _Source:
    """The sealed bytes of a file, wherever they lie."""

    def __init__(self, blobs: Blobs, file: File) -> None:
        self._blobs = blobs
        self._blob = file.blob or ""
        self._content = file.content

    async def read(self, start: int, end: int) -> memoryview:
        if self._content is not None:
            return memoryview(self._content)[start:end]
        try:
            return await self._blobs.read(self._blob, start, end)
        except FileNotFoundError as error:
            raise vault.DataDamaged from error

    async def size(self) -> int:
        return len(self._content) if self._content is not None else await self._blobs.size(self._blob)
