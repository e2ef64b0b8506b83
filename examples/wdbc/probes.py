"""How each surface of ``contracts/surfaces.py`` is asked, with what a person holds: the demo, the journeys and the bench ask by this list."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from contracts.surfaces import Surface
from examples.wdbc.doors import API, REFRESH_COOKIE, Door, Lines, Pair, Reply, question, refresh_token, trusting
from examples.wdbc.transfers import Download, Upload
from examples.wdbc.verdicts import Answer, Verdict
from examples.wdbc.watch import Probe, Watched, runs_with

DECIDED = frozenset({401, 403, 404, 409, 410})
LIVE = frozenset({"queued", "leased", "running"})
NEWEST_JOBS = 3


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

    def lines(self) -> Lines:
        """Connections to the people's port."""
        return Lines(self.gateway, _trusting(self.root))

    def shown(self, certificate: Pair) -> Lines:
        """Connections to the certificates' port."""
        return Lines(self.certificates, trusting(self.root, certificate))

    def told(self, path: str) -> bytes:
        """What anybody gets there."""
        door = Door(self.gateway, self.root)
        try:
            return door.ask("GET", path).body
        finally:
            door.close()

    @property
    def listed(self) -> str:
        """A door of the project that each role opens."""
        return f"/projects/{self.project}/datasets?limit=1"


_trusting = cache(trusting)


def said(reply: Reply, verdict: Verdict, words: str = "") -> Answer:
    """What an answer says."""
    return Answer(reply.sent, reply.at, verdict, words)


def judged(reply: Reply) -> Answer:
    """What a plain answer says."""
    if 200 <= reply.status < 300:
        return said(reply, Verdict.LET_IN)
    return said(reply, Verdict.REFUSED if reply.status in DECIDED else Verdict.CANNOT_DECIDE, f"{reply.status} {reply.reason}")


def _asks(surface: Surface, lines: Lines, request: bytes, judge: Callable[[Reply], Answer] = judged) -> Probe:
    """Asks the same again and again; ``judge`` says what an answer with 200 means."""

    async def ask() -> Answer:
        reply = await lines.ask(request)
        return judge(reply) if reply.status == 200 else judged(reply)

    return Probe(surface.value, ask, lines)


def _access_token(held: Held) -> Probe | None:
    return _asks(Surface.ACCESS_TOKEN, held.lines(), question("GET", held.listed, held.token)) if held.token else None


def _api_key(held: Held) -> Probe | None:
    return _asks(Surface.API_KEY, held.lines(), question("GET", held.listed, held.key)) if held.key else None


def _project_certificate(held: Held) -> Probe | None:
    if not held.certificate:
        return None
    return _asks(Surface.PROJECT_CERTIFICATE, held.shown(held.certificate), question("GET", held.listed))


def _agent(held: Held) -> Probe | None:
    path = f"/runs/{held.run}/inputs/{held.dataset}/files?limit=1"
    return _asks(Surface.AGENT, held.shown(held.job), question("GET", path)) if held.job else None


def _refresh(held: Held) -> Probe | None:
    """Renews the sign-in, one after the other, and uses what that gives."""
    if not held.refresh:
        return None
    lines, turn = held.lines(), asyncio.Lock()

    async def ask() -> Answer:
        async with turn:
            renewed = await lines.ask(question("POST", "/sessions/refresh", Cookie=f"{REFRESH_COOKIE}={held.refresh}"))
            if renewed.status not in {200, 202}:  # 202: done, and not in force at this gateway yet
                return judged(renewed)
            held.refresh = refresh_token(renewed)
        return judged(await lines.ask(question("GET", held.listed, json.loads(renewed.body)["access_token"])))

    return Probe(Surface.REFRESH.value, ask, lines)


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
    leaf = _leaf(held)
    over = leaf.not_valid_after_utc
    issuer = x509.load_der_x509_certificate(held.told(_told(leaf, "/issuers/")))
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build().public_bytes(Encoding.DER)

    def judge(reply: Reply) -> Answer:
        answer = ocsp.load_der_ocsp_response(reply.body)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return said(reply, Verdict.CANNOT_DECIDE, answer.response_status.name)
        if answer.certificate_status is ocsp.OCSPCertStatus.GOOD and datetime.now(UTC) < over:
            return said(reply, Verdict.LET_IN)
        return said(reply, Verdict.REFUSED, answer.certificate_status.name.lower())

    return _asks(Surface.OCSP, held.lines(), question("POST", "/ocsp", body=request, Content_Type="application/ocsp-request"), judge)


