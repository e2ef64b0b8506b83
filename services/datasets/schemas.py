"""Request and response shapes."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.events import DatasetKind, ShareState


class NewDataset(BaseModel):
    """A dataset to create."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=400)
    kind: DatasetKind = DatasetKind.FILES
    description: str = Field(default="", max_length=4000)


class DatasetChange(BaseModel):
    """What of a dataset is to be changed."""

    model_config = ConfigDict(extra="forbid")

    description: str = Field(max_length=4000)


class DatasetView(BaseModel):
    """A dataset as a project sees it; ``shared`` when it belongs to another project. ``size`` in bytes.

    Who may not take out what a run made sees its size rounded up.
    """

    dataset_id: UUID
    project_id: UUID
    name: str
    kind: DatasetKind
    description: str
    files: int
    size: int
    origins: list[UUID]
    shared: bool
    version: int
    created_at: datetime


class FileView(BaseModel):
    """The newest version of a file; ``size`` in bytes, ``sha256`` in hexadecimal."""

    path: str
    size: int
    sha256: str
    version: int
    origins: list[UUID]
    created_at: datetime


class NewShare(BaseModel):
    """To whom a dataset is offered."""

    model_config = ConfigDict(extra="forbid")

    target_project_id: UUID


class ShareView(BaseModel):
    """A dataset offered to another project."""

    share_id: UUID
    dataset_id: UUID
    dataset_name: str
    project_id: UUID
    target_project_id: UUID
    state: ShareState
    version: int
