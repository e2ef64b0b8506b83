"""The doors of datasets, their files and shares, and the doors of runs for inputs and outputs."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from chassis.errors import problem_response
from chassis.guard import CurrentActor, IfMatch, LaterUow, Uow, doors, may
from chassis.outbox import UnitOfWork
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from contracts.roles import Actor
from services.datasets import domain, repository, service
from services.datasets.flights import GuardedStream
from services.datasets.models import Dataset, File, Share, Staged, Upload
from services.datasets.schemas import DatasetChange, DatasetView, FileView, NewDataset, NewShare, ShareView
from services.datasets.service import Storage

BYTES = "application/octet-stream"

router = doors(Service.DATASETS)


async def _storage(request: Request) -> Storage:
    storage: Storage = request.app.state.runtime.extra["storage"]
    return storage


TheStorage = Annotated[Storage, Depends(_storage)]
Announced = Annotated[str | None, Header(alias="Hortus-Content-SHA256", max_length=128)]
Range = Annotated[str | None, Header(alias="Range", max_length=200)]
IfRange = Annotated[str | None, Header(alias="If-Range", max_length=200)]


# Datasets


@router.post("/projects/{project_id}/datasets", status_code=201, dependencies=[may(Action.DATASET_CREATE)])
async def create_dataset(project_id: UUID, new: NewDataset, actor: CurrentActor, uow: Uow) -> DatasetView:
    """Make an empty dataset."""
    return await show(uow, actor, project_id, await service.create(uow, project_id, new.name, new.description))


@router.get("/projects/{project_id}/datasets", dependencies=[may(Action.DATASET_LIST)])
async def list_datasets(project_id: UUID, page: Paging, actor: CurrentActor, uow: Uow) -> Page[DatasetView]:
    """The project's datasets, own and shared in, oldest first."""
    rows = await repository.datasets(uow.session, project_id, page)
    full = await service.seen_in_full(uow, actor, project_id, rows)
    return page.page(rows, lambda row: (row.dataset_id,), lambda row: show_dataset(project_id, row, in_full=row.dataset_id in full))


@router.get("/projects/{project_id}/datasets/{dataset_id}", dependencies=[may(Action.DATASET_READ)])
async def read_dataset(project_id: UUID, dataset_id: UUID, actor: CurrentActor, uow: Uow) -> DatasetView:
    """One dataset, own or shared in."""
    return await show(uow, actor, project_id, await service.read(uow, project_id, dataset_id))


@router.patch("/projects/{project_id}/datasets/{dataset_id}", dependencies=[may(Action.DATASET_CHANGE)])
async def change_dataset(
    project_id: UUID, dataset_id: UUID, change: DatasetChange, version: IfMatch, actor: CurrentActor, uow: Uow
) -> DatasetView:
    """Change the description."""
    return await show(uow, actor, project_id, await service.change(uow, project_id, dataset_id, version, change.description))


# Files


@router.put("/projects/{project_id}/datasets/{dataset_id}/files/{path:path}", status_code=201, dependencies=[may(Action.FILE_UPLOAD)])
async def upload_file(
    project_id: UUID,
    dataset_id: UUID,
    path: str,
    request: Request,
    actor: CurrentActor,
    storage: TheStorage,
    later: LaterUow,
    announced: Announced = None,
) -> FileView:
    """Put a file in as a stream; what was there under the path is kept as an older version."""
    sha256 = domain.announced_hash(announced)
    target = await service.upload_target(storage, actor, project_id, dataset_id, path)
    pieces = storage.flights.guarded(Upload(project_id), body_of(request), domain.ProjectIsClosed)
    stored = await service.take_in(storage, target, pieces, sha256)
    async with service.kept(storage, stored):
        return show_file(await service.add_file(await later(), project_id, target, stored))


@router.get("/projects/{project_id}/datasets/{dataset_id}/files", dependencies=[may(Action.FILE_LIST)])
async def list_files(project_id: UUID, dataset_id: UUID, page: Paging, actor: CurrentActor, uow: Uow) -> Page[FileView]:
    """The files of a dataset, own or shared in, by path, without those whose names a program chose for who may not take them."""
    dataset = await service.read(uow, project_id, dataset_id)
    in_full = bool(await service.seen_in_full(uow, actor, project_id, [dataset]))
    return page.page(await repository.files(uow.session, dataset.dataset_id, page, derived=in_full), lambda file: (file.path,), show_file)


