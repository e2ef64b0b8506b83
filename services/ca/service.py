"""The use cases of ca: issue, revoke, say what is revoked, and follow what other services say of people, projects, runs and agents.

A certificate is announced in a transaction of its own before it is signed, and stored together with its fact and its
audit record before it is handed out. One that was signed and not stored counts nowhere: readers go by the facts.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chassis.errors import CannotDecide, NotFound
from chassis.guard import OpenUow
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.events import MEMBERSHIPS, USERS, CertificateKind
from contracts.roles import Actor
from services.ca import domain, repository, revocation
from services.ca.domain import CsrRefused, Holder, Request, Terms
from services.ca.models import Certificate, Ending, Issuer, Member, Person, Project, RevocationList, Run
from services.ca.revocation import IssuerName, Question, Revoked
from services.ca.signer import Signer

log = logger(__name__)
KNOWN_WAIT_S = 1.0
KNOWN_LOOK_S = 0.02

Journal = Callable[[Actor, str], AbstractAsyncContextManager[UnitOfWork]]


@dataclass(frozen=True)
class Office:
    """What issuing needs beside the database: the issuers, the terms, and transactions of their own for intents.

    ``names`` are the issuers' names in OCSP requests; ``list_life`` and ``answer_life`` are how long what is said of revocations holds.
    """

    signers: Mapping[Issuer, Signer]
    names: Mapping[IssuerName, Issuer]
    terms: Terms
    journal: Journal
    list_life: timedelta
    answer_life: timedelta

    def signer(self, kind: CertificateKind) -> Signer:
        """The issuer for a kind of certificate."""
        return self.signers[domain.SIGNED_BY[kind]]


_open: list[Office] = []


def open_office(office: Office) -> None:
    """Issue with this from now on."""
    _open.append(office)


def close_office(office: Office) -> None:
    """Issue with this no longer."""
    _open.remove(office)


def _office() -> Office:
    if not _open:
        raise CannotDecide("The issuers are not open.")
    return _open[-1]


async def create(uow: UnitOfWork, project_id: UUID, csr: str) -> Certificate:
    """A certificate of the project for the caller's key. Raises CsrRefused, NotFound, TooManyCertificates, CannotDecide."""
    request = domain.read_csr(csr)
    project, person, member = await _known(uow, project_id)
    if domain.loss(person, member, project, uow.now) is not None:
        raise NotFound
    domain.has_room(await repository.count_live(uow.session, project_id, member.user_id))
    return await _issue(uow, domain.member_holder(project, member), request, member.ends_at)


async def revoke(uow: UnitOfWork, project_id: UUID, certificate_id: str) -> None:
    """Revoke a certificate, the caller's own or any of the project as its Data Owner. Raises NotFound."""
    certificate = await repository.project_certificate(uow.session, project_id, certificate_id)
    if certificate is None or not domain.is_own(certificate, uow.actor):
        raise NotFound
    _revoke(uow, [certificate], Ending.WITHDRAWN)


def certificate_of(issuer: Issuer) -> x509.Certificate:
    """An issuer's own certificate."""
    return _office().signers[issuer].certificate


async def newest_list(uow: UnitOfWork, issuer: Issuer) -> RevocationList:
    """The list of an issuer's revoked certificates (CRL), made anew when it is half over or something was revoked since.

    Whoever makes one waits for whoever is at it, so that a number stands on one list alone.
    """
    kinds = domain.kinds_of(issuer)
    kept, revoked, now = await repository.revocation_list(uow.session, issuer, kinds)
    if domain.is_current(kept, revoked, now):
        return kept
    await repository.lock_revocation_list(uow.session, issuer)
    kept, revoked, now = await repository.revocation_list(uow.session, issuer, kinds)
    if domain.is_current(kept, revoked, now):
        return kept
    rows = await repository.revoked_since(uow.session, kinds, kept.this_update)
    entries = [Revoked(name, *ended) for name, standing in rows if (ended := domain.revocation_of(standing))]
    domain.renumber(kept, len(entries), now, _office().list_life)
    signer = _office().signers[issuer]
    kept.der = signer.sign_list(revocation.revocation_list(kept, entries, signer.certificate)).public_bytes(Encoding.DER)
    uow.note(issuer=issuer, number=kept.number)
    await uow.session.flush()
    return kept


def asked(der: bytes) -> Question:
    """What an OCSP request asks of these issuers. Raises NoAnswer."""
    return revocation.read(der, _office().names)


