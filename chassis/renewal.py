"""A running process gets its certificate renewed at half of its life, by ca, and shows the new one without a restart.

This is the one call that goes straight from one service to another. The current certificate says who asks; the new key is made here
and stays here. A pair that somebody else puts into the folder is taken up as well.
"""

import asyncio
import http.client
import itertools
import json
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import Counter, Gauge
from pydantic import BaseModel

from chassis import pairs, tls
from chassis.log import logger
from chassis.settings import ProcessSettings
from contracts.policy import API, POLICY, Action, Service

log = logger(__name__)
LOOK_S = 1.0
TIMEOUT_S = 10.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
ANSWER_MAX = 64 * 1024
CREATED = 201
DOOR = API + POLICY[Action.SERVICE_CERTIFICATE_CREATE].path
LEFT = Gauge("hortus_certificate_seconds_left", "Until the certificate of this process ends")
FAILED = Counter("hortus_certificate_renewals_failed", "Attempts to renew the certificate of this process that came to nothing")


class _Answer(BaseModel):
    """What counts in ca's answer."""

    chain: str


class NotRenewed(Exception):
    """ca gave no certificate, or one that is not what was asked for."""


UNRENEWED = (NotRenewed, OSError, ValueError, http.client.HTTPException, InvalidSignature, x509.ExtensionNotFound)


class Renewal:
    """Keeps one process's certificate young. ``changed`` is called when another one is shown; ``clock`` gives the time."""

    def __init__(
        self,
        settings: ProcessSettings,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._changed = changed
        self._folder = settings.tls_dir
        self._addresses = settings.renewal_addresses
        self._authority = tls.service_identity(settings.trust_domain, Service.CA)
        self._turn = itertools.count()
        self._clock = clock
        self._problem = ""
        self._life = pairs.life_of(pairs.leaf(self._folder))
        self._seen = self._mark()
        LEFT.set_function(self.left)

    def left(self) -> float:
        """Seconds until the certificate ends; negative when it has."""
        return (self._life.ends_at - self._clock()).total_seconds()

    def missing(self) -> list[str]:
        """What keeps the process from being ready: with a certificate that has ended it reaches nobody."""
        return [] if self.left() > 0 else [f"certificate: it ended at {self._life.ends_at.isoformat()}"]

    def warnings(self) -> list[str]:
        """That the certificate should have been renewed by now, and why it was not."""
        if not self._life.is_low(self._clock()):
            return []
        because = self._problem or "nobody renewed it"
        return [f"certificate: it ends at {self._life.ends_at.isoformat()}: {because}"]

    async def run(self) -> None:
        """Look after the certificate until cancelled."""
        pause, rested = FIRST_PAUSE_S, 0.0
        while True:
            self.follow()
            rested += LOOK_S
            if self._addresses and self._clock() >= self._life.half and rested >= pause:
                rested = 0.0
                if await self._attempt():
                    pause = FIRST_PAUSE_S
                    self.follow()
                else:
                    pause = next_pause(pause, self.left())
            await asyncio.sleep(LOOK_S)

    def follow(self) -> None:
        """Show the pair that lies in the folder, if it is another one than before. A pair that cannot be read changes nothing."""
        mark = self._mark()
        if mark == self._seen:
            return
        try:
            life = pairs.life_of(pairs.leaf(self._folder))
            tls.show_anew(self._folder)
        except (OSError, ValueError) as error:
            log.warning("a new certificate cannot be read", error=type(error).__name__)
            return
        finally:
            self._seen = mark
        self._life = life
        self._problem = ""
        self._changed()
        log.info("another certificate is shown from now on", ends_at=life.ends_at.isoformat())

    async def _attempt(self) -> bool:
        address = self._addresses[next(self._turn) % len(self._addresses)]
        try:
            await asyncio.to_thread(renew, self._folder, address, self._authority)
        except UNRENEWED as error:
            self._problem = f"{type(error).__name__}: {error}" if isinstance(error, NotRenewed) else type(error).__name__
            FAILED.inc()
            log.warning("the certificate was not renewed", address=address, error=self._problem, seconds_left=round(self.left()))
            return False
        return True

    def _mark(self) -> tuple[int, ...]:
        """Which pair lies in the folder; empty when there is none."""
        try:
            states = [(self._folder / name).stat() for name in (pairs.CERTIFICATE, pairs.KEY)]
        except OSError:
            return ()
        return tuple(number for state in states for number in (state.st_ino, state.st_mtime_ns))


def next_pause(before: float, left: float) -> float:
    """Seconds to rest after another failure: twice as long as before, a minute at most, and short when the certificate ends soon."""
    return min(before * 2, LONGEST_PAUSE_S, max(left / 8, FIRST_PAUSE_S))


def renew(folder: Path, address: str, authority: str) -> None:
    """Have a new key certified by ca at ``address``, whose identity is ``authority``, and make the two the folder's pair.

    What is written was looked at before: it is for the new key, by the issuer of services, and says nothing else than the certificate that
    it follows. Raises one of UNRENEWED.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    chain = _ask(folder, address, authority, request.public_bytes(serialization.Encoding.PEM).decode())
    _check(chain, pairs.leaf(folder), (folder / tls.TRUST).read_bytes())
    plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pairs.write(folder, plain, chain)


def _ask(folder: Path, address: str, authority: str, csr: str) -> bytes:
    parts = urlsplit(address)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=tls.client_context(folder))
    try:
        connection.connect()
        channel = connection.sock
        der = channel.getpeercert(binary_form=True) if isinstance(channel, ssl.SSLSocket) else None
        if der is None or tls.spiffe_of(der) != authority:
            raise NotRenewed("who answers there is not ca")
        connection.request("POST", DOOR, json.dumps({"csr": csr}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read(ANSWER_MAX)
    finally:
        connection.close()
    if answer.status != CREATED:
        raise NotRenewed(f"ca answered {answer.status}")
    return _Answer.model_validate_json(body).chain.encode()


def _check(chain: bytes, current: x509.Certificate, anchors: bytes) -> None:
    made = x509.load_pem_x509_certificates(chain)[0]
    issuers = [anchor for anchor in x509.load_pem_x509_certificates(anchors) if anchor.subject == made.issuer]
    if not issuers:
        raise NotRenewed("the new certificate is by an issuer that is not trusted here")
    made.verify_directly_issued_by(issuers[0])
    if _names(made) != _names(current):
        raise NotRenewed("the new certificate is somebody else's")
    if made.not_valid_after_utc <= datetime.now(UTC):
        raise NotRenewed("the new certificate has ended already")


def _names(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