@router.get(
    "/projects/{project_id}/datasets/{dataset_id}/files/{path:path}",
    dependencies=[may(Action.FILE_DOWNLOAD)],
    response_class=StreamingResponse,
)
async def download_file(
    project_id: UUID,
    dataset_id: UUID,
    path: str,
    uow: Uow,
    storage: TheStorage,
    wanted: Range = None,
    if_range: IfRange = None,
) -> Response:
    """Take a file out as a stream; a single range is answered with 206."""
    file = await service.leaving_file(uow, project_id, dataset_id, path)
    try:
        span = span_of(file, wanted, if_range)
    except domain.RangeNotSatisfiable as refusal:
        return unsatisfiable(file, refusal)
    content = await service.open_file(uow, storage, file, span)
    return StreamingResponse(content, status(span), file_headers(file, span), BYTES)


# Shares


@router.post("/projects/{project_id}/datasets/{dataset_id}/shares", status_code=201, dependencies=[may(Action.SHARE_OFFER)])
async def offer_share(project_id: UUID, dataset_id: UUID, new: NewShare, uow: Uow) -> ShareView:
    """Offer a dataset to another project."""
    return show_share(await service.offer(uow, project_id, dataset_id, new.target_project_id))


@router.get("/projects/{project_id}/datasets/{dataset_id}/shares", dependencies=[may(Action.SHARE_LIST)])
async def list_shares(project_id: UUID, dataset_id: UUID, page: Paging, uow: Uow) -> Page[ShareView]:
    """To whom a dataset was offered, oldest first."""
    dataset = await service.own(uow, project_id, dataset_id)
    rows = await repository.shares_out(uow.session, project_id, dataset.dataset_id, page)
    return page.page(rows, lambda row: (row[0].share_id,), show_share)


@router.delete("/projects/{project_id}/datasets/{dataset_id}/shares/{share_id}", status_code=204, dependencies=[may(Action.SHARE_WITHDRAW)])
async def withdraw_share(project_id: UUID, dataset_id: UUID, share_id: UUID, uow: Uow) -> None:
    """End a share."""
    await service.withdraw(uow, project_id, dataset_id, share_id)


@router.get("/projects/{project_id}/incoming-shares", dependencies=[may(Action.SHARE_LIST_INCOMING)])
async def list_incoming_shares(project_id: UUID, page: Paging, uow: Uow) -> Page[ShareView]:
    """What is offered to or shared into the project, oldest first."""
    return page.page(await repository.shares_in(uow.session, project_id, page), lambda row: (row[0].share_id,), show_share)


@router.post("/projects/{project_id}/incoming-shares/{share_id}/acceptance", dependencies=[may(Action.SHARE_ACCEPT)])
async def accept_share(project_id: UUID, share_id: UUID, uow: Uow) -> ShareView:
    """Take an offered dataset into the project."""
    return show_share(await service.accept(uow, project_id, share_id))


# Runs


@router.get("/runs/{run_id}/inputs/{dataset_id}/files", dependencies=[may(Action.RUN_INPUT_LIST)])
async def list_inputs(
    run_id: UUID, dataset_id: UUID, page: Paging, actor: CurrentActor, storage: TheStorage, later: LaterUow
) -> Page[FileView]:
    """The files of an input of the run."""
    read = await service.input_dataset(storage, actor, run_id, dataset_id)
    uow = await later()
    return page.page(await repository.files(uow.session, read.dataset_id, page, derived=True), lambda file: (file.path,), show_file)


