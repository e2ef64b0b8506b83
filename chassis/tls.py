"""Mutual TLS: contexts, SPIFFE identities, and a uvicorn protocol that knows its peer.

Every part trusts the ``services`` intermediate alone, as a trust anchor (``X509_V_FLAG_PARTIAL_CHAIN``), and checks the
peer's SPIFFE URI against an allow-list as well. Every context that shows the process's certificate is remembered while it is
used, so that ``show_anew`` gives it another one: connections made from then on show that, those that are open stay as they are.
"""

import asyncio
import fcntl
import ssl
import struct
import termios
import threading
import time
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chassis import pairs

CERTIFICATE = pairs.CERTIFICATE
KEY = pairs.KEY
TRUST = "services.pem"
GATHERED = 64 * 1024
LEAVE_S = 0.1

_showing: dict[Path, weakref.WeakSet[ssl.SSLContext]] = {}
_lock = threading.Lock()


def _show(context: ssl.SSLContext, tls_dir: Path) -> None:
    """Let a context show the process's certificate, and each that takes its place."""
    pair = pairs.place(tls_dir)
    context.load_cert_chain(pair / CERTIFICATE, pair / KEY)
    with _lock:
        _showing.setdefault(tls_dir.absolute(), weakref.WeakSet()).add(context)


def show_anew(tls_dir: Path) -> None:
    """Let every context of a folder show the pair that lies there now. Called where handshakes are made, so that none sees half of it.

    Raises OSError or ssl.SSLError when there is no pair.
    """
    pair = pairs.place(tls_dir)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair / CERTIFICATE, pair / KEY)  # what cannot be read harms no context in use
    with _lock:
        contexts = list(_showing.get(tls_dir.absolute(), ()))
    for context in contexts:
        context.load_cert_chain(pair / CERTIFICATE, pair / KEY)


def server_context(tls_dir: Path, *, client_issuers: Path | None = None, ask: bool = True) -> ssl.SSLContext:
    """A TLS 1.3 server context with the process's certificate.

    With ``ask`` a client certificate is required, issued by ``client_issuers`` (default: the ``services`` intermediate).
    No session tickets: a resumed session would carry on without its certificate being looked at.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    _show(context, tls_dir)
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
    _show(context, tls_dir)
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


def ends_at(der: bytes) -> float:
    """When a certificate ends, in Unix seconds."""
    return x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()


def service_identity(domain: str, name: str) -> str:
    """The SPIFFE URI of a service."""
    return f"spiffe://{domain}/service/{name}"


class Gathering:
    """A transport that sends what is written in one turn of the loop in one piece: a small answer's head and body are one record of TLS.

    More than ``GATHERED`` bytes go at once, so that the transport beneath says when its peer takes no more.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this, in its turn."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._size += len(data)
        if self._size > GATHERED:
            self._send()

    def close(self) -> None:
        """Send what is held, and no more."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held:
            self._transport.write(b"".join(held))


def unacknowledged(transport: Any) -> int:
    """How many bytes the kernel has sent, or will send, to the peer of a TCP connection that have not arrived there; 0 when it is closed.

    A connection that was lost may have no socket any more a moment before its protocol is told.
    """
    socket = transport.get_extra_info("socket")
    try:
        return 0 if socket is None else int(struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):
        return 0


class PeerProtocol(HttpToolsProtocol):
    """HTTP/1.1 over TLS with the peer's certificate in the scope. ``allowed``: whose connections are taken; None takes all."""

    allowed: frozenset[str] | None = None
    peer: dict[str, Any]
    _end: asyncio.TimerHandle | None = None
    _leaving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take the connection, or close it right away; one that is taken ends with its certificate."""
        ssl_object = transport.get_extra_info("ssl_object")
        der = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
        identity = spiffe_of(der) if der else None
        self.peer = {"peer": identity, "der": der}
        if self.allowed is not None and identity not in self.allowed:
            transport.abort()
            return
        gathering: Any = transport if self.allowed is None else Gathering(transport, self.loop)
        super().connection_made(gathering)
        if self.allowed is not None and der:
            self._end = self.loop.call_later(ends_at(der) - time.time(), self.shutdown)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        if self.transport is not None:
            super().data_received(data)

    def eof_received(self) -> None:
        """The peer sends nothing more."""
        if self.transport is not None:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it whoever waits for an answer."""
        for timer in (self._end, self._leaving):
            if timer is not None:
                timer.cancel()
        if self.transport is not None:
            self.peer["gone"] = True
            super().connection_lost(exc)

    def shutdown(self) -> None:
        """Take no more requests. A connection that carries none is closed, and ended once all that was sent has arrived.

        Who keeps a connection and does not read from it meanwhile does not answer its close_notify (RFC 8446 section 6.1), and is not waited for.
        """
        super().shutdown()
        if self._leaving is None and (self.cycle is None or self.cycle.response_complete):
            self._leave(arrived=False)

    def _leave(self, *, arrived: bool) -> None:
        # Twice in a row: meanwhile the loop gives the kernel what it still holds.
        empty = not unacknowledged(self.transport)
        if arrived and empty:
            self.transport.abort()
        else:
            self._leaving = self.loop.call_later(LEAVE_S, lambda: self._leave(arrived=empty))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        scope: Any = self.scope
        scope["extensions"] = {"tls": self.peer}

    def on_message_complete(self) -> None:
        """The request is all there. Reading goes on, also after a large body: the end of the connection has to be noticed."""
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()


def protocol(accepted: Collection[str] | None) -> type[PeerProtocol]:
    """A uvicorn HTTP protocol that puts ``{"peer": spiffe | None, "der": bytes | None}`` into ``scope["extensions"]["tls"]``.

    Once the connection has ended, also that its peer is ``gone``.

    A connection whose identity is not in ``accepted`` is closed right after the handshake, and one that was accepted when its certificate
    ends; a request that has begun is answered before. None accepts all, and leaves it to the application what a certificate is worth.
    """

    class Accepting(PeerProtocol):
        """For these peers."""

        allowed = None if accepted is None else frozenset(accepted)

    return Accepting
