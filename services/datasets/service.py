"""Use cases: datasets and their files, shares, what runs read and leave, and what is heard of the others."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from chassis import deletion
from chassis.deletion import Slice
from chassis.errors import CannotDecide, NotFound, PreconditionFailed
from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from contracts import events
from contracts.events import ProjectState, RunState
from contracts.policy import Action
from contracts.roles import Actor
from services.datasets import domain, repository, vault
from services.datasets.blobs import Blobs
from services.datasets.domain import Verdict
from services.datasets.flights import Flights
from services.datasets.models import (
    BLOB_PREFIX,
    Dataset,
    File,
    KnownRun,
    Member,
    Person,
    Project,
    Run,
    RunRead,
    Share,
    Staged,
    Transfer,
    Upload,
)

log = logger(__name__)
SMALL = 64 * 1024
KNOWN_WAIT_S = 1.0
KNOWN_LOOK_S = 0.05
PIECE = 128 * 1024
CHUNKS_AT_ONCE = 4
LOOK_AGAIN = 1024 * 1024
PURGED_AT_ONCE = 200


@dataclass(frozen=True)
class Limits:
    """What a run may leave, in bytes and files."""

    staging_bytes: int
    staging_files: int


@dataclass
class Storage:
    """Where bytes lie and what opens them. ``engine`` gives short transactions to doors that stream."""

    engine: Any
    master: vault.MasterKey
    blobs: Blobs
    limits: Limits
    flights: Flights

    def look(self, actor: Actor, action: str) -> Any:
        """A short unit of work beside a stream."""
        return unit_of_work(self.engine, "datasets", action, actor)


@dataclass(frozen=True)
class Target:
    """Where an upload goes: the dataset's open key, the new version's id, and how many bytes may come."""

    dataset_id: UUID
    file_id: UUID
    path: str
    key: bytes
    room: domain.Room | None = None


@dataclass(frozen=True)
class Stored:
    """What an upload left: a blob or, when small, its sealed bytes; ``key`` is wrapped."""

    size: int
    sha256: bytes
    key: bytes
    blob: str | None
    content: bytes | None


# Datasets


async def create(uow: UnitOfWork, project_id: UUID, name: str, description: str) -> Dataset:
    """Make an empty dataset."""
    name, description = domain.dataset_name(name), domain.description(description)
    await _until_known(uow, project_id)
    if await repository.name_taken(uow.session, project_id, domain.name_key(name)):
        raise domain.NameTaken
    dataset = domain.new_dataset(uow.new_id(), project_id, name, description, uow.now)
    await _add_dataset(uow, dataset)
    uow.emit(domain.dataset_fact(dataset))
    return dataset


async def _add_dataset(uow: UnitOfWork, dataset: Dataset) -> None:
    await repository.remember_origin(uow.session, dataset.dataset_id, dataset.project_id)
    uow.session.add(dataset)
    await uow.session.flush()


async def read(uow: UnitOfWork, project_id: UUID, dataset_id: UUID) -> Dataset:
    """A dataset that the project owns or has shared in."""
    dataset, shared_in = await repository.visible(uow.session, project_id, dataset_id)
    return domain.readable(dataset, project_id, shared_in=shared_in)


async def seen_in_full(uow: UnitOfWork, actor: Actor, project_id: UUID, datasets: Sequence[Dataset]) -> set[UUID]:
    """Those of some readable datasets of which the actor may see what programs chose: names, sizes, hashes."""
    homes = await repository.homes(uow.session, domain.merged(*(dataset.origins for dataset in datasets)))
    role = actor.role if actor.project_id == project_id else None
    return {dataset.dataset_id for dataset in datasets if domain.shown_in_full(project_id, role, dataset, homes)}


async def own(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, *, lock: bool = False) -> Dataset:
    """A dataset that the project owns."""
    dataset, shared_in = await repository.visible(uow.session, project_id, dataset_id, lock=lock)
    return domain.own(domain.readable(dataset, project_id, shared_in=shared_in), project_id)


async def change(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, version: int, description: str) -> Dataset:
    """Change the description of version ``version``. Raises ProjectIsClosed."""
    text = domain.description(description)
    await _until_known(uow, project_id)
    dataset = await own(uow, project_id, dataset_id, lock=True)
    if dataset.version != version:
        raise PreconditionFailed(f"The resource has version {dataset.version}.")
    if dataset.description != text:
        dataset.description = text
        dataset.version += 1
        uow.emit(domain.dataset_fact(dataset))
    return dataset


async def _until_known(uow: UnitOfWork, project_id: UUID) -> None:
    """The project takes things in until this transaction ends; one that was made a moment ago is waited for. Before any row is locked."""
    await deletion.hold(uow.session, project_id)
    state = await _project_state(uow, project_id)
    domain.accepting(state)


async def _project_state(uow: UnitOfWork, project_id: UUID) -> ProjectState | None:
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        state = await repository.project_state(uow.session, project_id)
        if state is not None or time.monotonic() >= deadline:
            return state
        await asyncio.sleep(KNOWN_LOOK_S)


async def _until_role_is_known(uow: UnitOfWork, project_id: UUID) -> None:
    """The caller's role, which the gateway knows, is known here; one that was given a moment ago is waited for. Raises CannotDecide."""
    deadline = time.monotonic() + KNOWN_WAIT_S
    while not await _holds_role(uow, project_id):
        if time.monotonic() >= deadline:
            raise CannotDecide("Your role in the project is not known here yet.", retry_after=1)
        await asyncio.sleep(KNOWN_LOOK_S)


