"""The rules, without a database."""

import unicodedata
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from uuid_utils.compat import uuid7

from chassis.errors import CannotDecide, NotFound
from contracts.events import ProjectState, RunState, ShareState, UserStatus
from contracts.roles import Role
from services.datasets import domain
from services.datasets.domain.files import Span
from services.datasets.domain.runs import Verdict
from services.datasets.models import Dataset, File, KnownRun, Member, Person, Project, Run, Share
from tests.world import OURS, THEIRS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def dataset(project_id: UUID = OURS, name: str = "mri", origins: list[UUID] | None = None) -> Dataset:
    made = domain.datasets.new_dataset(uuid7(), project_id, name, "", NOW)
    made.origins = origins or []
    return made


def file(size: int = 3, origins: list[UUID] | None = None) -> File:
    return File(
        file_id=uuid7(),
        dataset_id=uuid7(),
        path="a",
        number=1,
        current=True,
        size=size,
        sha256=bytes(32),
        key=b"",
        blob=None,
        content=b"",
        origins=origins or [uuid7()],
        created_at=NOW,
    )


# What is shown of what programs made


@given(count=st.integers(1, 10_000), size=st.integers(0, 2**42))
def test_counts_and_sizes_for_who_may_not_take_outputs_say_little(count: int, size: int) -> None:
    for exact, rounded in (
        (count, domain.origins.coarse_count(count)),
        (max(size, domain.origins.COARSEST_SIZE), domain.origins.coarse_size(size)),
    ):
        assert exact <= rounded < 2 * exact
        assert rounded.bit_count() == 1


def test_outputs_are_seen_in_full_by_an_owner_whose_project_all_of_it_came_from() -> None:
    source = uuid7()
    made = dataset(origins=[source])
    assert domain.origins.shown_in_full(OURS, Role.DATA_OWNER, made, {source: OURS})
    assert not domain.origins.shown_in_full(OURS, Role.DATA_OWNER, made, {source: THEIRS})
    assert not domain.origins.shown_in_full(OURS, Role.DATA_OWNER, made, {})
    assert not domain.origins.shown_in_full(THEIRS, Role.DATA_OWNER, made, {source: THEIRS})
    assert not domain.origins.shown_in_full(OURS, Role.DATA_SCIENTIST, made, {source: OURS})
    assert not domain.origins.shown_in_full(OURS, None, made, {source: OURS})


def test_uploads_are_seen_in_full_by_every_member() -> None:
    put_in = dataset()
    put_in.origins = domain.origins.origins_of_upload(put_in.dataset_id)
    assert domain.origins.shown_in_full(OURS, Role.DATA_SCIENTIST, put_in, {})


# Names and paths


@pytest.mark.parametrize(
    "name", ["", "   ", "x" * 101, "a\nb", "a\0b", "a\N{RIGHT-TO-LEFT OVERRIDE}b", "\ud800", "a\N{REPLACEMENT CHARACTER}b"]
)
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(domain.names.InvalidName):
        domain.names.dataset_name(name)


def test_a_name_is_kept_in_normal_form_without_blanks_around() -> None:
    assert domain.names.dataset_name("  Mu\N{COMBINING DIAERESIS}nchen 2024 ") == "München 2024"


@pytest.mark.parametrize(
    ("one", "two"), [("MRI", "mri"), ("Straße", "STRASSE"), ("Ångström", "a\N{COMBINING RING ABOVE}ngstro\N{COMBINING DIAERESIS}m")]
)
def test_names_that_differ_in_case_only_are_the_same(one: str, two: str) -> None:
    assert domain.names.name_key(one) == domain.names.name_key(two)


def test_a_description_has_lines_but_no_control_characters() -> None:
    assert domain.names.description("two\nlines\tand a tab") == "two\nlines\tand a tab"
    for text in ("bell\a", "x" * 2001, "nul\0"):
        with pytest.raises(domain.names.InvalidDescription):
            domain.names.description(text)


