from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import NotFound
from contracts.events import ProjectState, UserStatus
from contracts.roles import Role
from services.projects import domain
from services.projects.models import Membership, Person, Project

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROJECT = UUID(int=1)
ADA = UUID(int=2)
BOB = UUID(int=3)


def project(state: ProjectState = ProjectState.ACTIVE) -> Project:
    made, _ = domain.projects.found(PROJECT, "wdbc", "Cells", "Study 7", ADA, "ada00000", NOW)
    made.state = state.value
    return made


def member(
    user_id: UUID = BOB,
    role: Role | None = Role.DATA_SCIENTIST,
    starts: timedelta = -HOUR,
    ends: timedelta | None = None,
) -> Membership:
    return Membership(
        project_id=PROJECT,
        user_id=user_id,
        username="bob00000",
        role=role.value if role else None,
        purpose="",
        starts_at=NOW + starts,
        ends_at=None if ends is None else NOW + ends,
        version=3,
    )


def person(status: UserStatus = UserStatus.ACTIVE) -> Person:
    return Person(user_id=BOB, username="bob00000", status=status.value)


OTHER_OWNER = [(member(ADA, Role.DATA_OWNER), None)]

# Names


@pytest.mark.parametrize("name", ["wdbc", "WDBC", "a1", "1a", "a_b", "a" * 24, "a" + "_b" * 11 + "c", "study_2026_03"])
def test_a_name_of_2_to_24_letters_digits_and_single_underscores_is_one(name: str) -> None:
    assert domain.projects.check_name(name) == name.lower()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "a" * 25,
        "_a",
        "a_",
        "a__b",
        "12",
        "2026",
        "a b",
        "a-b",
        "a.b",
        "a/b",
        "../a",
        "x_featurestore",
        "X_FeatureStore1",
        "müller",
        "a\u0000b",
        "ab\n",
        "\nab",
        "a\u200bb",
        "\u0661\u0662",
        "\uff41\uff42",
    ],
)
def test_what_breaks_a_rule_is_no_name(name: str) -> None:
    with pytest.raises(domain.projects.BadProjectName):
        domain.projects.check_name(name)


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9_]{1,30}"))
def test_a_name_and_a_username_are_split_in_one_way_only(name: str) -> None:
    try:
        key = domain.projects.check_name(name)
    except domain.projects.BadProjectName:
        return
    assert f"{key}__ada00000".split("__") == [key, "ada00000"]
    assert 2 <= len(name) <= 24
    assert name.isascii()
    assert not name.isdigit()


# Founding and describing


def test_who_founds_a_project_owns_it_without_an_end() -> None:
    made, creator = domain.projects.found(PROJECT, "Wdbc", "Cells", "Study 7", ADA, "ada00000", NOW)
    assert (made.name, made.name_key, made.state, made.version) == ("Wdbc", "wdbc", "active", 1)
    assert (creator.role, creator.starts_at, creator.ends_at, creator.version) == ("data_owner", NOW, None, 1)
    assert creator.purpose == "Study 7"


def test_describing_counts_a_version_once() -> None:
    made = project()
    assert domain.lifecycle.change(made, {"description": "Other"}, NOW)
    assert not domain.lifecycle.change(made, {"description": "Other"}, NOW)
    assert (made.description, made.version) == ("Other", 2)


@pytest.mark.parametrize("state", sorted(set(ProjectState) - {ProjectState.ACTIVE}))
def test_a_project_that_is_not_active_takes_no_changes(state: ProjectState) -> None:
    with pytest.raises(domain.projects.ProjectNotActive):
        domain.lifecycle.change(project(state), {"description": "Other"}, NOW)
    with pytest.raises(domain.projects.ProjectNotActive):
        domain.projects.join(project(state), person(), None, Role.DATA_SCIENTIST, "", None, None, NOW)


# When a membership counts


@pytest.mark.parametrize(
    ("membership", "now", "later"),
    [
        (member(), True, True),
        (member(starts=timedelta(0)), True, True),
        (member(ends=timedelta(microseconds=1)), True, True),
        (member(ends=timedelta(0)), False, False),
        (member(ends=-HOUR), False, False),
        (member(starts=HOUR), False, True),
        (member(role=None), False, False),
    ],
)
def test_a_membership_counts_from_its_start_until_just_before_its_end(membership: Membership, now: bool, later: bool) -> None:
    assert domain.projects.counts(membership, NOW) is now
    assert domain.projects.is_held(membership, NOW) is later


