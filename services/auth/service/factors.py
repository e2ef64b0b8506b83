"""Second factors: what somebody has, what they show at a sign-in or a step-up, and what their groups ask for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chassis.outbox import UnitOfWork
from services.auth import domain, repository, vault
from services.auth.domain.factors import Factor, FactorEnrolmentNeeded, Factors, Policy, Verdict
from services.auth.domain.letters import Kind
from services.auth.domain.links import Purpose
from services.auth.models import Credential, Passkey, User
from services.auth.service import callers, letters, passkeys
from services.auth.service.passkeys import Challenge, ShownPasskey
from services.auth.service.tools import Tools

ENROLMENT_LIFE = timedelta(minutes=15)


@dataclass(frozen=True)
class ShownFactor:
    """What somebody shows as their second factor: one of these, or nothing."""

    code: str | None = None
    recovery_code: str | None = None
    passkey: ShownPasskey | None = None

    @property
    def tried(self) -> bool:
        """Whether anything is shown."""
        return (self.code, self.recovery_code, self.passkey) != (None, None, None)


@dataclass(frozen=True)
class Weighed:
    """What comes of what was shown beside the right first factor, and the factor that was right."""

    verdict: Verdict
    factor: Factor | None


@dataclass(frozen=True)
class Listed:
    """What somebody has as second factors, and what their groups ask for."""

    totp_at: datetime | None
    passkeys: list[Passkey]
    recovery_codes_left: int
    policy: Policy


async def standing(uow: UnitOfWork, tools: Tools, user: User | None) -> tuple[Policy, Factors]:
    """What somebody's groups ask for, and what they have."""
    return await _standing(uow.session, tools, user)


async def policy(uow: UnitOfWork, tools: Tools, user: User) -> Policy:
    """What somebody's groups ask for."""
    return (await standing(uow, tools, user))[0]


async def check(uow: UnitOfWork, tools: Tools, user: User | None, shown: ShownFactor, now: datetime, *, use: bool = True) -> Factor | None:
    """Use up what was shown; which factor it was, or None when it is not right.

    Whoever is refused anyway (no account, a wrong password) costs the same work, without ``use``: nothing is used up.
    """
    if shown.passkey is not None:
        return Factor.PASSKEY if await passkeys.check(uow, tools, user, shown.passkey, now, use=use) else None
    if shown.recovery_code is not None:
        return Factor.RECOVERY if await _check_recovery_code(uow, tools, user if use else None, shown.recovery_code, now) else None
    if shown.code is not None:
        return Factor.TOTP if await _check_code(uow, tools, user, shown.code, now, use=use) else None
    return None


async def weigh(
    uow: UnitOfWork,
    tools: Tools,
    user: User | None,
    shown: ShownFactor,
    now: datetime,
    *,
    use: bool = True,
    standing: repository.factors.Standing | None = None,
) -> Weighed:
    """What comes of what somebody shows beside their first factor, which is right where ``use`` says so.

    ``standing``: what they have and are asked for, where that was read in this transaction.
    """
    factor = await check(uow, tools, user, shown, now, use=use)
    asked, has = _stands(tools, user, standing or await repository.factors.standing(uow.session, _id(user)))
    if user is None or not use:
        return Weighed(Verdict.REFUSED, None)
    return Weighed(domain.factors.verdict(asked, has, factor, tried=shown.tried), factor)


async def look(session: repository.Reading, tools: Tools, user: User | None, shown: ShownFactor, now: datetime) -> Weighed:
    """What would come of what somebody shows, were their first factor right: ahead of slow work, with nothing locked or used up.

    The work is the same for whoever shows the same kind, with an account or without.
    """
    factor = await _seen(session, tools, user, shown, now)
    asked, has = await _standing(session, tools, user)
    return Weighed(domain.factors.verdict(asked, has, factor, tried=shown.tried), factor)