@router.get(
    "/runs/{run_id}/inputs/{dataset_id}/files/{path:path}",
    dependencies=[may(Action.RUN_INPUT_READ)],
    response_class=StreamingResponse,
)
async def read_input(
    run_id: UUID,
    dataset_id: UUID,
    path: str,
    actor: CurrentActor,
    storage: TheStorage,
    later: LaterUow,
    wanted: Range = None,
    if_range: IfRange = None,
) -> Response:
    """An input's bytes; the stream is cut when the run, the share or the membership ends."""
    read = await service.input_dataset(storage, actor, run_id, dataset_id)
    uow = await later()
    file = await service.input_file(uow, dataset_id, path)
    try:
        span = span_of(file, wanted, if_range)
    except domain.RangeNotSatisfiable as refusal:
        return unsatisfiable(file, refusal)
    content = await service.open_file(uow, storage, file, span)
    return GuardedStream(storage.flights, read, content, status_code=status(span), headers=file_headers(file, span), media_type=BYTES)


@router.put("/runs/{run_id}/outputs/{path:path}", status_code=201, dependencies=[may(Action.RUN_OUTPUT_STAGE)])
async def stage_output(
    run_id: UUID,
    path: str,
    request: Request,
    actor: CurrentActor,
    storage: TheStorage,
    later: LaterUow,
    announced: Announced = None,
) -> FileView:
    """Leave an output; it is seen once the run has succeeded with this fencing token."""
    sha256 = domain.announced_hash(announced)
    target = await service.staging_target(storage, actor, run_id, path)
    stored = await service.take_in(storage, target, body_of(request), sha256)
    async with service.kept(storage, stored):
        return show_staged(await service.stage(await later(), storage, actor, run_id, target, stored))


# What is shown


async def show(uow: UnitOfWork, actor: Actor, project_id: UUID, dataset: Dataset) -> DatasetView:
    """A dataset as the caller sees it in the project."""
    in_full = await service.seen_in_full(uow, actor, project_id, [dataset])
    return show_dataset(project_id, dataset, in_full=bool(in_full))


def show_dataset(project_id: UUID, dataset: Dataset, *, in_full: bool) -> DatasetView:
    """A dataset as the project sees it; to who may not see what a program chose, with about how many files of about which size."""
    files, size = dataset.files, dataset.size
    if files and not in_full:
        files, size = domain.coarse_count(files), domain.coarse_size(size)
    kept = dataset.model_dump(exclude={"name_key", "files", "size"})
    return DatasetView(**kept, files=files, size=size, shared=dataset.project_id != project_id)


def show_file(file: File) -> FileView:
    """A file version, to who may take it."""
    return FileView(
        path=file.path,
        size=file.size,
        sha256=file.sha256.hex(),
        version=file.number,
        origins=file.origins,
        created_at=file.created_at,
    )


def show_staged(staged: Staged) -> FileView:
    """A staged output; its origins are settled when it is published."""
    return FileView(path=staged.path, size=staged.size, sha256=staged.sha256.hex(), version=1, origins=[], created_at=staged.created_at)


def show_share(row: tuple[Share, str]) -> ShareView:
    """A share with the name of its dataset."""
    return ShareView(**row[0].model_dump(), dataset_name=row[1])


# Streams


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """The pieces of the body. Raises UploadEndedEarly when the connection ends before it."""
    try:
        async for piece in request.stream():
            if piece:
                yield piece
    except ClientDisconnect as error:
        raise domain.UploadEndedEarly from error


def span_of(file: File, wanted: str | None, if_range: str | None) -> domain.Span:
    """What is asked for; ``If-Range`` with another tag asks for everything (RFC 9110 section 13.1.5)."""
    return domain.byte_range(wanted if if_range in (None, tag(file)) else None, file.size)


def status(span: domain.Span) -> int:
    """206 for a range."""
    return 206 if span.partial else 200


def tag(file: File) -> str:
    """The entity tag of a file's bytes: their hash."""
    return f'"{file.sha256.hex()}"'


def file_headers(file: File, span: domain.Span) -> dict[str, str]:
    """The headers of a file's bytes; browsers are told to save them and to guess nothing."""
    headers = {
        "Content-Length": str(span.length),
        "ETag": tag(file),
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.path.rsplit('/', 1)[-1], safe='')}",
    }
    if span.partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.start + span.length - 1}/{file.size}"
    return headers


def unsatisfiable(file: File, refusal: domain.RangeNotSatisfiable) -> Response:
    """416 with the size that there is."""
    answer = problem_response(refusal)
    answer.headers["Content-Range"] = f"bytes */{file.size}"
    return answer