@pytest.mark.parametrize("path", ["a", "a/b.csv", "scan 1/…/ß.dcm", ".hidden", "..a/b..", "x" * 255, "/".join(["y" * 200] * 5)])
def test_a_plain_path_is_taken_as_it_is(path: str) -> None:
    assert domain.names.file_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../a",
        "a/./b",
        "a\\b",
        "..\\a",
        "a\nb",
        "a\0b",
        "\x7f",
        "u\N{COMBINING DIAERESIS}",
        "a\N{RIGHT-TO-LEFT OVERRIDE}b",
        "a\N{ZERO WIDTH SPACE}b",
        "a\N{REPLACEMENT CHARACTER}",
        "\ud800",
        "x" * 256,
        "ä" * 128,
        "/".join(["y" * 200] * 6),
    ],
)
def test_a_path_that_could_mean_another_place_is_refused(path: str) -> None:
    with pytest.raises(domain.names.InvalidPath):
        domain.names.file_path(path)


@given(st.text(max_size=300))
def test_a_path_that_is_taken_stays_inside_and_is_the_same_on_every_system(path: str) -> None:
    try:
        taken = domain.names.file_path(path)
    except domain.names.InvalidPath:
        return
    assert taken == path == unicodedata.normalize("NFC", path)
    assert not {"", ".", ".."} & set(path.split("/"))
    assert "\\" not in path
    assert "\0" not in path


@given(wanted=st.text(max_size=200), taken=st.sets(st.sampled_from(["output", "output (2)", "results", "results (2)"])))
def test_an_output_gets_a_valid_name_that_is_free(wanted: str, taken: set[str]) -> None:
    name = domain.names.output_name(wanted, taken)
    assert domain.names.dataset_name(name) == name
    assert domain.names.name_key(name) not in taken


def test_an_output_whose_name_is_taken_is_numbered() -> None:
    assert domain.names.output_name("Results", {"results", "results (2)"}) == "Results (3)"


@pytest.mark.parametrize("value", ["", "zz", "a" * 63, "a" * 65, "g" * 64, " " + "a" * 63])
def test_what_is_no_hash_is_refused(value: str) -> None:
    with pytest.raises(domain.files.InvalidHash):
        domain.files.announced_hash(value)


# Ranges


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, Span(0, 10, partial=False)),
        ("bytes=0-0", Span(0, 1, partial=True)),
        ("bytes=2-5", Span(2, 4, partial=True)),
        ("bytes=8-", Span(8, 2, partial=True)),
        ("bytes=8-99", Span(8, 2, partial=True)),
        ("bytes=-3", Span(7, 3, partial=True)),
        ("bytes=-99", Span(0, 10, partial=True)),
        ("bytes=5-2", Span(0, 10, partial=False)),
        ("bytes=0-1,3-4", Span(0, 10, partial=False)),
        ("lines=1-2", Span(0, 10, partial=False)),
        ("bytes=-", Span(0, 10, partial=False)),
        ("bytes=٣-٤", Span(0, 10, partial=False)),
    ],
)
def test_a_single_range_is_understood_and_anything_else_means_everything(header: str | None, span: Span) -> None:
    assert domain.files.byte_range(header, 10) == span


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_a_range_after_the_end_is_refused(header: str, size: int) -> None:
    with pytest.raises(domain.files.RangeNotSatisfiable):
        domain.files.byte_range(header, size)


# Visibility


def test_a_dataset_of_another_project_does_not_exist_until_it_is_shared() -> None:
    with pytest.raises(NotFound):
        domain.datasets.readable(dataset(THEIRS), OURS, shared_in=False)
    with pytest.raises(NotFound):
        domain.datasets.readable(None, OURS, shared_in=True)
    assert domain.datasets.readable(dataset(THEIRS), OURS, shared_in=True)


def test_a_dataset_that_is_shared_in_is_not_own() -> None:
    with pytest.raises(domain.datasets.DatasetIsNotOwn):
        domain.datasets.own(dataset(THEIRS), OURS)


def test_a_project_that_is_not_active_takes_nothing_in_and_an_unknown_one_cannot_be_judged() -> None:
    domain.datasets.accepting(ProjectState.ACTIVE)
    with pytest.raises(CannotDecide):
        domain.datasets.accepting(None)
    for state in set(ProjectState) - {ProjectState.ACTIVE}:
        with pytest.raises(domain.datasets.ProjectIsClosed):
            domain.datasets.accepting(state)


