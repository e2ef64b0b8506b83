"""Letters: written in the transaction of what they tell, sealed, and sent afterwards."""

import json
from dataclasses import asdict
from uuid import UUID

from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Service
from services.auth import domain, post, repository
from services.auth.domain.letters import Kind, Written
from services.auth.models import Letter
from services.auth.service.tools import Tools

log = logger(__name__)


def possible(tools: Tools) -> bool:
    """Whether mail is configured."""
    return bool(tools.settings.smtp_url)


async def write(uow: UnitOfWork, tools: Tools, user_id: UUID | None, address: str, kind: Kind, **values: object) -> None:
    """Write a letter; it leaves when the transaction has committed. Nothing is written where no mail is configured.

    ``values`` are what the kind's text in ``domain/letters.py`` names. A letter never holds a password.
    """
    if not possible(tools):
        return
    written = domain.letters.compose(kind, address, tools.settings.origins[0], uow.now, values)
    letter_id = uow.new_id()
    sealed = tools.vault.seal_letter(json.dumps(asdict(written)), letter_id)
    uow.session.add(Letter(letter_id=letter_id, user_id=user_id, sealed=sealed, created_at=uow.now, next_at=uow.now))


async def deliver(tools: Tools, office: post.Post) -> None:
    """Send every letter that is due, the oldest first, and end when there is none or the server is away.

    A letter is put off before it is tried, so a process that dies on the way leaves it to be tried again: at worst it is
    sent twice.
    """
    while (taken := await _take(tools)) is not None:
        letter, written = taken
        try:
            await office.send(post.Mail(str(letter.letter_id), letter.created_at, written.address, written.subject, written.text))
        except post.Refused as refused:
            await _end(tools, letter, "letter.refuse", str(refused))
        except post.NotNow as failure:
            log.warning("letter put off", letter_id=str(letter.letter_id), tries=letter.tries, why=str(failure))
            if failure.for_all:
                return
        else:
            async with unit_of_work(tools.engine, Service.AUTH.value, "letter.send") as uow:
                await repository.letters.remove_letter(uow.session, letter.letter_id)


async def _take(tools: Tools) -> tuple[Letter, Written] | None:
    """The next letter that is due, put off until its next try; those that are too old end here."""
    while True:
        async with unit_of_work(tools.engine, Service.AUTH.value, "letter.take") as uow:
            letter = await repository.letters.due_letter(uow.session)
            if letter is None:
                return None
            old = domain.letters.is_too_old(letter.created_at, uow.now)
            letter.next_at = domain.letters.next_try(uow.now, letter.tries)
            letter.tries += 1
        if not old:
            return letter, Written(**json.loads(tools.vault.open_letter(letter.sealed, letter.letter_id)))
        await _end(tools, letter, "letter.expire", f"not sent within {domain.letters.LETTER_LIFE}")


async def _end(tools: Tools, letter: Letter, action: str, why: str) -> None:
    """Give a letter up: a line in the log, a record in the ledger."""
    log.error("letter given up", letter_id=str(letter.letter_id), user_id=str(letter.user_id), tries=letter.tries, why=why)
    async with unit_of_work(tools.engine, Service.AUTH.value, action) as uow:
        await repository.letters.remove_letter(uow.session, letter.letter_id)
        uow.note(letter_id=letter.letter_id, user_id=letter.user_id or "", why=why)
