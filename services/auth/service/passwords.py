"""Passwords: the first factor, checked outside of transactions because it is slow."""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Service
from services.auth import domain, repository
from services.auth.models import User
from services.auth.repository.accounts import Known
from services.auth.service import directory
from services.auth.service.factors import ShownFactor
from services.auth.service.tools import About, Tools

log = logger(__name__)
METHOD = "password"


@dataclass(frozen=True)
class Checked:
    """A password that was looked at: whether it was right, against which stored hash, and whether that is ``outdated``.

    ``user_id``: whose it is; a directory may have named somebody whom the typed name alone did not. ``since``: when it was chosen.
    ``method``: who checked it. ``away``: the directory could not be asked. ``guessed``: whose second factor can be guessed at beside it, since
    it is right, or a directory was not asked about it after too many others.
    """

    right: bool
    user_id: UUID
    against: str | None = None
    since: datetime | None = None
    outdated: bool = False
    method: str = METHOD
    away: bool = False
    guessed: UUID | None = None


async def check(tools: Tools, known: Known, password: str, source: str = "") -> Checked:
    """Look at a password that is kept here; without an account the work is the same, and it is not right.

    ``source`` waits its turn. Raises CannotDecide.
    """
    right, outdated = await tools.passwords.check(password, known.password_hash, domain.patience.source_prefix(source))
    user_id = known.user.user_id if known.user else domain.accounts.NO_ONE
    return Checked(right, user_id, known.password_hash, known.password_at, outdated, guessed=user_id if right else None)


async def check_anywhere(
    tools: Tools,
    known: Known,
    name: str,
    password: str,
    about: About,
    shown: ShownFactor | None,
    sign_in: str | None = None,
) -> Checked:
    """Look at the password that came with a name, here and in the directory, if there is one: both, whoever it is. As ``check``.

    ``shown``: what is shown as a second factor; None where something else stands in for it. ``sign_in``: in a session of which sign-in.
    """
    asked = await directory.ask(tools, known.user, name, password, about.device, shown, sign_in)
    checked = await check(tools, known, password, about.source)
    if asked.user_id is not None:
        return Checked(right=True, user_id=asked.user_id, method=domain.directory.SOURCE, guessed=asked.user_id)
    if asked.guessed is not None:
        return replace(checked, method=domain.directory.SOURCE, guessed=asked.guessed)
    return replace(checked, away=asked.away)


async def confirm(uow: UnitOfWork, user: User | None, checked: Checked) -> bool:
    """Whether what was looked at still holds under the transaction's lock."""
    credential = await repository.factors.locked(uow.session, user.user_id if user else domain.accounts.NO_ONE)
    if checked.method == domain.directory.SOURCE:
        return checked.right and user is not None and user.source == domain.directory.SOURCE
    return domain.passwords.still_right(credential, checked.right, checked.since)


async def renew(tools: Tools, checked: Checked, password: str, source: str) -> None:
    """Hash a right password anew with the parameters of now, once its session is open: before, the work would say that it is right.

    Nobody waits for it: where it fails, the next sign-in does it.
    """
    try:
        new_hash = await tools.passwords.hash(password, domain.patience.source_prefix(source))
        async with unit_of_work(tools.engine, Service.AUTH.value, "password.renew") as uow:
            await repository.factors.renew_hash(uow.session, checked.user_id, checked.against, new_hash)
    except Exception as error:  # noqa: BLE001 - the session is open, and its answer was sent
        log.warning("password not hashed anew", user_id=str(checked.user_id), error=type(error).__name__)


async def demand_strong(tools: Tools, password: str, user: User, source: str = "") -> None:
    """The password is not easy to guess for somebody who knows the person's names. Raises PasswordTooWeak, CannotDecide."""
    about = (user.username, user.email, *user.email.split("@"))
    why = await tools.passwords.run(domain.patience.source_prefix(source), domain.passwords.weakness, password, about)
    if why is not None:
        raise domain.passwords.PasswordTooWeak(why)