async def _holds_role(uow: UnitOfWork, project_id: UUID, *, lock: bool = False) -> bool:
    person, member = await repository.standing(uow.session, project_id, uow.actor.user_id, lock=lock)
    return domain.holds_role(person, member, uow.actor.role, uow.now)


# Bytes in


async def _made_key(uow: UnitOfWork, storage: Storage, dataset_id: UUID) -> bytes:
    """A dataset's key for what comes in, open; made with the first file."""
    if await repository.dataset_key(uow.session, dataset_id) is None:
        await repository.keep_dataset_key(uow.session, dataset_id, storage.master.wrap(vault.new_key(), dataset_id.bytes))
    return await _known_key(uow, storage, dataset_id)


async def _known_key(uow: UnitOfWork, storage: Storage, dataset_id: UUID) -> bytes:
    """A dataset's key, open. Raises DataDamaged when it is gone."""
    wrapped = await repository.dataset_key(uow.session, dataset_id)
    if wrapped is None:
        raise vault.DataDamaged
    return storage.master.unwrap(wrapped, dataset_id.bytes)


async def upload_target(storage: Storage, actor: Actor, project_id: UUID, dataset_id: UUID, path: str) -> Target:
    """Check an upload before its bytes are read."""
    path = domain.file_path(path)
    storage.blobs.check_room()
    async with storage.look(actor, Action.FILE_UPLOAD) as uow:
        await _until_known(uow, project_id)
        await _until_role_is_known(uow, project_id)
        dataset = await own(uow, project_id, dataset_id)
        key = await _made_key(uow, storage, dataset.dataset_id)
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

    def __init__(self, stream: AsyncIterator[bytes], room: domain.Room | None, check_disk: Callable[[], None]) -> None:
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
            raise domain.HashDiffers


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
    await _until_known(uow, project_id)
    if not await _holds_role(uow, project_id, lock=True):
        raise domain.RoleHasEnded
    dataset = await own(uow, project_id, target.dataset_id, lock=True)
    old = await repository.current_file(uow.session, dataset.dataset_id, target.path)
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
        origins=domain.origins_of_upload(dataset.dataset_id),
        created_at=uow.now,
    )
    domain.replace(dataset, old, file)
    await uow.session.flush()
    uow.session.add(file)
    uow.emit(domain.dataset_fact(dataset))
    uow.note(datasets=dataset.dataset_id, file=file.file_id, version=file.number, bytes=file.size)
    return file


# Bytes out


async def leaving_file(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, path: str) -> File:
    """A file that may leave the project. Raises OriginsAreForeign, also for a path that there is none of: names are no oracle."""
    dataset = await read(uow, project_id, dataset_id)
    file = await repository.current_file(uow.session, dataset_id, domain.file_path(path))
    uploaded = file is not None and not domain.derived(dataset_id, file.origins)
    origins = [dataset_id] if uploaded else dataset.origins or [dataset_id]
    domain.may_leave(project_id, dataset, origins, await repository.homes(uow.session, origins))
    if file is None:
        raise NotFound
    return file


