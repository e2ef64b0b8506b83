"""Somebody who holds everything that a deed has to end, and a machine that takes their jobs: for journeys and measurements."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contracts.surfaces import Surface
from examples.wdbc.codes import Authenticator
from examples.wdbc.doors import Door, Pair, refresh_token
from examples.wdbc.probes import Held
from hortus.client import Client, HortusError, Memory, Refused, new_key, write_private

CREATED = 201
CONFLICT = 409
PATIENCE = 60.0
LOOK_SECONDS = 0.02
LARGE = 8 * 1024 * 1024
ENDLESS = "import time\nwhile True: time.sleep(1)\n"


class NotSoon(Exception):
    """What should come did not come in time."""


def until(holds: Callable[[], Any], sentence: str, seconds: float = PATIENCE) -> Any:
    """Wait until ``holds`` gives something true, and give that. Raises NotSoon with the sentence."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > end:
            raise NotSoon(f"{sentence}: not within {seconds:.0f} s")
        time.sleep(LOOK_SECONDS)
    return found


class Place:
    """One gateway's two addresses, and the root to trust."""

    def __init__(self, gateway: str, certificates: str, root: Path) -> None:
        self.gateway = gateway
        self.certificates = certificates
        self.root = root

    def client(self, token: str | None = None, patience: float = PATIENCE) -> Client:
        """A patient connection that is told by nobody what to wait for; ``patience`` in seconds."""
        return Client(self.gateway, self.root, token=token, memory=Memory(), patience=patience, attempts=round(patience / 2))


class Account:
    """A person with a password and an authenticator, signed in at a place."""

    def __init__(self, place: Place, invitation: str) -> None:
        self.place = place
        self.token = ""
        self.refresh = ""
        self.key = ""
        self._password = secrets.token_urlsafe(18)
        with place.client() as door:
            factor = door.invitations.accept(invitation, self._password)
            self.username, self._factor = factor["username"], Authenticator(factor["totp_secret"])
            self.user_id: str = door.invitations.confirm(invitation, self._factor.code())["user_id"]
        self.sign_in()

    def sign_in(self) -> None:
        """Open a session with password and code, again with the next code where a moment did not allow it."""
        door = Door(self.place.gateway, self.place.root, timeout=PATIENCE)
        said: list[str] = []

        def entered() -> Any:
            shown = {"username": self.username, "password": self._password, "code": self._factor.code()}
            answer = door.ask("POST", "/sessions", json.dumps(shown).encode(), Content_Type="application/json")
            said.append(f"{answer.status} {answer.reason}")
            return answer if answer.status == CREATED else None

        try:
            answer = until(entered, f"{self.username} signs in", 2 * PATIENCE)
        except NotSoon as never:
            raise NotSoon(f"{never}; answered: {', '.join(said)}") from never
        self.token, self.refresh = json.loads(answer.body)["access_token"], refresh_token(answer)
        self.key = ""  # who was blocked has lost it

    def client(self, patience: float = PATIENCE) -> Client:
        """A connection with the person's token; ``patience`` in seconds."""
        return self.place.client(self.token, patience)


class Machine:
    """A node agent, played: it takes runs and says that they run, and nothing is carried out."""

    def __init__(self, administrator: Client, place: Place, folder: Path) -> None:
        self.place = place
        self._folder = folder
        self._taken: dict[str, tuple[str, Pair]] = {}
        self._lock = threading.Lock()
        announced = administrator.agents.create(f"played-{secrets.token_hex(4)}")
        asked = new_key("agent")
        door = Door(place.gateway, place.root)
        body = json.dumps({"token": announced["token"], "csr": asked.csr}).encode()

        def enrolled() -> str:
            answer = door.ask("POST", "/agents/enrolment", body, Content_Type="application/json")
            return str(json.loads(answer.body)["chain"]) if answer.status == 200 else ""

        self.pair = _written(folder, "agent", until(enrolled, "the machine is enrolled"), asked.key)
        self._door = Door(place.certificates, place.root, certificate=self.pair, timeout=PATIENCE)

    def run_of(self, job: str) -> tuple[str, Pair]:
        """Take runs until that of ``job`` is taken and has its certificate; its id and certificate. What waited longer is taken, too."""
        with self._lock:
            while job not in self._taken:
                until(self._take, "a run waits")
            return self._taken.pop(job)

    def _take(self) -> bool:
        asked = new_key("run")
        lease = self._ask("POST", "/leases", {"csr": asked.csr})
        if lease is None:
            return False
        path = f"/leases/{lease['run_id']}"
        chain = until(lambda: (self._ask("GET", path) or {}).get("certificate"), "the run has a certificate")
        self._ask("POST", path + "/report", {"fencing_token": lease["fencing_token"], "state": "running"})
        self._taken[lease["job_id"]] = (lease["run_id"], _written(self._folder, lease["run_id"], chain, asked.key))
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        answer = self._door.ask(method, path, sent, Content_Type="application/json")
        return json.loads(answer.body) if answer.status == 200 else None


