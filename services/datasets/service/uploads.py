"""Bytes in: sealed as they come, and added when they are there as a whole."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from uuid import UUID

from uuid_utils.compat import uuid7

from chassis.outbox import UnitOfWork
from contracts.policy import Action
from contracts.roles import Actor
from services.datasets import domain, repository, vault
from services.datasets.models import (
    BLOB_PREFIX,
    File,
)
from services.datasets.service.datasets import own
from services.datasets.service.keys import made_key
from services.datasets.service.known import holds_role, until_known, until_role_is_known
from services.datasets.service.storage import Storage

SMALL = 64 * 1024
LOOK_AGAIN = 1024 * 1024


@dataclass(frozen=True)
class Target:
    """Where an upload goes: the dataset's open key, the new version's id, and how many bytes may come."""

    dataset_id: UUID
    file_id: UUID
    path: str
    key: bytes
    room: domain.runs.Room | None = None


@dataclass(frozen=True)
class Stored:
    """What an upload left: a blob or, when small, its sealed bytes; ``key`` is wrapped."""

    size: int
    sha256: bytes
    key: bytes
    blob: str | None
    content: bytes | None


async def upload_target(storage: Storage, actor: Actor, project_id: UUID, dataset_id: UUID, path: str) -> Target:
    """Check an upload before its bytes are read."""
    path = domain.names.file_path(path)
    storage.blobs.check_room()
    async with storage.look(actor, Action.FILE_UPLOAD) as uow:
        await until_known(uow, project_id)
        await until_role_is_known(uow, project_id)
        dataset = await own(uow, project_id, dataset_id)
        key = await made_key(uow, storage, dataset.dataset_id)
    return Target(dataset_id, uuid7(), path, key)


async def take_in(storage: Storage, target: Target, stream: AsyncIterator[bytes], announced: bytes | None) -> Stored:
    """Seal a stream into the store, a chunk at a time. On any failure nothing is left. Raises HashDiffers, OutOfSpace, StagingIsFull."""
    key = vault.new_key()
    sealer = vault.Sealer(key, target.file_id.bytes)
    intake = _Intake(stream, target.room, storage.blobs.check_room)
    wrapped = vault.wrap(target.key, key, target.file_id.bytes)
    first = bytearray()
    async for piece in intake:
        first += piece
        if len(first) > SMALL:
            break
    else:
        intake.compare(announced)
        content = sealer.header + bytes(sealer.seal(first, last=True))
        return Stored(intake.size, intake.digest(), wrapped, None, content)
    name = f"{BLOB_PREFIX}/{target.file_id.hex[-2:]}/{target.file_id}"
    await storage.blobs.put(name, _sealed(sealer, first, intake, announced))
    return Stored(intake.size, intake.digest(), wrapped, name, None)


class _Intake:
    """The pieces of an upload, counted and hashed as they come. ``check_disk`` is asked again after every ``LOOK_AGAIN`` bytes."""

    def __init__(self, stream: AsyncIterator[bytes], room: domain.runs.Room | None, check_disk: Callable[[], None]) -> None:
        self.size = 0
        self._stream = stream
        self._room = room
        self._check_disk = check_disk
        self._checked = 0
        self._hash = hashlib.sha256()

    def __aiter__(self) -> "_Intake":
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._stream)
        self.size += len(piece)
        if self._room is not None:
            self._room.take(self.size)
        if self.size - self._checked >= LOOK_AGAIN:
            self._check_disk()
            self._checked = self.size
        self._hash.update(piece)
        return piece

    def digest(self) -> bytes:
        return self._hash.digest()

    def compare(self, announced: bytes | None) -> None:
        if announced is not None and announced != self.digest():
            raise domain.files.HashDiffers


async def _sealed(sealer: vault.Sealer, first: bytearray, intake: _Intake, announced: bytes | None) -> AsyncIterator[bytes | bytearray]:
    """Header and sealed chunks. The buffer of plain text is used again and again; a full one waits for the next byte."""
    yield sealer.header
    plain = bytearray(sealer.chunk_size)
    view = memoryview(plain)
    filled = 0
    piece: bytes | bytearray | None = first
    while piece is not None:
        source = memoryview(piece)
        while source:
            if filled == len(plain):
                yield sealer.seal(plain, last=False)
                filled = 0
            taken = min(len(plain) - filled, len(source))
            view[filled : filled + taken] = source[:taken]
            filled += taken
            source = source[taken:]
        piece = await anext(intake, None)
    intake.compare(announced)
    yield sealer.seal(view[:filled], last=True)


@contextlib.asynccontextmanager
async def kept(storage: Storage, stored: Stored) -> AsyncIterator[None]:
    """What follows an upload; when it fails, the blob goes. A commit that fails afterwards leaves it to the sweep."""
    try:
        yield
    except BaseException:
        if stored.blob is not None:
            await storage.blobs.delete(stored.blob)
        raise


async def add_file(uow: UnitOfWork, project_id: UUID, target: Target, stored: Stored) -> File:
    """Make an upload the newest version of its file. Raises RoleHasEnded: nothing cuts one whose last piece came before."""
    await until_known(uow, project_id)
    if not await holds_role(uow, project_id, lock=True):
        raise domain.datasets.RoleHasEnded
    dataset = await own(uow, project_id, target.dataset_id, lock=True)
    old = await repository.files.current_file(uow.session, dataset.dataset_id, target.path)
    file = File(
        file_id=target.file_id,
        dataset_id=dataset.dataset_id,
        path=target.path,
        number=1,
        current=True,
        size=stored.size,
        sha256=stored.sha256,
        key=stored.key,
        blob=stored.blob,
        content=stored.content,
        origins=domain.origins.origins_of_upload(dataset.dataset_id),
        created_at=uow.now,
    )
    domain.datasets.replace(dataset, old, file)
    await uow.session.flush()
    uow.session.add(file)
    uow.emit(domain.datasets.dataset_fact(dataset))
    uow.note(datasets=dataset.dataset_id, file=file.file_id, version=file.number, bytes=file.size)
    return file