async def open_file(uow: UnitOfWork, storage: Storage, file: File, span: domain.Span) -> AsyncIterator[bytes]:
    """The bytes of a span of a file. The first of them are opened before this returns. Raises DataDamaged."""
    dataset_key = await _known_key(uow, storage, file.dataset_id)
    key = vault.unwrap(dataset_key, file.key, file.file_id.bytes)
    stream = _opened(storage, file, key, span)
    first = await anext(stream, b"")
    return _chain(first, stream)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


async def _opened(storage: Storage, file: File, key: bytes, span: domain.Span) -> AsyncIterator[bytes]:
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


# Shares


async def offer(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, target: UUID) -> tuple[Share, str]:
    """Offer a dataset to another project."""
    await _until_known(uow, project_id)
    await deletion.hold(uow.session, target)
    dataset = await own(uow, project_id, dataset_id, lock=True)
    homes = await repository.homes(uow.session, [*dataset.origins, dataset_id])
    share = domain.offer(uow.new_id(), dataset, target, homes)
    target_state = await _project_state(uow, target)
    if target_state is None:
        raise domain.ProjectUnknown
    domain.accepting(target_state)
    if await repository.open_share(uow.session, dataset_id, target) is not None:
        raise domain.AlreadyShared
    uow.session.add(share)
    uow.emit(domain.share_fact(share))
    return share, dataset.name


async def withdraw(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, share_id: UUID) -> None:
    """End a share; reads in flight under it are cut."""
    await own(uow, project_id, dataset_id)
    await _withdraw(uow, await repository.share_of(uow.session, project_id, dataset_id, share_id))


async def _withdraw(uow: UnitOfWork, share: Share) -> None:
    if domain.withdraw(share):
        uow.emit(domain.share_fact(share))
        await repository.wake_flights(uow.session)


async def accept(uow: UnitOfWork, project_id: UUID, share_id: UUID) -> tuple[Share, str]:
    """Take an offered dataset into the project."""
    await deletion.hold(uow.session, project_id)
    share = await repository.share(uow.session, share_id, lock=True)
    if domain.accept(share, project_id) and share is not None:
        await _until_known(uow, project_id)
        uow.emit(domain.share_fact(share))
    if share is None:
        raise NotFound
    dataset = (await repository.by_id(uow.session, [share.dataset_id]))[share.dataset_id]
    return share, dataset.name


# Runs


async def input_dataset(storage: Storage, actor: Actor, run_id: UUID, dataset_id: UUID) -> RunRead:
    """An input that the job's run may read now; what is not known yet is waited for."""
    wanted = RunRead(_own_run(actor, run_id), actor.fencing_token or 0, dataset_id)
    domain.enforce(await _settled(storage, actor, wanted))
    return wanted


def _own_run(actor: Actor, run_id: UUID) -> UUID:
    if actor.run_id != run_id:
        raise NotFound
    return run_id


async def _settled(storage: Storage, actor: Actor, wanted: RunRead) -> Verdict:
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        async with storage.look(actor, Action.RUN_INPUT_READ) as uow:
            verdict = await _verdict(uow, wanted)
        if verdict is not Verdict.NOT_YET_KNOWN or time.monotonic() >= deadline:
            return verdict
        await asyncio.sleep(KNOWN_LOOK_S)


async def _verdict(uow: UnitOfWork, wanted: RunRead) -> Verdict:
    known = await repository.run(uow.session, wanted.run_id)
    verdict = domain.run_is_live(known, wanted.fencing_token, uow.now)
    if verdict is not Verdict.YES or known.run is None:
        return verdict
    dataset, shared_in = await repository.visible(uow.session, known.run.project_id, wanted.dataset_id)
    return domain.run_may_read(known.run, dataset, wanted.dataset_id, shared_in=shared_in)


async def still_allowed(engine: Any, transfers: frozenset[Transfer]) -> frozenset[Transfer]:
    """Which transfers in flight are allowed at this moment."""
    async with unit_of_work(engine, "datasets", Action.RUN_INPUT_READ) as uow:
        return frozenset([each for each in transfers if await _goes_on(uow, each)])


async def _goes_on(uow: UnitOfWork, transfer: Transfer) -> bool:
    if isinstance(transfer, Upload):
        return await repository.project_state(uow.session, transfer.project_id) == ProjectState.ACTIVE
    return await _verdict(uow, transfer) is Verdict.YES


async def input_file(uow: UnitOfWork, dataset_id: UUID, path: str) -> File:
    """A file of an input."""
    file = await repository.current_file(uow.session, dataset_id, domain.file_path(path))
    if file is None:
        raise NotFound
    return file


