"""Looking after the issuers: whether they can sign, whether there are new ones, and whether they end soon."""

import asyncio
from datetime import UTC, datetime, timedelta

from prometheus_client import Gauge

from chassis.log import logger
from services.ca.service.office import Office
from services.ca.settings import CaSettings
from services.ca.signer import IssuerUnusable, opening

log = logger(__name__)
LOOK_S = 1.0
ENDS = Gauge("hortus_issuer_end_seconds", "When the certificate ends that an issuer signs with, in seconds since 1970", ["issuer"])


async def look_after(office: Office, settings: CaSettings) -> None:
    """Once a second, see whether the keys can sign, and take up certificates of issuers that came; those that do not fit are left alone."""
    seen = None
    while True:
        trouble = await asyncio.to_thread(office.keys.trouble) or _ended(office)
        if trouble != office.trouble:
            log.warning("issuers", trouble=trouble) if trouble else log.info("the issuers sign again")
        office.trouble = trouble
        now = opening.seen(settings.issuers_dir, settings.issuer_rest_s)
        if now != seen:
            try:
                office.take(await asyncio.to_thread(opening.open_issuers, settings.issuers_dir, office.keys, settings.issuer_rest_s))
                office.unusable = ""
            except IssuerUnusable as error:
                office.unusable = str(error)
                log.error("a change of the issuers is not taken up", reason=str(error))
            seen = now
        for issuer, end in office.issuers.ends().items():
            ENDS.labels(issuer).set(end.timestamp())
        await asyncio.sleep(LOOK_S)


def _ended(office: Office) -> str:
    ended = [issuer for issuer, end in office.issuers.ends().items() if end <= datetime.now(UTC)]
    return f"the certificate of {', '.join(ended)} has ended; renew it" if ended else ""


def warnings(office: Office, days: int) -> list[str]:
    """What somebody should look at: issuers that end soon, and files that are not taken up."""
    soon = datetime.now(UTC) + timedelta(days=days)
    ending = [f"the issuer {issuer} ends on {end:%Y-%m-%d}; renew it" for issuer, end in office.issuers.ends().items() if end < soon]
    return ending + ([f"a change of the issuers is not taken up: {office.unusable}"] if office.unusable else [])