def test_who_has_no_role_now_does_not_learn_that_the_project_exists() -> None:
    for membership in (None, member(role=None), member(starts=HOUR), member(ends=timedelta(0))):
        with pytest.raises(NotFound):
            domain.projects.role_of(membership, NOW)
        with pytest.raises(NotFound):
            domain.projects.demand_owner(membership, NOW)


def test_a_scientist_is_no_owner() -> None:
    assert domain.projects.role_of(member(), NOW) is Role.DATA_SCIENTIST
    with pytest.raises(domain.projects.RoleMayNot):
        domain.projects.demand_owner(member(), NOW)
    domain.projects.demand_owner(member(role=Role.DATA_OWNER), NOW)


# Joining


@pytest.mark.parametrize("status", [UserStatus.INVITED, UserStatus.ACTIVE])
def test_invited_and_active_people_can_join(status: UserStatus) -> None:
    assert domain.projects.demand_person(person(status)).user_id == BOB


@pytest.mark.parametrize("found", [None, person(UserStatus.BLOCKED), person(UserStatus.DEACTIVATED)])
def test_nobody_else_can_join(found: Person | None) -> None:
    with pytest.raises(domain.projects.NoSuchPerson):
        domain.projects.demand_person(found)


def test_who_joins_counts_from_now_for_good() -> None:
    joined = domain.projects.join(project(), person(), None, Role.DATA_SCIENTIST, "p", None, None, NOW)
    assert (joined.starts_at, joined.ends_at, joined.version, joined.role) == (NOW, None, 1, "data_scientist")


def test_a_start_in_the_past_is_now() -> None:
    assert domain.projects.join(project(), person(), None, Role.DATA_SCIENTIST, "", NOW - HOUR, None, NOW).starts_at == NOW


def by_group(role: Role = Role.DATA_SCIENTIST) -> Membership:
    there = member(role=role)
    there.by_group = "staff"
    return there


def test_who_is_there_by_a_group_is_not_put_out_until_a_later_start_and_goes_on_without_a_break() -> None:
    with pytest.raises(domain.projects.IsThereAlready):
        domain.projects.join(project(), person(), by_group(), Role.DATA_SCIENTIST, "", NOW + HOUR, None, NOW)
    there = by_group()
    since = there.starts_at
    assert since < NOW
    taken = domain.projects.join(project(), person(), there, Role.DATA_SCIENTIST, "", None, None, NOW)
    assert (taken.by_group, taken.starts_at) == (None, since)


def test_a_start_in_the_future_stays() -> None:
    assert domain.projects.join(project(), person(), None, Role.DATA_SCIENTIST, "", NOW + HOUR, None, NOW).starts_at == NOW + HOUR


@pytest.mark.parametrize("before", [member(role=None), member(ends=-HOUR), member(ends=timedelta(0))])
def test_who_comes_back_goes_on_counting_versions(before: Membership) -> None:
    version = before.version
    joined = domain.projects.join(project(), person(), before, Role.DATA_OWNER, "p", None, NOW + HOUR, NOW)
    assert joined is before
    assert (joined.version, joined.role, joined.starts_at, joined.ends_at) == (version + 1, "data_owner", NOW, NOW + HOUR)


@pytest.mark.parametrize("before", [member(), member(starts=HOUR), member(ends=HOUR)])
def test_nobody_is_a_member_twice(before: Membership) -> None:
    with pytest.raises(domain.projects.AlreadyAMember):
        domain.projects.join(project(), person(), before, Role.DATA_SCIENTIST, "", None, None, NOW)


@pytest.mark.parametrize(("starts", "ends"), [(None, NOW), (None, NOW - HOUR), (NOW + HOUR, NOW + HOUR), (NOW + 2 * HOUR, NOW + HOUR)])
def test_a_membership_ends_after_it_begins(starts: datetime | None, ends: datetime) -> None:
    with pytest.raises(domain.projects.EndsBeforeItBegins):
        domain.projects.join(project(), person(), None, Role.DATA_SCIENTIST, "", starts, ends, NOW)


