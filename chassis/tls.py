"""Mutual TLS: contexts, SPIFFE identities, and a uvicorn protocol that knows its peer.

Every part trusts the ``services`` intermediate alone, as a trust anchor (``X509_V_FLAG_PARTIAL_CHAIN``), and checks the
peer's SPIFFE URI against an allow-list as well.
"""

import ssl
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CERTIFICATE = "cert.pem"
KEY = "key.pem"
TRUST = "services.pem"


def server_context(tls_dir: Path, *, client_issuers: Path | None = None, ask: bool = True) -> ssl.SSLContext:
    """A TLS 1.3 server context with the process's certificate.

    With ``ask`` a client certificate is required, issued by ``client_issuers`` (default: the ``services`` intermediate).
    No session tickets: a resumed session would carry on without its certificate being looked at.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(tls_dir / CERTIFICATE, tls_dir / KEY)
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(client_issuers or tls_dir / TRUST)
    return context


def client_context(tls_dir: Path) -> ssl.SSLContext:
    """A TLS 1.3 client context that shows the process's certificate and trusts the ``services`` intermediate alone.

    The host name is checked by the library; callers check the SPIFFE identity too where they know whom they call.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(tls_dir / TRUST)
    context.load_cert_chain(tls_dir / CERTIFICATE, tls_dir / KEY)
    return context


def spiffe_of(der: bytes) -> str | None:
    """The one SPIFFE URI in a certificate's subject alternative name; None when there is not exactly one."""
    try:
        extension = x509.load_der_x509_certificate(der).extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except (ValueError, x509.ExtensionNotFound):
        return None
    names = extension.value
    if not isinstance(names, x509.SubjectAlternativeName):
        return None
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("spiffe://")]
    return uris[0] if len(uris) == 1 else None


def service_identity(domain: str, name: str) -> str:
    """The SPIFFE URI of a service."""
    return f"spiffe://{domain}/service/{name}"


def protocol(accepted: Collection[str] | None) -> type[HttpToolsProtocol]:
    """A uvicorn HTTP protocol that puts ``{"peer": spiffe | None, "der": bytes | None}`` into ``scope["extensions"]["tls"]``.

    A connection whose identity is not in ``accepted`` is closed right after the handshake (None accepts all).
    """
    allowed = None if accepted is None else frozenset(accepted)

    class PeerProtocol(HttpToolsProtocol):
        """HTTP/1.1 over TLS with the peer's certificate in the scope."""

        peer: dict[str, Any]

        def connection_made(self, transport: Any) -> None:
            ssl_object = transport.get_extra_info("ssl_object")
            der = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
            identity = spiffe_of(der) if der else None
            self.peer = {"peer": identity, "der": der}
            if allowed is not None and identity not in allowed:
                transport.abort()
                return
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if self.transport is not None:
                super().data_received(data)

        def eof_received(self) -> None:
            if self.transport is not None:
                super().eof_received()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.transport is not None:
                super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            scope: Any = self.scope
            scope["extensions"] = {"tls": self.peer}

    return PeerProtocol
