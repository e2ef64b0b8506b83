"""What runs read, and what they stage."""

import asyncio
import time
from uuid import UUID

from uuid_utils.compat import uuid7

from chassis import deletion
from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from contracts.policy import Action
from contracts.roles import Actor
from services.datasets import domain, repository
from services.datasets.domain.runs import Verdict
from services.datasets.models import (
    File,
    KnownRun,
    RunRead,
    Staged,
)
from services.datasets.service.keys import made_key
from services.datasets.service.known import KNOWN_LOOK_S, KNOWN_WAIT_S
from services.datasets.service.storage import Storage
from services.datasets.service.uploads import Stored, Target


async def input_dataset(storage: Storage, actor: Actor, run_id: UUID, dataset_id: UUID) -> RunRead:
    """An input that the job's run may read now; what is not known yet is waited for."""
    wanted = RunRead(_own_run(actor, run_id), actor.fencing_token or 0, dataset_id)
    domain.runs.enforce(await _settled(storage, actor, wanted))
    return wanted


def _own_run(actor: Actor, run_id: UUID) -> UUID:
    if actor.run_id != run_id:
        raise NotFound
    return run_id


async def _settled(storage: Storage, actor: Actor, wanted: RunRead) -> Verdict:
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        async with storage.look(actor, Action.RUN_INPUT_READ) as uow:
            verdict = await judged(uow, wanted)
        if verdict is not Verdict.NOT_YET_KNOWN or time.monotonic() >= deadline:
            return verdict
        await asyncio.sleep(KNOWN_LOOK_S)


async def judged(uow: UnitOfWork, wanted: RunRead) -> Verdict:
    """Whether a run may read an input at this moment."""
    known = await repository.runs.run(uow.session, wanted.run_id)
    verdict = domain.runs.run_is_live(known, wanted.fencing_token, uow.now)
    if verdict is not Verdict.YES or known.run is None:
        return verdict
    dataset, shared_in = await repository.datasets.visible(uow.session, known.run.project_id, wanted.dataset_id)
    return domain.runs.run_may_read(known.run, dataset, wanted.dataset_id, shared_in=shared_in)


async def input_file(uow: UnitOfWork, dataset_id: UUID, path: str) -> File:
    """A file of an input."""
    file = await repository.files.current_file(uow.session, dataset_id, domain.names.file_path(path))
    if file is None:
        raise NotFound
    return file


async def staging_target(storage: Storage, actor: Actor, run_id: UUID, path: str) -> Target:
    """Check an output before its bytes are read. Its key is that of the dataset that it will belong to."""
    path = domain.names.file_path(path)
    _own_run(actor, run_id)
    storage.blobs.check_room()
    token = actor.fencing_token or 0
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        async with storage.look(actor, Action.RUN_OUTPUT_STAGE) as uow:
            known = await _held_run(uow, run_id)
            verdict = domain.runs.run_is_live(known, token, uow.now)
            if verdict is Verdict.YES and known.run is not None:
                room = await _staging_room(uow, storage, run_id, token, path)
                key = await made_key(uow, storage, known.run.output_dataset_id)
                return Target(known.run.output_dataset_id, uuid7(), path, key, room)
        if verdict is not Verdict.NOT_YET_KNOWN or time.monotonic() >= deadline:
            domain.runs.enforce(verdict)
        await asyncio.sleep(KNOWN_LOOK_S)


async def _held_run(uow: UnitOfWork, run_id: UUID) -> KnownRun:
    """A run, locked, whose project nobody closes until this transaction ends."""
    known = await repository.runs.run(uow.session, run_id)
    if known.run is None:
        return known
    await deletion.hold(uow.session, known.run.project_id)
    return await repository.runs.run(uow.session, run_id, lock=True)


async def _staging_room(uow: UnitOfWork, storage: Storage, run_id: UUID, token: int, path: str) -> domain.runs.Room:
    size, files = await repository.runs.staged_totals(uow.session, run_id, token, path)
    return domain.runs.staging_room(size, files, storage.limits.staging_bytes, storage.limits.staging_files)


async def stage(uow: UnitOfWork, storage: Storage, actor: Actor, run_id: UUID, target: Target, stored: Stored) -> Staged:
    """Keep an output under the run and its fencing token, if the run is still live; one of the same path is replaced."""
    token = actor.fencing_token or 0
    known = await _held_run(uow, run_id)
    domain.runs.enforce(domain.runs.run_is_live(known, token, uow.now))
    (await _staging_room(uow, storage, run_id, token, target.path)).take(stored.size)
    await repository.runs.drop_staged_path(uow.session, run_id, token, target.path)
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
