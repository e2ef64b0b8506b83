"""A hospital's directory before two gateways: whom it knows signs in and works, and what it takes away is refused by both soon.

Soon is the pause between two looks at the directory, and the second in which whatever is withdrawn in Hortus is in force.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import ldap3
import pytest

from examples.wdbc.transfers import ACCEPTED, Upload
from hortus.client import Client, Refused
from hortus.client.shapes import NewApiKey
from tests.auth.slapd import MISSING, PASSWORD, Slapd, group, person
from tests.e2e.scene import (
    ATTEMPTS,
    DIRECTORY_LOOK_S,
    IN_FORCE_SECONDS,
    PATIENCE,
    Scene,
    Somebody,
    Watch,
    assert_undecided,
    fact_of,
    flowing,
    until,
    watched_on,
    watching,
    works,
)

pytestmark = pytest.mark.timeout(400)

BOTH = (0, 1)
SOON_SECONDS = DIRECTORY_LOOK_S + IN_FORCE_SECONDS
LOCKED_FOR_GOOD = "000001010000Z"


@pytest.fixture
def slapd(directory: Slapd | None) -> Slapd:
    if directory is None:
        pytest.skip(MISSING)
    return directory


@dataclass
class Ward:
    """A group of the directory whose people are Data Owners of a study, by the word of the study's owner."""

    scene: Scene
    slapd: Slapd
    name: str
    project: str
    dataset: str

    def newcomer(self, name: str) -> Somebody:
        """Somebody whom the directory gets to know as one of the ward, and who signs in here for the first time."""
        with self.slapd.root() as root:
            self.slapd.add_person(root, name)
            root.modify(group(self.name), {"member": [(ldap3.MODIFY_ADD, [person(name)])]})
        somebody = Somebody(self.scene.suite)
        self.scene.people.append(somebody)
        return somebody.enrol(name, PASSWORD, gateway=1).sign_in(gateway=1)

    def awaited(self, somebody: Somebody) -> None:
        """Wait until the group has given its role to somebody, and let them know."""
        members = self.scene.owner.at(0).members
        until(lambda: works(lambda: members.find(self.project, somebody.username)), "the group's role is there")
        somebody.memory.learn(fact_of(self.project, members.find(self.project, somebody.username)))

    def change(self, deed: Callable[[Any], object]) -> float:
        """Let an independent client change the directory; gives the moment when it was done."""
        with self.slapd.root() as root:
            deed(root)
            return time.time()

    def asking(self, somebody: Somebody) -> list[Watch]:
        """Watches of the study at both gateways."""
        return [Watch(f"the study at gateway {each + 1}", somebody.eager(each), self.ask) for each in BOTH]

    def ask(self, client: Client) -> object:
        """Ask for the study."""
        return client.projects.get(self.project)


@pytest.fixture
def ward(doubled: Scene, slapd: Slapd) -> Iterator[Ward]:
    name = f"ward-{secrets.token_hex(4)}"
    with slapd.root() as root:
        root.add(group(name), ["groupOfNames"], {"member": [person("eve")]})
    doubled.administrator.at(0).groups.create(name, external=(group(name),))
    project = doubled.study()
    dataset = doubled.owner.at(0).datasets.create(project, "aspirates")["dataset_id"]
    doubled.owner.at(0).group_roles.give(project, name, "data_owner")
    yield Ward(doubled, slapd, name, project, dataset)
    with slapd.root() as root:
        root.delete(group(name))


def soon(watches: list[Watch], moment: float) -> None:
    """Each watch was refused soon after ``moment``, and was never let in again."""
    for watch in watches:
        took = watch.first_refusal(moment)
        print(f"{watch.name} refused {took:.3f} s after the directory's change")
        assert took <= SOON_SECONDS, f"{watch.name} refused after {took:.3f} s"
        assert watch.stale(moment) == []


