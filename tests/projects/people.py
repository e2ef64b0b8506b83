"""People and projects of the tests, made through facts and doors."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.events import User, UserStatus
from contracts.roles import Actor, ClusterRole, Role
from tests.world import World, owner, person, scientist


def user(
    username: str,
    user_id: UUID | None = None,
    *,
    status: UserStatus = UserStatus.ACTIVE,
    version: int = 1,
    groups: Collection[str] = (),
    cluster_roles: Collection[ClusterRole] = (),
    departures: int = 0,
) -> User:
    """What auth says of an account."""
    return User(
        version=version,
        user_id=user_id or uuid7(),
        username=username,
        status=status,
        cluster_roles=frozenset(cluster_roles),
        groups=frozenset(groups),
        departures=departures,
    )


class Study:
    """A project with its first Data Owner, and whoever else is made a member."""

    def __init__(self, world: World, body: dict[str, Any], ada: UUID) -> None:
        self.world = world
        self.project_id = UUID(body["project_id"])
        self.ada = ada
        self.path = f"/projects/{self.project_id}"
        self.owner = owner(self.project_id, ada)

    def as_scientist(self, user_id: UUID) -> Actor:
        return scientist(self.project_id, user_id)

    def as_owner(self, user_id: UUID) -> Actor:
        return owner(self.project_id, user_id, "bob00000")

    async def add(self, username: str, role: Role = Role.DATA_SCIENTIST, **more: Any) -> dict[str, Any]:
        """Let auth say somebody new, and make them a member; the member as answered."""
        await self.world.hear(user(username))
        answer = await self.world.post(f"{self.path}/members", self.owner, json={"username": username, "role": role.value, **more})
        assert answer.status_code == 201, answer.text
        member: dict[str, Any] = answer.json()
        return member

    async def invite(self, username: str, user_id: UUID, **more: Any) -> dict[str, Any]:
        """Let auth say somebody new, who is invited and accepts; the member as answered."""
        await self.world.hear(user(username, user_id))
        body = {"username": username, "role": "data_scientist", **more}
        invitation = (await self.world.post(f"{self.path}/invitations", self.owner, json=body)).json()["invitation_id"]
        answer = await self.world.post(f"/project-invitations/{invitation}/acceptance", person(user_id, username))
        assert answer.status_code == 200, answer.text
        member: dict[str, Any] = answer.json()
        return member

    async def member(self, user_id: UUID | str) -> Any:
        """A membership's row."""
        rows = await self.world.sql(
            "SELECT * FROM memberships WHERE project_id = :project AND user_id = :user", project=self.project_id, user=UUID(str(user_id))
        )
        return rows[0]


async def found(world: World, name: str = "wdbc", ada: UUID | None = None) -> Study:
    """Found a project; what was said and recorded of it is not asked for again."""
    if ada is None:
        ada = uuid7()
        count = (await world.sql("SELECT count(*) FROM people"))[0][0]
        await world.hear(user(f"ada{count:05}", ada))
    answer = await world.post("/projects", person(ada), json={"name": name, "description": "Cells", "purpose": "Study 7"})
    assert answer.status_code == 201, answer.text
    await world.said()
    await world.recorded()
    return Study(world, answer.json(), ada)
