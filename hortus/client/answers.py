"""Reading what came back: JSON, problems, cookies, and why nothing came."""

import re
from http import HTTPStatus
from typing import Any

import httpx2

from hortus.client.errors import Altered, FactorTooOld, Refused

PROBLEM = "urn:hortus:problem:"
FACTOR_TOO_OLD = "factor-too-old"
HELD_BACK = "answer-held-back"
RETRY_AFTER_CAP = 5.0
_KNOWN = frozenset({"type", "title", "status", "detail", "errors"})


def json_of(answer: httpx2.Response) -> Any:
    """The answer's JSON. Raises Altered."""
    try:
        return answer.json()
    except ValueError as error:
        raise Altered(f"The answer to {answer.request.method} {answer.request.url.path} is not JSON.") from error


def refusal(answer: httpx2.Response) -> Refused:
    """The exception for an answer that is no success."""
    said: Any = {}
    if "json" in answer.headers.get("Content-Type", ""):
        try:
            said = answer.json()
        except ValueError:
            said = {}
    if not isinstance(said, dict):
        said = {}
    kind = str(said.get("type", ""))
    slug = kind.removeprefix(PROBLEM) if kind.startswith(PROBLEM) else answer.headers.get("Hortus-Reason", "")
    made = FactorTooOld if slug == FACTOR_TOO_OLD else Refused
    return made(
        answer.status_code,
        slug or f"status-{answer.status_code}",
        _plain(said.get("title") or answer.reason_phrase),
        _plain(said.get("detail") or ""),
        members={name: value for name, value in said.items() if name not in _KNOWN},
        retry_after=retry_after(answer),
    )


def retry_after(answer: httpx2.Response) -> float | None:
    """The seconds that ``Retry-After`` names."""
    asked = answer.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else None


def asked_to_wait(answer: httpx2.Response) -> float | None:
    """How many seconds until asking again may help; None where it does not."""
    asked = retry_after(answer)
    return None if asked is None or answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE else min(asked, RETRY_AFTER_CAP)


def cookies_of(answer: httpx2.Response) -> dict[str, str]:
    """The cookies that an answer sets; one that it takes away is empty."""
    found = {}
    for header in answer.headers.get_list("Set-Cookie"):
        name, _, rest = header.partition("=")
        found[name.strip()] = rest.partition(";")[0].strip()
    return found


def is_certificate_error(error: Exception) -> bool:
    """Whether the other side's certificate is not one that the root vouches for."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def unreachable(address: str, error: Exception) -> str:
    """The sentence for a connection that could not be made."""
    if is_certificate_error(error):
        return f"{address} shows a certificate that the root you trust does not vouch for."
    return f"{address} cannot be reached ({said(error)})."


def said(error: Exception) -> str:
    """What an error says, or at least its name."""
    return str(error) or type(error).__name__


def _plain(text: object) -> str:
    """Text from outside without control characters, so that it cannot steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(text))[:2000]
