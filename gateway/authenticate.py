"""Who a caller claims to be: the form and the signature of what was shown. Whether it still counts is for ``authority``.

A verified token is remembered by its SHA-256 until it expires, so the signature is checked once; the session that it
speaks for is looked up for every request. So is an API key, with its secret: only its form is looked at here.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cryptography import x509

from chassis import keys, tls, tokens
from chassis.errors import Unauthenticated
from contracts.events import SIGNING_KEYS, CertificateKind

REMEMBERED = 20_000
_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9._~+/=-]+)")
_API_KEY = keys.PREFIX.encode()

K = TypeVar("K")


class InvalidCredential(Unauthenticated):
    """What was shown is forged, expired, foreign or cannot be read."""

    slug = "invalid-credential"
    title = "The credential is not valid"


class CredentialsDiffer(Unauthenticated):
    """A token or API key came together with a certificate that speaks for somebody else, or an API key for another project."""

    slug = "credentials-differ"
    title = "The credential and the certificate speak for different parties"


class NotKnownYet(Exception):
    """What a young credential rests on is not known, and may come: ``topic`` and ``key`` say what to wait for."""

    def __init__(self, topic: str, key: str, refusal: Unauthenticated) -> None:
        super().__init__(topic)
        self.topic = topic
        self.key = key
        self.refusal = refusal


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

    ``expires`` is the token's end; ``since`` when the token was first seen, or the API key made; Unix seconds. ``signed_by``
    is the id of the key that signed the token. ``standings`` is where ``authority`` remembers what it worked out, ``joined`` what this is together with a certificate, by its fingerprint.
    """

    user_id: str | None = None
    session_id: str | None = None
    expires: float = 0.0
    since: float = 0.0
    signed_by: str | None = None
    key: keys.ShownKey | None = None
    certificate: ShownCertificate | None = None
    standings: dict[str | None, Any] = field(default_factory=dict)
    joined: dict[str, "Credential"] = field(default_factory=dict)


NOTHING_SHOWN = Credential()


class Authenticator:
    """Reads tokens, API keys and certificates. ``signing_keys`` gives the live ones by key id."""

    def __init__(self, trust_domain: str, signing_keys: Callable[[], Mapping[str, Mapping[str, str]]]) -> None:
        domain = re.escape(trust_domain)
        self._project = re.compile(rf"spiffe://{domain}/project/({_ID})/user/({_ID})(?:/job/({_ID}))?")
        self._agent = re.compile(rf"spiffe://{domain}/agent/({_ID})")
        self._signing_keys = signing_keys
        self._tokens: dict[bytes, Credential] = {}
        self._api_keys: dict[bytes, Credential] = {}
        self._certificates: dict[bytes, Credential] = {}

    def forget_tokens(self) -> None:
        """A signing key changed: check every token's signature anew."""
        self._tokens.clear()

    def credential(self, authorization: bytes | None, der: bytes | None) -> Credential:
        """What the caller shows: by the header ``Authorization``, by the connection's certificate, or both.

        Raises InvalidCredential for anything that is shown and cannot be accepted, NotKnownYet for a token whose signing key
        is not known.
        """
        shown = NOTHING_SHOWN if der is None else self._certificates.get(der) or self._read_certificate(der)
        if authorization is None:
            return shown
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise InvalidCredential("Only bearer tokens are taken.")
        bearer = self._api_key(match[1]) if match[1].startswith(_API_KEY) else self._token(match[1])
        return bearer if shown is NOTHING_SHOWN else _both(bearer, shown)

    def _token(self, token: bytes) -> Credential:
        digest = hashlib.sha256(token).digest()
        now = time.time()
        known = self._tokens.get(digest)
        if known is not None:
            if now < known.expires:
                return known
            del self._tokens[digest]
        text = token.decode("ascii")
        signing_keys = self._signing_keys()
        try:
            claims = tokens.verify(text, signing_keys)
        except tokens.InvalidToken as error:
            key_id = tokens.key_id(text)
            if key_id is None or key_id in signing_keys:
                raise InvalidCredential from error
            raise NotKnownYet(SIGNING_KEYS.name, key_id, InvalidCredential()) from error
        made = Credential(str(claims.user_id), str(claims.session_id), claims.expires + tokens.LEEWAY_S, now, claims.key_id)
        return _remember(self._tokens, digest, made)

    def _api_key(self, text: bytes) -> Credential:
        # apart from the tokens, so that keys which anybody can make up push no verified signature out
        digest = hashlib.sha256(text).digest()
        known = self._api_keys.get(digest)
        if known is not None:
            return known
        shown = keys.read_key(text.decode("ascii"))
        if shown is None:
            raise InvalidCredential("An API key has another form.")
        return _remember(self._api_keys, digest, Credential(since=shown.made_at, key=shown))

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
        return _remember(self._certificates, der, Credential(certificate=shown))


def _both(bearer: Credential, shown: Credential) -> Credential:
    """A token or API key together with a project certificate: both must count, and ``authority`` sees that they are one person's."""
    certificate = shown.certificate
    if certificate is None or certificate.kind is not CertificateKind.PROJECT:
        raise CredentialsDiffer
    both = bearer.joined.get(certificate.fingerprint)
    if both is None:
        both = _remember(bearer.joined, certificate.fingerprint, replace(bearer, certificate=certificate, standings={}, joined={}))
    return both


def _remember(known: dict[K, Credential], name: K, made: Credential) -> Credential:
    """Remember a credential under a name; the oldest makes room."""
    if len(known) >= REMEMBERED:
        del known[next(iter(known))]
    known[name] = made
    return made
