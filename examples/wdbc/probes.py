"""How each surface of ``contracts/surfaces.py`` is asked, with what a person holds: the demo, the journeys and the bench ask by this list."""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from contracts.surfaces import Surface
from examples.wdbc.watch import PATIENCE, Download, Probe, Upload, Verdict, Watched, runs_with
from hortus.client import Unreachable

API = "/api/v1"
REFRESH_COOKIE = "__Host-hortus-refresh"
TIMEOUT = 10.0
DECIDED = frozenset({401, 403, 404, 409, 410})
LIVE = frozenset({"queued", "leased", "running"})
Pair = tuple[Path, Path]
Said = tuple[Verdict, str]


@dataclass(frozen=True)
class Reply:
    """An answer of a gateway; status 0 where the connection ended without one."""

    status: int
    reason: str
    body: bytes
    headers: dict[str, str]


class Door:
    """One kept connection to a gateway, for one question at a time."""

    def __init__(self, address: str, root: Path, token: str = "", certificate: Pair | None = None, timeout: float = TIMEOUT) -> None:
        place = urlsplit(address)
        context = ssl.create_default_context(cafile=str(root))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connection = http.client.HTTPSConnection(place.hostname or "", place.port, timeout=timeout, context=context)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One question; a name of a header is written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, API + path, body, self._headers | named)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as cut:
            self._connection.close()
            return Reply(0, type(cut).__name__, b"", {})
        told = {name.lower(): value for name, value in answer.getheaders()}
        told["set-cookie"] = "\n".join(answer.headers.get_all("set-cookie") or ())
        return Reply(answer.status, told.get("hortus-reason", ""), content, told)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, path: str, pieces: Iterator[bytes]) -> None:
        """PUT a body that has no end yet. Raises Unreachable when it is not taken to its end."""
        try:
            self._connection.request("PUT", API + path, pieces, self._headers, encode_chunked=True)
            status = self._connection.getresponse().status
        except (OSError, http.client.HTTPException) as cut:
            raise Unreachable(f"cut ({type(cut).__name__})") from cut
        finally:
            self._connection.close()
        if status not in {200, 201}:
            raise Unreachable(f"{status}")


@dataclass
class Held:
    """What somebody holds in a project when a deed falls. Nothing in a field: the surfaces that need it are not asked.

    ``file``: the path of a file that takes long to download; ``staying``: the token of somebody who keeps their rights and looks
    at the person's jobs. ``run``: the id of a run of the person's; ``agent`` holds its lease, ``job`` is the run's own certificate.
    ``programs``: processes of a running job, and the mark in their command lines.
    """

    gateway: str
    certificates: str
    root: Path
    project: str
    dataset: str = ""
    token: str = ""
    refresh: str = ""
    key: str = ""
    certificate: Pair | None = None
    file: str = ""
    uploads: bool = False
    word: str = ""
    staying: str = ""
    queued: str = ""
    run: str = ""
    agent: Pair | None = None
    job: Pair | None = None
    programs: list[int] = field(default_factory=list)
    mark: str = ""
    opened: list[Door] = field(default_factory=list)

    def door(self, token: str = "") -> Door:
        """A connection to the people's port."""
        return self._keep(Door(self.gateway, self.root, token))

    def shown(self, certificate: Pair) -> Door:
        """A connection to the certificates' port."""
        return self._keep(Door(self.certificates, self.root, certificate=certificate))

    def _keep(self, door: Door) -> Door:
        self.opened.append(door)
        return door

    def close(self) -> None:
        """Close what probes opened."""
        for door in self.opened:
            door.close()

    @property
    def listed(self) -> str:
        """A door of the project that each role opens."""
        return f"/projects/{self.project}/datasets?limit=1"


def refresh_token(reply: Reply) -> str:
    """The refresh token in the cookies of a sign-in."""
    cookie = next(line for line in reply.headers["set-cookie"].splitlines() if line.startswith(REFRESH_COOKIE))
    return cookie.split(";")[0].partition("=")[2]


def judged(reply: Reply) -> Said:
    """What a plain answer says."""
    words = f"{reply.status} {reply.reason}"
    if 200 <= reply.status < 300:
        return Verdict.LET_IN, ""
    return (Verdict.REFUSED if reply.status in DECIDED else Verdict.CANNOT_DECIDE), words


