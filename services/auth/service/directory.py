"""People who come from a directory: their sign-in, and what follows here from what changes there.

A sign-in with a directory is alike for every name: one search, one look at the second factor and at a count, one Argon2id hash
(`service/passwords.py`) and one bind, of the person or of nobody. Local accounts and unknown names take the same steps, so neither the time nor the
answer says whose a name is; nor do they say that a password is right to somebody without the second factor that has to be beside it. When the
directory is away, whatever is not right is answered with 503.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.events import UserStatus
from contracts.policy import Service
from services.auth import domain, repository
from services.auth.directory import Away, Directory, Entry
from services.auth.domain.directory import Person
from services.auth.domain.factors import Verdict
from services.auth.domain.patience import Bucket
from services.auth.models import Credential, User
from services.auth.service import accounts, callers, devices, factors, groups, keys, patience, sessions
from services.auth.service.factors import ShownFactor
from services.auth.service.tools import Tools

log = logger(__name__)
VOUCH_AGAIN = timedelta(hours=6)
There = dict[str, tuple[Person, frozenset[str]]]


@dataclass(frozen=True)
class Asked:
    """What a directory says of a name and a password: whose account it is if both are right, or that it is away.

    ``guessed``: who showed no right second factor, and a password that is right, or that the directory was not asked about.
    """

    user_id: UUID | None = None
    away: bool = False
    guessed: UUID | None = None


def turn(tools: Tools, name: str) -> AbstractAsyncContextManager[None]:
    """Where there is a directory: one try of a name (from one address) at a time, so that patience comes before each of them."""
    return tools.directory.turn(name) if tools.directory is not None else nullcontext()


async def ask(
    tools: Tools, known: User | None, name: str, password: str, device: str | None, shown: ShownFactor | None, sign_in: str | None = None
) -> Asked:
    """Ask the directory, if there is one, about somebody who signs in; ``known`` is the account that the name belongs to, if any.

    Who is right and comes for the first time gets an account, and everybody's groups are what the directory says now. After a
    few failed binds of one person, by whichever of their names, nobody binds as them for a while: else others could have the
    directory lock them out. ``device``: a device cookie of theirs, if valid, has a count of its own. So has who shows their right
    second factor, and the session in which somebody is asked for their password once more (``sign_in``); where ``shown`` is not
    enough, a right password is followed by as little as a wrong one. ``shown`` is None where none is asked for.
    """
    directory = tools.directory
    if directory is None:
        return Asked()
    try:
        somebody, entry = await _find(directory, known, name)
        bucket, enough, guessed = await _look(tools, directory, somebody, name, device, shown, sign_in)
        may = await patience.before_bind(tools, bucket, directory.settings)
        right = await directory.check(somebody.dn if somebody and may else None, password)
        if not right or not enough or somebody is None or entry is None:
            return Asked(guessed=guessed if right or not may else None)
        await patience.forget_binds(tools, bucket)
        found = await directory.groups(entry)
    except Away as error:
        log.warning("directory away", directory=directory.settings.name, error=str(error))
        return Asked(away=True)
    if not domain.directory.may_sign_in(somebody, found, directory.settings):
        log.info("sign-in refused: not let in by the directory's groups or state", external_id=somebody.external_id)
        return Asked()
    return Asked(user_id=await _admit(tools, directory, somebody, found))


async def _look(
    tools: Tools,
    directory: Directory,
    somebody: Person | None,
    name: str,
    device: str | None,
    shown: ShownFactor | None,
    sign_in: str | None,
) -> tuple[Bucket, bool, UUID | None]:
    """Where a failed bind counts, whether something may follow a right one, and whose second factor is wrong; with the same work for nobody."""
    at = directory.settings.name
    async with repository.reading(tools.engine) as session:
        user = await repository.directory.user_of(session, at, somebody.external_id if somebody else "")
        now = await repository.clock(session)
        seen = await factors.look(session, tools, user, shown, now) if shown is not None else None
    known = devices.device(tools.vault, device, now)
    nonce = known.nonce if user and known and known.user_id == user.user_id else None
    whose = somebody.external_id if somebody else f"nobody {name}"
    right = seen is None or seen.factor is not None
    bucket = domain.patience.for_bind(directory.settings, whose, nonce, factor=right, sign_in=sign_in)
    return bucket, seen is None or seen.verdict is not Verdict.REFUSED, user.user_id if user and not right else None


async def _find(directory: Directory, known: User | None, name: str) -> tuple[Person | None, Entry | None]:
    """Whose name it is in the directory. The name of an account that is none of its own is looked for as well, in vain."""
    settings = directory.settings
    own = known is not None and (known.source, known.provider) == (domain.directory.SOURCE, settings.name)
    if known is not None and own and known.external_id is not None:
        entries = await directory.find_id(domain.directory.raw_id(known.external_id, settings))
    else:
        entries = await directory.find(name)
    if len(entries) != 1 or (known is not None and not own):
        return None, None
    somebody = domain.directory.person(entries[0].dn, entries[0].attributes, settings, datetime.now(UTC))
    if somebody is None or not (own or domain.directory.is_called(somebody, name)):
        return None, None
    return somebody, entries[0]


async def _admit(tools: Tools, directory: Directory, somebody: Person, found: Collection[str]) -> UUID | None:
    """The account of somebody whom the directory has confirmed, made or brought up to date; None where there can be none."""
    async with unit_of_work(tools.engine, Service.AUTH.value, "directory.admit") as uow:
        user = await repository.directory.user_of(uow.session, directory.settings.name, somebody.external_id)
        user = user or await _make(uow, directory, somebody)
        if user is None:
            return None
        await _bring_up(uow, user, somebody, found)
        callers.acts(uow, user)
    return user.user_id


async def _make(uow: UnitOfWork, directory: Directory, somebody: Person) -> User | None:
    settings = directory.settings
    if somebody.email is None:
        log.warning("sign-in refused: no e-mail address in the directory", external_id=somebody.external_id)
        return None
    await repository.accounts.lock_names(uow.session)
    known = await repository.directory.user_of(uow.session, settings.name, somebody.external_id)
    if known is not None:
        return known
    if await repository.accounts.user_with_email(uow.session, somebody.email) is not None:
        log.warning("sign-in refused: another account has the address that the directory gives", external_id=somebody.external_id)
        return None
    username = await accounts.free_username(uow, somebody.email)
    user = domain.directory.account(uow.new_id(), username, somebody.email, somebody, settings, uow.now)
    uow.session.add(user)
    await uow.session.flush()
    uow.session.add(Credential(user_id=user.user_id))
    uow.emit(domain.accounts.user_fact(user))
    uow.note(user_id=user.user_id, provider=settings.name)
    return user


async def _bring_up(uow: UnitOfWork, user: User, somebody: Person, found: Collection[str]) -> None:
    """Make an account what the directory says of its person now; whom an administrator deactivated stays as they are."""
    if domain.directory.stays_out(user):
        return
    address = await accounts.new_address(uow, user, somebody.email)
    await groups.set_from_directory(uow, user, found)
    locked = await repository.accounts.user(uow.session, user.user_id, lock=True) or user
    locked.vouched_at = uow.now
    if domain.directory.come_back(locked):
        uow.emit(domain.accounts.user_fact(locked))
        uow.note(user_id=locked.user_id, status=locked.status)
    if address is not None:
        locked.email = address
        uow.note(user_id=locked.user_id)


async def sync(tools: Tools, directory: Directory) -> None:
    """Compare all accounts of the directory with it, and let follow what has changed; one replica at a time does.

    When it cannot be asked or shows nobody, nothing follows. When it lacks too many to be believed, they stay for now, without a way in,
    until they are shown again or ``vouching.end_doubtful`` ends what they have; the others are followed as ever, and who leaves afterwards
    goes at the second look. When too many of those whom it put into groups are in none by what it shows, they stay as they are, and it
    has not vouched for them. ``directory.troubles`` say so, and so do the log and the readiness.
    """
    settings = directory.settings
    async with repository.directory.alone(tools.engine) as mine:
        if not mine:
            return
        async with repository.reading(tools.engine) as session:
            users = await repository.directory.users_of(session, domain.directory.SOURCE, settings.name)
        try:
            shown = await directory.look_up([domain.directory.raw_id(str(user.external_id), settings) for user in users])
        except Away as error:
            directory.troubles = [f"directory: nothing follows from it: {error}"]
            directory.asked = True
            log.warning("directory away: nothing follows from it", directory=settings.name, error=str(error))
            return
        there, disabled = await _let_in(directory, shown)
        async with repository.reading(tools.engine) as session:
            has = await repository.directory.groups_by_directory(session, settings.name)
        gone = [user for user in users if user.external_id not in there]
        active = sum(user.status == UserStatus.ACTIVE for user in users)
        leaving = [user for user in gone if user.status == UserStatus.ACTIVE]
        believed = {user.user_id for user in leaving if user.external_id in disabled or user.external_id in directory.awaited}
        staying, awaited = domain.directory.staying(leaving, active, believed)
        directory.awaited = {str(user.external_id) for user in gone if user.user_id in awaited}
        named = {user.user_id: there[user.external_id][1] for user in users if user.external_id in there and has[user.user_id]}
        doubted = domain.directory.doubted(named)
        directory.troubles = list(_troubles(directory, len(staying | awaited), active, len(doubted), len(named)))
        followed = [user for user in users if user.external_id in there and user.user_id not in doubted]
        async with unit_of_work(tools.engine, Service.AUTH.value, "directory.sync") as uow:
            await repository.directory.vouch(uow.session, [user.user_id for user in followed], uow.now - VOUCH_AGAIN)
        directory.asked = True
        await _part_from(tools, (user for user in gone if user.user_id not in awaited), staying)
        await _follow_all(tools, directory, followed, there)


async def _let_in(directory: Directory, shown: Iterable[tuple[Entry, frozenset[str]]]) -> tuple[There, set[str]]:
    """Who of those shown may sign in, with their groups, and who is disabled. They may be thousands: after each, others have a turn."""
    now, there, disabled = datetime.now(UTC), There(), set[str]()
    for entry, found in shown:
        await asyncio.sleep(0)
        somebody = domain.directory.person(entry.dn, entry.attributes, directory.settings, now)
        if somebody is not None and domain.directory.may_sign_in(somebody, found, directory.settings):
            there[somebody.external_id] = (somebody, found)
        elif somebody is not None and not somebody.enabled:
            disabled.add(somebody.external_id)
    return there, disabled


def _troubles(directory: Directory, staying: int, active: int, doubted: int, grouped: int) -> Iterator[str]:
    """What of an answer is not believed, for whoever operates Hortus; the log has it as well."""
    name, days = directory.settings.name, directory.settings.missing_days
    if staying:
        log.error("too many would be deactivated at once: they stay", directory=name, count=staying)
        yield f"directory: it lacks {staying} of {active} people; they stay, without API keys after {days} days"
    if doubted:
        log.error("too many would leave all of their groups at once: they stay", directory=name, count=doubted)
        yield f"directory: it shows {doubted} of {grouped} people who are in groups by it in no group at all; they stay in theirs"


async def _part_from(tools: Tools, gone: Iterable[User], staying: Collection[UUID]) -> None:
    for user in gone:
        if user.user_id in staying:
            if user.gone_at is None:
                await _miss(tools, user)
        elif user.status == UserStatus.ACTIVE or (user.gone_at is None and user.status != UserStatus.DEACTIVATED):
            await _let_go(tools, user)


async def _follow_all(tools: Tools, directory: Directory, users: Iterable[User], there: There) -> None:
    async with repository.reading(tools.engine) as session:
        known = await repository.directory.groups_with_names(session)
        has = await repository.directory.groups_by_directory(session, directory.settings.name)
    for user in users:
        await asyncio.sleep(0)
        somebody, found = there[str(user.external_id)]
        wanted = domain.groups.called(known, found)
        if domain.directory.stays_out(user):
            continue
        if wanted != has[user.user_id] or user.gone_at is not None or somebody.email not in (None, user.email):
            await _follow(tools, user, somebody, found)


async def _follow(tools: Tools, user: User, somebody: Person, found: Collection[str]) -> None:
    async with unit_of_work(tools.engine, Service.AUTH.value, "directory.sync") as uow:
        await _bring_up(uow, user, somebody, found)


async def _miss(tools: Tools, user: User) -> None:
    """Write down since when somebody is missing who stays for now: what they have by the directory's word ends if they stay away."""
    async with unit_of_work(tools.engine, Service.AUTH.value, "directory.miss") as uow:
        locked = await repository.accounts.user(uow.session, user.user_id, lock=True)
        if locked is not None:
            domain.directory.miss(locked, uow.now)
            uow.note(user_id=locked.user_id)