# Origins


def test_bytes_whose_origins_are_all_own_may_leave() -> None:
    own = dataset()
    domain.origins.may_leave(OURS, own, [own.dataset_id], {own.dataset_id: OURS})


def test_one_foreign_origin_among_own_ones_keeps_bytes_inside() -> None:
    own, other = dataset(), uuid7()
    with pytest.raises(domain.origins.OriginsAreForeign, match="Data Owner of the project of origin must approve"):
        domain.origins.may_leave(OURS, own, [own.dataset_id, other], {own.dataset_id: OURS, other: THEIRS})


def test_an_origin_that_nobody_knows_is_foreign() -> None:
    own = dataset()
    with pytest.raises(domain.origins.OriginsAreForeign):
        domain.origins.may_leave(OURS, own, [uuid7()], {})
    with pytest.raises(domain.origins.OriginsAreForeign):
        domain.origins.may_leave(OURS, own, [], {})


def test_a_dataset_that_is_only_shared_in_does_not_leave() -> None:
    theirs = dataset(THEIRS)
    with pytest.raises(domain.origins.OriginsAreForeign):
        domain.origins.may_leave(OURS, theirs, [theirs.dataset_id], {theirs.dataset_id: THEIRS})


def test_outputs_come_from_the_inputs_and_from_all_that_those_came_from() -> None:
    one, two, older = uuid7(), uuid7(), uuid7()
    assert domain.origins.origins_of_outputs(uuid7(), {one: [older], two: []}) == sorted([one, two, older])


def test_outputs_of_a_run_without_inputs_come_from_their_own_dataset() -> None:
    output = uuid7()
    assert domain.origins.origins_of_outputs(output, {}) == [output]


class World(RuleBasedStateMachine):
    """Datasets wander through projects by uploads, jobs and shares, as the rules let them; ``truth`` is where bytes really came from."""

    projects = tuple(uuid7() for _ in range(3))

    def __init__(self) -> None:
        super().__init__()
        self.datasets: list[Dataset] = []
        self.homes: dict[UUID, UUID] = {}
        self.shares: list[Share] = []
        self.truth: dict[UUID, set[UUID]] = {}
        self.seen: dict[UUID, set[UUID]] = {}

    @rule(project=st.sampled_from(projects))
    def upload(self, project: UUID) -> None:
        made = dataset(project)
        domain.datasets.replace(made, None, file(origins=domain.origins.origins_of_upload(made.dataset_id)))
        self._add(made, {project})

    @rule(project=st.sampled_from(projects), data=st.data())
    @precondition(lambda self: self.datasets)
    def run_a_job(self, project: UUID, data: st.DataObject) -> None:
        readable = [each for each in self.datasets if self._readable(each, project)]
        inputs = data.draw(st.lists(st.sampled_from(readable), unique_by=lambda each: each.dataset_id, max_size=3)) if readable else []
        made = dataset(project)
        made.origins = domain.origins.origins_of_outputs(made.dataset_id, {each.dataset_id: each.origins for each in inputs})
        self._add(made, {project}.union(*(self.truth[each.dataset_id] for each in inputs)))

    @rule(data=st.data())
    @precondition(lambda self: self.datasets)
    def put_another_file_in(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.datasets))
        domain.datasets.replace(chosen, None, file(origins=domain.origins.origins_of_upload(chosen.dataset_id)))

    @rule(receiver=st.sampled_from(projects), data=st.data())
    @precondition(lambda self: self.datasets)
    def share(self, receiver: UUID, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.datasets))
        try:
            share = domain.shares.offer(uuid7(), chosen, receiver, self.homes)
        except (domain.origins.OriginsAreForeign, domain.shares.SharedWithItself):
            return
        domain.shares.accept(share, receiver)
        self.shares.append(share)

    @rule(data=st.data())
    @precondition(lambda self: self.shares)
    def withdraw(self, data: st.DataObject) -> None:
        domain.shares.withdraw(data.draw(st.sampled_from(self.shares)))

    @invariant()
    def origins_only_grow(self) -> None:
        for each in self.datasets:
            assert self.seen[each.dataset_id] <= set(each.origins)
            self.seen[each.dataset_id] = set(each.origins)

    @invariant()
    def nothing_with_a_foreign_origin_can_be_taken_out_anywhere(self) -> None:
        for each in self.datasets:
            for project in self.projects:
                try:
                    domain.origins.may_leave(project, each, each.origins, self.homes)
                except domain.origins.OriginsAreForeign:
                    continue
                assert self.truth[each.dataset_id] == {project}

    @invariant()
    def what_is_shared_is_the_projects_own_through_and_through(self) -> None:
        for share in self.shares:
            assert self.truth[share.dataset_id] == {share.project_id}

    def _add(self, made: Dataset, truth: set[UUID]) -> None:
        self.datasets.append(made)
        self.homes[made.dataset_id] = made.project_id
        self.truth[made.dataset_id] = truth
        self.seen[made.dataset_id] = set(made.origins)

    def _readable(self, each: Dataset, project: UUID) -> bool:
        shared_in = any(
            share.dataset_id == each.dataset_id and share.target_project_id == project and share.state == ShareState.ACCEPTED
            for share in self.shares
        )
        return each.project_id == project or shared_in


