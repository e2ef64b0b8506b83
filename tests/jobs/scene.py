"""A project in which people may work, told to jobs by facts, and short ways to ask it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from uuid_utils.compat import uuid7

from contracts.events import (
    Certificate,
    CertificateKind,
    Dataset,
    DatasetKind,
    Membership,
    Project,
    ProjectState,
    Run,
    Share,
    ShareState,
    User,
    UserStatus,
)
from contracts.roles import Actor, Role
from tests.world import OURS, THEIRS, World, administrator, agent, owner, scientist

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def csr(signed_with: hashes.SHA224 | hashes.SHA256 | None = None) -> str:
    """A request of a fresh key, signed with SHA-256 or another hash."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, signed_with or hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def user(user_id: UUID, status: UserStatus = UserStatus.ACTIVE, version: int = 1, stops: int = 0) -> User:
    return User(user_id=user_id, version=version, username="bob00000", status=status, cluster_roles=frozenset(), stops=stops)


def member(
    user_id: UUID,
    role: Role | None = Role.DATA_SCIENTIST,
    project_id: UUID = OURS,
    version: int = 1,
    ends_at: datetime | None = None,
    starts_at: datetime = LONG_AGO,
) -> Membership:
    return Membership(
        project_id=project_id,
        user_id=user_id,
        version=version,
        username="bob00000",
        role=role,
        purpose="",
        starts_at=starts_at,
        ends_at=ends_at,
    )


def project(project_id: UUID = OURS, state: ProjectState = ProjectState.ACTIVE, version: int = 1) -> Project:
    return Project(project_id=project_id, version=version, name="mri", description="", state=state)


def dataset(
    dataset_id: UUID,
    project_id: UUID = OURS,
    origins: tuple[UUID, ...] = (),
    name: str = "wdbc",
    *,
    deleted: bool = False,
    version: int = 1,
) -> Dataset:
    return Dataset(
        dataset_id=dataset_id,
        project_id=project_id,
        version=version,
        name=name,
        kind=DatasetKind.FILES,
        description="",
        files=1,
        size=9,
        origins=origins or (dataset_id,),
        deleted=deleted,
    )


def share(dataset_id: UUID, state: ShareState, version: int) -> Share:
    return Share(share_id=UUID(int=7), version=version, dataset_id=dataset_id, project_id=THEIRS, target_project_id=OURS, state=state)


def certificate(run_id: UUID, fencing_token: int, *, live: bool = True, version: int = 1, serial: str = "c1") -> Certificate:
    return Certificate(
        certificate_id=serial,
        version=version,
        kind=CertificateKind.JOB,
        fingerprint="f",
        run_id=run_id,
        fencing_token=fencing_token,
        not_before=LONG_AGO,
        not_after=LONG_AGO + timedelta(days=900),
        live=live,
        chain="CHAIN",
    )


@dataclass
class Scene:
    """The people and things of a test, and what it does with them."""

    world: World
    owner: Actor
    scientist: Actor
    agent: Actor
    dataset_id: UUID = field(default_factory=uuid7)

    @classmethod
    async def of(cls, world: World) -> Self:
        answer = await world.post("/agents", administrator(), json={"name": "node 1"})
        made = cls(world, owner(OURS), scientist(OURS), agent(UUID(answer.json()["agent_id"])))
        for actor, role in ((made.owner, Role.DATA_OWNER), (made.scientist, Role.DATA_SCIENTIST)):
            assert actor.user_id is not None
            await world.hear(user(actor.user_id), member(actor.user_id, role))
        await world.hear(project(), dataset(made.dataset_id))
        await world.said()
        await world.recorded()
        return made

    @property
    def scientist_id(self) -> UUID:
        assert self.scientist.user_id is not None
        return self.scientist.user_id

    async def submit(self, actor: Actor | None = None, **changes: Any) -> httpx2.Response:
        body = {"name": "train", "program": "print(1)", "inputs": [str(self.dataset_id)], **changes}
        return await self.world.post(f"/projects/{OURS}/jobs", actor or self.scientist, json=body)

    async def submitted(self, actor: Actor | None = None, **changes: Any) -> dict[str, Any]:
        answer = await self.submit(actor, **changes)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def job(self, job_id: str, actor: Actor | None = None) -> dict[str, Any]:
        answer = await self.world.get(f"/projects/{OURS}/jobs/{job_id}", actor or self.scientist)
        assert answer.status_code == 200, answer.text
        read: dict[str, Any] = answer.json()
        return read

    async def log(self, job_id: str, actor: Actor | None = None) -> httpx2.Response:
        return await self.world.get(f"/projects/{OURS}/jobs/{job_id}/log", actor or self.scientist)

    async def take(self, actor: Actor | None = None, request: str | None = None) -> httpx2.Response:
        return await self.world.post("/leases", actor or self.agent, json={"csr": request or csr()})

    async def leased(self, actor: Actor | None = None) -> dict[str, Any]:
        answer = await self.take(actor)
        assert answer.status_code == 200, answer.text
        lease: dict[str, Any] = answer.json()
        return lease

    async def tell(self, lease: dict[str, Any], what: str, actor: Actor | None = None, **body: Any) -> httpx2.Response:
        """An agent's word about its lease: ``renewal``, ``log`` or ``report``."""
        body = {"fencing_token": lease["fencing_token"], **body}
        return await self.world.post(f"/leases/{lease['run_id']}/{what}", actor or self.agent, json=body)

    async def running(self, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A job that runs, and its lease."""
        job = await self.submitted(**changes)
        lease = await self.leased()
        assert (await self.tell(lease, "report", state="running")).status_code == 200
        return job, lease

    async def ended(self, text: str = "", state: str = "succeeded", **report: Any) -> dict[str, Any]:
        """A job that ended with this log."""
        job, lease = await self.running()
        for start in range(0, len(text), 60_000):
            part = text[start : start + 60_000]
            assert (await self.tell(lease, "log", offset=start, text=part)).status_code == 200
        assert (await self.tell(lease, "report", state=state, **{"exit_code": 0, **report})).status_code == 200
        return job

    async def run_of(self, job: dict[str, Any]) -> Any:
        return (await self.world.sql("SELECT * FROM runs WHERE job_id = :job", job=UUID(job["job_id"])))[0]

    async def said_of_runs(self) -> list[str]:
        """The states of the runs' facts since the last question."""
        return [fact.state.value for fact in await self.world.said() if isinstance(fact, Run)]
