"""The rules: names and paths, what may leave a project, what may be shared, and when a run may read. Pure."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.errors import CannotDecide, Conflict, Forbidden, NotFound, Problem, TooLarge, Unprocessable
from contracts.events import Dataset as DatasetFact
from contracts.events import DatasetKind, ProjectState, RunState, ShareState, UserStatus
from contracts.events import Share as ShareFact
from contracts.roles import Role, counts
from services.datasets.models import Dataset, File, KnownRun, Member, Person, Run, Share

MAX_NAME = 100
MAX_DESCRIPTION = 2000
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
COARSEST_SIZE = 1024 * 1024
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LIVE = frozenset({RunState.LEASED, RunState.RUNNING})
ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class InvalidName(Unprocessable):
    """A name that cannot be shown or compared."""

    title = "The name is not valid"


class InvalidDescription(Unprocessable):
    """A description that is too long or holds control characters."""

    title = "The description is not valid"


class InvalidPath(Unprocessable):
    """A file's path that could mean another place, or two."""

    title = "The path of the file is not valid"


class InvalidHash(Unprocessable):
    """What should be a hash is none."""

    title = "Hortus-Content-SHA256 is not a SHA-256 in hexadecimal"


class HashDiffers(Unprocessable):
    """The bytes are not those that the sender hashed."""

    title = "The bytes that arrived have another SHA-256 than was announced; nothing was stored"


class UploadEndedEarly(Problem):
    """The connection ended before the body did."""

    status = 400
    title = "The upload ended early; nothing was stored"


class NameTaken(Conflict):
    """Names are unique in a project, ignoring case."""

    title = "The project has a dataset of this name already"


class ProjectIsClosed(Conflict):
    """Nothing new comes into a project that is archived or being deleted."""

    title = "The project is archived or being deleted: it takes no changes"


class RoleHasEnded(Forbidden):
    """Whoever began this does not hold the role any more with which they began."""

    title = "Your role in the project ended while this was under way; nothing was stored"


class ProjectUnknown(Unprocessable):
    """There is no such project to share with."""

    title = "The project to share with does not exist"


class DatasetIsNotOwn(Forbidden):
    """The dataset is only shared in."""

    title = "The dataset is shared into this project; only the project that owns it can change it"


class OriginsAreForeign(Forbidden):
    """Some of the bytes came from another project."""

    title = "These bytes do not belong to this project alone"


class SharedWithItself(Conflict):
    """Source and target are one project."""

    title = "A dataset cannot be shared with the project that owns it"


class AlreadyShared(Conflict):
    """There is an open share between the two."""

    title = "The dataset is offered to or shared with that project already"


class ShareIsWithdrawn(Conflict):
    """The offer is no longer there."""

    title = "The share was withdrawn"


class RunIsNotLive(Forbidden):
    """The run has ended, is held under a newer lease, or its person may no longer work in the project."""

    title = "The run does not hold this lease any more"


class InputIsNotReadable(Forbidden):
    """The input is no longer shared into the run's project."""

    title = "The input is not shared into the run's project any more"


class StagingIsFull(TooLarge):
    """A run's outputs have a bound."""

    title = "The outputs of the run are larger than a run may leave"


class RangeNotSatisfiable(Problem):
    """The range begins after the end."""

    status = 416
    title = "The file has no such range"


# Names and paths


def dataset_name(raw: str) -> str:
    """A dataset's name: 1 to 100 printable characters in NFC, no blanks around. Raises InvalidName."""
    name = unicodedata.normalize("NFC", raw).strip()
    if not 1 <= len(name) <= MAX_NAME:
        raise InvalidName(f"A name has 1 to {MAX_NAME} characters.")
    if not name.isprintable() or REPLACEMENT in name:
        raise InvalidName("A name has printable characters only.")
    return name


