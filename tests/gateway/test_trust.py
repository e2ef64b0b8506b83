"""Whose certificates the gateway takes at port 8444 can grow while it runs."""

import asyncio
import ssl
from pathlib import Path
from types import SimpleNamespace

from compose.local import ceremony
from compose.local.ceremony import Root
from compose.local.home import Home
from compose.local.pki import Pki
from gateway.app import Gateway
from tests.gateway.stage import until


async def test_an_issuer_that_is_renewed_is_trusted_without_a_restart(tmp_path: Path) -> None:
    told: list[str] = []
    pki = Pki.create(Home(tmp_path), announce=told.append)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    gateway = SimpleNamespace(settings=SimpleNamespace(client_issuers=pki.client_issuers), machines=context)
    looking = asyncio.create_task(Gateway._trust(gateway))  # type: ignore[arg-type]

    def trusted() -> set[str]:
        return {each["subject"][-1][0][1] for each in context.get_ca_certs()}

    try:
        await until(lambda: trusted() == {"Hortus people", "Hortus workloads"})
        ceremony.renew(pki.home, Root(pki.home, told[0].encode()), ["people"])
        await until(lambda: trusted() == {"Hortus people", "Hortus people 2", "Hortus workloads"})
    finally:
        looking.cancel()