# Changing and leaving


def test_a_change_counts_one_version() -> None:
    changed = member()
    assert domain.projects.change(changed, Role.DATA_OWNER, "p", NOW + HOUR, [], NOW)
    assert (changed.role, changed.purpose, changed.ends_at, changed.version) == ("data_owner", "p", NOW + HOUR, 4)


def test_a_change_to_what_is_so_already_is_none() -> None:
    same = member()
    assert not domain.projects.change(same, Role.DATA_SCIENTIST, "", None, [], NOW)
    assert same.version == 3


@pytest.mark.parametrize("gone", [member(role=None), member(ends=timedelta(0))])
def test_a_membership_that_ended_is_not_changed(gone: Membership) -> None:
    with pytest.raises(NotFound):
        domain.projects.change(gone, Role.DATA_OWNER, "", None, [], NOW)
    with pytest.raises(NotFound):
        domain.projects.leave(gone, [], None, NOW)


@pytest.mark.parametrize("ends", [NOW, NOW - HOUR])
def test_an_end_is_not_put_into_the_past(ends: datetime) -> None:
    with pytest.raises(domain.projects.EndsBeforeItBegins):
        domain.projects.change(member(), Role.DATA_SCIENTIST, "", ends, [], NOW)


def test_an_end_is_not_put_before_a_start_that_lies_ahead() -> None:
    with pytest.raises(domain.projects.EndsBeforeItBegins):
        domain.projects.change(member(starts=2 * HOUR), Role.DATA_SCIENTIST, "", NOW + HOUR, [], NOW)


NOT_ANOTHER_OWNER = [
    [],
    [(member(ADA, Role.DATA_SCIENTIST), None)],
    [(member(ADA, None), None)],
    [(member(ADA, Role.DATA_OWNER, ends=HOUR), None)],
    [(member(ADA, Role.DATA_OWNER, starts=HOUR), None)],
    [(member(ADA, Role.DATA_OWNER), person(UserStatus.INVITED))],
    [(member(ADA, Role.DATA_OWNER), person(UserStatus.BLOCKED))],
]


@pytest.mark.parametrize("others", NOT_ANOTHER_OWNER)
def test_the_last_lasting_owner_is_not_removed_demoted_or_dated(others: list[tuple[Membership, Person | None]]) -> None:
    last = member(role=Role.DATA_OWNER)
    with pytest.raises(domain.projects.LastOwnerStays):
        domain.projects.leave(last, others, None, NOW)
    with pytest.raises(domain.projects.LastOwnerStays):
        domain.projects.change(last, Role.DATA_SCIENTIST, "", None, others, NOW)
    with pytest.raises(domain.projects.LastOwnerStays):
        domain.projects.change(last, Role.DATA_OWNER, "", NOW + HOUR, others, NOW)
    assert (last.role, last.ends_at, last.version) == ("data_owner", None, 3)


def test_one_of_two_owners_can_go() -> None:
    gone = domain.projects.leave(member(role=Role.DATA_OWNER), OTHER_OWNER, None, NOW)
    assert (gone.role, gone.version) == (None, 4)


def test_the_last_owner_can_change_their_purpose() -> None:
    assert domain.projects.change(member(role=Role.DATA_OWNER), Role.DATA_OWNER, "new", None, [], NOW)


@pytest.mark.parametrize("leaving", [member(), member(role=Role.DATA_OWNER, ends=HOUR), member(role=Role.DATA_OWNER, starts=HOUR)])
def test_who_is_no_lasting_owner_can_always_leave(leaving: Membership) -> None:
    assert domain.projects.leave(leaving, [], None, NOW).role is None


# Facts


def test_the_fact_of_a_membership_that_ended_has_no_role() -> None:
    fact = domain.projects.membership_fact(domain.projects.end(member(ends=timedelta(0)), None, NOW))
    assert (fact.role, fact.version, fact.key) == (None, 4, f"{PROJECT}:{BOB}")


def test_facts_carry_the_whole_state() -> None:
    fact = domain.projects.project_fact(project())
    assert (fact.name, fact.description, fact.state, fact.version) == ("wdbc", "Cells", ProjectState.ACTIVE, 1)