def _crl(held: Held) -> Probe | None:
    """Fetches the list when it is another one than before, and reads it once."""
    if not held.certificate:
        return None
    lines, leaf = held.lines(), _leaf(held)
    place, serial, over = _told(leaf, "/crls/"), leaf.serial_number, leaf.not_valid_after_utc
    names = {'"none"': False}
    newest = '"none"'

    async def ask() -> Answer:
        nonlocal newest
        etag = newest
        reply = await lines.ask(question("GET", place, If_None_Match=etag))
        if reply.status == 200:
            etag = newest = reply.headers["etag"]
            if etag not in names:
                names[etag] = x509.load_der_x509_crl(reply.body).get_revoked_certificate_by_serial_number(serial) is not None
        elif reply.status != 304:
            return judged(reply)
        if names[etag] or datetime.now(UTC) >= over:
            return said(reply, Verdict.REFUSED, "listed" if names[etag] else "over")
        return said(reply, Verdict.LET_IN)

    return Probe(Surface.CRL.value, ask, lines)


def _search(held: Held) -> Probe | None:
    path = f"/search?q={quote(held.word)}&project_id={held.project}"

    def judge(reply: Reply) -> Answer:
        return said(reply, Verdict.LET_IN) if json.loads(reply.body)["items"] else said(reply, Verdict.REFUSED, "no hit")

    return _asks(Surface.SEARCH, held.lines(), question("GET", path, held.token), judge) if held.word and held.token else None


def _goes_on(reply: Reply, state: str) -> Answer:
    return said(reply, Verdict.LET_IN if state in LIVE else Verdict.REFUSED, state)


def _queued_job(held: Held) -> Probe | None:
    """Looks at the newest of the list of jobs, which is the lighter look: reading one counts against a budget."""
    path = f"/projects/{held.project}/jobs?limit={NEWEST_JOBS}"

    def judge(reply: Reply) -> Answer:
        return _goes_on(reply, next(job["state"] for job in json.loads(reply.body)["items"] if job["job_id"] == held.queued))

    return _asks(Surface.QUEUED_JOB, held.lines(), question("GET", path, held.staying), judge) if held.queued else None


def _running_job(held: Held) -> Probe | None:
    """Whether its processes are there; where the asker is the machine itself, whether that is told to go on."""
    if held.agent and not held.programs:
        lease = question("GET", f"/leases/{held.run}")
        return _asks(Surface.RUNNING_JOB, held.shown(held.agent), lease, lambda reply: _goes_on(reply, json.loads(reply.body)["state"]))

    async def look() -> Answer:
        now = time.monotonic()
        alive = any(runs_with(pid, held.mark) for pid in held.programs)
        return Answer(now, time.monotonic(), Verdict.LET_IN if alive else Verdict.REFUSED, "" if alive else "gone")

    return Probe(Surface.RUNNING_JOB.value, look) if held.programs else None


def _download(held: Held) -> Download | None:
    path = f"/projects/{held.project}/datasets/{held.dataset}/files/{quote(held.file)}"
    return Download(held.gateway, held.root, held.token, path) if held.file else None


def _upload(held: Held) -> Upload | None:
    path = f"/projects/{held.project}/datasets/{held.dataset}/files/trickle-{time.monotonic_ns()}.csv"
    return Upload(held.gateway, held.root, held.token, path) if held.uploads else None


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