async def answer(later: OpenUow, question: Question) -> bytes:
    """What is known now of the certificate that is asked for, signed (DER); never kept for another request."""
    uow = await later()
    name = domain.certificate_id(question.serial)
    found = await repository.standing(uow.session, name, domain.kinds_of(question.issuer))
    ended = domain.revocation_of(found) if found else None
    revoked = Revoked(name, *ended) if ended else None
    office = _office()
    signer = office.signers[question.issuer]
    until = uow.now + office.answer_life
    made = revocation.answer(question, signer.certificate, revoked, uow.now, until, known=found is not None)
    return signer.sign_answer(made).public_bytes(Encoding.DER)


async def expire(uow: UnitOfWork) -> datetime | None:
    """Revoke what has come to its end; when the next certificate or membership ends."""
    for certificate, own in await repository.due(uow.session, uow.now):
        _revoke(uow, [certificate], Ending.EXPIRED if own else Ending.MEMBERSHIP_ENDED)
    await uow.session.flush()
    return await repository.next_due(uow.session)


async def learn_person(uow: UnitOfWork, fact: events.User) -> None:
    """A person became active or stopped being it."""
    runs = await repository.active_runs_of_person(uow.session, fact.user_id)
    for project_id in sorted({run.project_id for run in runs}):
        await repository.project(uow.session, project_id)
    person = domain.person_of(fact)
    await repository.put(uow.session, person)
    if not person.active:
        _revoke(uow, await repository.live_of_person(uow.session, fact.user_id), Ending.PERSON_NOT_ACTIVE)
        return
    await _settle(uow, runs)


async def learn_project(uow: UnitOfWork, fact: events.Project) -> None:
    """A project came, changed or closes."""
    project = domain.project_of(fact)
    await repository.put(uow.session, project)
    if not project.open:
        _revoke(uow, await repository.live_in_project(uow.session, fact.project_id), Ending.PROJECT_CLOSED)
        return
    await _settle(uow, await repository.active_runs_in_project(uow.session, fact.project_id))


async def learn_membership(uow: UnitOfWork, fact: events.Membership) -> None:
    """A membership came, changed or ended."""
    await repository.project(uow.session, fact.project_id)
    await repository.person(uow.session, fact.user_id)
    member = domain.member_of(fact)
    await repository.put(uow.session, member)
    if not domain.counts(member, uow.now):
        _revoke(uow, await repository.live_of_member(uow.session, fact.project_id, fact.user_id), Ending.MEMBERSHIP_ENDED)
        return
    await _settle(uow, await repository.active_runs_of_member(uow.session, fact.project_id, fact.user_id))


async def learn_run(uow: UnitOfWork, fact: events.Run) -> None:
    """A run moved on: its lease gets a certificate, and the certificates of its earlier leases end."""
    await _parties(uow, fact.project_id, fact.user_id)
    run = domain.run_of(fact)
    await repository.put(uow.session, run)
    await _settle(uow, [run])


async def learn_agent(uow: UnitOfWork, fact: events.Agent) -> None:
    """An agent enrolled, came with another key, or was withdrawn."""
    held = await repository.live_of_agent(uow.session, fact.agent_id)
    if not fact.live or fact.csr is None:
        _revoke(uow, held, Ending.AGENT_WITHDRAWN)
        return
    request = _readable(uow, fact.csr, agent_id=fact.agent_id)
    if request is None:
        return
    _revoke(uow, [each for each in held if each.csr_sha256 != request.sha256], Ending.AGENT_WITHDRAWN)
    if not await repository.was_issued_for_request(uow.session, fact.agent_id, request.sha256):
        await _issue(uow, domain.agent_holder(fact.agent_id), request)


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """A person was erased while this service slept."""
    await repository.forget_person(uow.session, user_id)
    _revoke(uow, await repository.live_of_person(uow.session, user_id), Ending.PERSON_NOT_ACTIVE)


async def forget_project(uow: UnitOfWork, project_id: UUID) -> None:
    """A project was erased while this service slept."""
    await repository.forget_project(uow.session, project_id)
    _revoke(uow, await repository.live_in_project(uow.session, project_id), Ending.PROJECT_CLOSED)