def _opens(surface: Surface, door: Door, path: str) -> Probe:
    return Probe(surface.value, lambda: judged(door.ask("GET", path)))


def _access_token(held: Held) -> Probe | None:
    return _opens(Surface.ACCESS_TOKEN, held.door(held.token), held.listed) if held.token else None


def _api_key(held: Held) -> Probe | None:
    return _opens(Surface.API_KEY, held.door(held.key), held.listed) if held.key else None


def _project_certificate(held: Held) -> Probe | None:
    return _opens(Surface.PROJECT_CERTIFICATE, held.shown(held.certificate), held.listed) if held.certificate else None


def _agent(held: Held) -> Probe | None:
    path = f"/runs/{held.run}/inputs/{held.dataset}/files?limit=1"
    return _opens(Surface.AGENT, held.shown(held.job), path) if held.job else None


def _refresh(held: Held) -> Probe | None:
    """Renews the sign-in and uses what that gives."""
    renewing, opening = held.door(), held.door()

    def ask() -> Said:
        renewed = renewing.ask("POST", "/sessions/refresh", Cookie=f"{REFRESH_COOKIE}={held.refresh}")
        if renewed.status not in {200, 202}:  # 202: done, and not in force at this gateway yet
            return judged(renewed)
        held.refresh = refresh_token(renewed)
        return judged(opening.ask("GET", held.listed, Authorization="Bearer " + json.loads(renewed.body)["access_token"]))

    return Probe(Surface.REFRESH.value, ask) if held.refresh else None


def _leaf(held: Held) -> x509.Certificate:
    assert held.certificate is not None
    return x509.load_pem_x509_certificate(held.certificate[0].read_bytes())


def _told(leaf: x509.Certificate, door: str) -> str:
    """The path of a door of ca as the certificate names it (AIA, CDP)."""
    about = leaf.extensions
    named: list[str] = [each.access_location.value for each in about.get_extension_for_class(x509.AuthorityInformationAccess).value]
    named += [name.value for each in about.get_extension_for_class(x509.CRLDistributionPoints).value for name in each.full_name or ()]
    return next(urlsplit(place).path.removeprefix(API) for place in named if door in place)


def _ocsp(held: Held) -> Probe | None:
    """Asks as whoever has to rely on a certificate does: one that is over by its own end counts no more, whatever its status is."""
    if not held.certificate:
        return None
    door, leaf = held.door(), _leaf(held)
    issuer = x509.load_der_x509_certificate(door.ask("GET", _told(leaf, "/issuers/")).body)
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build().public_bytes(Encoding.DER)

    def ask() -> Said:
        reply = door.ask("POST", "/ocsp", request, Content_Type="application/ocsp-request")
        if reply.status != 200:
            return judged(reply)
        answer = ocsp.load_der_ocsp_response(reply.body)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return Verdict.CANNOT_DECIDE, answer.response_status.name
        good = answer.certificate_status is ocsp.OCSPCertStatus.GOOD and datetime.now(UTC) < leaf.not_valid_after_utc
        return (Verdict.LET_IN, "") if good else (Verdict.REFUSED, answer.certificate_status.name.lower())

    return Probe(Surface.OCSP.value, ask)


def _crl(held: Held) -> Probe | None:
    """Fetches the list when it is another one than before."""
    if not held.certificate:
        return None
    door, leaf = held.door(), _leaf(held)
    place = _told(leaf, "/crls/")
    known = {"etag": "", "listed": ""}

    def ask() -> Said:
        reply = door.ask("GET", place, If_None_Match=known["etag"] or '"none"')
        if reply.status == 200:
            listed = x509.load_der_x509_crl(reply.body).get_revoked_certificate_by_serial_number(leaf.serial_number)
            known.update(etag=reply.headers["etag"], listed="listed" if listed else "")
        elif reply.status != 304:
            return judged(reply)
        over = datetime.now(UTC) >= leaf.not_valid_after_utc
        return (Verdict.REFUSED, known["listed"] or "over") if known["listed"] or over else (Verdict.LET_IN, "")

    return Probe(Surface.CRL.value, ask)


