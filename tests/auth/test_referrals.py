"""Referrals of a directory are not followed: another server would be shown the password of whoever looks people up, without TLS."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.auth.directory import Away, Directory
from services.auth.settings import DirectorySettings
from tests.auth import slapd as openldap
from tests.auth.slapd import PASSWORD, PEOPLE, Slapd, configuration, group, person

ELSEWHERE = f"ou=elsewhere,{PEOPLE}"
AS_IT_IS = [("2.16.840.1.113730.3.4.2", True, None)]  # ManageDsaIT (RFC 3296): a referral is an entry like any other
REFERRAL = "a search was answered with 10"


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Where the referral points to; nobody answers there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory, listener: socket.socket) -> Iterator[Slapd]:
    """Among the people, a part of the tree that lies on another server."""
    with openldap.running(tmp_path_factory.mktemp("slapd")) as running:
        running.fill()
        with running.root() as root:
            place = f"ldap://127.0.0.1:{listener.getsockname()[1]}/{ELSEWHERE}"
            root.add(ELSEWHERE, ["referral", "extensibleObject"], {"ou": "elsewhere", "ref": place}, controls=AS_IT_IS)
        yield running


def came(listener: socket.socket) -> int:
    """How many came to the other server."""
    count = 0
    try:
        while True:
            listener.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


@pytest.fixture
def source(request: pytest.FixtureRequest, slapd: Slapd, tmp_path: Path) -> Iterator[Directory]:
    more: dict[str, Any] = getattr(request, "param", {})
    made = Directory(DirectorySettings(**configuration(slapd, tmp_path, **more)))
    yield made
    made.close()


async def test_a_referral_among_the_people_changes_no_answer(source: Directory, listener: socket.socket) -> None:
    (ada,) = await source.find("ada")
    assert ada.dn == person("ada")
    assert await source.groups(ada) == {group("staff"), group("all")}
    assert await source.find("nobody") == []
    ((again, _),) = await source.look_up(ada.attributes["entryuuid"])
    assert again.dn == ada.dn
    assert await source.check(ada.dn, PASSWORD)
    assert came(listener) == 0


@pytest.mark.parametrize("source", [{"people_base": ELSEWHERE}, {"people_base": f"ou=wards,{ELSEWHERE}"}], indirect=True)
async def test_people_who_lie_on_another_server_are_not_looked_for_there(source: Directory, listener: socket.socket) -> None:
    for ask in (source.find("ada"), source.look_up([b"0" * 16])):
        with pytest.raises(Away) as away:
            await ask
        assert (came(listener), str(away.value)) == (0, REFERRAL)


@pytest.mark.parametrize("source", [{"group_base": ELSEWHERE, "group_style": "member"}], indirect=True)
async def test_groups_that_lie_on_another_server_are_not_looked_for_there(source: Directory, listener: socket.socket) -> None:
    (ada,) = await source.find("ada")
    with pytest.raises(Away) as away:
        await source.groups(ada)
    assert (came(listener), str(away.value)) == (0, REFERRAL)


async def test_a_password_is_not_shown_to_the_server_that_somebody_lies_on(source: Directory, listener: socket.socket) -> None:
    assert not await source.check(f"uid=ada,{ELSEWHERE}", PASSWORD)
    assert came(listener) == 0
