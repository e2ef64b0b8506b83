"""When a membership counts, to the instant."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.roles import Role, counts

NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("role", "starts_at", "ends_at", "given"),
    [
        (Role.DATA_OWNER, NOW, None, True),
        (Role.DATA_SCIENTIST, NOW - TICK, NOW + TICK, True),
        (Role.DATA_SCIENTIST, NOW + TICK, None, False),
        (Role.DATA_SCIENTIST, NOW - TICK, NOW, False),
        (Role.DATA_SCIENTIST, NOW - TICK, NOW - TICK, False),
        (Role.DATA_SCIENTIST, NOW, NOW, False),
        (None, NOW - TICK, None, False),
    ],
)
def test_a_membership_gives_its_role_from_its_beginning_to_right_before_its_end(
    role: Role | None, starts_at: datetime, ends_at: datetime | None, given: bool
) -> None:
    assert counts(role, starts_at, ends_at, NOW) is given
