"""What the doors of bytes share: bodies, ranges and headers."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Header, Request, Response
from starlette.requests import ClientDisconnect

from chassis.errors import problem_response
from services.datasets import domain
from services.datasets.models import File
from services.datasets.service.storage import Storage

BYTES = "application/octet-stream"


async def _storage(request: Request) -> Storage:
    storage: Storage = request.app.state.runtime.extra["storage"]
    return storage


TheStorage = Annotated[Storage, Depends(_storage)]
Announced = Annotated[str | None, Header(alias="Hortus-Content-SHA256", max_length=128)]
Range = Annotated[str | None, Header(alias="Range", max_length=200)]
IfRange = Annotated[str | None, Header(alias="If-Range", max_length=200)]


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """The pieces of the body. Raises UploadEndedEarly when the connection ends before it."""
    try:
        async for piece in request.stream():
            if piece:
                yield piece
    except ClientDisconnect as error:
        raise domain.files.UploadEndedEarly from error


def span_of(file: File, wanted: str | None, if_range: str | None) -> domain.files.Span:
    """What is asked for; ``If-Range`` with another tag asks for everything (RFC 9110 section 13.1.5)."""
    return domain.files.byte_range(wanted if if_range in (None, tag(file)) else None, file.size)


def status(span: domain.files.Span) -> int:
    """206 for a range."""
    return 206 if span.partial else 200


def tag(file: File) -> str:
    """The entity tag of a file's bytes: their hash."""
    return f'"{file.sha256.hex()}"'


def file_headers(file: File, span: domain.files.Span) -> dict[str, str]:
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


def unsatisfiable(file: File, refusal: domain.files.RangeNotSatisfiable) -> Response:
    """416 with the size that there is."""
    answer = problem_response(refusal)
    answer.headers["Content-Range"] = f"bytes */{file.size}"
    return answer
