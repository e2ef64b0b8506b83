"""What the journeys at N = 2 share: a suite with two of everything, and the people who use it through the client library."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from compose.local.suite import Process, Suite
from examples.wdbc.codes import Authenticator
from examples.wdbc.transfers import Upload
from hortus.client import Client, Memory, Refused, Unreachable
from hortus.client.errors import HortusError
from hortus.client.shapes import Member, Role

PATIENCE = 60.0
LOOK_SECONDS = 0.02
IN_FORCE_SECONDS = 1.0
DIRECTORY_LOOK_S = 2
ASKING_SECONDS = 0.02
SETTLED_SECONDS = 1.0
CANNOT_DECIDE = 503
ATTEMPTS = 5
SHOWN_ONCE = "answer-was-secret"


class NotSoon(AssertionError):
    """A condition that should come did not come in time."""


def until(holds: Callable[[], object], sentence: str | Callable[[], str], seconds: float = PATIENCE) -> float:
    """Wait until ``holds`` is true and return how many seconds that took; raises NotSoon with the sentence, as it is then."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise NotSoon(f"{sentence() if callable(sentence) else sentence}: not within {seconds:.0f} s")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def assert_undecided(scene: "Scene", action: str, project: str, who: "Somebody", count: int) -> None:
    """The transfers of somebody in a project that were cut, ``count`` in all, were cut because nothing fresh was known.

    Gateways of a busy machine cut all transfers then, as they should; what a test had to show is tried again. The ledger says why each was cut.
    """

    def reasons() -> list[str]:
        told = scene.auditor.at(0).audit.records(action=action, project_id=project, actor=who.user_id)
        return [record["reason"] for record in told if str(record["source"]).startswith("gateway") and record["reason"] != "allowed"]

    until(lambda: len(reasons()) >= count, "the ledger says why transfers were cut")
    assert set(reasons()) <= {"cannot-decide", "answer-held-back"}


@contextmanager
def flowing(*uploads: Upload) -> Iterator[None]:
    """Uploads that have begun to flow, until the end."""
    for upload in uploads:
        upload.start()
    try:
        assert all(upload.flows() for upload in uploads)
        yield
    finally:
        for upload in uploads:
            upload.stop()


def works(deed: Callable[[], object]) -> bool:
    """Whether a deed succeeds now."""
    try:
        deed()
    except HortusError:
        return False
    return True


def fact_of(project: str, member: Member) -> str:
    """The fact of a membership, as the answer to whoever gave it names it."""
    return f"memberships:{project}%3A{member['user_id']}:{member['version']}"


class Somebody:
    """A person with a password, an authenticator, one sign-in, and a connection to each gateway.

    The connections share what the sign-in has caused, so each gateway is told what to wait for.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.password = secrets.token_urlsafe(18)
        self.codes: list[str] = []
        self.username = ""
        self.user_id = ""
        self.session_id = ""
        self.token = ""
        self.memory = Memory()
        self._factor = Authenticator()
        self._clients: dict[int, Client] = {}
        self._opened: list[Client] = []

    @property
    def secrets(self) -> list[str]:
        """Everything of this person that no log may hold."""
        return [self.password, self._factor.secret, self.token, self.token.rpartition(".")[2]]

    def join(self, invitation: str) -> "Somebody":
        """Accept a one-time token with a password, and confirm the second factor."""
        with Client(self.suite.address, self.suite.root, memory=self.memory, patience=PATIENCE, attempts=30) as door:
            factor = door.invitations.accept(invitation, self.password)
            self.username, self._factor = factor["username"], Authenticator(factor["totp_secret"])
            self.user_id = door.invitations.confirm(invitation, self.code())["user_id"]
        return self

    def enrol(self, name: str, password: str, gateway: int = 0) -> "Somebody":
        """Sign in for the first time with a name and password of the directory, which sets up a second factor; opens no session yet."""
        self.username, self.password = name, password
        with self.fresh(gateway, token=None) as door:
            enrolment = ""
            try:
                door.sessions.create(name, password)
            except Refused as refused:
                if refused.slug != "factor-enrolment-needed":
                    raise
                enrolment = str(refused.members["enrolment"])
            self._factor = Authenticator(door.enrolments.accept(enrolment)["totp_secret"])
            user = door.enrolments.confirm(enrolment, self.code())
        self.username, self.user_id = user["username"], user["user_id"]
        return self

    def code(self) -> str:
        """The next code that was not used yet: a code counts once, and one step ahead is accepted."""
        self.codes.append(self._factor.code())
        return self.codes[-1]

    def sign_in(self, gateway: int = 0) -> "Somebody":
        """Sign in at a gateway with password and code; connections that were open keep the old token."""
        with self.fresh(gateway, token=None) as door:
            session = door.sessions.create(self.username, self.password, self.code())
        self.token, self.session_id = session.get("access_token", ""), session["session_id"]
        self._clients.clear()
        return self

    def at(self, gateway: int) -> Client:
        """The person's connection to a gateway."""
        if gateway not in self._clients:
            self._clients[gateway] = self.fresh(gateway, token=self.token)
        return self._clients[gateway]

    def fresh(self, gateway: int, **settings: Any) -> Client:
        """A further connection; it is closed with the person."""
        given: dict[str, Any] = {"token": self.token, "memory": self.memory, "patience": PATIENCE, "attempts": 30} | settings
        client = Client(self.suite.addresses[gateway], self.suite.root, **given)
        self._opened.append(client)
        return client

    def hears(self, other: "Somebody") -> None:
        """Be told of what another's deeds have caused: from now on each gateway waits until it knows of them, too."""
        self.memory.learn(other.memory.header())

    def eager(self, gateway: int) -> Client:
        """A connection for asking often and from another thread: nothing is repeated, nothing is waited for."""
        return self.fresh(gateway, memory=Memory(), attempts=1, timeout=20.0)

    def close(self) -> None:
        """Close all connections."""
        for client in self._opened:
            client.close()


