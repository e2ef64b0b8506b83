"""Commands for invitations, leaving, break-glass and the feed: what is asked of Hortus, and what is printed."""

import json
from typing import Any

import pytest

from hortus.client import Client
from tests.hortus.conftest import Run
from tests.hortus.door import SESSION, USER, Answer, Door, problem

P = "01890000-0000-7000-8000-000000000001"
I = "01890000-0000-7000-8000-000000000002"  # noqa: E741 - an invitation
B = "01890000-0000-7000-8000-000000000003"
INVITATION = {
    "invitation_id": I,
    "project_id": P,
    "project": "wdbc",
    "user_id": "u2",
    "username": "bob00000",
    "role": "data_scientist",
    "purpose": "Study 7",
    "starts_at": None,
    "ends_at": None,
    "invited_by": "ada00000",
    "created_at": "2026-03-01T12:00:00Z",
    "expires_at": "2026-03-15T12:00:00Z",
}
MEMBER = {"project_id": P, "user_id": "u2", "username": "bob00000", "role": "data_scientist", "purpose": "", "version": 1}
OPENED = {"break_glass_id": B, "project_id": P, "username": "root0000", "reason": "Power cut", "ended_at": None, "unreviewed": False}
LINE = {
    "activity_id": "a1",
    "at": "2026-03-01T12:00:00Z",
    "deed": "member.added",
    "actor": "ada00000",
    "subject": "bob00000",
    "details": {"role": "data_scientist"},
}


@pytest.fixture
def run(run_here: Run) -> Run:
    return run_here


