"""What is found by whom, and what an aggregate looks like as a document. Pure."""

import unicodedata
from collections.abc import Collection, Iterable
from uuid import UUID

from chassis.errors import Problem, Unprocessable
from contracts.events import Dataset, Job, Share, ShareState
from services.search.models import Document, Kind, Scope

MAX_QUERY = 200


class InvalidQuery(Unprocessable):
    """There is nothing to look for in it."""

    title = "The query is not valid"


class SearchIsAway(Problem):
    """The index does not answer."""

    status = 503
    title = "Searching is not possible at this moment"


def query_text(raw: str) -> str:
    """What to look for, in NFC. Raises InvalidQuery for nothing, too much, or characters that nobody types."""
    text = unicodedata.normalize("NFC", raw).strip()
    if not 1 <= len(text) <= MAX_QUERY:
        raise InvalidQuery(f"A query has 1 to {MAX_QUERY} characters.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise InvalidQuery("A query holds no control characters.")
    return text


def scope(mine: Collection[UUID], shares: Iterable[Share], only: UUID | None) -> Scope:
    """What a member of ``mine`` can find, in all of them or ``only`` in one; a project that is not theirs holds nothing."""
    projects = frozenset(mine) if only is None else frozenset(mine) & {only}
    shared = frozenset(share.dataset_id for share in shares if share.state is ShareState.ACCEPTED and share.target_project_id in projects)
    return Scope(projects, shared)


def dataset_document(fact: Dataset) -> Document:
    """A dataset in the index."""
    return _document(Kind.DATASETS, fact.dataset_id, fact.version, fact.project_id, fact.name, fact.description, deleted=fact.deleted)


def job_document(fact: Job) -> Document:
    """A job in the index."""
    return _document(Kind.JOBS, fact.job_id, fact.version, fact.project_id, fact.name, "", deleted=fact.deleted)


def erased(kind: Kind, key: str) -> Document:
    """The tombstone of an aggregate that was erased from its topic; nothing can come after it."""
    return Document(kind, key, 2**62, {"kind": kind, "id": key, "name": "", "description": "", "deleted": True})


def _document(kind: Kind, key: UUID, version: int, project_id: UUID, name: str, description: str, *, deleted: bool) -> Document:
    body = {
        "kind": kind,
        "id": str(key),
        "project_id": str(project_id),
        "name": "" if deleted else name,
        "description": "" if deleted else description,
        "deleted": deleted,
    }
    return Document(kind, str(key), version, body)
