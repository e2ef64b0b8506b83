"""Every row of the policy is a door, and a path finds exactly its row."""

import re
from urllib.parse import quote, unquote
from uuid import uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chassis.errors import Problem
from contracts.policy import API, EVERYBODY, POLICY, SERVICE, Action, Rule, Service
from gateway.doors import Doors, MalformedPath, MethodNotAllowed, UnknownPath

DOORS = Doors()
OUTSIDE = [action for action, rule in POLICY.items() if rule.who != SERVICE]


def filled(path: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        known = {
            "path:path": "a/b%20c.txt",
            "certificate_id": "0f" * 16,
            "provider": "campus-1",
            "issuer": "people",
            "request:path": "MEUw%2Fa%2BB%3D%3D",
        }
        return known.get(name, str(uuid4()))

    return API + re.sub(r"\{([^}]+)\}", value, path)


@pytest.mark.parametrize("action", OUTSIDE)
def test_every_row_is_found_by_its_path_and_method(action: Action) -> None:
    rule = POLICY[action]
    door, values = DOORS.find(rule.method, filled(rule.path).encode())
    assert door.action is action
    assert len(values) == len(door.names)
    assert door.ids == tuple(name for name in door.names if name not in {"path", "request"}), "free text is in no record"
    if "path" in door.names:
        assert values[-1] == "a/b c.txt"
    if "request" in door.names:
        assert values == ["MEUw/a+B=="]


def test_a_door_of_services_among_themselves_is_none_here() -> None:
    inside = [rule for action, rule in POLICY.items() if action not in OUTSIDE]
    assert inside
    for rule in inside:
        for method in (rule.method, "GET", "POST", "PUT", "DELETE"):
            with pytest.raises(UnknownPath):
                DOORS.find(method, (API + rule.path).encode())


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


@pytest.mark.parametrize(
    "issuer", ["services", "root", "People", "people%2F", "people.pem", "", "workloads%20", "people-", "people-0", "people-12345"]
)
def test_only_two_issuers_have_doors(issuer: str) -> None:
    for door in ("crls", "issuers"):
        with pytest.raises((UnknownPath, MalformedPath)):
            DOORS.find("GET", f"{API}/{door}/{issuer}".encode())


@pytest.mark.parametrize("issuer", ["people", "people-2", "workloads", "workloads-9999"])
def test_each_key_of_theirs_has_its_own(issuer: str) -> None:
    for door in ("crls", "issuers"):
        assert DOORS.find("GET", f"{API}/{door}/{issuer}".encode()) is not None


SLASHED = [action for action in OUTSIDE if action is not Action.OCSP_ASK_BY_PATH]


@pytest.mark.parametrize("action", SLASHED)
@pytest.mark.parametrize("slash", ["%2F", "%2f"])
def test_no_other_row_takes_an_encoded_slash_anywhere(action: Action, slash: str) -> None:
    rule = POLICY[action]
    path = filled(rule.path)
    places = [number for number, letter in enumerate(path) if letter == "/"][1:]
    for place in places:
        for crafted in (path[:place] + slash + path[place + 1 :], path[:place] + slash + path[place:], path + slash):
            with pytest.raises(MalformedPath):
                DOORS.find(rule.method, crafted.encode())


@pytest.mark.parametrize(
    "tail",
    [
        "ocsp%2FMEUw",
        "%2Focsp/MEUw",
        "ocsp/..%2Fprojects",
        "ocsp/MEUw%2F..%2F..%2Fprojects",
        "ocsp/MEUw%5C",
        "ocsp/%252F",
        "ocsp//MEUw",
        "ocsp/",
        "ocsp/MEUw%2F%00",
        "ocsp/MEUw====",
        "ocsp/=",
        "ocsp/MEU_w-",
        "ocsp/MEU%20w",
        "ocsp/" + "A" * 1025,
    ],
)
def test_beside_a_request_in_base64_nothing_is_read_there(tail: str) -> None:
    with pytest.raises((UnknownPath, MalformedPath)):
        DOORS.find("GET", f"{API}/{tail}".encode())


@pytest.mark.parametrize("text", ["MEUw/", "ME/Uw/AA=="])
def test_plain_slashes_in_a_request_are_letters_of_it_too(text: str) -> None:
    assert DOORS.find("GET", f"{API}/ocsp/{text}".encode())[1] == [text]


def test_a_request_is_a_value_of_one_method_alone() -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        DOORS.find("POST", f"{API}/ocsp/MEUw%2F".encode())
    assert refused.value.allowed == "GET"


@given(st.text("AZaz09+/", min_size=1, max_size=60), st.sampled_from(["", "=", "=="]), st.data())
def test_a_request_is_read_in_one_way_however_it_is_encoded(letters: str, end: str, data: st.DataObject) -> None:
    """As the service behind reads it: decoded once, the rest of the path."""
    text = letters + end
    encoded = "".join(quote(letter, safe=data.draw(st.sampled_from(["", "+="]))) for letter in text)
    assume(len(encoded) < 1000)
    raw = f"{API}/ocsp/{encoded}"
    door, values = DOORS.find("GET", raw.encode())
    assert door.action is Action.OCSP_ASK_BY_PATH
    assert values == [text] == [unquote(raw).removeprefix(f"{API}/ocsp/")]


def test_a_value_that_nothing_is_said_about_opens_no_gateway() -> None:
    row = Rule(Service.AUTH, "GET", "/things/{thing}", EVERYBODY)
    with pytest.raises(ValueError, match="thing"):
        Doors({Action.OIDC_START: row})