async def forget_membership(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """A membership was erased while this service slept."""
    await repository.forget_member(uow.session, project_id, user_id)
    _revoke(uow, await repository.live_of_member(uow.session, project_id, user_id), Ending.MEMBERSHIP_ENDED)


async def forget_run(uow: UnitOfWork, run_id: UUID) -> None:
    """A run was erased while this service slept."""
    await repository.forget_run(uow.session, run_id)
    _revoke(uow, await repository.live_of_run(uow.session, run_id), Ending.RUN_ENDED)


async def forget_agent(uow: UnitOfWork, agent_id: UUID) -> None:
    """An agent was erased while this service slept."""
    _revoke(uow, await repository.live_of_agent(uow.session, agent_id), Ending.AGENT_WITHDRAWN)


Parties = tuple[Project | None, Person | None, Member | None]


async def _parties(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> Parties:
    return (
        await repository.project(uow.session, project_id),
        await repository.person(uow.session, user_id),
        await repository.member(uow.session, project_id, user_id),
    )


async def _known(uow: UnitOfWork, project_id: UUID) -> tuple[Project, Person, Member]:
    """What a caller's certificate rests on, once this service knows as much of it as the gateway did; waits at most 1 s."""
    user_id = uow.actor.user_id
    if user_id is None:
        raise NotFound
    seen = uow.actor.versions
    least = (1, seen.get(f"{USERS.name}:{user_id}", 1), seen.get(f"{MEMBERSHIPS.name}:{project_id}:{user_id}", 1))
    deadline = time.monotonic() + KNOWN_WAIT_S
    while any(known < wanted for known, wanted in zip(await repository.versions(uow.session, project_id, user_id), least, strict=True)):
        if time.monotonic() >= deadline:
            raise CannotDecide("The project or its membership has not arrived here yet.", retry_after=1)
        await asyncio.sleep(KNOWN_LOOK_S)
    project, person, member = await _parties(uow, project_id, user_id)
    if project is None or person is None or member is None:
        raise NotFound
    return project, person, member


async def _settle(uow: UnitOfWork, runs: Iterable[Run]) -> None:
    """Give each run the certificate that its lease asks for, if it may have one, and end those it may not have (any more).

    What is not known yet is no refusal: the run is looked at again when the missing fact arrives.
    """
    for each in runs:
        project, person, member = await _parties(uow, each.project_id, each.user_id)
        run = await repository.run(uow.session, each.run_id)
        if run is None:
            continue
        held = await repository.live_of_run(uow.session, run.run_id)
        _revoke(uow, [each for each in held if not run.active or each.fencing_token != run.fencing_token], Ending.RUN_ENDED)
        if not run.active or run.csr is None or project is None or person is None or member is None:
            continue
        ending = domain.loss(person, member, project, uow.now)
        if ending is not None:
            _revoke(uow, held, ending)
        elif not await repository.was_issued_for_lease(uow.session, run.run_id, run.fencing_token):
            request = _readable(uow, run.csr, run_id=run.run_id)
            if request is not None:
                await _issue(uow, domain.run_holder(project, member, run), request, member.ends_at)


def _readable(uow: UnitOfWork, csr: str, **whose: UUID) -> Request | None:
    try:
        return domain.read_csr(csr)
    except CsrRefused as refused:
        log.warning("a workload's request is refused", reason=refused.detail, **{name: str(value) for name, value in whose.items()})
        uow.note(request_refused=refused.detail, **whose)
        return None


async def _issue(uow: UnitOfWork, holder: Holder, request: Request, ends_at: datetime | None = None) -> Certificate:
    office = _office()
    signer = office.signer(holder.kind)
    intent = domain.intend(holder, request, _serial(), uow.now, office.terms, signer.certificate, ends_at)
    async with office.journal(uow.actor, uow.request_id) as journal:
        journal.session.add(intent)
        journal.project_id = holder.project_id
        journal.note(certificate_id=intent.certificate_id, kind=intent.kind, identity=holder.uri(office.terms.trust_domain))
    leaf = signer.sign(domain.build(intent, holder, request, signer.certificate, office.terms))
    certificate = await repository.intent(uow.session, intent.certificate_id)
    uow.emit(domain.issued(certificate, leaf, signer.certificate))
    _note(uow, "issued", certificate)
    await uow.session.flush()
    return certificate


def _serial() -> int:
    while True:
        number = domain.serial(secrets.randbits(domain.SERIAL_BITS))
        if number is not None:
            return number


def _revoke(uow: UnitOfWork, certificates: Iterable[Certificate], ending: Ending) -> None:
    for certificate in certificates:
        fact = domain.revoke(certificate, ending, uow.now)
        if fact is not None:
            uow.emit(fact)
            _note(uow, "revoked", certificate)
            uow.note(because=ending)


def _note(uow: UnitOfWork, what: str, certificate: Certificate) -> None:
    uow.note(**{what: f"{uow.resource.get(what, '')} {certificate.certificate_id}".strip()})
