"""A study at N = 2: what is done at one gateway holds at the other, at once where it gives and within a second where it takes."""

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from examples.wdbc.transfers import ACCEPTED, Download, Upload
from hortus.client import Client, Memory, Refused, new_key, write_private
from hortus.client.wire import Manner
from tests.e2e.scene import (
    ATTEMPTS,
    IN_FORCE_SECONDS,
    PATIENCE,
    Scene,
    Somebody,
    Watch,
    assert_undecided,
    fact_of,
    flowing,
    in_force,
    until,
    watched_on,
    watching,
    works,
)

pytestmark = pytest.mark.timeout(400)

FIRST, SECOND = 0, 1
BOTH = (FIRST, SECOND)
MIB = 1024 * 1024
END_SECONDS = 5.0


def asks_for_the_study(person: Somebody, project: str, gateways: tuple[int, ...] = BOTH) -> list[Watch]:
    return [Watch(f"gateway {gateway + 1}", person.eager(gateway), lambda client: client.projects.get(project)) for gateway in gateways]


def test_who_signed_in_at_one_gateway_is_let_in_at_the_other_at_once(doubled: Scene) -> None:
    for signed_in, used in (BOTH, BOTH[::-1]):
        newcomer = doubled.invite(gateway=signed_in)
        # A memory of its own: the other gateway is told nothing of what to wait for.
        assert newcomer.fresh(used, memory=Memory()).users.me()["username"] == newcomer.username


def test_what_was_written_at_one_gateway_is_read_at_the_other(doubled: Scene) -> None:
    owner = doubled.owner
    for number in range(6):
        writes, reads = owner.at(number % 2), owner.at((number + 1) % 2)
        project = writes.projects.create(f"both_{secrets.token_hex(6)}")
        assert reads.projects.get(project["project_id"]) == project
        assert project["project_id"] in {known["project_id"] for known in reads.projects.list()}
        changed = reads.projects.change(project["project_id"], description=f"number {number}")
        assert changed["version"] == project["version"] + 1
        assert writes.projects.get(project["project_id"])["description"] == f"number {number}"


def test_a_member_added_at_one_gateway_works_at_the_other_and_sees_what_was_uploaded_there(doubled: Scene) -> None:
    owner, scientist = doubled.owner, doubled.scientist
    project = doubled.study()
    member = owner.at(FIRST).members.add(project, scientist.username, "data_scientist", purpose="reading")
    dataset = owner.at(FIRST).datasets.create(project, "aspirates")["dataset_id"]
    content = secrets.token_bytes(300_000)
    stored = owner.at(FIRST).datasets.put(project, dataset, [content], "table.csv")
    # Of the deed alone, not of what was done after it.
    told = Memory()
    told.learn(fact_of(project, member))
    there = scientist.fresh(SECOND, memory=told)
    assert there.projects.get(project)["role"] == "data_scientist"
    assert list(there.datasets.files(project, dataset)) == [stored]
    target = Path(doubled.suite.home.path) / "taken"
    assert owner.at(SECOND).datasets.download(project, dataset, stored, target).read_bytes() == content
    with pytest.raises(Refused) as refused:
        there.datasets.download(project, dataset, stored, target)
    assert (refused.value.status, refused.value.slug) == (403, "role-may-not")


def test_a_creation_repeated_at_the_other_gateway_makes_nothing_new(doubled: Scene) -> None:
    owner, name, key = doubled.owner, f"once_{secrets.token_hex(6)}", secrets.token_hex(16)
    clients = [owner.eager(number % 2) for number in range(6)]

    def create(client: Client) -> tuple[int, str]:
        made = client.wire._attempt(
            lambda: client.wire._http.build_request(
                "POST",
                "/api/v1/projects",
                json={"name": name},
                headers={"Authorization": f"Bearer {owner.token}", "Idempotency-Key": key},
            ),
            Manner(repeatable=False),
        )
        return made.status_code, made.json()["project_id"]

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(create, clients))
    assert {status for status, _ in answers} == {201}
    assert len({project for _, project in answers}) == 1
    assert [known["name"] for known in owner.at(SECOND).projects.list()].count(name) == 1


