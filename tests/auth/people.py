"""People of the tests: accounts that were made through the doors."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx2
import pyotp

from contracts.roles import Actor, ClusterRole
from tests.world import World, administrator, person

PASSWORD = "correct horse battery"


@dataclass
class Account:
    """Somebody who confirmed their invitation."""

    world: World
    user: dict[str, Any]
    totp: pyotp.TOTP
    password: str = PASSWORD

    @property
    def user_id(self) -> UUID:
        return UUID(self.user["user_id"])

    @property
    def username(self) -> str:
        return str(self.user["username"])

    def actor(self, session_id: UUID | None = None) -> Actor:
        roles = [ClusterRole(role) for role in self.user["cluster_roles"]]
        return person(self.user_id, self.username, cluster_roles=roles, session_id=session_id)

    async def new_code(self) -> str:
        """The code of this moment, as if none had been used yet."""
        await self.world.sql("UPDATE credentials SET last_step = -1 WHERE user_id = :id", id=self.user_id)
        return self.totp.now()

    async def sign_in(self, *, world: World | None = None, **other: str) -> httpx2.Response:
        """Sign in, with everything right but what ``other`` says."""
        shown = {"username": self.username, "password": self.password, "code": other.pop("code", None) or await self.new_code()}
        return await (world or self.world).post("/sessions", json=shown | other)


async def invite(world: World, email: str, roles: Sequence[str] = ()) -> httpx2.Response:
    return await world.post("/users", administrator(), json={"email": email, "cluster_roles": list(roles)})


async def join(world: World, email: str = "ada@example.org", roles: Sequence[str] = ()) -> Account:
    """Invite somebody who accepts and confirms; what was said is still to be asked."""
    token = (await invite(world, email, roles)).json()["invitation"]
    accepted = await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD})
    totp = pyotp.TOTP(accepted.json()["totp_secret"])
    confirmed = await world.post("/invitations/confirmation", json={"token": token, "code": totp.now()})
    assert confirmed.status_code == 200, confirmed.text
    return Account(world, confirmed.json(), totp)


def another_code(totp: pyotp.TOTP) -> str:
    """A code that is wrong now."""
    near = {totp.at(int(time.time()) + 30 * step) for step in range(-3, 4)}
    return next(code for code in ("000000", "111111", "222222", "333333", "444444", "555555", "666666", "777777") if code not in near)
