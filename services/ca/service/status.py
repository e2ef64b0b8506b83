"""Saying what is revoked: lists, and answers about single certificates."""

import asyncio
import functools
from collections.abc import Callable
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding

from chassis.errors import CannotDecide, NotFound
from chassis.inbox import up_to_date
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.events import MEMBERSHIPS, USERS
from contracts.policy import Action, Service
from services.ca import domain, repository, status_forms
from services.ca.models import RevocationList
from services.ca.service.office import office
from services.ca.service.turns import NoRoom
from services.ca.signer import Signer, SignerAway
from services.ca.status_forms import NotNow, Question, Revoked

LIST_S = 10.0
AUTHORITIES = (USERS, MEMBERSHIPS)
"""No gateway looks up what strangers ask about: which people lost a right has to be known here, or nothing is called good.

That a run ended, an agent was withdrawn or a project is closing comes on topics without positions: those count from when they are heard.
"""


def signer_of(issuer: str) -> Signer:
    """An issuer, by its name in addresses. Raises NotFound."""
    found = office().issuers.signers.get(issuer)
    if found is None:
        raise NotFound
    return found


async def newest_list(issuer: str) -> tuple[int, bytes]:
    """The number and content of the list of an issuer's revoked certificates (CRL).

    It is made anew when it is half over or something was revoked since; while the key is away, one that is half over and still true is handed out.
    Whoever waits for the one who is at it holds no connection: a key may take long, and rights end meanwhile. Raises NotFound, SignerAway, and
    CannotDecide while it cannot be known who lost a right.
    """
    desk, signer = office(), signer_of(issuer)
    found = await _look(signer, domain.revocation.is_current)
    if found is None:
        try:
            async with desk.at_lists[signer.key_id], unit_of_work(desk.engine, Service.CA, "crl.renew") as uow:
                found = await renew_list(uow, signer)
        except SignerAway:
            found = await _look(signer, domain.revocation.holds)  # anew: a right may have ended meanwhile
            if found is None:
                raise
    return found


async def renew_list(uow: UnitOfWork, signer: Signer) -> tuple[int, bytes]:
    """The next list of a key, unless somebody has just made it: a number stands on one list alone. Raises SignerAway, CannotDecide."""
    desk = office()
    await repository.revocation.lock_list(uow.session, signer.key_id)
    kept, revoked, now = await _kept(uow, signer)
    if domain.revocation.is_current(kept, revoked, now):
        return await _content(uow, signer, kept)
    desk.demand_answers(signer)  # who waited until it was given up does not wait for it again
    since = domain.profiles.begins(kept.this_update)
    rows = await repository.revocation.revoked_since(uow.session, signer.key_id, since)
    entries = [Revoked(name, *ended) for name, standing in rows if (ended := domain.revocation.revocation_of(standing, now))]
    domain.revocation.renumber(kept, since, len(entries), now, desk.list_life)
    begins = domain.profiles.begins(kept.this_update)
    made = await asyncio.to_thread(status_forms.revocation_list, kept, begins, entries, signer.certificate)  # one of very many takes long
    sign = functools.partial(signer.sign_list, made)
    signed = (await desk.turns.take([sign], LIST_S, counted=False))[0] if signer.slow else await asyncio.to_thread(sign)
    kept.der = signed.public_bytes(Encoding.DER)
    uow.note(issuer=signer.name, number=kept.number)
    await uow.session.flush()
    return kept.number, kept.der


async def _look(signer: Signer, serves: Callable[[RevocationList, int, datetime], bool]) -> tuple[int, bytes] | None:
    """The list that is kept, where it serves."""
    async with unit_of_work(office().engine, Service.CA, Action.CRL_READ) as uow:
        kept, revoked, now = await _kept(uow, signer)
        return await _content(uow, signer, kept) if serves(kept, revoked, now) else None


async def _kept(uow: UnitOfWork, signer: Signer) -> tuple[RevocationList, int, datetime]:
    if not await up_to_date(uow.session, AUTHORITIES):
        raise CannotDecide("The newest losses of rights are not known at this moment.", retry_after=1)
    found = await repository.revocation.newest_list(uow.session, signer.key_id)
    while found is None:
        await repository.revocation.begin_list(uow.session, signer.key_id)
        found = await repository.revocation.newest_list(uow.session, signer.key_id)
    return found


async def _content(uow: UnitOfWork, signer: Signer, kept: RevocationList) -> tuple[int, bytes]:
    lists = office().lists
    if lists.get(signer.key_id, (0, b""))[0] != kept.number:
        lists[signer.key_id] = await repository.revocation.content(uow.session, signer.key_id)
    return lists[signer.key_id]


def asked(der: bytes) -> Question:
    """What an OCSP request asks of these issuers. Raises NoAnswer."""
    return status_forms.read(der, office().names)


async def answer(question: Question) -> bytes:
    """What is known now of the certificate that is asked for, signed (DER); never kept for another request.

    Raises SignerAway, and NotNow where very many wait for a slow key, or instead of calling a certificate good while it cannot be known who lost a right.
    """
    desk = office()
    signer = desk.issuers.signers[question.issuer]
    desk.demand_answers(signer)
    name = domain.profiles.certificate_id(question.serial)
    known = await up_to_date(desk.engine, AUTHORITIES)
    now, found = await repository.revocation.standing(desk.engine, name, signer.key_id)
    ended = domain.revocation.revocation_of(found, now) if found else None
    revoked = Revoked(name, *ended) if ended else None
    if found is not None and revoked is None and not known:
        raise NotNow
    made = status_forms.answer(question, signer.certificate, revoked, now, now + desk.answer_life, known=found is not None)
    sign = functools.partial(signer.sign_answer, made)
    try:
        signed = await desk.turns.take_behind(sign) if signer.slow else sign()
    except NoRoom as full:
        raise NotNow from full
    if signer.slow and found is not None and revoked is None and not await _is_good(name, signer):
        raise NotNow  # a right was lost while this waited for its turn
    return signed.public_bytes(Encoding.DER)


async def _is_good(name: str, signer: Signer) -> bool:
    desk = office()
    known = await up_to_date(desk.engine, AUTHORITIES)
    now, found = await repository.revocation.standing(desk.engine, name, signer.key_id)
    return known and found is not None and domain.revocation.revocation_of(found, now) is None