async def enrolment(uow: UnitOfWork, user: User, purpose: Purpose = Purpose.FACTOR_ENROLMENT, life: timedelta = ENROLMENT_LIFE) -> str:
    """A one-time token with which somebody sets up a second factor; the one before is void. The account is locked.

    The token of a sign-in is for who has shown the first factor; that of a reset counts beside the first factor alone.
    """
    token = vault.new_token(purpose.value)
    now = await repository.clock(uow.session)
    link = domain.links.link(user.user_id, purpose, vault.token_hash(token), now, life)
    await repository.links.replace(uow.session, link)
    uow.conceal()
    return token


async def enrolment_needed(uow: UnitOfWork, user: User) -> FactorEnrolmentNeeded:
    """The refusal of somebody who has shown who they are and has to set up a second factor first, with the token for that."""
    callers.acts(uow, user)
    uow.action = "enrolment.give"
    uow.note(user_id=user.user_id)
    return FactorEnrolmentNeeded(members={"enrolment": await enrolment(uow, user)})


async def codes_left(uow: UnitOfWork, user: User) -> int:
    """How many recovery codes somebody has not used yet."""
    return await repository.factors.codes_left(uow.session, user.user_id)


async def read(uow: UnitOfWork, tools: Tools) -> Listed:
    """What the caller has. Raises NotFound."""
    return await listed(uow, tools, await callers.account(uow))


async def listed(uow: UnitOfWork, tools: Tools, user: User) -> Listed:
    """What somebody has, with its times."""
    credential = await repository.factors.credential(uow.session, user.user_id)
    return Listed(
        totp_at=credential.totp_at if credential else None,
        passkeys=await repository.passkeys.passkeys(uow.session, user.user_id),
        recovery_codes_left=await codes_left(uow, user),
        policy=await policy(uow, tools, user),
    )


async def passkey_options(uow: UnitOfWork, tools: Tools) -> Challenge:
    """A challenge for a new passkey of the caller. Raises NotFound, TooManyPasskeys."""
    return await passkeys.options(uow, tools, await callers.account(uow))


async def add_passkey(uow: UnitOfWork, tools: Tools, shown: ShownPasskey, name: str) -> Passkey:
    """A new passkey of the caller. Raises WrongPasskey, PasskeyTaken, TooManyPasskeys, and as ``callers.current``."""
    user, _ = await callers.current(uow, tools)
    made = await passkeys.add(uow, tools, user, shown, name)
    await changed(uow, tools, user, f"the passkey “{made.name}” was added", passkey_id=made.passkey_id)
    return made


async def remove_passkey(uow: UnitOfWork, tools: Tools, passkey_id: UUID) -> None:
    """The caller does without one of their passkeys. Raises AFactorStays, and as ``callers.current``."""
    user, _ = await callers.current(uow, tools)
    known = await repository.passkeys.passkeys(uow.session, user.user_id)
    removed = domain.passkeys.own_passkey(known, passkey_id)
    asked, has = await standing(uow, tools, user)
    domain.factors.demand_a_factor_stays(asked, domain.factors.without_passkey(has))
    await repository.passkeys.remove(uow.session, removed)
    await changed(uow, tools, user, f"the passkey “{removed.name}” was removed", passkey_id=passkey_id)


async def new_recovery_codes(uow: UnitOfWork, tools: Tools) -> list[str]:
    """Ten new recovery codes for the caller, in the place of all old ones. Raises as ``callers.current``."""
    user, _ = await callers.current(uow, tools)
    codes = [domain.factors.recovery_code(vault.random_bytes(domain.factors.RECOVERY_BYTES)) for _ in range(domain.factors.RECOVERY_CODES)]
    hashes = {_hash(tools, user, code) for code in codes}
    await repository.factors.replace_codes(uow.session, user.user_id, hashes)
    await changed(uow, tools, user, "new recovery codes were made", factor=Factor.RECOVERY.value)
    uow.conceal()
    return codes