def _written(folder: Path, name: str, chain: str, key: bytes) -> Pair:
    pair = (folder / f"{name}.pem", folder / f"{name}.key")
    write_private(pair[0], chain.encode())
    write_private(pair[1], key)
    return pair


class Garden:
    """A project of somebody who stays, in which another one holds things: its data, and a member who is given them again and again."""

    def __init__(self, staying: Account, person: Account, machine: Machine, folder: Path) -> None:
        self.staying = staying
        self.person = person
        self.machine = machine
        self.word = f"xylem{secrets.token_hex(4)}"
        self._folder = folder
        with staying.client() as owner:
            self.project: str = owner.projects.create(f"garden_{secrets.token_hex(6)}")["project_id"]
            self.dataset: str = until(lambda: self._made(owner), "the dataset is there")
            owner.datasets.put(self.project, self.dataset, [b"a;b\n1;2\n"], "table.csv")
            owner.datasets.put(self.project, self.dataset, (secrets.token_bytes(1024 * 1024) for _ in range(LARGE // 2**20)), "scan.raw")

    def _made(self, owner: Client) -> str:
        return owner.datasets.create(self.project, f"inputs_{self.word}")["dataset_id"]

    def is_member(self, owner: Client) -> bool:
        """Whether the person is a member, as the owner is told."""
        return self.person.user_id in [member["user_id"] for member in owner.members.list(self.project)]

    def admit(self) -> None:
        """Make the person a member again, who may do everything that the surfaces need; who was blocked meanwhile is one still."""
        with self.staying.client() as owner:
            try:
                owner.members.add(self.project, self.person.username, "data_owner")
            except Refused as refused:
                if refused.status != CONFLICT:
                    raise
        said = ""

        def let_in(mine: Client) -> bool:
            nonlocal said
            try:
                mine.projects.get(self.project)
            except HortusError as error:
                said = str(error)
                return False
            return True

        try:
            with self.person.client() as mine:
                until(lambda: let_in(mine), "the person is let in")
        except NotSoon as never:
            raise NotSoon(f"{never}; answered last: {said}") from never

    def held(self, place: Place, surfaces: Iterable[Surface] = Surface) -> Held:
        """What the person holds for these surfaces, to be asked at ``place``; a job that waits comes by ``queue``, afterwards."""
        wanted = set(surfaces)
        held = Held(place.gateway, place.certificates, place.root, self.project, self.dataset, token=self.person.token)
        held.staying = self.staying.token
        held.file = "scan.raw" if Surface.DOWNLOAD in wanted else ""
        held.uploads = Surface.UPLOAD in wanted
        held.word = self.word if Surface.SEARCH in wanted else ""
        held.refresh = self.person.refresh if Surface.REFRESH in wanted else ""
        with self.person.client() as mine:
            if Surface.API_KEY in wanted:
                held.key = self.person.key = self.person.key or _key(mine)
            if wanted & {Surface.PROJECT_CERTIFICATE, Surface.OCSP, Surface.CRL}:
                asked = new_key("wish")
                ordered = mine.certificates.create(self.project, asked.csr)
                held.certificate = _written(self._folder, ordered["certificate_id"], ordered["chain"], asked.key)
            if wanted & {Surface.RUNNING_JOB, Surface.AGENT}:
                job = mine.jobs.submit(self.project, "runs", ENDLESS, inputs=(self.dataset,))["job_id"]
                held.run, held.job = self.machine.run_of(job)
                held.agent = self.machine.pair
        return held

    def queue(self, held: Held) -> None:
        """Have a job wait, once no more runs are taken."""
        with self.person.client() as mine:
            held.queued = mine.jobs.submit(self.project, "waits", ENDLESS, inputs=(self.dataset,))["job_id"]

    def keep(self, held: Held) -> None:
        """Keep the newest refresh token, since an older one that is shown again ends the session."""
        self.person.refresh = held.refresh or self.person.refresh


def _key(mine: Client) -> str:
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    secret: str = mine.keys.create(f"program-{secrets.token_hex(4)}", scopes=("dataset.*", "search"), expires_at=ends)["secret"]
    return secret
