"""Who a caller claims to be: the form and the signature of what was shown. Whether it still counts is for ``authority``.

A verified token is remembered by its SHA-256 until it expires, so the signature is checked once; the session that it
speaks for is looked up for every request.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from chassis import tls, tokens
from chassis.errors import Unauthenticated
from contracts.events import CertificateKind

REMEMBERED = 20_000
_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9._~+/=-]+)")


class InvalidCredential(Unauthenticated):
    """What was shown is forged, expired, foreign or cannot be read."""

    slug = "invalid-credential"
    title = "The credential is not valid"


class CredentialsDiffer(Unauthenticated):
    """A token came together with a certificate that speaks for somebody else."""

    slug = "credentials-differ"
    title = "The token and the certificate speak for different parties"


@dataclass(frozen=True)
class ShownCertificate:
    """A client certificate that the handshake accepted: its place in the catalogue and what its SPIFFE URI says."""

    certificate_id: str
    fingerprint: str
    kind: CertificateKind
    project_id: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    not_before: float = 0.0


@dataclass(frozen=True, eq=False)
class Credential:
    """What a caller has shown.

    ``expires`` is the token's end and ``since`` when it was first seen, Unix seconds. ``standings`` is where ``authority``
    remembers what it worked out, ``joined`` what the token is together with a certificate, by its fingerprint.
    """

    user_id: str | None = None
    session_id: str | None = None
    expires: float = 0.0
    since: float = 0.0
    certificate: ShownCertificate | None = None
    standings: dict[str | None, Any] = field(default_factory=dict)
    joined: dict[str, "Credential"] = field(default_factory=dict)

    @property
    def principal_key(self) -> str:
        """The person or agent whose facts decide about this credential."""
        if self.user_id is not None:
            return self.user_id
        shown = self.certificate
        return (shown.user_id or shown.agent_id or shown.certificate_id) if shown else ""


NOTHING_SHOWN = Credential()


class Authenticator:
    """Reads tokens and certificates. ``keys`` gives the live signing keys by key id."""

    def __init__(self, trust_domain: str, keys: Callable[[], Mapping[str, Mapping[str, str]]]) -> None:
        domain = re.escape(trust_domain)
        self._project = re.compile(rf"spiffe://{domain}/project/({_ID})/user/({_ID})(?:/job/({_ID}))?")
        self._agent = re.compile(rf"spiffe://{domain}/agent/({_ID})")
        self._keys = keys
        self._tokens: dict[bytes, Credential] = {}
        self._certificates: dict[bytes, Credential] = {}

    def forget_tokens(self) -> None:
        """A signing key changed: check every token's signature anew."""
        self._tokens.clear()

    def credential(self, authorization: bytes | None, der: bytes | None) -> Credential:
        """What the caller shows: by the header ``Authorization``, by the connection's certificate, or both.

        Raises InvalidCredential for anything that is shown and cannot be accepted.
        """
        shown = NOTHING_SHOWN if der is None else self._certificates.get(der) or self._read_certificate(der)
        if authorization is None:
            return shown
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise InvalidCredential("Only bearer tokens are taken.")
        signed_in = self._token(match[1])
        return signed_in if shown is NOTHING_SHOWN else _both(signed_in, shown)

    def unknown_key(self, authorization: bytes) -> str | None:
        """The key id that a token names and that is not known (yet); None when there is none."""
        match = _BEARER.fullmatch(authorization)
        key_id = tokens.key_id(match[1].decode("ascii")) if match else None
        return key_id if key_id is not None and key_id not in self._keys() else None

    def _token(self, token: bytes) -> Credential:
        digest = hashlib.sha256(token).digest()
        now = time.time()
        known = self._tokens.get(digest)
        if known is not None:
            if now < known.expires:
                return known
            del self._tokens[digest]
        try:
            claims = tokens.verify(token.decode("ascii"), self._keys())
        except tokens.InvalidToken as error:
            raise InvalidCredential from error
        if len(self._tokens) >= REMEMBERED:
            del self._tokens[next(iter(self._tokens))]
        made = Credential(str(claims.user_id), str(claims.session_id), claims.expires + tokens.LEEWAY_S, now)
        self._tokens[digest] = made
        return made

    def _read_certificate(self, der: bytes) -> Credential:
        uri = tls.spiffe_of(der) or ""
        certificate = x509.load_der_x509_certificate(der)
        about: dict[str, str | None]
        if match := self._project.fullmatch(uri):
            kind = CertificateKind.JOB if match[3] else CertificateKind.PROJECT
            about = {"project_id": match[1], "user_id": match[2], "run_id": match[3]}
        elif match := self._agent.fullmatch(uri):
            kind = CertificateKind.AGENT
            about = {"agent_id": match[1]}
        else:
            raise InvalidCredential("The certificate speaks for nobody here.")
        shown = ShownCertificate(
            f"{certificate.serial_number:032x}",
            hashlib.sha256(der).hexdigest(),
            kind,
            not_before=certificate.not_valid_before_utc.timestamp(),
            **about,
        )
        if len(self._certificates) >= REMEMBERED:
            del self._certificates[next(iter(self._certificates))]
        made = Credential(certificate=shown)
        self._certificates[der] = made
        return made


def _both(signed_in: Credential, shown: Credential) -> Credential:
    """A token together with a project certificate of the same person: both must count."""
    certificate = shown.certificate
    if certificate is None or certificate.kind is not CertificateKind.PROJECT or certificate.user_id != signed_in.user_id:
        raise CredentialsDiffer
    both = signed_in.joined.get(certificate.fingerprint)
    if both is None:
        both = Credential(signed_in.user_id, signed_in.session_id, signed_in.expires, signed_in.since, certificate)
        signed_in.joined[certificate.fingerprint] = both
    return both
