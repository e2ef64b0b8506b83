"""The header in which facts are named, and the identity header."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Unauthenticated
from chassis.guard import read_identity, write_identity
from chassis.outbox import NAMED_FACTS, facts_header, read_facts_header
from contracts.events import Fact, Membership, User, UserStatus
from contracts.roles import NOBODY, Actor, Principal, Role


def test_facts_are_named_with_topic_key_and_version() -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    project, user = UUID(int=1), UUID(int=2)
    fact = Membership(
        version=3, project_id=project, user_id=user, username="anna0000", role=None, purpose="", starts_at=datetime.now(UTC), ends_at=None
    )
    assert read_facts_header(facts_header([fact])) == {("memberships", f"{project}:{user}"): 3}


def test_of_many_facts_the_last_ones_and_those_about_the_caller_are_named() -> None:
    caller = UUID(int=7)
    facts: list[Fact] = [
        User(version=1, user_id=UUID(int=number), username=f"u{number:07}", status=UserStatus.ACTIVE, cluster_roles=frozenset())
        for number in range(10_000)
    ]
    header = facts_header(facts, caller)
    named = read_facts_header(header)
    assert ("users", str(caller)) in named
    assert all(("users", fact.key) in named for fact in facts[-NAMED_FACTS:])
    assert len(named) == NAMED_FACTS + 1
    assert len(header) < 4096


@pytest.mark.parametrize("damage", ["a", "a:b", "a:b:c", "a:b:1:2", ":::", "a:b:é"])
def test_a_header_that_names_no_facts_is_refused(damage: str) -> None:
    with pytest.raises(ValueError):
        read_facts_header(damage)


@given(st.sampled_from(list(Principal)), st.sampled_from([None, *Role]), st.text(max_size=20))
def test_an_identity_survives_the_header(principal: Principal, role: Role | None, purpose: str) -> None:
    actor = Actor(principal=principal, user_id=uuid4(), role=role, purpose=purpose, projects={uuid4(): Role.DATA_OWNER})
    assert read_identity(write_identity(actor)) == actor


def test_no_header_is_nobody() -> None:
    assert read_identity(None) == NOBODY


@pytest.mark.parametrize("damage", ["x", "e30x", "é", "eyJyb29tIjoxfQ"])
def test_an_identity_that_cannot_be_read_is_refused(damage: str) -> None:
    with pytest.raises(Unauthenticated):
        read_identity(damage)