def page(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next": None}


def test_a_person_is_invited(door: Door, signed_in: Run) -> None:
    door.on("POST", f"/projects/{P}/invitations", Answer(201, INVITATION))
    ended = signed_in(
        "members", "invite", "bob00000", "data_scientist", "-p", P, "--purpose", "Study 7", "--ends", "2027-01-01T00:00:00Z", "--json"
    )
    assert json.loads(ended.stdout) == INVITATION
    assert door.asked[0].json == {
        "username": "bob00000",
        "role": "data_scientist",
        "purpose": "Study 7",
        "ends_at": "2027-01-01T00:00:00Z",
    }


def test_invitations_are_listed_one_s_own_or_those_of_a_project(door: Door, signed_in: Run) -> None:
    door.on("GET", "/project-invitations", page(INVITATION), page(INVITATION))
    door.on("GET", f"/projects/{P}/invitations", page())
    assert json.loads(signed_in("members", "invitations", "--json").stdout) == [INVITATION]
    assert "wdbc" in signed_in("members", "invitations").stdout
    assert json.loads(signed_in("members", "invitations", "-p", P, "--json").stdout) == []


@pytest.mark.parametrize("name", [I, "wdbc"])
def test_an_invitation_is_accepted_by_its_id_or_by_the_project(door: Door, signed_in: Run, name: str) -> None:
    door.on("GET", "/project-invitations", page(INVITATION))
    door.on("POST", f"/project-invitations/{I}/acceptance", MEMBER)
    assert json.loads(signed_in("members", "accept", name, "--json").stdout) == MEMBER


def test_an_invitation_is_declined_and_one_that_is_not_there_is_four(door: Door, signed_in: Run) -> None:
    door.on("GET", "/project-invitations", page(INVITATION), page())
    door.on("DELETE", f"/project-invitations/{I}", Answer(204))
    assert signed_in("members", "decline", "wdbc").stderr == "The invitation is declined.\n"
    assert signed_in("members", "decline", "wdbc").returncode == 4


def test_an_invitation_is_withdrawn_by_the_name_of_whoever_is_invited(door: Door, signed_in: Run) -> None:
    door.on("GET", f"/projects/{P}/invitations", page(INVITATION), page())
    door.on("DELETE", f"/projects/{P}/invitations/{I}", Answer(204))
    assert "bob00000" in signed_in("members", "withdraw", "bob00000", "-p", P).stderr
    assert signed_in("members", "withdraw", "bob00000", "-p", P).returncode == 4


def test_a_member_leaves(door: Door, signed_in: Run) -> None:
    by_group = {**MEMBER, "by_group": "staff"}
    door.on("DELETE", f"/projects/{P}/members/me", Answer(204), by_group, problem(409, "last-owner-stays", "One stays"))
    assert signed_in("members", "leave", "-p", P).stderr == "You are no member any more.\n"
    assert "by the group staff" in signed_in("members", "leave", "-p", P).stderr
    assert signed_in("members", "leave", "-p", P).returncode == 5


def test_a_project_is_opened_in_an_emergency_and_closed_again(door: Door, signed_in: Run) -> None:
    door.on("POST", "/break-glass", Answer(201, OPENED), Answer(201, OPENED))
    door.on("DELETE", f"/break-glass/{B}", OPENED)
    ended = signed_in("break-glass", "open", "wdbc", "--reason", "Power cut", "--for", "30m", "--json")
    assert json.loads(ended.stdout) == OPENED
    assert signed_in("break-glass", "open", "wdbc", "--reason", "Power cut").returncode == 0
    assert [asked.json for asked in door.asked] == [
        {"project": "wdbc", "reason": "Power cut", "lasts_s": 1800},
        {"project": "wdbc", "reason": "Power cut"},
    ]
    assert json.loads(signed_in("break-glass", "end", B, "--json").stdout) == OPENED


def test_an_owner_is_appointed_where_there_is_none(door: Door, signed_in: Run) -> None:
    appointed = {**OPENED, "appointed": "bob00000"}
    door.on("POST", "/owner-appointments", Answer(201, appointed), Answer(201, appointed), problem(409, "has-an-owner", "It has one"))
    asked = ("projects", "appoint-owner", "wdbc", "bob00000", "--reason", "The owner left")
    assert json.loads(signed_in(*asked, "--json").stdout) == appointed
    assert "bob00000" in signed_in(*asked).stdout
    assert signed_in(*asked).returncode == 5
    assert door.asked[0].json == {"project": "wdbc", "username": "bob00000", "reason": "The owner left"}
    assert signed_in("projects", "appoint-owner", "wdbc", "bob00000").returncode == 2


@pytest.mark.parametrize("lasts", ["", "long", "1d", "-1h", "1.5h", "0x1h"])
def test_a_span_that_makes_no_sense_is_two(door: Door, signed_in: Run, lasts: str) -> None:
    ended = signed_in("break-glass", "open", "wdbc", "--reason", "x", "--for", lasts)
    assert (ended.returncode, door.asked) == (2, [])
    assert "30m" in ended.stderr


def test_it_is_listed_and_reviewed_by_auditors_or_by_owners_in_their_project(door: Door, signed_in: Run) -> None:
    for below in ("", f"/projects/{P}"):
        door.on("GET", f"{below}/break-glass", page(OPENED))
        door.on("POST", f"{below}/break-glass/{B}/review", {**OPENED, "verdict": "justified"})
        more = ["-p", P] if below else []
        assert json.loads(signed_in("break-glass", "list", *more, "--json").stdout) == [OPENED]
        ended = signed_in("break-glass", "review", B, "justified", "--words", "Needed", *more, "--json")
        assert json.loads(ended.stdout)["verdict"] == "justified"
        assert door.asked[-1].json == {"verdict": "justified", "words": "Needed"}
    assert signed_in("break-glass", "review", B, "fine", "--words", "x").returncode == 2


def test_the_list_can_leave_out_what_is_reviewed(door: Door, signed_in: Run) -> None:
    door.on("GET", "/break-glass", page(OPENED))
    for more, asked in ([], None), (["--not-reviewed"], "false"), (["--reviewed"], "true"):
        assert json.loads(signed_in("break-glass", "list", *more, "--json").stdout) == [OPENED]
        assert door.asked[-1].query.get("reviewed") == asked


# What people are told without asking for it


def project(name: str, are_open: int = 0, to_review: int = 0) -> dict[str, Any]:
    about = {"project_id": P, "name": name, "role": "data_owner", "state": "active", "description": ""}
    return {**about, "break_glass": {"open": are_open, "to_review": to_review}}


HERS = project("wdbc", are_open=1, to_review=2)
TOLD = "Break-glass in wdbc: 1 open now, 2 to be reviewed. See `hortus break-glass list -p wdbc`.\n"


def test_a_data_owner_who_looks_at_projects_is_told_of_break_glass_in_them(door: Door, signed_in: Run) -> None:
    not_hers = {**project("other"), "role": "data_scientist", "break_glass": None}
    without = {name: value for name, value in project("older").items() if name != "break_glass"}
    door.on("GET", "/projects", page(project("quiet"), HERS, not_hers, without))
    door.on("GET", f"/projects/{P}", HERS)
    for arguments in (("projects", "list"), ("projects", "show", P)):
        ended = signed_in(*arguments)
        assert (ended.returncode, ended.stderr) == (0, TOLD)
        assert "Break-glass" not in ended.stdout


def test_what_is_nothing_is_not_told(door: Door, signed_in: Run) -> None:
    door.on("GET", "/projects", page(project("quiet"), project("left", to_review=1)))
    door.on("GET", f"/projects/{P}", project("quiet"))
    assert signed_in("projects", "show", P).stderr == ""
    assert signed_in("projects", "list").stderr == "Break-glass in left: 1 to be reviewed. See `hortus break-glass list -p left`.\n"


def test_machines_read_the_numbers_as_fields_and_no_sentence(door: Door, signed_in: Run) -> None:
    door.on("GET", "/projects", page(HERS))
    door.on("GET", f"/projects/{P}", HERS)
    for arguments, answer in ((("projects", "list"), [HERS]), (("projects", "show", P), HERS)):
        ended = signed_in(*arguments, "--json")
        assert (json.loads(ended.stdout), ended.stderr) == (answer, "")


def test_who_signs_in_or_asks_who_they_are_is_told_and_an_auditor_of_the_whole_hortus(door: Door, signed_in: Run) -> None:
    auditor = {**USER, "cluster_roles": ["auditor"]}
    door.on("POST", "/sessions", Answer(201, {**SESSION, "user": auditor}))
    door.on("GET", "/users/me", auditor)
    door.on("GET", "/sessions", page())
    door.on("GET", "/projects", page(HERS))
    over = {**OPENED, "ended_at": "2026-03-01T12:00:00Z"}
    door.on("GET", "/break-glass", page(OPENED, over, over))
    everywhere = "Break-glass in this Hortus: 1 open now, 2 to be reviewed. See `hortus break-glass list --not-reviewed`.\n"
    assert signed_in("whoami").stderr == TOLD + everywhere
    assert door.asked[-1].query["reviewed"] == "false"
    login = ("login", "ada", "--address", door.address, "--code", "123456")
    assert signed_in(*login, HORTUS_PASSWORD="x").stderr.endswith(TOLD + everywhere)
    door.asked.clear()
    for arguments in (("whoami", "--json"), (*login, "--json")):
        ended = signed_in(*arguments, HORTUS_PASSWORD="x")
        assert (ended.returncode, ended.stderr) == (0, "")
    assert {"GET /projects", "GET /break-glass"}.isdisjoint(door.paths())


def test_who_is_no_auditor_is_not_asked_about_the_whole_hortus(door: Door, signed_in: Run) -> None:
    door.on("GET", "/users/me", {**USER, "cluster_roles": ["administrator"]})
    door.on("GET", "/sessions", page())
    door.on("GET", "/projects", page())
    ended = signed_in("whoami")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "GET /break-glass" not in door.paths()


def test_what_cannot_be_asked_is_said_and_stops_nothing(door: Door, signed_in: Run) -> None:
    door.on("GET", "/users/me", USER)
    door.on("GET", "/sessions", page())
    door.on("GET", "/projects", problem(503, "not-fresh", "Cannot decide now"))
    ended = signed_in("whoami")
    assert ended.returncode == 0
    assert "ada@example.org" in ended.stdout
    assert ended.stderr == "Whether there is break-glass for you to look at could not be asked: Cannot decide now.\n"


def test_the_feed_is_shown(door: Door, signed_in: Run) -> None:
    door.on("GET", f"/projects/{P}/activity", page(LINE), page(LINE))
    assert json.loads(signed_in("activity", "-p", P, "--most", "7", "--json").stdout) == [LINE]
    assert door.asked[0].query["limit"] == "7"
    shown = signed_in("activity", "-p", P).stdout
    assert "ada00000" in shown
    assert "role data_scientist" in shown


def test_the_library_has_these_doors(door: Door, client: Client) -> None:
    door.on("GET", f"/projects/{P}/activity", page(LINE))
    door.on("GET", "/break-glass", page(OPENED))
    assert [line["deed"] for line in client.activity.list(P)] == ["member.added"]
    assert [each["break_glass_id"] for each in client.break_glass.list()] == [B]
