"""What has to be known before a job is said to go on."""

from chassis.errors import CannotDecide
from chassis.inbox import up_to_date
from chassis.outbox import UnitOfWork
from contracts.events import MEMBERSHIPS, USERS


async def demand_known(uow: UnitOfWork) -> None:
    """What was heard of accounts and memberships is young enough to go by: no gateway looks up for whom a job works. Raises CannotDecide."""
    if not await up_to_date(uow.session, (USERS, MEMBERSHIPS)):
        raise CannotDecide("Who may work is not known at this moment.", retry_after=1)