def name_key(name: str) -> str:
    """What two names are compared by: the same for names that differ in case only (Unicode caseless match, NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def description(raw: str) -> str:
    """A description: up to 2,000 characters in NFC; line breaks and tabs are its only control characters."""
    text = unicodedata.normalize("NFC", raw)
    if len(text) > MAX_DESCRIPTION:
        raise InvalidDescription(f"A description has at most {MAX_DESCRIPTION} characters.")
    if any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t" for character in text):
        raise InvalidDescription("A description holds no control characters.")
    return text


def file_path(path: str) -> str:
    """A file's path, unchanged. Raises InvalidPath unless it is relative, unambiguous and the same on every file system."""
    if not path or len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        raise InvalidPath(f"A path has 1 to {MAX_PATH_BYTES} bytes.")
    if path != unicodedata.normalize("NFC", path):
        raise InvalidPath("A path is written in Unicode normal form C.")
    if "\\" in path or REPLACEMENT in path or any(unicodedata.category(c) in ("Cc", "Cs", "Cf", "Zl", "Zp") for c in path):
        raise InvalidPath("A path holds no backslash, control or invisible characters and is valid UTF-8.")
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise InvalidPath("A path is relative, without empty segments and without . or .. in it.")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise InvalidPath(f"Each part of a path has at most {MAX_SEGMENT_BYTES} bytes.")
    return path


def announced_hash(value: str | None) -> bytes | None:
    """The SHA-256 in ``Hortus-Content-SHA256``, 32 bytes. Raises InvalidHash."""
    if value is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise InvalidHash
    return bytes.fromhex(value)


def output_name(wanted: str, taken: Collection[str]) -> str:
    """A name for a run's output dataset: the wanted one made valid, numbered when ``taken`` (name keys) has it."""
    printable = "".join(character for character in unicodedata.normalize("NFC", wanted) if character.isprintable())
    name = printable.replace(REPLACEMENT, "").strip()[:MAX_NAME].strip() or "output"
    number = 2
    candidate = name
    while name_key(candidate) in taken:
        ending = f" ({number})"
        candidate = name[: MAX_NAME - len(ending)] + ending
        number += 1
    return candidate


# Ranges


@dataclass(frozen=True)
class Span:
    """``length`` bytes from ``start`` of a file; ``partial`` when a range was asked for."""

    start: int
    length: int
    partial: bool


def byte_range(header: str | None, size: int) -> Span:
    """What a ``Range`` header asks for (RFC 9110 section 14.2): one range, or everything. Raises RangeNotSatisfiable."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*", header or "", re.ASCII)
    if match is None or match.groups() == ("", ""):
        return Span(0, size, partial=False)
    first, final = match.groups()
    if not first:
        length = min(int(final), size)
        if length == 0:
            raise RangeNotSatisfiable
        return Span(size - length, length, partial=True)
    start = int(first)
    if final and int(final) < start:
        return Span(0, size, partial=False)
    if start >= size:
        raise RangeNotSatisfiable
    end = min(int(final), size - 1) if final else size - 1
    return Span(start, end - start + 1, partial=True)


# Projects and visibility


def accepting(state: ProjectState | None) -> None:
    """Refuse to bring anything into a project that is not active; None is one that was not heard of yet."""
    if state is None:
        raise CannotDecide("The project is not known here yet.", retry_after=1)
    if state != ProjectState.ACTIVE:
        raise ProjectIsClosed


def holds_role(person: Person | None, member: Member | None, role: Role | None, now: datetime) -> bool:
    """Whether somebody whose account is active has this role in a project now, as far as it was heard."""
    if person is None or member is None or person.status != UserStatus.ACTIVE or member.role != role:
        return False
    return counts(member.role, member.starts_at, member.ends_at, now)


def readable(dataset: Dataset | None, project_id: UUID, *, shared_in: bool) -> Dataset:
    """Condition.DATASET_IS_READABLE: it belongs to the project, or an accepted share brings it there; else it does not exist."""
    if dataset is None or (dataset.project_id != project_id and not shared_in):
        raise NotFound
    return dataset


def own(dataset: Dataset, project_id: UUID) -> Dataset:
    """Condition.DATASET_IS_OWN, for a dataset that is readable."""
    if dataset.project_id != project_id:
        raise DatasetIsNotOwn
    return dataset


# Origins


def origins_of_upload(dataset_id: UUID) -> list[UUID]:
    """Where uploaded bytes come from: the dataset that they were put into."""
    return [dataset_id]


def origins_of_outputs(output_dataset_id: UUID, inputs: Mapping[UUID, Iterable[UUID]]) -> list[UUID]:
    """Where a run's outputs come from: its inputs and all that those came from (by input id). A run without inputs is an origin."""
    found = set(inputs)
    for origins in inputs.values():
        found.update(origins)
    return sorted(found or {output_dataset_id})