def test_of_two_changes_of_one_version_at_two_gateways_one_wins(doubled: Scene) -> None:
    owner, project = doubled.owner, doubled.study()
    version = owner.at(FIRST).projects.get(project)["version"]
    clients = [owner.fresh(number % 2) for number in range(4)]

    def change(number: int) -> str | int:
        try:
            return clients[number].projects.change(project, description=f"by {number}", version=version)["description"]
        except Refused as refusal:
            return refusal.status

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(change, range(len(clients))))
    won = [answer for answer in answers if isinstance(answer, str)]
    assert len(won) == 1
    assert set(answers) - set(won) <= {409, 412}
    assert owner.at(SECOND).projects.get(project)["description"] == won[0]


def test_two_owners_who_remove_each_other_at_two_gateways_leave_one(doubled: Scene) -> None:
    owner, other = doubled.owner, doubled.scientist
    project = doubled.study(scientist="data_owner")
    deeds = [(owner.fresh(FIRST), other), (other.fresh(SECOND, memory=owner.memory), owner)]

    def remove(deed: tuple[Client, Somebody]) -> int:
        client, whom = deed
        try:
            client.members.remove(project, whom.user_id)
        except Refused as refusal:
            return refusal.status
        return 204

    with ThreadPoolExecutor(2) as pool:
        removed = list(pool.map(remove, deeds))
    assert removed.count(204) == 1
    assert set(removed) - {204} <= {401, 403, 404, 409}
    left = owner if removed[0] == 204 else other
    assert [member["user_id"] for member in left.at(SECOND).members.list(project)] == [left.user_id]


def test_a_removal_at_one_gateway_is_in_force_at_both_within_a_second(doubled: Scene) -> None:
    for _ in range(3):
        project = doubled.study(scientist="data_scientist")
        watches = asks_for_the_study(doubled.scientist, project)
        with watching(*watches):
            doubled.owner.at(FIRST).members.remove(project, doubled.scientist.user_id)
            acknowledged = time.time()
            watched_on(watches, acknowledged)
        in_force(watches, acknowledged)
        # Where it was acknowledged, it holds already.
        assert watches[FIRST].allowed_after(acknowledged) == []
        assert {(seen.status, seen.slug) for watch in watches for seen in watch.seen if seen.refused} == {(404, "not-found")}


def test_an_ended_session_is_refused_at_the_other_gateway_within_a_second(doubled: Scene) -> None:
    leaving = doubled.invite()
    watches = [Watch(f"gateway {gateway + 1}", leaving.eager(gateway), lambda client: client.users.me()) for gateway in BOTH]
    with watching(*watches):
        leaving.at(FIRST).sessions.end(leaving.session_id)
        ended = time.time()
        watched_on(watches, ended)
    in_force(watches, ended)
    assert {seen.slug for watch in watches for seen in watch.seen if seen.refused} == {"session-ended"}


def test_a_blocked_account_is_refused_at_the_other_gateway_within_a_second(doubled: Scene) -> None:
    blocked = doubled.invite()
    watches = [Watch(f"gateway {gateway + 1}", blocked.eager(gateway), lambda client: client.users.me()) for gateway in BOTH]
    with watching(*watches):
        doubled.administrator.at(SECOND).users.change(blocked.user_id, status="blocked")
        done = time.time()
        watched_on(watches, done)
    in_force(watches, done)
    # Whichever fact comes first: the account is blocked, its sessions are ended.
    assert {seen.slug for watch in watches for seen in watch.seen if seen.refused} <= {"account-not-active", "session-ended"}
    with pytest.raises(Refused) as refused:
        blocked.sign_in(FIRST)
    assert refused.value.status == 401


