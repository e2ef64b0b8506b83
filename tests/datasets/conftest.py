"""Datasets over a folder of blobs, with a master key of its own, and projects and people that it has heard of."""

import base64
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from uuid_utils.compat import uuid7

from contracts.events import Membership, Project, ProjectState, Run, RunState, User, UserStatus
from contracts.roles import Role
from services.datasets import flights
from tests.world import OURS, THEIRS, World, Worlds, owner

BOB = UUID("01900000-0000-7000-8000-0000000000b0")
ADA = UUID("01900000-0000-7000-8000-0000000000a0")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    key = tmp_path / "master.key"
    key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
    return {"blob_url": f"file://{tmp_path}/blobs", "master_key_file": key, "blob_reserve": 0, "orphan_age_s": 0.0}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still is not taken for a database that does not answer, where transfers are cut that may go on."""
    assert flights.ANSWER_S <= 1.0
    monkeypatch.setattr(flights, "ANSWER_S", 30.0)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    world = await worlds.open("datasets", **settings)
    await world.hear(project(OURS), project(THEIRS), person(), member(OURS), member(THEIRS))
    await world.hear(person(user_id=ADA), *[member(each, Role.DATA_OWNER, user_id=ADA) for each in (OURS, THEIRS)])
    await world.recorded()
    return world


def project(project_id: UUID, state: ProjectState = ProjectState.ACTIVE, version: int = 1) -> Project:
    return Project(version=version, project_id=project_id, name="study", description="", state=state)


def person(status: UserStatus = UserStatus.ACTIVE, version: int = 1, user_id: UUID = BOB) -> User:
    return User(version=version, user_id=user_id, username="bob00000", status=status, cluster_roles=frozenset())


def member(
    project_id: UUID, role: Role | None = Role.DATA_SCIENTIST, version: int = 1, ends_at: datetime | None = None, user_id: UUID = BOB
) -> Membership:
    return Membership(
        version=version,
        project_id=project_id,
        user_id=user_id,
        username="bob00000",
        role=role,
        purpose="",
        starts_at=LONG_AGO,
        ends_at=ends_at,
    )


def run_fact(
    *inputs: UUID,
    run_id: UUID | None = None,
    project_id: UUID = OURS,
    state: RunState = RunState.RUNNING,
    token: int = 1,
    version: int = 1,
    output: UUID | None = None,
    output_name: str = "results",
) -> Run:
    return Run(
        version=version,
        run_id=run_id or uuid7(),
        job_id=uuid7(),
        project_id=project_id,
        user_id=BOB,
        state=state,
        agent_id=uuid7(),
        fencing_token=token,
        csr=None,
        inputs=inputs,
        output_dataset_id=output or uuid7(),
        output_name=output_name,
    )


def later(fact: Run, state: RunState, token: int | None = None) -> Run:
    changes = {"version": fact.version + 1, "state": state, "fencing_token": fact.fencing_token if token is None else token}
    return fact.model_copy(update=changes)


async def new_dataset(world: World, name: str = "mri", project_id: UUID = OURS) -> UUID:
    answer = await world.post(f"/projects/{project_id}/datasets", owner(project_id), json={"name": name, "kind": "files"})
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["dataset_id"])


async def put(world: World, dataset_id: UUID, path: str, data: bytes, project_id: UUID = OURS) -> httpx2.Response:
    return await world.put(f"/projects/{project_id}/datasets/{dataset_id}/files/{path}", owner(project_id, ADA), content=data)


async def shared(world: World, dataset_id: UUID, source: UUID = OURS, target: UUID = THEIRS) -> UUID:
    offered = await world.post(f"/projects/{source}/datasets/{dataset_id}/shares", owner(source), json={"target_project_id": str(target)})
    assert offered.status_code == 201, offered.text
    share_id = offered.json()["share_id"]
    accepted = await world.post(f"/projects/{target}/incoming-shares/{share_id}/acceptance", owner(target))
    assert accepted.status_code == 200, accepted.text
    return UUID(share_id)


def files_under(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
