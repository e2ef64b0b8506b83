"""The doors of files in datasets."""

from uuid import UUID

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from chassis.guard import CurrentActor, LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.datasets import domain, repository, service
from services.datasets.models import File, Upload
from services.datasets.routes.streams import (
    BYTES,
    Announced,
    IfRange,
    Range,
    TheStorage,
    body_of,
    file_headers,
    span_of,
    status,
    unsatisfiable,
)
from services.datasets.schemas import FileView

router = doors(Service.DATASETS)


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
    sha256 = domain.files.announced_hash(announced)
    target = await service.uploads.upload_target(storage, actor, project_id, dataset_id, path)
    pieces = storage.flights.guarded(Upload(project_id), body_of(request), domain.datasets.ProjectIsClosed)
    stored = await service.uploads.take_in(storage, target, pieces, sha256)
    async with service.uploads.kept(storage, stored):
        return show_file(await service.uploads.add_file(await later(), project_id, target, stored))


@router.get("/projects/{project_id}/datasets/{dataset_id}/files", dependencies=[may(Action.FILE_LIST)])
async def list_files(project_id: UUID, dataset_id: UUID, page: Paging, actor: CurrentActor, uow: Uow) -> Page[FileView]:
    """The files of a dataset, own or shared in, by path, without those whose names a program chose for who may not take them."""
    dataset = await service.datasets.read(uow, project_id, dataset_id)
    in_full = bool(await service.datasets.seen_in_full(uow, actor, project_id, [dataset]))
    return page.page(
        await repository.files.files(uow.session, dataset.dataset_id, page, derived=in_full), lambda file: (file.path,), show_file
    )


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
    file = await service.downloads.leaving_file(uow, project_id, dataset_id, path)
    try:
        span = span_of(file, wanted, if_range)
    except domain.files.RangeNotSatisfiable as refusal:
        return unsatisfiable(file, refusal)
    content = await service.downloads.open_file(uow, storage, file, span)
    return StreamingResponse(content, status(span), file_headers(file, span), BYTES)


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