class Scene:
    """A suite with its first people, all signed in at the first gateway."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.people: list[Somebody] = []
        link = suite.setup_link()
        assert link is not None, "a fresh Hortus offers its first administrator a one-time link"
        self.administrator = self._enter(link.rpartition("#")[2])
        self.owner = self.invite()
        self.scientist = self.invite()
        self.auditor = self.invite("auditor")

    def invite(self, *cluster_roles: str, gateway: int = 0) -> Somebody:
        """Somebody new, invited, joined and signed in at a gateway."""
        newcomer = self._enter(self._invitation(cluster_roles), gateway)
        for known in self.people[:-1]:
            known.hears(newcomer)
        return newcomer

    def _invitation(self, cluster_roles: tuple[str, ...]) -> str:
        try:
            invited = self.administrator.at(0).users.create(f"person{secrets.token_hex(4)}@hospital.example", cluster_roles)
        except Refused as refused:
            if refused.slug != SHOWN_ONCE:
                raise
            return self._invitation(cluster_roles)  # the answer came too late for the client; somebody else is as new
        return str(invited["invitation"])

    def _enter(self, invitation: str, gateway: int = 0) -> Somebody:
        person = Somebody(self.suite).join(invitation)
        self.people.append(person)
        return person.sign_in(gateway)

    def study(self, **members: Role) -> str:
        """A new project of the owner, with the people of this scene named as members; gives its id."""
        project = self.owner.at(0).projects.create(f"study_{secrets.token_hex(6)}")["project_id"]
        for name, role in members.items():
            member: Somebody = getattr(self, name)
            self.owner.at(0).members.add(project, member.username, role)
            member.hears(self.owner)
        return project

    def pid(self, name: str) -> int:
        """The process id of a part of the suite."""
        part = self.suite.parts[name]
        assert part.child is not None
        return part.child.pid

    def ready(self, name: str) -> bool:
        """Whether a process of the suite says that it is ready."""
        part = self.suite.parts[name]
        assert isinstance(part, Process)
        return part.running and not part.missing()

    def all_ready(self) -> list[str]:
        """What the processes of the suite miss; empty when each is ready."""
        return [
            f"{name}: {'; '.join(part.missing())}"
            for name, part in self.suite.parts.items()
            if isinstance(part, Process) and (not part.running or part.missing())
        ]

    def until_ready(self) -> None:
        """Wait until each process says that it is ready; what is missing is told where it does not come."""
        until(lambda: not self.all_ready(), lambda: f"all processes are ready: {self.all_ready()}")

    def logs(self) -> dict[str, bytes]:
        """What every process has written, by file."""
        return {file.name: file.read_bytes() for file in sorted(Path(self.suite.home.log).iterdir()) if file.is_file()}

    def leader(self, service: str) -> str:
        """The replica of a service whose relay leads now, for example ``projects-2``."""
        found = self.suite.postgres.run_sql("SELECT holder FROM relay_lease WHERE until > clock_timestamp();", service)
        return "-".join(found.split("-")[:2])

    def close(self) -> None:
        """Close what the people hold open."""
        for person in self.people:
            person.close()


@dataclass(frozen=True)
class Seen:
    """One question and its answer: Unix times of both, the status, and the slug of a refusal."""

    sent: float
    answered: float
    status: int
    slug: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the person was let in."""
        return self.status < 300

    @property
    def refused(self) -> bool:
        """Whether it was decided that the person is not let in; "cannot decide now" is neither."""
        return not self.allowed and self.status != CANNOT_DECIDE