TestOriginsThroughAnyChain = World.TestCase


# Shares


def test_a_dataset_is_not_shared_with_its_own_project() -> None:
    with pytest.raises(domain.shares.SharedWithItself):
        domain.shares.offer(uuid7(), dataset(), OURS, {})


def test_a_derived_dataset_with_a_foreign_origin_is_not_shared_on() -> None:
    foreign = uuid7()
    with pytest.raises(domain.origins.OriginsAreForeign):
        domain.shares.offer(uuid7(), dataset(origins=[foreign]), uuid7(), {foreign: THEIRS})


def test_a_share_is_accepted_once_by_the_project_that_it_is_for() -> None:
    own = dataset()
    share = domain.shares.offer(uuid7(), own, THEIRS, {own.dataset_id: OURS})
    with pytest.raises(NotFound):
        domain.shares.accept(share, OURS)
    with pytest.raises(NotFound):
        domain.shares.accept(None, THEIRS)
    assert domain.shares.accept(share, THEIRS)
    assert not domain.shares.accept(share, THEIRS)
    assert (share.state, share.version) == (ShareState.ACCEPTED, 2)


def test_a_withdrawn_share_stays_withdrawn() -> None:
    own = dataset()
    share = domain.shares.offer(uuid7(), own, THEIRS, {own.dataset_id: OURS})
    assert domain.shares.withdraw(share)
    assert not domain.shares.withdraw(share)
    with pytest.raises(domain.shares.ShareIsWithdrawn):
        domain.shares.accept(share, THEIRS)


# Runs


def run(state: RunState = RunState.RUNNING, token: int = 2, inputs: list[UUID] | None = None) -> Run:
    return Run(
        run_id=uuid7(),
        project_id=OURS,
        user_id=uuid7(),
        state=state,
        fencing_token=token,
        inputs=inputs or [],
        output_dataset_id=uuid7(),
        output_name="results",
    )


def project(state: ProjectState = ProjectState.ACTIVE) -> Project:
    return Project(project_id=OURS, state=state)


def somebody(status: UserStatus = UserStatus.ACTIVE) -> Person:
    return Person(user_id=uuid7(), status=status)


def member(role: Role | None = Role.DATA_SCIENTIST, starts: int = -1, ends: int | None = None) -> Member:
    return Member(
        project_id=OURS,
        user_id=uuid7(),
        role=role,
        starts_at=NOW + timedelta(hours=starts),
        ends_at=None if ends is None else NOW + timedelta(hours=ends),
    )


def test_a_run_with_its_token_and_a_person_in_the_project_is_live() -> None:
    assert domain.runs.run_is_live(KnownRun(run(), somebody(), member(), project()), 2, NOW) is Verdict.YES
    assert domain.runs.run_is_live(KnownRun(run(RunState.LEASED), somebody(), member(ends=1), project()), 2, NOW) is Verdict.YES


