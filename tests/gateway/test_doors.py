"""Every row of the policy is a door, and a path finds exactly its row."""

import re
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Problem
from contracts.policy import API, EVERYBODY, POLICY, Action, Rule, Service
from gateway.doors import Doors, MalformedPath, MethodNotAllowed, UnknownPath

DOORS = Doors()


def filled(path: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        return {"path:path": "a/b%20c.txt", "certificate_id": "0f" * 16, "provider": "campus-1"}.get(name, str(uuid4()))

    return API + re.sub(r"\{([^}]+)\}", value, path)


@pytest.mark.parametrize("action", list(Action))
def test_every_row_is_found_by_its_path_and_method(action: Action) -> None:
    rule = POLICY[action]
    door, values = DOORS.find(rule.method, filled(rule.path).encode())
    assert door.action is action
    assert len(values) == len(door.names)
    if "path" in door.names:
        assert values[-1] == "a/b c.txt"


def test_ids_are_uuids_and_come_back_in_small_letters() -> None:
    project = str(uuid4())
    _, values = DOORS.find("GET", f"{API}/projects/{project.upper()}".encode())
    assert values == [project]
    for odd in ("1", project[:-1], project.replace("-", ""), "{" + project + "}", project + "%20"):
        with pytest.raises((UnknownPath, MalformedPath)):
            DOORS.find("GET", f"{API}/projects/{odd}".encode())


def test_a_method_without_a_row_names_those_that_there_are() -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        DOORS.find("HEAD", f"{API}/projects".encode())
    assert refused.value.allowed == "GET, POST"


@given(st.binary(max_size=200))
def test_no_path_breaks_the_doors(tail: bytes) -> None:
    for path in (tail, b"/api/v1/" + tail, f"{API}/projects/{uuid4()}/datasets/{uuid4()}/files/".encode() + tail):
        try:
            _, values = DOORS.find("GET", path)
        except Problem:
            continue
        parts = "/".join(values).split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not any(ord(letter) < 32 for letter in "".join(parts))


@pytest.mark.parametrize("provider", ["a", "campus-1", "0" * 32])
def test_a_provider_is_a_short_name(provider: str) -> None:
    assert DOORS.find("GET", f"{API}/oidc/{provider}/start".encode())[1] == [provider]


@pytest.mark.parametrize(
    "provider",
    ["-a", "A", "a_b", "a.b", "0" * 33, "a%22", "%7B%22a%22%3A1%7D", "a:b", "a%20", "%C3%A4", "x%22%2C%22outcome%22%3A%22allowed"],
)
def test_what_is_no_name_of_a_provider_is_no_path(provider: str) -> None:
    for method, door in (("GET", "start"), ("GET", "callback"), ("POST", "logout")):
        with pytest.raises(UnknownPath):
            DOORS.find(method, f"{API}/oidc/{provider}/{door}".encode())


def test_a_value_that_nothing_is_said_about_opens_no_gateway() -> None:
    row = Rule(Service.AUTH, "GET", "/things/{thing}", EVERYBODY)
    with pytest.raises(ValueError, match="thing"):
        Doors({Action.OIDC_START: row})