async def staging_target(storage: Storage, actor: Actor, run_id: UUID, path: str) -> Target:
    """Check an output before its bytes are read. Its key is that of the dataset that it will belong to."""
    path = domain.file_path(path)
    _own_run(actor, run_id)
    storage.blobs.check_room()
    token = actor.fencing_token or 0
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        async with storage.look(actor, Action.RUN_OUTPUT_STAGE) as uow:
            known = await _held_run(uow, run_id)
            verdict = domain.run_is_live(known, token, uow.now)
            if verdict is Verdict.YES and known.run is not None:
                room = await _staging_room(uow, storage, run_id, token, path)
                key = await _made_key(uow, storage, known.run.output_dataset_id)
                return Target(known.run.output_dataset_id, uuid7(), path, key, room)
        if verdict is not Verdict.NOT_YET_KNOWN or time.monotonic() >= deadline:
            domain.enforce(verdict)
        await asyncio.sleep(KNOWN_LOOK_S)


async def _held_run(uow: UnitOfWork, run_id: UUID) -> KnownRun:
    """A run, locked, whose project nobody closes until this transaction ends."""
    known = await repository.run(uow.session, run_id)
    if known.run is None:
        return known
    await deletion.hold(uow.session, known.run.project_id)
    return await repository.run(uow.session, run_id, lock=True)


async def _staging_room(uow: UnitOfWork, storage: Storage, run_id: UUID, token: int, path: str) -> domain.Room:
    size, files = await repository.staged_totals(uow.session, run_id, token, path)
    return domain.staging_room(size, files, storage.limits.staging_bytes, storage.limits.staging_files)


async def stage(uow: UnitOfWork, storage: Storage, actor: Actor, run_id: UUID, target: Target, stored: Stored) -> Staged:
    """Keep an output under the run and its fencing token, if the run is still live; one of the same path is replaced."""
    token = actor.fencing_token or 0
    known = await _held_run(uow, run_id)
    domain.enforce(domain.run_is_live(known, token, uow.now))
    (await _staging_room(uow, storage, run_id, token, target.path)).take(stored.size)
    await repository.drop_staged_path(uow.session, run_id, token, target.path)
    staged = Staged(
        file_id=target.file_id,
        run_id=run_id,
        fencing_token=token,
        path=target.path,
        size=stored.size,
        sha256=stored.sha256,
        key=stored.key,
        blob=stored.blob,
        content=stored.content,
        created_at=uow.now,
    )
    uow.session.add(staged)
    uow.project_id = known.run.project_id if known.run else None
    uow.note(runs=run_id, file=staged.file_id, bytes=staged.size)
    return staged


# What is heard


async def know_run(uow: UnitOfWork, fact: events.Run) -> None:
    """Keep a run; when it succeeded publish what was staged with the token that it ended with. Whatever else it staged is swept.

    One of a project that is gone is not kept.
    """
    if await deletion.is_gone(uow.session, fact.project_id):
        return
    run = Run.model_validate(fact.model_dump(include=set(Run.model_fields)))
    await repository.keep(uow.session, run)
    await repository.wake_flights(uow.session)
    if fact.state is RunState.SUCCEEDED:
        await _publish(uow, fact)


async def _publish(uow: UnitOfWork, run: events.Run) -> None:
    known = await repository.by_id(uow.session, [run.output_dataset_id, *run.inputs])
    state = await repository.project_state(uow.session, run.project_id)
    if run.output_dataset_id not in known and state in (None, ProjectState.ACTIVE, ProjectState.ARCHIVED):
        inputs = {dataset_id: known[dataset_id].origins if dataset_id in known else [] for dataset_id in run.inputs}
        origins = domain.origins_of_outputs(run.output_dataset_id, inputs)
        name = domain.output_name(run.output_name, await repository.name_keys(uow.session, run.project_id))
        dataset = domain.new_dataset(run.output_dataset_id, run.project_id, name, "", uow.now)
        dataset.origins = origins
        dataset.files, dataset.size = await repository.staged_sums(uow.session, run.run_id, run.fencing_token)
        await _add_dataset(uow, dataset)
        await repository.publish_staged(uow.session, run.run_id, run.fencing_token, dataset.dataset_id, origins)
        uow.project_id = run.project_id
        uow.note(datasets=dataset.dataset_id, runs=run.run_id, files=dataset.files, bytes=dataset.size)
        uow.emit(domain.dataset_fact(dataset))


