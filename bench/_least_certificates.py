"""Certificates with nothing of Hortus around them: what the given packages cost by themselves.

A program of Starlette, asyncpg and cryptography over the same TLS, which checks the same CSRs, signs the same certificates and writes the same rows to the
same tables, as many in one transaction and by the same rule as Hortus. Nobody could ship it: it decides by no policy, asks nobody's membership again under a lock, counts no certificates, does
not know what it has heard, and tells no errors apart.

``python -m bench._least_certificates`` is the process, with the settings of ca.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uuid_utils.compat import uuid7

from chassis import db, patience, tls
from chassis.app import GATEWAY, https_server
from chassis.csr import STRONG
from chassis.csr import Request as Csr
from chassis.guard import IDENTITY_HEADER
from chassis.together import AT_ONCE, Groups
from contracts.events import CertificateKind
from contracts.policy import API
from services.ca.domain.certificates import Authority, Terms, authority, build, intend
from services.ca.domain.holders import Holder
from services.ca.models import Intent
from services.ca.service.issuing import serial
from services.ca.settings import CaSettings
from services.ca.signer import Signer, opening

INTEND = """WITH intended AS (INSERT INTO certificates (certificate_id, kind, state, project_id, user_id, csr_sha256, issuer_key, not_before, not_after,
                                                        fingerprint, chain, created_at, version)
                SELECT id, 'project', 'intended', $2, person, csr, $5, $6, $7, '', '', $8, 0
                FROM unnest($1::text[], $3::uuid[], $4::text[]) AS intent (id, person, csr))
            INSERT INTO audit_outbox (record) SELECT unnest($9::jsonb[])"""
STORE = """WITH stored AS (UPDATE certificates c SET state = 'live', version = 1, fingerprint = signed.fingerprint, chain = signed.chain
                FROM unnest($1::text[], $2::text[], $3::text[]) AS signed (id, fingerprint, chain) WHERE c.certificate_id = signed.id),
                told AS (INSERT INTO outbox (topic, key, version, type, event_id, at, actor, traceparent, payload)
                SELECT 'certificates', id, 1, 'Certificate', event, $5, '', '', payload FROM unnest($1::text[], $4::uuid[], $6::text[]) AS fact (id, event, payload))
           INSERT INTO audit_outbox (record) SELECT unnest($7::jsonb[])"""


Asked = tuple[asyncio.Future[str], Holder, Csr]


class Press:
    """Issues for many at once, in the groups of ``chassis.together``."""

    def __init__(self, pool: Any, signer: Signer, issuer: Authority, terms: Terms) -> None:
        self.pool = pool
        self.signer = signer
        self.issuer = issuer
        self.terms = terms
        self.groups: Groups[Asked] = Groups(self._serve)

    async def create(self, request: Request) -> Response:
        """Issue a certificate to whom the identity header names."""
        csr = x509.load_pem_x509_csr(json.loads(await request.body())["csr"].encode())
        key: Any = csr.public_key()
        key.verify(csr.signature, csr.tbs_certrequest_bytes, STRONG[csr.signature_algorithm_oid])
        header = request.headers[IDENTITY_HEADER]
        person = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        project = UUID(request.path_params["project_id"])
        holder = Holder(CertificateKind.PROJECT, f"bench__{person['username']}", project_id=project, user_id=UUID(person["user_id"]))
        digest = x509.SubjectKeyIdentifier.from_public_key(key).digest
        asked = Csr(key, digest, hashlib.sha256(csr.public_bytes(Encoding.DER)).hexdigest())
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.groups.add((answer, holder, asked))
        return Response(await answer, status_code=201, media_type="application/json")

    async def _serve(self, group: Sequence[Asked]) -> None:
        for (answer, *_), text in zip(group, await self._issue([(holder, csr) for _, holder, csr in group]), strict=True):
            answer.set_result(text)

    async def _issue(self, drafts: Sequence[tuple[Holder, Csr]]) -> list[str]:
        now = datetime.now(UTC)
        made = [(intend(holder, csr, serial(), now, self.terms, self.issuer), holder, csr) for holder, csr in drafts]
        intents = [intent for intent, *_ in made]
        ids = [each.certificate_id for each in intents]
        first, people, csrs = intents[0], [each.user_id for each in intents], [each.csr_sha256 for each in intents]
        span = (first.issuer_key, first.not_before, first.not_after, now)
        async with self.pool.acquire() as connection:
            await connection.fetch(INTEND, ids, first.project_id, people, csrs, *span, _records("certificate.intend", intents))
            leaves = [self.signer.sign(build(intent, holder, csr, self.issuer, self.terms)) for intent, holder, csr in made]
            fingerprints = [hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest() for leaf in leaves]
            chains = [leaf.public_bytes(Encoding.PEM).decode() + self.issuer.pem for leaf in leaves]
            answers = [
                json.dumps(
                    {"certificate_id": intent.certificate_id, "fingerprint": fingerprint, "chain": chain, "user_id": str(intent.user_id)}
                )
                for intent, fingerprint, chain in zip(intents, fingerprints, chains, strict=True)
            ]
            events = [uuid7() for _ in ids]
            await connection.fetch(STORE, ids, fingerprints, chains, events, now, answers, _records("certificate.create", intents))
        return answers


def _records(action: str, intents: Sequence[Intent]) -> list[str]:
    return [
        json.dumps(
            {"record_id": str(uuid7()), "actor": str(each.user_id), "action": action, "resource": each.certificate_id, "outcome": "allowed"}
        )
        for each in intents
    ]


async def serve() -> None:
    """Serve until a signal, as the doors of ca do, with their settings."""
    settings = CaSettings()
    life = timedelta(seconds=settings.project_life_s)
    terms = Terms(settings.trust_domain, life, life, life)
    signer = opening.open_issuers(settings.issuers_dir, opening.keys(settings), 0.0).current["people"]
    issuer = authority(signer.name, signer.key_id, signer.certificate, signer.pem, terms)
    async with asyncpg.create_pool(db.plain_dsn(settings.database_url), min_size=AT_ONCE, max_size=AT_ONCE) as pool:
        press = Press(pool, signer, issuer, terms)
        app = Starlette(routes=[Route(f"{API}/projects/{{project_id}}/certificates", press.create, methods=["POST"])])
        await https_server(app, settings, tls.protocol({tls.service_identity(settings.trust_domain, GATEWAY)})).serve()


def main() -> None:
    """The process."""
    patience.collect_less()
    uvloop.run(serve())


if __name__ == "__main__":
    main()
