"""Ask a process how it is, at its operators' doors, as the runner."""

import http.client
import json
import ssl
from pathlib import Path

from chassis import pairs

SECONDS = 5.0


def ask(port: int, path: str, tls: Path) -> tuple[int, bytes]:
    """Send GET ``path`` to 127.0.0.1:``port`` with the certificate in ``tls``; raises OSError where nothing answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(tls / "services.pem")
    pair = pairs.place(tls)
    context.load_cert_chain(pair / pairs.CERTIFICATE, pair / pairs.KEY)
    connection = http.client.HTTPSConnection("localhost", port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} from port {port}") from error
    finally:
        connection.close()


def missing(port: int, tls: Path) -> list[str]:
    """What keeps the process on ``port`` from being ready; empty when it is."""
    return condition(port, tls)[0]


def condition(port: int, tls: Path) -> tuple[list[str], list[str]]:
    """What keeps the process on ``port`` from being ready, and what somebody should look at although it is."""
    try:
        status, body = ask(port, "/readyz", tls)
    except OSError as error:
        return [f"no answer: {error}"], []
    try:
        found = json.loads(body)
        missing, warnings = found.get("missing") or [], found.get("warnings") or []
    except (ValueError, AttributeError):
        missing, warnings = [], []
    if status != 200 and not missing:
        missing = [f"status {status}"]
    return [str(reason) for reason in missing], [str(warning) for warning in warnings]