def certified(scene: Scene, person: Somebody, project: str, gateway: int, folder: Path) -> tuple[str, Callable[[], Client]]:
    """A new project certificate, ordered at the first gateway, and connections that show it at another."""
    pair = new_key("wish")
    ordered = person.at(FIRST).certificates.create(project, pair.csr)
    write_private(folder / "key.pem", pair.key)
    write_private(folder / "chain.pem", ordered["chain"].encode())
    address = scene.suite.certificate_addresses[gateway]

    def connect() -> Client:
        return Client(address, scene.suite.root, certificate=(folder / "chain.pem", folder / "key.pem"), memory=Memory(), attempts=1)

    return ordered["certificate_id"], connect


def test_a_certificate_counts_at_the_other_gateway_at_once_and_its_revocation_within_a_second(doubled: Scene, tmp_path: Path) -> None:
    project = doubled.study(scientist="data_scientist")
    certificate, connect = certified(doubled, doubled.scientist, project, SECOND, tmp_path)
    with connect() as shown:
        watch = Watch("gateway 2", shown, lambda client: client.projects.get(project))
        with watching(watch):
            assert {seen.status for seen in watch.seen} <= {200, 503}, "it counts from the first time it is shown"
            doubled.owner.at(FIRST).certificates.revoke(project, certificate)
            revoked = time.time()
            watched_on([watch], revoked)
        in_force([watch], revoked)


def test_a_membership_with_an_end_ends_at_its_instant_at_both_gateways(doubled: Scene) -> None:
    project = doubled.study()
    end = datetime.now(UTC) + timedelta(seconds=END_SECONDS)
    doubled.owner.at(FIRST).members.add(project, doubled.scientist.username, "data_scientist", ends_at=end.isoformat())
    watches = asks_for_the_study(doubled.scientist, project)
    with watching(*watches):
        watched_on(watches, end.timestamp())
    for watch in watches:
        assert watch.allowed_after(end.timestamp()) == []
        assert watch.first_refusal(end.timestamp()) <= IN_FORCE_SECONDS
        before = [seen for seen in watch.seen if watch.seen[0].sent < seen.answered < end.timestamp() and seen.refused]
        assert [seen for seen in before if seen.sent > first_allowed(watch)] == [], "nobody is sent away early"


def first_allowed(watch: Watch) -> float:
    return min(seen.sent for seen in watch.seen if seen.allowed)


@pytest.fixture(scope="module")
def heavy(doubled: Scene) -> tuple[str, str, str]:
    """A study with a file of 24 MiB; gives project, dataset and the path of its door."""
    project = doubled.study()
    dataset = doubled.owner.at(FIRST).datasets.create(project, "scans")["dataset_id"]
    doubled.owner.at(FIRST).datasets.put(project, dataset, (secrets.token_bytes(MIB) for _ in range(24)), "scan.raw")
    return project, dataset, f"/projects/{project}/datasets/{dataset}/files/scan.raw"


def partner_of(doubled: Scene, project: str) -> Somebody:
    """Somebody new who is a Data Owner beside the owner, and works at the other gateway."""
    partner = doubled.invite()
    doubled.owner.at(FIRST).members.add(project, partner.username, "data_owner")
    until(lambda: works(lambda: partner.at(SECOND).projects.get(project)), "the partner is a member at the other gateway")
    return partner