async def know_person(uow: UnitOfWork, user: events.User) -> None:
    """Keep an account's status."""
    await repository.keep(uow.session, Person(user_id=user.user_id, status=user.status))
    await repository.wake_flights(uow.session)


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """An account was erased."""
    await repository.forget_person(uow.session, user_id)
    await repository.wake_flights(uow.session)


async def know_member(uow: UnitOfWork, membership: events.Membership) -> None:
    """Keep a membership, unless its project is gone."""
    if await deletion.is_gone(uow.session, membership.project_id):
        return
    member = Member.model_validate(membership.model_dump(include=set(Member.model_fields)))
    await repository.keep(uow.session, member)
    await repository.wake_flights(uow.session)


async def forget_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """A membership was erased."""
    await repository.forget_member(uow.session, project_id, user_id)
    await repository.wake_flights(uow.session)


async def know_project(uow: UnitOfWork, project: events.Project) -> None:
    """Keep a project's state; uploads into one that is not active are cut, and one that closes shares nothing any more, in either direction."""
    await repository.keep(uow.session, Project(project_id=project.project_id, state=project.state))
    await repository.wake_flights(uow.session)
    await deletion.follow(uow, project, _close)


async def _close(uow: UnitOfWork, project_id: UUID) -> None:
    for share in await repository.shares_touching(uow.session, project_id):
        await _withdraw(uow, share)


# Projects that are deleted


async def purge(uow: UnitOfWork, storage: Storage, project_id: UUID) -> Slice:
    """Remove some of what a deleted project left: keys before files, blobs before the rows that name them, what was heard in the end.

    Where its datasets belonged is remembered for ever: what was made of them elsewhere still comes from them.
    """
    keys = await repository.drop_keys(uow.session, project_id)
    if keys:
        return Slice({"dataset_keys": keys}, more=True)  # committed before the store is asked: it may be away
    for rows in (repository.some_files, repository.some_staged):
        found = await rows(uow.session, project_id, PURGED_AT_ONCE)
        if found:
            name = await _remove(uow, storage, found)
            return Slice({name: len(found), "bytes": sum(each.size for each in found)}, more=True)
    datasets = await repository.some_datasets(uow.session, project_id, PURGED_AT_ONCE)
    if not datasets:
        removed = await repository.forget_of_project(uow.session, project_id)
        return Slice(removed, more=False, kept=await repository.kept_of_project(uow.session, project_id))
    lasts = [domain.last_fact(dataset) for dataset in datasets]
    for fact in lasts:
        uow.emit(fact)
    await uow.session.flush()
    await deletion.erase_later(uow, lasts)
    shares = await repository.remove_datasets(uow.session, [dataset.dataset_id for dataset in datasets])
    return Slice({"datasets": len(datasets), "shares": shares}, more=True)


async def _remove(uow: UnitOfWork, storage: Storage, rows: Sequence[File | Staged]) -> str:
    """Delete the blobs of versions of files, or of staged outputs, and then the rows that name them; the name of what they are."""
    await asyncio.gather(*[storage.blobs.delete(each.blob) for each in rows if each.blob])
    return await repository.remove_rows(uow.session, rows)


# Housekeeping


async def sweep(storage: Storage, age_s: float) -> int:
    """Delete what runs that ended left unpublished, and blobs of no file older than ``age_s`` seconds, which failed uploads left. How many."""
    swept = await storage.blobs.drop_unfinished()
    while discarded := await _discard(storage):
        swept += discarded
    async for names in storage.blobs.older_than(age_s):
        async with unit_of_work(storage.engine, "datasets", "blobs.sweep") as uow:
            used = await repository.blobs_in_use(uow.session, names)
        for name in set(names) - used:
            await storage.blobs.delete(name)
            swept += 1
    if swept:
        log.info("swept what nothing needs", count=swept)
    return swept


async def _discard(storage: Storage) -> int:
    """Take away some of what ended runs staged and did not publish; how many. Until then a purge of their project finds and counts them."""
    async with unit_of_work(storage.engine, "datasets", "staged.sweep") as uow:
        found = await repository.unpublished(uow.session, [*domain.ENDED], PURGED_AT_ONCE)
        if found:
            await _remove(uow, storage, found)
    return len(found)
