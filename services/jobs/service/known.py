"""What has to be known before a job is said to go on."""

from chassis.errors import CannotDecide
from chassis.inbox import up_to_date
from chassis.outbox import UnitOfWork
from contracts.events import MEMBERSHIPS, USERS


async def is_known(uow: UnitOfWork) -> bool:
    """Whether what was heard of accounts and memberships is young enough to go by: no gateway looks up for whom a job works.

    What is read after this has all of it; of rows that were read before, that is true only of those that are locked.
    """
    return await up_to_date(uow.session, (USERS, MEMBERSHIPS))


async def demand_known(uow: UnitOfWork) -> None:
    """The same, asked before what rests on it is read or while that is locked. Raises CannotDecide."""
    demand(known=await is_known(uow))


def demand(*, known: bool) -> None:
    """Go on where it is known. Raises CannotDecide."""
    if not known:
        raise CannotDecide("Who may work is not known at this moment.", retry_after=1)