class Watch:
    """Asks one gateway again and again, on a connection of its own, what a person may do there."""

    def __init__(self, name: str, client: Client, deed: Callable[[Client], object]) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self._client = client
        self._deed = deed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, name=name, daemon=True)
        self._failure: BaseException | None = None

    def allowed_within(self, moment: float, seconds: float = PATIENCE) -> None:
        """Wait until a question that was sent after ``moment`` is answered with yes."""
        until(lambda: self._any(lambda seen: seen.allowed and seen.sent > moment), f"{self.name} lets the person in", seconds)

    def refused_within(self, moment: float, seconds: float = PATIENCE) -> None:
        """Wait until a question that was sent after ``moment`` is refused."""
        until(lambda: self._any(lambda seen: seen.refused and seen.sent > moment), f"{self.name} refuses the person", seconds)

    def gone_on_until(self, moment: float) -> None:
        """Wait until something was asked after ``moment``."""
        until(lambda: self._any(lambda seen: seen.sent > moment), f"{self.name} goes on asking")

    def first_refusal(self, moment: float) -> float:
        """Seconds from ``moment`` to the first refusal."""
        return min((seen.answered for seen in self.seen if seen.refused and seen.answered > moment), default=float("inf")) - moment

    def allowed_after(self, moment: float) -> list[Seen]:
        """What was asked after ``moment`` and allowed."""
        return [seen for seen in self.seen if seen.allowed and seen.sent > moment]

    def stale(self, moment: float) -> list[Seen]:
        """What was allowed after the first refusal that followed ``moment``."""
        first = moment + self.first_refusal(moment)
        return [seen for seen in self.seen if seen.allowed and seen.answered > first]

    def statuses(self, after: float, before: float = float("inf")) -> set[int]:
        """The statuses of what was asked between two moments."""
        return {seen.status for seen in self.seen if after < seen.sent < before}

    def _any(self, about: Callable[[Seen], bool]) -> bool:
        if self._failure is not None:
            raise self._failure
        return any(about(seen) for seen in reversed(self.seen))

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(30)

    def _go(self) -> None:
        while not self._stop.is_set():
            sent = time.time()
            status, slug = 200, ""
            try:
                self._deed(self._client)
            except Refused as refusal:
                status, slug = refusal.status, refusal.slug
            except Unreachable:
                status, slug = CANNOT_DECIDE, "unreachable"
            except BaseException as failure:  # noqa: BLE001 - it is raised in the thread that waits
                self._failure = failure
                return
            self.seen.append(Seen(sent, time.time(), status, slug))
            self._stop.wait(ASKING_SECONDS)


@contextmanager
def watching(*watches: Watch) -> Iterator[None]:
    """All watches ask and have been let in once; they stop in the end."""
    for watch in watches:
        watch.start()
    try:
        for watch in watches:
            watch.allowed_within(0.0)
        yield
    finally:
        for watch in watches:
            watch.stop()


def in_force(watches: list[Watch], moment: float) -> None:
    """What was withdrawn at ``moment`` was refused by each within a second, and was never allowed again."""
    for watch in watches:
        assert watch.first_refusal(moment) <= IN_FORCE_SECONDS, f"{watch.name} refused after {watch.first_refusal(moment):.3f} s"
        assert watch.stale(moment) == []
        assert watch.allowed_after(moment + IN_FORCE_SECONDS) == []


def watched_on(watches: list[Watch], moment: float) -> None:
    """Each watch has seen a refusal since ``moment`` and has gone on asking for a second after it."""
    for watch in watches:
        watch.refused_within(moment)
    settled = time.time() + SETTLED_SECONDS
    for watch in watches:
        watch.gone_on_until(settled)


def sleeping(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP has reached it)."""
    return str(psutil.Process(pid).status()) == psutil.STATUS_STOPPED
