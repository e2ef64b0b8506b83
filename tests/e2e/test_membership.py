"""Coming in by invitation, and an emergency that ends by itself, with two gateways and two of every service."""

import time
from datetime import datetime
from typing import Any

import pytest

from hortus.client import Client, Refused
from tests.e2e.scene import IN_FORCE_SECONDS, Scene, Watch, until, watched_on, watching

BOTH = (0, 1)


def test_who_is_invited_comes_in_by_accepting_at_either_gateway(doubled: Scene) -> None:
    project = doubled.study()
    owner, guest = doubled.owner, doubled.invite()
    offered = owner.at(0).project_invitations.create(project, guest.username, "data_scientist", purpose="Study 7")
    assert list(guest.at(1).project_invitations.own()) == [offered]
    with pytest.raises(Refused) as refused:
        guest.at(0).projects.get(project)
    assert refused.value.status == 404
    assert guest.at(1).project_invitations.accept(offered["invitation_id"])["purpose"] == "Study 7"
    for gateway in BOTH:
        assert guest.at(gateway).projects.get(project)["role"] == "data_scientist"
    assert guest.at(0).members.leave(project) is None
    for gateway in BOTH:
        with pytest.raises(Refused):
            guest.at(gateway).projects.get(project)
    feed = [(line["deed"], line["subject"]) for line in owner.at(1).activity.list(project)]
    assert feed[:3] == [("member.left", guest.username), ("invitation.accepted", guest.username), ("invitation.made", guest.username)]


def test_an_emergency_ends_at_its_instant_at_both_gateways_and_is_reviewed(doubled: Scene) -> None:
    project = doubled.study()
    administrator, auditor = doubled.administrator, doubled.auditor
    opened = administrator.at(0).break_glass.open(project, "A drill", lasts_s=6)
    ends = datetime.fromisoformat(opened["ends_at"]).timestamp()

    def ask(client: Client) -> object:
        return client.projects.get(project)

    watches = [Watch(f"the project at gateway {each + 1}", administrator.eager(each), ask) for each in BOTH]
    with watching(*watches):
        beside = {each["project_id"]: each.get("break_glass") for each in doubled.owner.at(0).projects.list()}
        assert beside[project] == {"open": 1, "to_review": 0}
        assert doubled.owner.at(1).members.find(project, administrator.username)["break_glass_id"] == opened["break_glass_id"]
        with pytest.raises(Refused):
            administrator.at(1).members.add(project, doubled.scientist.username, "data_scientist")
        watched_on(watches, max(ends, time.time()))
    for watch in watches:
        assert watch.allowed_after(ends + IN_FORCE_SECONDS) == []
        assert watch.stale(ends) == []

    def listed() -> dict[str, object]:
        return dict(next(each for each in auditor.at(0).break_glass.list() if each["break_glass_id"] == opened["break_glass_id"]))

    until(lambda: listed()["ended_at"], "the end is said")
    assert doubled.owner.at(1).projects.get(project).get("break_glass") == {"open": 0, "to_review": 1}
    assert opened["break_glass_id"] in [each["break_glass_id"] for each in auditor.at(0).break_glass.list(reviewed=False)]
    reviewed = auditor.at(1).break_glass.review(opened["break_glass_id"], "justified", "It was a drill.")
    assert (reviewed["verdict"], reviewed["reviewed_by"]) == ("justified", auditor.username)
    assert doubled.owner.at(1).projects.get(project).get("break_glass") == {"open": 0, "to_review": 0}
    assert opened["break_glass_id"] not in [each["break_glass_id"] for each in auditor.at(0).break_glass.list(reviewed=False)]
    deeds = [line["deed"] for line in doubled.owner.at(0).activity.list(project)]
    assert deeds[:4] == ["break_glass.reviewed", "break_glass.ended", "member.expired", "break_glass.opened"]

    def told() -> list[Any]:
        return list(auditor.at(0).audit.records(action="break_glass.open", project_id=project))

    until(lambda: opened["break_glass_id"] in [each["resource"].get("break_glass_id") for each in told()], "the record reaches the ledger")
    assert "A drill" not in str(told())
