"""A sign-in with nothing of Hortus around it: what the given packages cost by themselves.

A program of FastAPI, asyncpg and argon2 over the same TLS, which checks the same passwords and codes against the same tables and writes
a session, a fact and a record, in seven ways to the database and asyncpg's own cleaning of each connection that goes back to its pool (two more). Nobody could ship it: it counts no failed tries,
asks no group for its policy, keeps no turn among those who wait, decides by no policy, takes its key from nowhere, and tells no errors apart.
"""

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from argon2.low_level import Type, verify_secret
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI, Response
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from chassis import db, patience, tls
from chassis.app import GATEWAY, UNTRACED, https_server
from contracts.policy import API
from services.auth import vault
from services.auth.settings import AuthSettings

STEP_S = 30
KNOWN = """SELECT u.user_id, c.password_hash, c.totp_sealed, (SELECT max(next_at) FROM attempts WHERE name = ANY($2::bytea[]))
           FROM users u JOIN credentials c USING (user_id) WHERE u.username = $1 OR u.email = $1"""
LOCK = "SELECT pg_advisory_xact_lock(7, k) FROM unnest($1::int[]) AS k"
AGAIN = """SELECT u.status, c.password_hash, c.last_step, now() AS now, (SELECT max(next_at) FROM attempts WHERE name = ANY($2::bytea[]))
           FROM users u JOIN credentials c USING (user_id) WHERE user_id = $1 FOR UPDATE"""
WRITE = """WITH used AS (UPDATE credentials SET last_step = $2 WHERE user_id = $1),
           opened AS (INSERT INTO sessions (session_id, user_id, created_at, expires_at, version, seed, generation, rotated_at, factor_at, last_used_at,
                                            method, client, source)
                      VALUES ($3, $1, $4, $5, 1, $6, 1, $4, $4, $4, 'password+totp', '', '')),
           told AS (INSERT INTO outbox (topic, key, version, type, event_id, at, actor, traceparent, payload)
                    VALUES ('sessions', $3::text, 1, 'Session', $7, $4, '', '', $8)),
           recorded AS (INSERT INTO audit_outbox (record) VALUES ($9::jsonb))
           SELECT pg_notify('outbox', 'sessions')"""


class SignIn(BaseModel):
    """What somebody shows."""

    username: str
    password: str
    code: str


class Desk:
    """What a sign-in needs."""

    def __init__(self, settings: AuthSettings, pool: Any) -> None:
        self.pool = pool
        self.vault = vault.Vault(base64.urlsafe_b64decode(settings.master_key_file.read_text()))
        self.hashing = ThreadPoolExecutor(settings.hash_threads)
        self.key = ec.generate_private_key(ec.SECP256R1())

    async def sign_in(self, shown: SignIn) -> Response:
        """Open a session."""
        names = [hashlib.sha256(name.encode()).digest() for name in (shown.username, "from here")]
        known = await self.pool.fetchrow(KNOWN, shown.username, names)
        check = functools.partial(verify_secret, known["password_hash"].encode(), shown.password.encode(), Type.ID)
        await asyncio.get_running_loop().run_in_executor(self.hashing, check)
        user_id, session_id = known["user_id"], uuid7()
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.fetch(LOCK, sorted(int.from_bytes(name[:4], signed=True) for name in names))
            now = (await connection.fetchrow(AGAIN, user_id, names))["now"]
            step = _step(self.vault.open_totp(known["totp_sealed"], user_id), shown.code, int(now.timestamp()) // STEP_S)
            fact = {"session_id": str(session_id), "user_id": str(user_id), "live": True, "at": now.isoformat()}
            record = {"record_id": str(uuid7()), "action": "session.create", "resource": fact, "outcome": "allowed"}
            seed, ends = b"seed" * 8, now + timedelta(hours=8)
            await connection.fetch(WRITE, user_id, step, session_id, now, ends, seed, uuid7(), json.dumps(fact), json.dumps(record))
        answer = {"access_token": self._token({"sub": str(user_id), "sid": str(session_id), "iat": int(now.timestamp())}), **fact}
        cookie = {"Set-Cookie": f"__Host-hortus-refresh={session_id}; Path=/; Secure; HttpOnly"}
        return Response(json.dumps(answer), status_code=201, media_type="application/json", headers=cookie)

    def _token(self, claims: dict[str, Any]) -> str:
        signed = b".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": "least"}, claims))
        return (signed + b"." + _base64(self.key.sign(signed, ec.ECDSA(hashes.SHA256())))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _step(secret: str, code: str, now: int) -> int:
    """The step of a right code (RFC 6238). Raises StopIteration."""
    key = base64.b32decode(secret)

    def at(step: int) -> str:
        mac = hmac.digest(key, struct.pack(">Q", step), "sha1")
        place = mac[-1] & 15
        return f"{(int.from_bytes(mac[place : place + 4]) & 0x7FFFFFFF) % 1_000_000:06}"

    return next(step for step in (now - 1, now, now + 1) if at(step) == code)


async def serve() -> None:
    """Serve until a signal, as the doors of auth do, with their settings."""
    settings = AuthSettings()
    async with asyncpg.create_pool(db.plain_dsn(settings.database_url), min_size=5, max_size=10) as pool:
        desk = Desk(settings, pool)
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, telemetry=UNTRACED)
        app.post(f"{API}/sessions", status_code=201)(desk.sign_in)
        await https_server(app, settings, tls.protocol({tls.service_identity(settings.trust_domain, GATEWAY)})).serve()


def main() -> None:
    """The process."""
    patience.collect_less()
    uvloop.run(serve())
