"""What is found by whom, without an index."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.events import ShareState
from services.search import domain
from services.search.models import Kind
from tests.search.conftest import dataset, job, share
from tests.world import OURS, THEIRS

PROJECTS = [OURS, THEIRS, UUID(int=3)]


@pytest.mark.parametrize("query", ["", "   ", "x" * 201, "a\0b", "a\nb", "\ud800"])
def test_a_query_of_nothing_or_too_much_is_refused(query: str) -> None:
    with pytest.raises(domain.InvalidQuery):
        domain.query_text(query)


def test_a_query_is_kept_in_normal_form() -> None:
    assert domain.query_text(" Mu\N{COMBINING DIAERESIS}nchen ") == "München"


@given(
    mine=st.sets(st.sampled_from(PROJECTS)),
    shares=st.lists(st.tuples(st.sampled_from(PROJECTS), st.sampled_from(PROJECTS), st.sampled_from(ShareState)), max_size=6),
    only=st.one_of(st.none(), st.sampled_from(PROJECTS)),
)
def test_nobody_finds_more_than_their_projects_and_what_is_accepted_into_them(
    mine: set[UUID], shares: list[tuple[UUID, UUID, ShareState]], only: UUID | None
) -> None:
    facts = [share(dataset("x", source), target, state) for source, target, state in shares]
    scope = domain.scope(mine, facts, only)
    assert scope.projects <= mine
    assert only is None or scope.projects <= {only}
    found = {fact.dataset_id: fact for fact in facts}
    for shared in scope.shared:
        assert found[shared].target_project_id in scope.projects
        assert found[shared].state is ShareState.ACCEPTED
    assert scope.empty == (not scope.projects)


def test_a_deleted_dataset_leaves_a_tombstone_without_text() -> None:
    document = domain.dataset_document(dataset("secret", description="secret", version=4, deleted=True))
    assert document.version == 4
    assert document.body["deleted"]
    assert "secret" not in str(document)


def test_nothing_comes_after_what_was_erased() -> None:
    key = str(uuid7())
    assert domain.erased(Kind.DATASETS, key).version > 2**60


def test_a_job_is_a_document_with_its_name() -> None:
    fact = job("train")
    document = domain.job_document(fact)
    assert (document.id, document.body["name"], document.body["kind"]) == (str(fact.job_id), "train", "jobs")