def merged(*origins: Iterable[UUID]) -> list[UUID]:
    """The union of origins, in order."""
    return sorted(set().union(*origins))


def foreign(project_id: UUID, origins: Iterable[UUID], homes: Mapping[UUID, UUID]) -> list[UUID]:
    """The origins outside the project. One whose project is not known is foreign."""
    return [origin for origin in origins if homes.get(origin) != project_id]


def may_leave(project_id: UUID, dataset: Dataset, origins: Collection[UUID], homes: Mapping[UUID, UUID]) -> None:
    """Condition.ORIGINS_ARE_OWN: bytes leave a project only when all that they came from lies in it. ``homes``: origin to project."""
    outside = foreign(project_id, origins, homes)
    if dataset.project_id != project_id or outside or not origins:
        count = max(len(outside), 1)
        sources = "a dataset" if count == 1 else f"{count} datasets"
        raise OriginsAreForeign(
            f"They come from {sources} of another project. A Data Owner of the project of origin must approve an export of them."
        )


# What is shown of what programs made


def derived(dataset_id: UUID, origins: Iterable[UUID]) -> bool:
    """Whether bytes of a dataset were made by a run out of other datasets. Uploads and runs without inputs have no other origin."""
    return any(origin != dataset_id for origin in origins)


def shown_in_full(project_id: UUID, role: Role | None, dataset: Dataset, homes: Mapping[UUID, UUID]) -> bool:
    """Whether the caller may see what a program chose: names, numbers, sizes and hashes can carry data.

    So they are seen by who may take the bytes; others learn that there is something, and about how much.
    """
    if not derived(dataset.dataset_id, dataset.origins):
        return True
    return role is Role.DATA_OWNER and dataset.project_id == project_id and not foreign(project_id, dataset.origins, homes)


def coarse_size(size: int) -> int:
    """The next power of two, at least 1 MiB, in bytes."""
    return coarse_count(max(size, COARSEST_SIZE))


def coarse_count(count: int) -> int:
    """The next power of two."""
    return 1 << max(count - 1, 0).bit_length()


# Shares


def offer(share_id: UUID, dataset: Dataset, target: UUID, homes: Mapping[UUID, UUID]) -> Share:
    """Offer a dataset, all of whose origins are the project's own, to another project."""
    if target == dataset.project_id:
        raise SharedWithItself
    may_leave(dataset.project_id, dataset, dataset.origins or [dataset.dataset_id], homes)
    return Share(
        share_id=share_id,
        dataset_id=dataset.dataset_id,
        project_id=dataset.project_id,
        target_project_id=target,
        state=ShareState.OFFERED,
        version=1,
    )


def accept(share: Share | None, project_id: UUID) -> bool:
    """Condition.SHARE_IS_FOR_PROJECT: take an offer; whether that changed anything."""
    if share is None or share.target_project_id != project_id:
        raise NotFound
    if share.state == ShareState.WITHDRAWN:
        raise ShareIsWithdrawn
    if share.state == ShareState.ACCEPTED:
        return False
    share.state = ShareState.ACCEPTED
    share.version += 1
    return True


def withdraw(share: Share) -> bool:
    """End a share; whether that changed anything."""
    if share.state == ShareState.WITHDRAWN:
        return False
    share.state = ShareState.WITHDRAWN
    share.version += 1
    return True


# Runs


class Verdict(StrEnum):
    """Whether a run may read or stage now. Not yet known is not no."""

    YES = "yes"
    NOT_YET_KNOWN = "not yet known"
    NOT_LIVE = "not live"
    NO_INPUT = "no input"
    NOT_READABLE = "not readable"