def test_a_changed_role_cuts_a_download_in_flight_at_the_other_gateway_and_no_other(doubled: Scene, heavy: tuple[str, str, str]) -> None:
    project, _, path = heavy
    address, root = doubled.suite.addresses[SECOND], doubled.suite.root
    for attempt in range(ATTEMPTS):
        partner = partner_of(doubled, project)
        theirs, untouched = (Download(address, root, who.token, path, 16 * 1024, 0.01) for who in (partner, doubled.owner))
        for download in (theirs, untouched):
            download.start()
            until(lambda: download.got > 256 * 1024 or download.ended_at, "the download flows")  # noqa: B023 - awaited here
            assert (download.status, download.ended_at) == (200, 0.0)
        doubled.owner.at(FIRST).members.change(project, partner.user_id, role="data_scientist")
        changed = time.monotonic()
        until(lambda: theirs.ended_at, "the download is cut")  # noqa: B023 - awaited here
        assert theirs.ended_at - changed <= IN_FORCE_SECONDS
        assert theirs.got < theirs.length
        untouched.stop()
        if untouched.got == untouched.length:
            break
        assert_undecided(doubled, "file.download", project, doubled.owner, attempt + 1)
    assert untouched.got == untouched.length, "who kept their role keeps their download"


def test_a_removal_cuts_an_upload_in_flight_at_the_other_gateway_and_nothing_of_it_is_stored(
    doubled: Scene, heavy: tuple[str, str, str]
) -> None:
    project, dataset, _ = heavy
    address, root, path = doubled.suite.addresses[SECOND], doubled.suite.root, f"/projects/{project}/datasets/{dataset}/files/"
    for attempt in range(ATTEMPTS):
        partner = partner_of(doubled, project)
        theirs, untouched = (
            Upload(address, root, partner.token, f"{path}half{attempt}.csv"),
            Upload(address, root, doubled.owner.token, f"{path}whole{attempt}.csv"),
        )
        with flowing(theirs, untouched):
            doubled.owner.at(FIRST).members.remove(project, partner.user_id)
            removed = time.monotonic()
            assert theirs.cut(PATIENCE)
        assert theirs.ended_at - removed <= IN_FORCE_SECONDS
        stored = {file["path"] for file in doubled.owner.at(FIRST).datasets.files(project, dataset)}
        assert f"half{attempt}.csv" not in stored
        if untouched.why == ACCEPTED:
            break
        assert_undecided(doubled, "file.upload", project, doubled.owner, attempt + 1)
    assert untouched.why == ACCEPTED, "who stays keeps their upload"
    assert f"whole{attempt}.csv" in stored


def test_what_was_made_at_one_gateway_is_found_by_searching_at_the_other_by_members_alone(doubled: Scene) -> None:
    word = f"xylem{secrets.token_hex(4)}"
    project = doubled.study(scientist="data_scientist")
    dataset = doubled.owner.at(FIRST).datasets.create(project, word)["dataset_id"]

    def ids(client: Client) -> list[str]:
        found = [hit["id"] for hit in client.search(word)]
        if not found:
            raise Refused(404, "no-hit", "Nothing is found")
        return found

    for gateway in BOTH:
        until(lambda: works(lambda: ids(doubled.owner.at(gateway))), "the owner finds it")  # noqa: B023 - awaited here
        assert ids(doubled.scientist.at(gateway)) == [dataset]
        assert not works(lambda: ids(doubled.auditor.at(gateway)))  # noqa: B023 - called here
    watches = [Watch(f"search at gateway {gateway + 1}", doubled.scientist.eager(gateway), ids) for gateway in BOTH]
    with watching(*watches):
        doubled.owner.at(FIRST).members.remove(project, doubled.scientist.user_id)
        removed = time.time()
        watched_on(watches, removed)
    in_force(watches, removed)


def test_every_process_of_the_suite_is_ready_and_each_service_has_one_leader(doubled: Scene) -> None:
    doubled.until_ready()
    for service in ("auth", "projects", "ca", "datasets", "jobs"):
        assert doubled.leader(service) in {f"{service}-1", f"{service}-2"}


def test_the_ledger_verifies_and_names_both_gateways(doubled: Scene) -> None:
    checks = {check.source: check for check in doubled.auditor.at(SECOND).audit.verify()}
    assert {source: check.findings for source, check in checks.items() if not check.holds} == {}
    assert {"gateway-1", "gateway-2", "projects", "auth", "datasets"} <= set(checks)
    assert min(checks[source].records for source in ("gateway-1", "gateway-2")) > 0
