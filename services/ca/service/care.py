"""Looking after the issuers: whether they can sign, whether there are new ones, and whether they end soon."""

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from prometheus_client import Gauge

from chassis.log import logger
from services.ca.service.office import Office
from services.ca.settings import CaSettings
from services.ca.signer import IssuerUnusable, Signer, SignerAway, opening

log = logger(__name__)
LOOK_S = 1.0
OTHERS_S = 60.0
ENDS = Gauge("hortus_issuer_end_seconds", "When the certificate ends that an issuer signs with, in seconds since 1970", ["issuer"])


async def look_after(office: Office, settings: CaSettings) -> None:
    """Once a second, see whether certificates can be signed, and take up those of issuers that came; what does not fit is left alone.

    The keys that only answer for what they signed are tried more rarely: what is wrong with one of them keeps nobody from a certificate.
    """
    seen, others_due = None, 0.0
    while True:
        office.notice(_ended(office) | await _troubles(office, office.issuers.current.values()))
        now = opening.seen(settings.issuers_dir, settings.issuer_rest_s)
        if now != seen:
            try:
                office.take(await asyncio.to_thread(opening.open_issuers, settings.issuers_dir, office.keys, settings.issuer_rest_s))
                office.unusable = ""
            except IssuerUnusable as error:
                office.unusable = str(error)
                log.error("a change of the issuers is not taken up", reason=str(error))
            seen, others_due = now, 0.0
        if time.monotonic() >= others_due:
            office.doubtful = await _troubles(office, office.issuers.others())
            others_due = time.monotonic() + OTHERS_S
        for issuer, end in office.issuers.ends().items():
            ENDS.labels(issuer).set(end.timestamp())
        await asyncio.sleep(LOOK_S)


async def _troubles(office: Office, signers: Iterable[Signer]) -> dict[str, str]:
    """Why keys cannot sign, in words, by their names; behind a token that hangs nobody is asked."""
    found: dict[str, str] = {}
    for signer in signers:
        try:
            [found[signer.name]] = await office.signed([(signer, signer.trouble)], counted=False)
        except SignerAway as away:
            found[signer.name] = away.detail
    return {name: trouble for name, trouble in found.items() if trouble}


def _ended(office: Office) -> dict[str, str]:
    now, current = datetime.now(UTC), office.issuers.current
    ended = [issuer for issuer, end in office.issuers.ends().items() if end <= now]
    return {current[issuer].name: f"the certificate of {issuer} has ended; renew it" for issuer in ended}


def warnings(office: Office, days: int) -> list[str]:
    """What somebody should look at: issuers that end soon, keys that do not answer for what they signed, and files that are not taken up."""
    soon = datetime.now(UTC) + timedelta(days=days)
    ending = [f"the issuer {issuer} ends on {end:%Y-%m-%d}; renew it" for issuer, end in office.issuers.ends().items() if end < soon]
    doubtful = [f"an issuer's key that signed certificates cannot answer for them: {name}: {why}" for name, why in office.doubtful.items()]
    return ending + doubtful + ([f"a change of the issuers is not taken up: {office.unusable}"] if office.unusable else [])