async def forget(uow: UnitOfWork, user: User) -> None:
    """Remove everything that somebody has as a second factor."""
    credential = await repository.factors.credential(uow.session, user.user_id, lock=True)
    if credential is not None:
        domain.factors.forget_totp(credential)
    await repository.passkeys.remove_all(uow.session, user.user_id)
    await repository.factors.replace_codes(uow.session, user.user_id, ())


async def changed(uow: UnitOfWork, tools: Tools, user: User, change: str, **what: object) -> None:
    """Record a change of somebody's factors, and tell them by letter; a link to set one up that a sign-in gave before is void."""
    uow.note(user_id=user.user_id, **what)
    await repository.links.forget_links(uow.session, user.user_id, {Purpose.FACTOR_ENROLMENT})
    await letters.write(uow, tools, user.user_id, user.email, Kind.FACTOR_CHANGED, change=change)


async def forget_spent(uow: UnitOfWork) -> None:
    """Forget used challenges and links that are too old to count anyway."""
    await repository.spent.prune(uow.session, uow.now)
    await repository.links.prune(uow.session, uow.now)


async def _standing(session: repository.Reading, tools: Tools, user: User | None) -> tuple[Policy, Factors]:
    return _stands(tools, user, await repository.factors.standing(session, _id(user)))


def _stands(tools: Tools, user: User | None, standing: repository.factors.Standing) -> tuple[Policy, Factors]:
    policies, totp, count = standing
    has = Factors(totp=totp, passkeys=count, ever=totp or count > 0 or (user is not None and user.factor_enrolled_at is not None))
    return domain.factors.policy_of(policies, tools.settings.factor_policy), has


async def _seen(session: repository.Reading, tools: Tools, user: User | None, shown: ShownFactor, now: datetime) -> Factor | None:
    if shown.passkey is not None:
        return Factor.PASSKEY if await passkeys.is_right(session, tools, user, shown.passkey, now) else None
    if shown.recovery_code is not None:
        unused = await repository.factors.has_code(session, _id(user), _hash(tools, user, shown.recovery_code))
        return Factor.RECOVERY if unused and user is not None else None
    if shown.code is not None:
        credential = await repository.factors.credential(session, _id(user))
        return Factor.TOTP if _step(tools, credential, shown.code, now) is not None else None
    return None


def _step(tools: Tools, credential: Credential | None, code: str, now: datetime) -> int | None:
    """The step of a right code that was not used; without an authenticator the work is the same, and there is none."""
    if credential is None or credential.totp_sealed is None:
        domain.factors.matching_step(domain.factors.STAND_IN_SECRET, code, now, last_step=-1)
        return None
    return domain.factors.matching_step(tools.vault.open_totp(credential.totp_sealed, credential.user_id), code, now, credential.last_step)


async def _check_code(uow: UnitOfWork, tools: Tools, user: User | None, code: str, now: datetime, *, use: bool) -> bool:
    credential = await repository.factors.locked(uow.session, _id(user))
    step = _step(tools, credential, code, now)
    if credential is None or step is None or not use:
        return False
    await repository.factors.use_step(uow.session, credential.user_id, step)
    return True


async def _check_recovery_code(uow: UnitOfWork, tools: Tools, user: User | None, code: str, now: datetime) -> bool:
    if not await repository.factors.use_code(uow.session, _id(user), _hash(tools, user, code), now) or user is None:
        return False
    left = await codes_left(uow, user)
    uow.note(user_id=user.user_id, recovery_codes_left=left)
    await letters.write(uow, tools, user.user_id, user.email, Kind.RECOVERY_CODE_USED, left=left)
    return True


def _id(user: User | None) -> UUID:
    return user.user_id if user else domain.accounts.NO_ONE


def _hash(tools: Tools, user: User | None, code: str) -> bytes:
    return tools.vault.recovery_hash(domain.factors.normal_recovery_code(code), _id(user))
