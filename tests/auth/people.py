"""People of the tests: accounts that were made through the doors."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from uuid import UUID

import httpx2
import pyotp
from uuid_utils.compat import uuid7

from contracts.roles import Actor, ClusterRole
from services.auth.routes.cookies import DEVICE, REFRESH
from tests.world import World, administrator, person

PASSWORD = "correct horse battery"


@dataclass
class Account:
    """Somebody who confirmed their invitation; ``session_id`` is the session in which ``actor`` asks, which is open once they are ``present``."""

    world: World
    user: dict[str, Any]
    totp: pyotp.TOTP
    password: str = PASSWORD
    session_id: UUID = field(default_factory=uuid7)

    @property
    def user_id(self) -> UUID:
        return UUID(self.user["user_id"])

    @property
    def username(self) -> str:
        return str(self.user["username"])

    def actor(self, session_id: UUID | None = None) -> Actor:
        roles = [ClusterRole(role) for role in self.user["cluster_roles"]]
        return person(self.user_id, self.username, cluster_roles=roles, session_id=session_id or self.session_id)

    async def new_code(self) -> str:
        """The code of this moment, as if none had been used yet."""
        await self.world.sql("UPDATE credentials SET last_step = -1 WHERE user_id = :id", id=self.user_id)
        return self.totp.now()

    async def sign_in(
        self, *, world: World | None = None, source: str = "192.0.2.1", device: str | None = None, **other: str
    ) -> httpx2.Response:
        """Sign in, with everything right but what ``other`` says; ``device`` is the device cookie that is shown."""
        shown = {"username": self.username, "password": self.password, "code": other.pop("code", None) or await self.new_code()}
        jar = {DEVICE: device} if device else None
        return await (world or self.world).post("/sessions", json=shown | other, jar=jar, headers={"Hortus-Source": source})


def cookie(answer: httpx2.Response, name: str) -> str | None:
    """The value of a cookie that an answer sets; empty when it has the browser forget it."""
    found = [SimpleCookie(header).get(name) for header in answer.headers.get_list("set-cookie")]
    return next((morsel.value for morsel in found if morsel is not None), None)


async def begin(account: Account, *, source: str = "192.0.2.1") -> tuple[UUID, str]:
    """Sign in; the session and its refresh token."""
    answer = await account.sign_in(source=source)
    token = cookie(answer, REFRESH)
    assert token
    return UUID(answer.json()["session_id"]), token


async def present(account: Account, session_id: UUID | None = None) -> Account:
    """Open the session in which the account's ``actor`` asks, as a sign-in would that nobody was told of."""
    await account.world.sql(
        """INSERT INTO sessions (session_id, user_id, created_at, expires_at, version, seed, generation, rotated_at, factor_at, last_used_at, method)
           SELECT :session, :person, now, now + interval '1 h', 1, 'seed', 1, now, now, now, 'password+totp' FROM clock_timestamp() AS now""",
        session=session_id or account.session_id,
        person=account.user_id,
    )
    return account


@contextlib.asynccontextmanager
async def passing_by(account: Account) -> AsyncIterator[Actor]:
    """The account's person in a session that is there for the block alone, for tests that count sessions."""
    session_id = uuid7()
    await present(account, session_id)
    yield account.actor(session_id)
    await account.world.sql("DELETE FROM sessions WHERE session_id = :id", id=session_id)


async def refresh(world: World, token: str | None) -> httpx2.Response:
    """Show a refresh token."""
    return await world.post("/sessions/refresh", jar={REFRESH: token} if token else None)


async def hear_all(world: World) -> None:
    """All use of sessions was heard until now."""
    await world.sql(
        """INSERT INTO partitions_heard (topic, partition, awake_at) SELECT 'activity', p, clock_timestamp() FROM generate_series(0, 1) p
           ON CONFLICT (topic, partition) DO UPDATE SET awake_at = excluded.awake_at"""
    )


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
