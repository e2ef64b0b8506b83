"""The doors of runs: their inputs, and the outputs that they leave."""

from uuid import UUID

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from chassis.guard import CurrentActor, LaterUow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.datasets import domain, repository, service
from services.datasets.flights import GuardedStream
from services.datasets.models import Staged
from services.datasets.routes.files import show_file
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


@router.get("/runs/{run_id}/inputs/{dataset_id}/files", dependencies=[may(Action.RUN_INPUT_LIST)])
async def list_inputs(
    run_id: UUID, dataset_id: UUID, page: Paging, actor: CurrentActor, storage: TheStorage, later: LaterUow
) -> Page[FileView]:
    """The files of an input of the run."""
    read = await service.runs.input_dataset(storage, actor, run_id, dataset_id)
    uow = await later()
    return page.page(await repository.files.files(uow.session, read.dataset_id, page, derived=True), lambda file: (file.path,), show_file)


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
    read = await service.runs.input_dataset(storage, actor, run_id, dataset_id)
    uow = await later()
    file = await service.runs.input_file(uow, dataset_id, path)
    try:
        span = span_of(file, wanted, if_range)
    except domain.files.RangeNotSatisfiable as refusal:
        return unsatisfiable(file, refusal)
    content = await service.downloads.open_file(uow, storage, file, span)
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
    sha256 = domain.files.announced_hash(announced)
    target = await service.runs.staging_target(storage, actor, run_id, path)
    stored = await service.uploads.take_in(storage, target, body_of(request), sha256)
    async with service.uploads.kept(storage, stored):
        return show_staged(await service.runs.stage(await later(), storage, actor, run_id, target, stored))


def show_staged(staged: Staged) -> FileView:
    """A staged output; its origins are settled when it is published."""
    return FileView(path=staged.path, size=staged.size, sha256=staged.sha256.hex(), version=1, origins=[], created_at=staged.created_at)