def _search(held: Held) -> Probe | None:
    door = held.door(held.token)

    def ask() -> Said:
        reply = door.ask("GET", f"/search?q={quote(held.word)}&project_id={held.project}")
        if reply.status != 200:
            return judged(reply)
        return (Verdict.LET_IN, "") if json.loads(reply.body)["items"] else (Verdict.REFUSED, "no hit")

    return Probe(Surface.SEARCH.value, ask) if held.word and held.token else None


def _goes_on(state: str) -> Said:
    return (Verdict.LET_IN, state) if state in LIVE else (Verdict.REFUSED, state)


def _queued_job(held: Held) -> Probe | None:
    """Looks at the list of jobs, which is the lighter look: reading one counts against a budget."""
    door, path = held.door(held.staying), f"/projects/{held.project}/jobs?limit=20"

    def ask() -> Said:
        reply = door.ask("GET", path)
        if reply.status != 200:
            return judged(reply)
        return _goes_on(next(job["state"] for job in json.loads(reply.body)["items"] if job["job_id"] == held.queued))

    return Probe(Surface.QUEUED_JOB.value, ask) if held.queued else None


def _running_job(held: Held) -> Probe | None:
    """Whether its processes are there; where the asker is the machine itself, whether that is told to go on."""
    if held.agent and not held.programs:
        door = held.shown(held.agent)

        def ask_for_lease() -> Said:
            reply = door.ask("GET", f"/leases/{held.run}")
            return _goes_on(json.loads(reply.body)["state"]) if reply.status == 200 else judged(reply)

        return Probe(Surface.RUNNING_JOB.value, ask_for_lease)

    def ask() -> Said:
        alive = any(runs_with(pid, held.mark) for pid in held.programs)
        return (Verdict.LET_IN, "") if alive else (Verdict.REFUSED, "gone")

    return Probe(Surface.RUNNING_JOB.value, ask) if held.programs else None


def _download(held: Held) -> Download | None:
    path = f"/projects/{held.project}/datasets/{held.dataset}/files/{quote(held.file)}"
    return Download(held.gateway, held.root, held.token, path) if held.file else None


def _upload(held: Held) -> Upload | None:
    path = f"/projects/{held.project}/datasets/{held.dataset}/files/trickle-{time.monotonic_ns()}.csv"
    return Upload(lambda pieces: held.door(held.token).send(path, pieces)) if held.uploads else None


PROBES: dict[Surface, Callable[[Held], Watched | None]] = {
    Surface.ACCESS_TOKEN: _access_token,
    Surface.REFRESH: _refresh,
    Surface.API_KEY: _api_key,
    Surface.PROJECT_CERTIFICATE: _project_certificate,
    Surface.OCSP: _ocsp,
    Surface.CRL: _crl,
    Surface.DOWNLOAD: _download,
    Surface.UPLOAD: _upload,
    Surface.QUEUED_JOB: _queued_job,
    Surface.RUNNING_JOB: _running_job,
    Surface.SEARCH: _search,
    Surface.AGENT: _agent,
}


def probes_of(held: Held, surfaces: Iterable[Surface] = Surface) -> dict[Surface, Watched]:
    """The probes of those surfaces that ``held`` has something for."""
    made = {surface: PROBES[surface](held) for surface in surfaces}
    return {surface: probe for surface, probe in made.items() if probe is not None}


@contextmanager
def watching(probes: Iterable[Watched]) -> Iterator[None]:
    """All of them ask and move, and stop in the end."""
    watched = list(probes)
    for probe in watched:
        probe.start()
    try:
        yield
    finally:
        for probe in watched:
            probe._stop.set()  # noqa: SLF001 - all at once, then each
        for probe in watched:
            probe.stop()


def shut_out(probes: Iterable[Watched], seconds: float = 20.0) -> list[str]:
    """Those that do not let the person in before the deed, with what they say."""
    until = time.monotonic() + seconds
    return [f"{probe.name}: {probe.last_words}" for probe in probes if not probe.lets_in(max(0.0, until - time.monotonic()))]


def watched_on(probes: Iterable[Watched], moment: float, seconds: float = 2.0, most: float = PATIENCE) -> None:
    """Each has refused since ``moment``, or ``most`` seconds are over; and at least ``seconds`` have passed since then."""
    for probe in probes:
        probe.refuses(moment, max(0.0, moment + most - time.monotonic()))
    time.sleep(max(0.0, moment + seconds - time.monotonic()))
