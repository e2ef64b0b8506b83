"""The `hortus` command as people type it, before two gateways: what it does, what they see after it, and how a refusal ends.

A code of an authenticator counts once and the next one comes after 30 s, so who signs in again does so with recovery codes.
"""

import json
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.wdbc.people import Ended, Person
from tests.e2e.scene import Scene, until

pytestmark = pytest.mark.timeout(600)

REFUSED, NOT_UNDERSTOOD, NOT_SIGNED_IN, NOT_FOUND, CONFLICT = 1, 2, 3, 4, 5
ASK_AGAIN = ("trylater", "returned error: 503")  # in the words of openssl and of curl
IN_FORCE_S = 30.0  # the command alone takes seconds on a busy machine; how soon a refusal is in force is measured elsewhere


class Typist(Person):
    """Somebody at a terminal, with recovery codes on paper."""

    def __init__(self, scene: Scene, folder: Path, gateway: int = 0) -> None:
        super().__init__(folder, scene.suite.addresses[gateway], scene.suite.certificate_addresses[gateway], scene.suite.root)
        self.paper: list[str] = []

    def types(self, *arguments: str, **variables: str) -> Any:
        """What a command prints for machines, with further variables in its environment; raises Ended."""
        return json.loads(self._run([*arguments, "--json"], **variables) or "null")

    def does(self, *arguments: str, **variables: str) -> None:
        """Type a command that prints no result."""
        self._run(list(arguments), **variables)

    def ends(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """The number and the first sentence of a command that is refused."""
        with pytest.raises(Ended) as ended:
            self._run(list(arguments), **variables)
        return ended.value.code, ended.value.said

    def writes_down(self) -> None:
        """Make new recovery codes."""
        self.paper = self.types("factors", "recovery-codes")["codes"]
        assert len(self.paper) == 10

    def returns(self, **variables: str) -> dict[str, Any]:
        """Sign in with a recovery code."""
        session = self.types("login", self.username, "--recovery-code", HORTUS_RECOVERY_CODE=self.paper.pop(), **variables)
        return dict(session)

    def beside(self, scene: Scene, gateway: int) -> "Typist":
        """The same person at another machine, which talks to another gateway."""
        other = Typist(scene, self.folder / "beside", gateway)
        other.username, other._password, other.paper = self.username, self._password, self.paper
        return other

    def is_refused(self, *arguments: str, code: int = NOT_SIGNED_IN, **variables: str) -> Callable[[], bool]:
        """Whether a command ends with a number by now."""

        def ended() -> bool:
            try:
                self._run(list(arguments), **variables)
            except Ended as refusal:
                return refusal.code == code
            return False

        return ended


@pytest.fixture(scope="module")
def administrator(doubled: Scene, tmp_path_factory: pytest.TempPathFactory) -> Typist:
    invited = doubled.administrator.at(0).users.create(f"chief-{secrets.token_hex(4)}@hospital.example", ("administrator",))
    typist = Typist(doubled, tmp_path_factory.mktemp("chief") / "home")
    typist.join(HORTUS_INVITATION=str(invited["invitation"]))
    typist.sign_in()
    return typist


def joined(doubled: Scene, administrator: Typist, folder: Path) -> Typist:
    """Somebody whom the administrator invited, who signed in and wrote recovery codes down."""
    email = f"clerk-{secrets.token_hex(4)}@hospital.example"
    typist = Typist(doubled, folder / "home")
    typist.join(HORTUS_INVITATION=administrator.types("users", "create", email)["invitation"])
    typist.sign_in()
    typist.writes_down()
    return typist


def test_sign_ins_are_shown_and_ended_from_another_machine_and_a_new_password_ends_them_all(
    doubled: Scene, administrator: Typist, tmp_path: Path
) -> None:
    clerk = joined(doubled, administrator, tmp_path)
    me = clerk.types("whoami")
    assert (me["username"], me["user_id"], me["session"]["method"]) == (clerk.username, clerk.user_id, "password+totp")
    factors = clerk.types("factors", "list")
    assert (factors["recovery_codes_left"], factors["passkeys"], factors["policy"]) == (10, [], "required")
    laptop = clerk.beside(doubled, gateway=1)
    opened = laptop.returns()
    assert opened["recovery_codes_left"] == 9
    assert "access_token" not in opened
    used = {session["session_id"]: session["current"] for session in clerk.types("sessions", "list")}
    assert used == {me["session"]["session_id"]: True, opened["session_id"]: False}
    clerk.does("sessions", "end", opened["session_id"])
    until(laptop.is_refused("whoami"), "the session on the laptop is over", IN_FORCE_S)
    assert [session["current"] for session in clerk.types("sessions", "list")] == [True]

    laptop.returns()
    laptop.does("sessions", "end-all")
    assert laptop.ends("whoami") == (NOT_SIGNED_IN, "You are not signed in: run `hortus login`.")
    until(clerk.is_refused("whoami"), "the session on the first machine is over", IN_FORCE_S)

    clerk.returns()
    laptop.returns()
    new = secrets.token_urlsafe(18)
    clerk.does("password", "change", HORTUS_NEW_PASSWORD=new)
    assert clerk.ends("whoami")[0] == NOT_SIGNED_IN
    until(laptop.is_refused("whoami"), "the new password has ended the session on the laptop", IN_FORCE_S)
    spent = clerk.paper[-1]
    assert clerk.ends("login", "--recovery-code", HORTUS_RECOVERY_CODE=spent)[0] == NOT_SIGNED_IN
    clerk.returns(HORTUS_PASSWORD=new)
    assert clerk.types("whoami")["user_id"] == clerk.user_id


def test_a_certificate_is_made_used_renewed_checked_and_withdrawn(administrator: Typist, tmp_path: Path) -> None:
    project = administrator.types("projects", "create", f"keys_{secrets.token_hex(4)}")["project_id"]
    here = ("--folder", str(tmp_path / "certificate"))
    made = administrator.types("certificate", "create", "-p", project, *here)
    renewed = administrator.types("certificate", "renew", *here)
    assert renewed["certificate_id"] != made["certificate_id"]
    assert [known["project_id"] for known in administrator.types("--certificate", here[1], "projects", "list")] == [project]
    told = once_known(lambda: administrator.types("certificate", "check", *here))
    assert {each["by"]: each["status"] for each in told} == {"OCSP": "good", "CRL": "good"}
    lines = administrator.types("certificate", "check", "--commands", *here)
    said = once_known(lambda: [typed(line, tmp_path) for line in lines])
    assert f"{renewed['chain']}: good" in said[3]
    assert said[6].strip() == f"{renewed['chain']}: OK"
    administrator.does("certificate", "revoke", renewed["certificate_id"], "-p", project)
    until(administrator.is_refused("certificate", "check", *here, code=REFUSED), "OCSP and the list call it revoked", IN_FORCE_S)
    until(administrator.is_refused("--certificate", here[1], "projects", "list"), "the gateway refuses it", IN_FORCE_S)


def typed(line: str, folder: Path) -> str:
    """What a line of a shell prints; it has to succeed, or to be told to ask again."""
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    if any(word in done.stdout + done.stderr for word in ASK_AGAIN):
        raise Ended(done.returncode, "ask again.")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def once_known(ask: Callable[[], Any]) -> Any:
    """What is answered; a certificate's status is told by nobody who does not know the newest of it, who says to ask again."""
    answers: list[Any] = []

    def known() -> bool:
        try:
            answers.append(ask())
        except Ended as unknown:
            if not unknown.said.endswith("ask again."):
                raise
        return bool(answers)

    until(known, "the status is known")
    return answers[0]


def test_a_group_that_asks_for_no_factor_and_a_key_that_waits_for_one(doubled: Scene, administrator: Typist, tmp_path: Path) -> None:
    clerk = joined(doubled, administrator, tmp_path)
    name = f"desk-{secrets.token_hex(4)}"
    group = administrator.types("groups", "create", name, "--policy", "optional")
    assert administrator.ends("groups", "create", name)[0] == CONFLICT
    administrator.does("groups", "add", name, clerk.username)
    members = administrator.types("groups", "members", name)
    assert [(member["username"], member["by_hand"], member["by_directory"]) for member in members] == [(clerk.username, True, False)]
    assert clerk.types("factors", "list")["policy"] == "optional"

    clerk.does("factors", "remove-totp")
    clerk.types("login", clerk.username)
    me = clerk.types("whoami")
    assert (me["groups"], me["session"]["method"]) == ([name], "password")
    wish = ("keys", "create", "night run", "--scope", "project.list", "--expires", "1d")
    assert clerk.ends(*wish)[0] == NOT_SIGNED_IN
    clerk.does("confirm", "--recovery-code", HORTUS_RECOVERY_CODE=clerk.paper.pop())
    key = clerk.types(*wish)
    assert [known["name"] for known in clerk.types("keys", "list")] == ["night run"]
    for address in doubled.suite.addresses:
        shown = {"HORTUS_API_KEY": key["secret"], "HORTUS_ADDRESS": address}
        assert clerk.types("projects", "list", **shown) == []
        assert clerk.ends("whoami", **shown)[0] == REFUSED
    clerk.does("keys", "end", "night run")
    assert clerk.types("keys", "list") == []
    for address in doubled.suite.addresses:
        shown = {"HORTUS_API_KEY": key["secret"], "HORTUS_ADDRESS": address}
        until(clerk.is_refused("projects", "list", **shown), "the key is refused", IN_FORCE_S)

    administrator.does("groups", "take", name, clerk.username)
    assert administrator.types("groups", "members", name) == []
    administrator.does("groups", "remove", name)
    assert group["group_id"] not in {known["group_id"] for known in administrator.types("groups", "list")}
    assert administrator.ends("groups", "members", name)[0] == NOT_FOUND


def test_who_asks_for_an_account_is_invited_or_declined(doubled: Scene, administrator: Typist, tmp_path: Path) -> None:
    wanted, unwanted = (f"{name}-{secrets.token_hex(4)}@hospital.example" for name in ("wanted", "unwanted"))
    newcomer = Typist(doubled, tmp_path / "home", gateway=1)
    newcomer.does("register", wanted, "--note", "I read the scans")
    newcomer.does("register", unwanted)
    asked = {request["email"]: request["note"] for request in administrator.types("registrations", "list")}
    assert asked == {wanted: "I read the scans", unwanted: ""}
    invited = administrator.types("registrations", "approve", wanted)
    assert (invited["email"], invited["status"]) == (wanted, "invited")
    administrator.does("registrations", "decline", unwanted)
    assert administrator.types("registrations", "list") == []
    assert administrator.ends("registrations", "approve", wanted)[0] == NOT_FOUND
    newcomer.join(HORTUS_INVITATION=invited["invitation"])
    newcomer.sign_in()
    assert newcomer.types("whoami")["email"] == wanted
    assert newcomer.ends("accept", HORTUS_INVITATION=invited["invitation"])[0] != 0


def test_what_an_administrator_does_to_an_account_and_nobody_else(doubled: Scene, administrator: Typist, tmp_path: Path) -> None:
    clerk = joined(doubled, administrator, tmp_path)
    before = administrator.types("users", "show", clerk.username)
    assert (before["status"], before["factors"]["recovery_codes_left"]) == ("active", 10)
    assert administrator.types("users", "block", clerk.username)["status"] == "blocked"
    until(clerk.is_refused("whoami"), "who is blocked is refused", IN_FORCE_S)
    assert clerk.ends("login", "--recovery-code", HORTUS_RECOVERY_CODE=clerk.paper[-1])[0] == NOT_SIGNED_IN
    assert administrator.types("users", "unblock", clerk.username)["status"] == "active"
    clerk.returns()
    assert clerk.types("whoami")["status"] == "active"

    link = administrator.types("users", "reset-password", clerk.username)["link_token"]
    new = secrets.token_urlsafe(18)
    clerk.does("password", "reset", HORTUS_RESET_LINK=link, HORTUS_NEW_PASSWORD=new)
    until(clerk.is_refused("whoami"), "the new password has ended the session", IN_FORCE_S)
    clerk._password = new
    clerk.returns()
    assert clerk.ends("password", "reset", HORTUS_RESET_LINK=link, HORTUS_NEW_PASSWORD=new)[0] != 0

    status, said = administrator.ends("users", "reset-factors", clerk.username)
    assert status == CONFLICT
    assert said.startswith("You were shown a link for this person's other factor")
    clerk = joined(doubled, administrator, tmp_path / "another")
    link = administrator.types("users", "reset-factors", clerk.username)["link_token"]
    until(clerk.is_refused("whoami"), "the reset has ended the session", IN_FORCE_S)
    clerk.set_up("factors", "enrol", HORTUS_ENROLMENT=link)
    clerk.sign_in()
    assert clerk.types("factors", "list")["recovery_codes_left"] == 0

    assert administrator.types("users", "deactivate", clerk.username)["status"] == "deactivated"
    until(clerk.is_refused("whoami"), "who is deactivated is refused", IN_FORCE_S)
    again = administrator.types("users", "reactivate", clerk.username)
    assert again["status"] == "invited"
    clerk.join(HORTUS_INVITATION=again["invitation"])
    clerk.sign_in()
    after = administrator.types("users", "show", clerk.username)
    assert (after["user_id"], after["username"], after["status"]) == (clerk.user_id, clerk.username, "active")

    assert [key["signs"] for key in administrator.types("signing-keys", "list")].count(True) == 1
    assert clerk.ends("signing-keys", "list")[0] == REFUSED
    assert clerk.ends("users", "block", administrator.username)[0] == REFUSED
    assert administrator.ends("users", "block", "nobody-at-all")[0] == NOT_FOUND
    assert administrator.ends("users", "bloc", clerk.username)[0] == NOT_UNDERSTOOD
