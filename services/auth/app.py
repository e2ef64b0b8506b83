"""The assembly of auth."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from chassis.app import Runtime, Spec
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Service
from services.auth import directory, post, provider, vault
from services.auth.handlers import hears
from services.auth.routes import router
from services.auth.service import (
    accounts,
    client_codes,
    factors,
    guesses,
    keys,
    letters,
    new_passwords,
    notices,
    patience,
    registrations,
    sessions,
    signing,
    vouching,
)
from services.auth.service import directory as following
from services.auth.service.tools import Tools
from services.auth.settings import AuthSettings, BadDirectoryFile, read_directory

TEND_S = 60.0
POST_S = 1.0
DOUBT_S = 600.0


@contextlib.asynccontextmanager
async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
    """Open the master key, the threads that hash passwords, and the ways to the directory and to identity providers."""
    safe = vault.Vault(vault.read_master_key(runtime.settings.master_key_file))
    passwords = vault.Passwords(runtime.settings.hash_threads)
    waits_for: list[str] = []
    providers = provider.read_file(runtime.settings.oidc_file)
    source = directory.Directory(read_directory(runtime.settings.ldap_file)) if runtime.settings.ldap_file else None
    if source is not None and source.settings.name in providers:
        raise BadDirectoryFile(f"{runtime.settings.ldap_file}: name: an identity provider has this name as well")
    tools = Tools(runtime.engine, safe, passwords, runtime.settings, providers, source)
    office = post.Post(runtime.settings) if letters.possible(tools) else None
    runtime.extra |= {"tools": tools, "waits_for": waits_for, "post": office}
    runtime.checks.append(lambda: list(waits_for))
    runtime.warnings.append(lambda: list(source.troubles) if source else [])
    notices.open_desk(tools)
    try:
        yield
    finally:
        notices.close_desk(tools)
        passwords.close()
        for each in providers.values():
            await each.close()
        if source is not None:
            source.close()


async def set_up(runtime: Runtime) -> None:
    """See to it that there is a key that signs, which opens with this master key, and a way to the first administrator."""
    safe = runtime.extra["tools"].vault
    async with unit_of_work(runtime.engine, Service.AUTH.value, "signing-key.create") as uow:
        key = await signing.signing_key(uow, safe)
        safe.signing_key(key.key_id, key.sealed)
    async with unit_of_work(runtime.engine, Service.AUTH.value, "administrator.invite") as uow:
        await accounts.invite_first_administrator(uow, runtime.settings.administrator_email, runtime.settings.setup_file)


async def tend(runtime: Runtime) -> None:
    """Set up once, and be ready only then; afterwards forget what is old, tell of guesses, and rotate the key that signs, from time to time."""
    waits_for: list[str] = runtime.extra["waits_for"]
    waits_for[:] = ["set-up: the key that signs and the first administrator's invitation"]
    await set_up(runtime)
    waits_for.clear()
    while True:
        await guesses.tell(runtime.extra["tools"])
        async with unit_of_work(runtime.engine, Service.AUTH.value, "attempts.forget") as uow:
            await patience.forget(uow)
            await factors.forget_spent(uow)
            await client_codes.prune(uow)
        async with unit_of_work(runtime.engine, Service.AUTH.value, "registrations.forget") as uow:
            await registrations.prune(uow)
        async with unit_of_work(runtime.engine, Service.AUTH.value, "signing-key.tend") as uow:
            await signing.tend(uow, runtime.extra["tools"])
        await asyncio.sleep(TEND_S)


TIDYING = {"key.expire": keys.end_expired, "key.erase": keys.erase_ended, "session.erase": sessions.erase_ended}


async def tidy(runtime: Runtime) -> None:
    """End what expired and erase what ended long ago, a bounded number in each transaction."""
    while True:
        for action, work in TIDYING.items():
            more = True
            while more:
                async with unit_of_work(runtime.engine, Service.AUTH.value, action) as uow:
                    more = await work(uow)
        await asyncio.sleep(TEND_S)


async def end_sessions(runtime: Runtime) -> None:
    """End sessions that are over: when the next one is, and at least every half minute."""
    while True:
        async with unit_of_work(runtime.engine, Service.AUTH.value, "session.end_over") as uow:
            pause = await sessions.end_over(uow, runtime.extra["tools"])
        await asyncio.sleep(pause)


async def deliver(runtime: Runtime) -> None:
    """Answer who asked for new passwords, and send the letters that are due, where mail is configured."""
    office: post.Post | None = runtime.extra["post"]
    while office is not None:
        await new_passwords.answer_asks(runtime.extra["tools"])
        await letters.deliver(runtime.extra["tools"], office)
        await asyncio.sleep(POST_S)
    await asyncio.Event().wait()


async def follow(runtime: Runtime) -> None:
    """Compare accounts with the directory that they come from, where one is configured."""
    tools: Tools = runtime.extra["tools"]
    while tools.directory is not None:
        await following.sync(tools, tools.directory)
        await asyncio.sleep(runtime.settings.ldap_sync_s)
    await asyncio.Event().wait()


async def doubt(runtime: Runtime) -> None:
    """End what people have by the word of a directory or identity provider that no longer vouches for them."""
    while True:
        await vouching.end_doubtful(runtime.extra["tools"])
        await asyncio.sleep(DOUBT_S)


async def purge(_runtime: Runtime, uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove a slice of what a deleted project left: the API keys that were bound to it."""
    return await keys.purge(uow, project_id)


spec = Spec(
    service=Service.AUTH,
    settings=AuthSettings,
    router=router,
    hears=hears,
    background=(tend, tidy, end_sessions, deliver, follow, doubt),
    lifespan=lifespan,
    purge=purge,
)