def test_what_was_not_heard_yet_is_waited_for() -> None:
    for gap in (
        KnownRun(),
        KnownRun(run(token=1), somebody(), member(), project()),
        KnownRun(run(), None, member(), project()),
        KnownRun(run(), somebody(), None, project()),
        KnownRun(run(), somebody(), member(), None),
        KnownRun(run(RunState.QUEUED), somebody(), member(), project()),
    ):
        assert domain.runs.run_is_live(gap, 2, NOW) is Verdict.NOT_YET_KNOWN


def test_an_older_token_an_ended_run_a_person_who_left_and_a_project_that_is_not_active_are_not_live() -> None:
    for known in (
        KnownRun(run(token=3), somebody(), member(), project()),
        *(KnownRun(run(state), somebody(), member(), project()) for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)),
        KnownRun(run(), somebody(UserStatus.BLOCKED), member(), project()),
        KnownRun(run(), somebody(), member(role=None), project()),
        KnownRun(run(), somebody(), member(starts=1), project()),
        KnownRun(run(), somebody(), member(ends=0), project()),
        *(KnownRun(run(), somebody(), member(), project(state)) for state in set(ProjectState) - {ProjectState.ACTIVE}),
    ):
        assert domain.runs.run_is_live(known, 2, NOW) is Verdict.NOT_LIVE


def test_who_is_active_and_has_the_role_at_this_moment_holds_it() -> None:
    owner = member(Role.DATA_OWNER, ends=1)
    assert domain.datasets.holds_role(somebody(), owner, Role.DATA_OWNER, NOW)
    for person, known, role in (
        (None, owner, Role.DATA_OWNER),
        (somebody(), None, Role.DATA_OWNER),
        (somebody(UserStatus.BLOCKED), owner, Role.DATA_OWNER),
        (somebody(), owner, Role.DATA_SCIENTIST),
        (somebody(), member(None), None),
        (somebody(), member(Role.DATA_OWNER, starts=1), Role.DATA_OWNER),
        (somebody(), member(Role.DATA_OWNER, ends=0), Role.DATA_OWNER),
    ):
        assert not domain.datasets.holds_role(person, known, role, NOW)


def test_a_run_reads_its_inputs_and_only_while_they_are_readable() -> None:
    own, theirs = dataset(), dataset(THEIRS)
    working = run(inputs=[own.dataset_id, theirs.dataset_id])
    assert domain.runs.run_may_read(working, own, own.dataset_id, shared_in=False) is Verdict.YES
    assert domain.runs.run_may_read(working, theirs, theirs.dataset_id, shared_in=True) is Verdict.YES
    assert domain.runs.run_may_read(working, theirs, theirs.dataset_id, shared_in=False) is Verdict.NOT_READABLE
    assert domain.runs.run_may_read(working, dataset(), uuid7(), shared_in=False) is Verdict.NO_INPUT


def test_every_verdict_but_yes_is_a_refusal() -> None:
    domain.runs.enforce(Verdict.YES)
    for verdict, refusal in (
        (Verdict.NOT_YET_KNOWN, NotFound),
        (Verdict.NO_INPUT, NotFound),
        (Verdict.NOT_LIVE, domain.runs.RunIsNotLive),
        (Verdict.NOT_READABLE, domain.runs.InputIsNotReadable),
    ):
        with pytest.raises(refusal):
            domain.runs.enforce(verdict)


def test_a_run_leaves_no_more_than_it_may() -> None:
    room = domain.runs.staging_room(60, 1, 100, 3)
    room.take(40)
    with pytest.raises(domain.runs.StagingIsFull):
        room.take(41)
    with pytest.raises(domain.runs.StagingIsFull):
        domain.runs.staging_room(0, 3, 100, 3)


# Versions


def test_a_new_version_replaces_the_old_one_in_the_counts_and_keeps_its_origins() -> None:
    whole, old, new = dataset(), file(5), file(7)
    domain.datasets.replace(whole, None, old)
    domain.datasets.replace(whole, old, new)
    assert (whole.files, whole.size, whole.version) == (1, 7, 3)
    assert (old.current, new.number) == (False, 2)
    assert set(whole.origins) == {*old.origins, *new.origins}