def test_whom_the_directory_puts_into_a_group_works_at_both_gateways_and_whom_it_takes_out_is_cut_off(ward: Ward) -> None:
    address, root, path = ward.scene.suite.addresses[1], ward.scene.suite.root, f"/projects/{ward.project}/datasets/{ward.dataset}/files/"
    for attempt in range(ATTEMPTS):
        name = f"nurse{secrets.token_hex(4)}"
        nurse = ward.newcomer(name)
        assert nurse.at(0).users.me()["groups"] == [ward.name]
        ward.awaited(nurse)
        for gateway in BOTH:
            assert nurse.at(gateway).projects.get(ward.project)["role"] == "data_owner"
        stored = nurse.at(0).datasets.put(ward.project, ward.dataset, [b"a,b\n1,2\n"], f"table{attempt}.csv")
        assert stored in list(nurse.at(1).datasets.files(ward.project, ward.dataset))
        theirs, untouched = (
            Upload(address, root, nurse.token, f"{path}half{attempt}.csv"),
            Upload(address, root, ward.scene.owner.token, f"{path}whole{attempt}.csv"),
        )
        watches = ward.asking(nurse)
        with watching(*watches), flowing(theirs, untouched):
            taken = ward.change(lambda root: root.modify(group(ward.name), {"member": [(ldap3.MODIFY_DELETE, [person(name)])]}))  # noqa: B023
            watched_on(watches, taken)
            assert theirs.cut(PATIENCE)
        soon(watches, taken)
        cut = theirs.ended_at + time.time() - time.monotonic() - taken
        print(f"the upload in flight cut {cut:.3f} s after the directory's change")
        assert cut <= SOON_SECONDS
        assert {(seen.status, seen.slug) for watch in watches for seen in watch.seen if seen.refused} == {(404, "not-found")}
        there = {file["path"] for file in ward.scene.owner.at(0).datasets.files(ward.project, ward.dataset)}
        assert f"half{attempt}.csv" not in there
        assert nurse.at(0).users.me()["groups"] == []
        if untouched.why == ACCEPTED:
            break
        assert_undecided(ward.scene, "file.upload", ward.project, ward.scene.owner, attempt + 1)
    assert untouched.why == ACCEPTED, "who stays keeps their upload"
    assert {f"table{attempt}.csv", f"whole{attempt}.csv"} <= there


@pytest.mark.parametrize("how", ["locked", "gone"])
def test_whom_the_directory_locks_or_removes_is_refused_with_session_and_key_at_both_gateways(ward: Ward, how: str) -> None:
    name = f"{how}{secrets.token_hex(4)}"
    leaver = ward.newcomer(name)
    key, codes = key_of(leaver), leaver.at(0).factors.new_recovery_codes()["codes"]
    ward.awaited(leaver)
    watches = [
        *(Watch(f"the session at gateway {each + 1}", leaver.eager(each), lambda client: client.users.me()) for each in BOTH),
        *(
            Watch(f"the key at gateway {each + 1}", with_key(leaver, each, key), lambda client: list(client.projects.list()))
            for each in BOTH
        ),
    ]

    def leave(root: Any) -> object:
        if how == "gone":
            return root.delete(person(name))
        return root.modify(person(name), {"pwdAccountLockedTime": [(ldap3.MODIFY_REPLACE, [LOCKED_FOR_GOOD])]})

    with watching(*watches):
        left = ward.change(leave)
        watched_on(watches, left)
    soon(watches, left)
    assert {seen.status for watch in watches for seen in watch.seen if seen.refused} == {401}
    assert ward.scene.administrator.at(0).users.get(leaver.user_id)["status"] == "deactivated"
    with leaver.fresh(0, token=None) as door, pytest.raises(Refused) as refused:
        door.sessions.create(leaver.username, PASSWORD, recovery_code=codes[0])
    assert (refused.value.status, refused.value.slug) == (401, "sign-in-refused")


def key_of(somebody: Somebody) -> NewApiKey:
    """An API key for the projects of somebody."""
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return somebody.at(0).keys.create("night run", ("project.list",), ends)


def with_key(somebody: Somebody, gateway: int, key: NewApiKey) -> Client:
    return somebody.fresh(gateway, token=key["secret"], attempts=1, timeout=20.0)
