"""Letters about what other services tell: break-glass in a project, to its Data Owners and to the auditors."""

from chassis.outbox import UnitOfWork
from contracts.events import BreakGlass
from services.auth import repository
from services.auth.domain.letters import Kind
from services.auth.service import letters
from services.auth.service.tools import Tools

_desks: list[Tools] = []


def open_desk(tools: Tools) -> None:
    """Let handlers write letters with these tools."""
    _desks.append(tools)


def close_desk(tools: Tools) -> None:
    """No longer."""
    _desks.remove(tools)


async def break_glass(uow: UnitOfWork, fact: BreakGlass) -> None:
    """Write to a project's Data Owners and to the auditors when an administrator opened it, and when nobody reviewed that in time.

    The same where the administrator appointed a Data Owner. A letter names ids and times, not the reason, which may be about people.
    """
    if fact.version == 1 and fact.appointed_id is not None:
        kind = Kind.OWNER_APPOINTED
    elif fact.version == 1:
        kind = Kind.BREAK_GLASS_OPENED
    elif fact.unreviewed:
        kind = Kind.BREAK_GLASS_UNREVIEWED
    else:
        return
    tools = _desks[-1]
    if not letters.possible(tools):
        return
    opener = await repository.accounts.user(uow.session, fact.user_id)
    appointed = None if fact.appointed_id is None else await repository.accounts.user(uow.session, fact.appointed_id)
    readers = await repository.accounts.to_be_told(uow.session, fact.owners)
    for reader in readers:
        await letters.write(
            uow,
            tools,
            reader.user_id,
            reader.email,
            kind,
            who=opener.username if opener else fact.user_id,
            project=fact.project_id,
            appointed=appointed.username if appointed else fact.appointed_id,
            opened=f"{fact.opened_at:%Y-%m-%d %H:%M}",
            until=f"{fact.ends_at:%Y-%m-%d %H:%M}",
        )
    uow.note(break_glass_id=fact.break_glass_id, letters=len(readers))
