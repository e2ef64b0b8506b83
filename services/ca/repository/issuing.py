"""Issuing, for many at once: what it rests on, the intents, and the certificates."""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.db import as_stored, fetch
from services.ca.models import Intent, Member, Person, Place, Project

# Whoever issues in a place is alone there, so that those who ask at one moment count each other; nobody waits for another in a circle, because all take
# places in one order, and before anything else.
_VERSIONS = """WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(key) FROM unnest($3::bigint[]) AS key)
               SELECT place.project_id, place.user_id, coalesce(p.version, 0), coalesce(u.version, 0), coalesce(m.version, 0),
                      (SELECT count(*) FROM alone)
               FROM unnest($1::uuid[], $2::uuid[]) AS place (project_id, user_id)
               LEFT JOIN projects p ON p.project_id = place.project_id LEFT JOIN people u ON u.user_id = place.user_id
               LEFT JOIN members m ON m.project_id = place.project_id AND m.user_id = place.user_id"""
_PROJECTS = "SELECT project_id, name, open, version FROM projects WHERE project_id = ANY($1::uuid[]) ORDER BY project_id FOR SHARE"
_PEOPLE = "SELECT user_id, username, active, version FROM people WHERE user_id = ANY($1::uuid[]) ORDER BY user_id FOR SHARE"
_MEMBERS = """SELECT m.project_id, m.user_id, m.username, m.role, m.starts_at, m.ends_at, m.version
              FROM unnest($1::uuid[], $2::uuid[]) AS place (project_id, user_id) JOIN members m USING (project_id, user_id)
              ORDER BY m.project_id, m.user_id FOR SHARE OF m"""
_HELD = """SELECT c.project_id, c.user_id, count(*) FROM certificates c
           JOIN unnest($1::uuid[], $2::uuid[]) AS place (project_id, user_id) USING (project_id, user_id)
           WHERE c.kind = 'project' AND c.state = 'live' GROUP BY c.project_id, c.user_id"""
_ANNOUNCE = """INSERT INTO certificates (certificate_id, kind, state, project_id, user_id, agent_id, run_id, fencing_token, csr_sha256, issuer_key,
                                         not_before, not_after, fingerprint, chain, created_at, right_ends_at, version)
    SELECT certificate_id, kind, 'intended', project_id, user_id, agent_id, run_id, fencing_token, csr_sha256, issuer_key,
           not_before, not_after, '', '', created_at, right_ends_at, 0
    FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::bigint[], $8::text[], $9::text[],
                $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[])
        AS intent (certificate_id, kind, project_id, user_id, agent_id, run_id, fencing_token, csr_sha256, issuer_key,
                   not_before, not_after, created_at, right_ends_at)"""
_STORE = """UPDATE certificates c SET state = 'live', version = 1, fingerprint = signed.fingerprint, chain = signed.chain
            FROM unnest($1::text[], $2::text[], $3::text[]) AS signed (certificate_id, fingerprint, chain)
            WHERE c.certificate_id = signed.certificate_id AND c.state = 'intended' RETURNING c.certificate_id"""


async def versions(session: AsyncSession, places: Collection[Place]) -> dict[Place, tuple[int, int, int]]:
    """How much is known of projects, people and their memberships: the version of each, 0 for none.

    It keeps others from issuing in these places until the transaction ends, and locks no rows.
    """
    keys = sorted({_lock(place) for place in places})
    rows = await fetch(session, _VERSIONS, [project for project, _ in places], [person for _, person in places], keys)
    return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def _lock(place: Place) -> int:
    """The number of a place's lock: the same in every process."""
    project, person = place
    return int.from_bytes(blake2b(project.bytes + (person.bytes if person else b""), digest_size=8).digest(), signed=True)


async def parties(session: AsyncSession, places: Collection[Place]) -> tuple[dict[UUID, Project], dict[UUID, Person], dict[Place, Member]]:
    """The projects, people and memberships of places, kept as they are until the transaction ends; objects outside of the session."""
    projects, people = [project for project, _ in places], [person for _, person in places]
    found = [
        await fetch(session, _PROJECTS, projects),
        await fetch(session, _PEOPLE, people),
        await fetch(session, _MEMBERS, projects, people),
    ]
    return (
        {row["project_id"]: as_stored(Project, row) for row in found[0]},
        {row["user_id"]: as_stored(Person, row) for row in found[1]},
        {(row["project_id"], row["user_id"]): as_stored(Member, row) for row in found[2]},
    )


async def held(session: AsyncSession, places: Collection[Place]) -> dict[Place, int]:
    """How many certificates count that people hold in projects."""
    rows = await fetch(session, _HELD, [project for project, _ in places], [person for _, person in places])
    return {(project_id, user_id): count for project_id, user_id, count in rows}


async def announce(session: AsyncSession, intents: Sequence[Intent]) -> None:
    """Write intents down."""
    columns = (
        [each.certificate_id for each in intents],
        [each.kind.value for each in intents],
        [each.project_id for each in intents],
        [each.user_id for each in intents],
        [each.agent_id for each in intents],
        [each.run_id for each in intents],
        [each.fencing_token for each in intents],
        [each.csr_sha256 for each in intents],
        [each.issuer_key for each in intents],
        [each.not_before for each in intents],
        [each.not_after for each in intents],
        [each.created_at for each in intents],
        [each.right_ends_at for each in intents],
    )
    await fetch(session, _ANNOUNCE, *columns)


async def store(session: AsyncSession, signed: Sequence[Intent]) -> bool:
    """Let certificates count that were announced and signed; whether all of them were announced and do not count yet."""
    columns = ([each.certificate_id for each in signed], [each.fingerprint for each in signed], [each.chain for each in signed])
    return len(await fetch(session, _STORE, *columns)) == len(signed)