def run_is_live(known: KnownRun, fencing_token: int, now: datetime) -> Verdict:
    """Condition.RUN_IS_LIVE, its first half: the run is leased with this token and its person works in its project, which is active."""
    run, person, member = known.run, known.person, known.member
    if run is None or run.fencing_token < fencing_token:
        return Verdict.NOT_YET_KNOWN
    if run.fencing_token > fencing_token or run.state in ENDED:
        return Verdict.NOT_LIVE
    if run.state not in LIVE or person is None or member is None or known.project is None:
        return Verdict.NOT_YET_KNOWN
    if known.project.state != ProjectState.ACTIVE:
        return Verdict.NOT_LIVE
    if person.status != UserStatus.ACTIVE or not counts(member.role, member.starts_at, member.ends_at, now):
        return Verdict.NOT_LIVE
    return Verdict.YES


def run_may_read(run: Run, dataset: Dataset | None, dataset_id: UUID, *, shared_in: bool) -> Verdict:
    """Condition.RUN_IS_LIVE, its second half: the dataset is an input and readable from the run's project now."""
    if dataset_id not in run.inputs:
        return Verdict.NO_INPUT
    if dataset is None or (dataset.project_id != run.project_id and not shared_in):
        return Verdict.NOT_READABLE
    return Verdict.YES


def enforce(verdict: Verdict) -> None:
    """Turn a verdict that is not yes into its refusal."""
    if verdict in (Verdict.NOT_YET_KNOWN, Verdict.NO_INPUT):
        raise NotFound
    if verdict is Verdict.NOT_LIVE:
        raise RunIsNotLive
    if verdict is Verdict.NOT_READABLE:
        raise InputIsNotReadable


@dataclass(frozen=True)
class Room:
    """How much a run may still stage: bytes, and whether one more file."""

    left: int

    def take(self, size: int) -> None:
        """Refuse more bytes than are left. Raises StagingIsFull."""
        if size > self.left:
            raise StagingIsFull


def staging_room(staged_bytes: int, staged_files: int, max_bytes: int, max_files: int) -> Room:
    """The room left for a run's outputs. Raises StagingIsFull when it has as many files as a run may leave."""
    if staged_files >= max_files:
        raise StagingIsFull(f"A run leaves at most {max_files} files.")
    return Room(max_bytes - staged_bytes)


# New rows and facts


def new_dataset(dataset_id: UUID, project_id: UUID, name: str, text: str, now: datetime) -> Dataset:
    """An empty dataset; ``name`` and ``text`` are valid."""
    return Dataset(
        dataset_id=dataset_id,
        project_id=project_id,
        name=name,
        name_key=name_key(name),
        kind=DatasetKind.FILES,
        description=text,
        files=0,
        size=0,
        origins=[],
        version=1,
        created_at=now,
    )


def replace(dataset: Dataset, old: File | None, new: File) -> None:
    """Count a new version of a file in; the old one is kept and is no longer the current one."""
    if old is not None:
        old.current = False
        dataset.files -= 1
        dataset.size -= old.size
        new.number = old.number + 1
    dataset.files += 1
    dataset.size += new.size
    dataset.origins = merged(dataset.origins, new.origins)
    dataset.version += 1


def dataset_fact(dataset: Dataset) -> DatasetFact:
    """What the other services are told of a dataset."""
    return DatasetFact(
        version=dataset.version,
        dataset_id=dataset.dataset_id,
        project_id=dataset.project_id,
        name=dataset.name,
        kind=DatasetKind(dataset.kind),
        description=dataset.description,
        files=dataset.files,
        size=dataset.size,
        origins=tuple(dataset.origins),
    )


def last_fact(dataset: Dataset) -> DatasetFact:
    """What is said of a dataset that goes with its project: nothing but that it is gone."""
    dataset.version += 1
    return dataset_fact(dataset).model_copy(update={"name": "", "description": "", "files": 0, "size": 0, "origins": (), "deleted": True})


def share_fact(share: Share) -> ShareFact:
    """What the other services are told of a share."""
    return ShareFact(
        version=share.version,
        share_id=share.share_id,
        dataset_id=share.dataset_id,
        project_id=share.project_id,
        target_project_id=share.target_project_id,
        state=ShareState(share.state),
    )
