"""Issuing, for many at once.

Certificates are announced in a transaction of its own before they are signed, and stored together with their facts and their
audit records before they are handed out. One that was signed and not stored counts nowhere: readers go by the facts.
"""

import asyncio
import functools
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from chassis.csr import Request, read_csr
from chassis.errors import CannotDecide, ChangedMeanwhile, NotFound, Problem
from chassis.outbox import Caller, UnitOfWork
from chassis.together import MOST, Asking
from contracts.events import MEMBERSHIPS, USERS, CertificateKind
from services.ca import domain, repository
from services.ca.domain.holders import Holder
from services.ca.domain.requests import Order
from services.ca.models import Intent, Member, Person, Place, Project
from services.ca.service.ending import note
from services.ca.service.office import office

KNOWN_WAIT_S = 1.0
KNOWN_LOOK_S = 0.02

A = TypeVar("A")


class NotHereYet(CannotDecide):
    """What the caller's certificate rests on is not known here as well as the gateway knew it."""

    slug = "cannot-decide"


@dataclass(frozen=True)
class Draft:
    """A certificate that may be issued: by whose unit of work, to whom, for which request, and when the right behind it ends."""

    uow: UnitOfWork
    holder: Holder
    request: Request
    ends_at: datetime | None = None


async def create(ask: Asking[Order, Intent, A], project_id: UUID, csr: str) -> A:
    """What is answered with a certificate of the project for the caller's key; what is not known here yet is waited for, at most 1 s.

    Raises CsrRefused, NotFound, ProjectIsBeingDeleted, TooManyCertificates, CannotDecide.
    """
    order = Order(project_id, read_csr(csr))
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        try:
            return await ask(office().issuing, order)
        except NotHereYet:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(KNOWN_LOOK_S)


def most() -> int:
    """How many project certificates are issued in a transaction; where the issuers are not open, those who ask are told so together."""
    try:
        return office().at_once(CertificateKind.PROJECT, MOST)
    except CannotDecide:
        return MOST


async def certify(uows: Sequence[UnitOfWork], orders: Sequence[Order]) -> list[Intent | Problem]:
    """Certificates for those who may have one; for the others, why not. The units of work share a session."""
    session = uows[0].session
    places = [(order.project_id, uow.actor.user_id) for uow, order in zip(uows, orders, strict=True)]
    versions = await repository.issuing.versions(session, places)
    heard = [_has_heard(uow, place, versions) for uow, place in zip(uows, places, strict=True)]
    sought = {place for place, known in zip(places, heard, strict=True) if known}  # only these are locked: what others wait for can arrive
    parties = await repository.issuing.parties(session, sought)
    held = Counter(await repository.issuing.held(session, sought))
    answers: list[Draft | Problem] = []
    for uow, order, place, known in zip(uows, orders, places, heard, strict=True):
        try:
            if not known:
                raise NotHereYet("The project or its membership has not arrived here yet.", retry_after=1)
            project, person, member = _parties(place, *parties)
            domain.holders.demand_right(person, member, project, uow.now)
            domain.certificates.has_room(held[place])
            held[place] += 1
            answers.append(Draft(uow, domain.holders.member_holder(project, member), order.request, member.ends_at))
        except Problem as problem:
            answers.append(problem)
    issued = iter(await issue([each for each in answers if isinstance(each, Draft)]))
    return [next(issued) if isinstance(each, Draft) else each for each in answers]


def _has_heard(uow: UnitOfWork, place: Place, versions: Mapping[Place, tuple[int, int, int]]) -> bool:
    """Whether this service knows as much of what a caller's certificate rests on as the gateway did."""
    project_id, user_id = place
    if user_id is None:
        return True
    seen = uow.actor.versions
    least = (1, seen.get(f"{USERS.name}:{user_id}", 1), seen.get(f"{MEMBERSHIPS.name}:{project_id}:{user_id}", 1))
    return all(known >= wanted for known, wanted in zip(versions[place], least, strict=True))


def _parties(
    place: Place, projects: Mapping[UUID, Project], people: Mapping[UUID, Person], members: Mapping[Place, Member]
) -> tuple[Project, Person, Member]:
    project, person, member = projects.get(place[0]), people.get(place[1]) if place[1] else None, members.get(place)
    if project is None or person is None or member is None:
        raise NotFound
    return project, person, member


async def issue(drafts: Sequence[Draft]) -> list[Intent]:
    """Announce, sign and store. The drafts' units of work share a session. Raises SignerAway, ChangedMeanwhile."""
    if not drafts:
        return []
    desk = office()
    signers = [desk.signer(draft.holder.kind) for draft in drafts]
    intents = [
        domain.certificates.intend(draft.holder, draft.request, serial(), draft.uow.now, desk.terms, authority, draft.ends_at)
        for draft, (_, authority) in zip(drafts, signers, strict=True)
    ]
    async with desk.journal([Caller(draft.uow.actor, draft.uow.request_id) for draft in drafts]) as journal:
        await repository.issuing.announce(journal[0].session, intents)
        for record, draft, intent in zip(journal, drafts, intents, strict=True):
            record.project_id = draft.holder.project_id
            record.note(certificate_id=intent.certificate_id, kind=intent.kind, identity=draft.holder.uri(desk.terms.trust_domain))
    calls = [
        (signer, functools.partial(signer.sign, domain.certificates.build(intent, draft.holder, draft.request, authority, desk.terms)))
        for draft, intent, (signer, authority) in zip(drafts, intents, signers, strict=True)
    ]
    leaves = await desk.signed(calls)
    for draft, intent, leaf, (_, authority) in zip(drafts, intents, leaves, signers, strict=True):
        draft.uow.emit(domain.certificates.issued(intent, leaf, authority))
        note(draft.uow, "issued", intent.certificate_id)
    if not await repository.issuing.store(drafts[0].uow.session, intents):
        raise ChangedMeanwhile
    return intents


def serial() -> int:
    """A serial number that nobody can guess."""
    while True:
        number = domain.profiles.serial(secrets.randbits(domain.profiles.SERIAL_BITS))
        if number is not None:
            return number