async def _let_go(tools: Tools, user: User) -> None:
    """Deactivate somebody whom the directory does not let in any more.

    The last administrator keeps the account and that role, but no session, key or other group, and no way in until they are shown again.
    """
    async with unit_of_work(tools.engine, Service.AUTH.value, "directory.sync") as uow:
        await repository.groups.lock(uow.session)
        people, administrators = await repository.groups.lock_people(uow.session, [user.user_id])
        locked = people[user.user_id]
        before = locked.version, locked.gone_at
        if administrators == [locked.user_id]:
            log.error("the directory would deactivate the last administrator; the account stays", user_id=str(user.user_id))
            await groups.set_from_directory(uow, locked, ())
            domain.directory.miss(locked, uow.now)
        elif domain.directory.leave(locked, uow.now):
            uow.emit(domain.accounts.user_fact(locked))
        await repository.accounts.forget_links(uow.session, locked.user_id)
        if (locked.version, locked.gone_at) == before and not await _has_something(uow, locked.user_id):
            return
        ended = await sessions.end_all(uow, locked.user_id, domain.directory.LEFT) + await keys.end_all(uow, locked.user_id)
        uow.note(user_id=locked.user_id, status=locked.status, ended=ended)


async def _has_something(uow: UnitOfWork, user_id: UUID) -> bool:
    """Whether somebody has an open session or API key."""
    return bool(await repository.sessions.open_sessions(uow.session, user_id) or await repository.keys.open_keys(uow.session, user_id))
