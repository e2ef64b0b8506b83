"""What whoever makes an API key is answered about a project that is not theirs is the same wherever it is, and whether it is at all."""

from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.events import ProjectState
from contracts.policy import Action
from tests.auth.people import join, present
from tests.auth.test_keys import make, of, wanted
from tests.deletions import state
from tests.tenancy import like_nothing
from tests.world import THEIRS, World

IN_BODIES = {(Action.KEY_CREATE, "project_id")}


async def test_a_key_for_a_project_that_is_not_theirs_is_answered_the_same_whatever_that_is(world: World) -> None:
    account = await present(await join(world))
    states: dict[ProjectState, UUID] = {each: uuid7() for each in ProjectState}
    await world.hear(*[state(each, 2, project_id) for each, project_id in states.items()])
    await make(world, account, name="ours")
    body = wanted(project_id="{}")
    await like_nothing(world, of(account), "/keys", [THEIRS, *states.values()], method="POST", json=body, status=422)
