"""Work that goes on while parts of the suite fail: everything that was acknowledged is written down, to be looked for afterwards."""

import hashlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hortus.client import Client, HortusError, Memory, new_key
from tests.e2e.scene import PATIENCE, Scene, Somebody, until, works

PAUSE_SECONDS = 0.6
TRY_SECONDS = 20.0
MOST_CERTIFICATES = 20


@dataclass
class Acknowledged:
    """What was acknowledged of one kind: by its id, with the Unix time and the gateway of the acknowledgement."""

    made: dict[str, str] = field(default_factory=dict)
    at: list[tuple[float, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def since(self, moment: float, gateway: int) -> bool:
        """Whether a gateway has acknowledged something that was acknowledged after ``moment``."""
        return any(at > moment and through == gateway for at, through in reversed(self.at))


class Load:
    """Two workers for each kind of work, one at each gateway. A deed is repeated by the client with the same key, as people's are."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.project = scene.study(scientist="data_scientist")
        self.dataset = scene.owner.at(0).datasets.create(self.project, "growing")["dataset_id"]
        self.kinds: dict[str, Acknowledged] = {}
        self._stop = threading.Event()
        self._rest = threading.Event()
        self._rest.set()
        self._threads: list[threading.Thread] = []
        self._certificates: deque[str] = deque()
        owner, administrator = scene.owner, scene.administrator
        until(lambda: works(lambda: owner.at(1).datasets.get(self.project, self.dataset)), "the dataset is there")
        self._work("projects", owner, self._project)
        self._work("datasets", owner, self._file)
        self._work("ca", owner, self._certificate)
        self._work("auth", administrator, self._user)
        self._work("jobs", owner, self._job)
        self._work("audit", scene.auditor, self._record)
        self._work("search", owner, self._search)

    def start(self) -> None:
        """Begin; returns when each kind of work was acknowledged at both gateways."""
        began = time.time()
        for thread in self._threads:
            thread.start()
        for service in self.kinds:
            self.goes_on(service, began)

    def stop(self) -> None:
        """End all work; what is under way is finished."""
        self._stop.set()
        self._rest.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing new is begun for a while."""
        self._rest.clear()
        try:
            yield
        finally:
            self._rest.set()

    def goes_on(self, service: str, moment: float) -> float:
        """Wait until both gateways have acknowledged work of this kind after ``moment``; how long that took, in seconds."""
        for gateway in (0, 1):
            self.goes_on_at(gateway, service, moment)
        return time.time() - moment

    def goes_on_at(self, gateway: int, service: str, moment: float) -> None:
        """Wait until one gateway has acknowledged work of this kind after ``moment``."""
        until(lambda: self.kinds[service].since(moment, gateway), f"{service} goes on at gateway {gateway + 1}")

    def lost(self) -> dict[str, set[str]]:
        """What was acknowledged and is not there, by kind."""
        owner, administrator = self.scene.owner.at(0), self.scene.administrator.at(1)
        until_now = {kind: dict(told.made) for kind, told in self.kinds.items()}
        there: dict[str, dict[str, str | None]] = {
            "projects": {project["project_id"]: project["name"] for project in owner.projects.list()},
            "datasets": {file["path"]: file["sha256"] for file in owner.datasets.files(self.project, self.dataset)},
            "ca": {made["certificate_id"]: made["fingerprint"] for made in owner.certificates.list(self.project)},
            "auth": {user["user_id"]: user["email"] for user in administrator.users.list()},
            "jobs": {job["job_id"]: job["name"] for job in owner.jobs.list(self.project)},
        }
        return {
            kind: gone
            for kind, found in there.items()
            if (gone := {key for key, value in until_now[kind].items() if found.get(key) != value})
        }

    def _work(self, kind: str, who: Somebody, deed: Callable[[Client, str], tuple[str, str]]) -> None:
        self.kinds[kind] = Acknowledged()
        for gateway in (0, 1):
            client = who.fresh(gateway, memory=Memory(), patience=TRY_SECONDS, timeout=10.0)
            self._threads.append(threading.Thread(target=self._go, args=(kind, client, gateway, deed), daemon=True))

    def _go(self, kind: str, client: Client, gateway: int, deed: Callable[[Client, str], tuple[str, str]]) -> None:
        told = self.kinds[kind]
        while not self._stop.is_set():
            try:
                key, value = deed(client, secrets.token_hex(6))
            except HortusError as error:
                told.failed.append(f"{type(error).__name__} {getattr(error, 'status', '')} {error}")
            else:
                told.made[key] = value
                told.at.append((time.time(), gateway))
            self._stop.wait(PAUSE_SECONDS)
            self._rest.wait()

    def _project(self, client: Client, mark: str) -> tuple[str, str]:
        made = client.projects.create(f"load_{mark}")
        return made["project_id"], made["name"]

    def _file(self, client: Client, mark: str) -> tuple[str, str]:
        content = secrets.token_bytes(20_000)
        made = client.datasets.put(self.project, self.dataset, [content], f"{mark}.bin")
        return made["path"], hashlib.sha256(content).hexdigest()

    def _certificate(self, client: Client, mark: str) -> tuple[str, str]:
        made = client.certificates.create(self.project, new_key(mark).csr)
        # A person has a hundred at most that live.
        self._certificates.append(made["certificate_id"])
        if len(self._certificates) > MOST_CERTIFICATES:
            client.certificates.revoke(self.project, self._certificates.popleft())
        return made["certificate_id"], made["fingerprint"]

    def _user(self, client: Client, mark: str) -> tuple[str, str]:
        made = client.users.create(f"{mark}@institute.example")
        return made["user_id"], made["email"]

    def _job(self, client: Client, mark: str) -> tuple[str, str]:
        made = client.jobs.submit(self.project, mark, "print('waits for an agent')")
        return made["job_id"], made["name"]

    def _record(self, client: Client, mark: str) -> tuple[str, str]:
        return mark, str(len(client.audit.chains()))

    def _search(self, client: Client, mark: str) -> tuple[str, str]:
        return mark, str(len(list(client.search("growing", most=1))))
