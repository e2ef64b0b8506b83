"""Saying what is revoked: lists, and answers about single certificates."""

import asyncio
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding

from chassis.errors import CannotDecide, NotFound
from chassis.inbox import up_to_date
from chassis.outbox import UnitOfWork
from contracts.events import MEMBERSHIPS, USERS
from services.ca import domain, repository, status_forms
from services.ca.models import RevocationList
from services.ca.service.office import office
from services.ca.signer import Signer
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


async def newest_list(uow: UnitOfWork, issuer: str) -> tuple[int, bytes]:
    """The number and content of the list of an issuer's revoked certificates (CRL).

    It is made anew when it is half over or something was revoked since. Whoever makes one waits for whoever is at it, so that a number stands on
    one list alone. Raises NotFound, SignerAway, and CannotDecide while it cannot be known who lost a right.
    """
    desk, signer = office(), signer_of(issuer)
    if not await up_to_date(uow.session, AUTHORITIES):
        raise CannotDecide("The newest losses of rights are not known at this moment.", retry_after=1)
    kept, revoked, now = await _kept(uow, signer.key_id)
    if not domain.revocation.is_current(kept, revoked, now):
        await repository.revocation.lock_list(uow.session, signer.key_id)
        kept, revoked, now = await _kept(uow, signer.key_id)
    if domain.revocation.is_current(kept, revoked, now):
        if desk.lists.get(signer.key_id, (0, b""))[0] != kept.number:
            desk.lists[signer.key_id] = await repository.revocation.content(uow.session, signer.key_id)
        return desk.lists[signer.key_id]
    rows = await repository.revocation.revoked_since(uow.session, signer.key_id, kept.this_update)
    entries = [Revoked(name, *ended) for name, standing in rows if (ended := domain.revocation.revocation_of(standing, now))]
    domain.revocation.renumber(kept, len(entries), now, desk.list_life)
    made = await asyncio.to_thread(status_forms.revocation_list, kept, entries, signer.certificate)  # one of very many takes long
    kept.der = await desk.apart(lambda: signer.sign_list(made).public_bytes(Encoding.DER), LIST_S)
    uow.note(issuer=issuer, number=kept.number)
    await uow.session.flush()
    return kept.number, kept.der


async def _kept(uow: UnitOfWork, issuer_key: str) -> tuple[RevocationList, int, datetime]:
    found = await repository.revocation.newest_list(uow.session, issuer_key)
    while found is None:
        await repository.revocation.begin_list(uow.session, issuer_key)
        found = await repository.revocation.newest_list(uow.session, issuer_key)
    return found


def asked(der: bytes) -> Question:
    """What an OCSP request asks of these issuers. Raises NoAnswer."""
    return status_forms.read(der, office().names)


async def answer(question: Question) -> bytes:
    """What is known now of the certificate that is asked for, signed (DER); never kept for another request.

    Raises SignerAway, and NotNow instead of calling a certificate good while it cannot be known who lost a right.
    """
    desk = office()
    signer = desk.issuers.signers[question.issuer]
    name = domain.profiles.certificate_id(question.serial)
    known = await up_to_date(desk.engine, AUTHORITIES)
    now, found = await repository.revocation.standing(desk.engine, name, signer.key_id)
    ended = domain.revocation.revocation_of(found, now) if found else None
    revoked = Revoked(name, *ended) if ended else None
    if found is not None and revoked is None and not known:
        raise NotNow
    made = status_forms.answer(question, signer.certificate, revoked, now, now + desk.answer_life, known=found is not None)
    [signed] = await desk.signed(signer.sign_answer, [made])
    return signed.public_bytes(Encoding.DER)
