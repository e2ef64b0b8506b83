"""What issuing needs beside the database: the issuers, as they are now, and the terms."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TypeVar

from chassis.errors import CannotDecide
from chassis.log import logger
from chassis.outbox import Caller, UnitOfWork
from chassis.together import Together
from contracts.events import CertificateKind
from services.ca import domain, status_forms
from services.ca.domain.certificates import Authority, Terms
from services.ca.domain.requests import Order
from services.ca.models import Intent
from services.ca.repository import Engine
from services.ca.signer import Issuers, Keys, Signer, SignerAway
from services.ca.status_forms import IssuerName

log = logger(__name__)
SIGN_S = 2.0
SIGN_THREADS = 4
HANGS = "a key does not answer"
Journal = Callable[[Sequence[Caller]], AbstractAsyncContextManager[list[UnitOfWork]]]
"""Transactions of their own, for intents."""

B = TypeVar("B")
S = TypeVar("S")


class Office:
    """``engine`` is for looks outside of transactions; ``issuing`` does for many at once what the door asks for; ``list_life`` and ``answer_life`` are how long what is said of revocations holds.

    ``lists`` are the newest lists of revoked certificates that this process has seen, number and content by key; one at a time is in
    ``at_lists`` of a key, where it makes the next one.
    ``trouble`` says why nothing can be issued at this moment, ``unusable`` why issuers that came are not taken up, ``doubtful`` which of the keys that
    issue nothing cannot answer for what they signed.
    """

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        issuers: Issuers,
        terms: Terms,
        journal: Journal,
        issuing: Together[Order, Intent],
        lives: tuple[timedelta, timedelta],
    ) -> None:
        self.engine = engine
        self.keys = keys
        self.terms = terms
        self.journal = journal
        self.issuing = issuing
        self.list_life, self.answer_life = lives
        self.trouble = ""
        self.unusable = ""
        self.doubtful: Mapping[str, str] = {}
        self.lists: dict[str, tuple[int, bytes]] = {}
        self.at_lists: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._threads = ThreadPoolExecutor(SIGN_THREADS, "signing")
        self.take(issuers)

    def take(self, issuers: Issuers) -> None:
        """Issue with these from now on."""
        self.issuers = issuers
        self.names: Mapping[IssuerName, str] = status_forms.names_of({name: each.certificate for name, each in issuers.signers.items()})
        self._authorities = {
            name: domain.certificates.authority(name, each.key_id, each.certificate, each.pem, self.terms)
            for name, each in issuers.signers.items()
        }

    def signer(self, kind: CertificateKind) -> tuple[Signer, Authority]:
        """Who signs a kind of certificate now. Raises SignerAway."""
        if self.trouble:
            raise SignerAway(self.trouble, retry_after=1)
        signer = self.issuers.current[domain.certificates.SIGNED_BY[kind]]
        return signer, self._authorities[signer.name]

    def notice(self, trouble: str) -> None:
        """Issue nothing while there is trouble, in words; go on when there is none."""
        if trouble != self.trouble:
            log.warning("issuers", trouble=trouble) if trouble else log.info("the issuers sign again")
        self.trouble = trouble

    @property
    def hangs(self) -> bool:
        """Whether a key neither signed nor failed when one was last asked: whoever asks now would wait as long."""
        return HANGS in self.trouble

    async def signed(self, sign: Callable[[B], S], made: Sequence[B]) -> list[S]:
        """What a signer makes of these: apart, where it waits for something else than this processor. Raises SignerAway."""
        if self.keys.slow:
            return await self.apart(lambda: [sign(each) for each in made])
        return [sign(each) for each in made]

    async def apart(self, sign: Callable[[], S], within_s: float | None = None) -> S:
        """What a signer makes, in a thread of its own. One that hangs is away: whoever waits for it holds what others need. Raises SignerAway."""
        try:
            async with asyncio.timeout(within_s or SIGN_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, sign)
        except TimeoutError as error:
            self.notice(HANGS)
            raise SignerAway(self.trouble, retry_after=1) from error

    def close(self) -> None:
        """Sign no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def missing(self) -> list[str]:
        """What keeps this from issuing, in words."""
        return [f"issuers: {self.trouble}"] if self.trouble else []


_open: list[Office] = []


def open_office(office: Office) -> None:
    """Issue with this from now on."""
    _open.append(office)


def close_office(office: Office) -> None:
    """Issue with this no longer."""
    _open.remove(office)
    office.close()


def office() -> Office:
    """What is issued with. Raises CannotDecide."""
    if not _open:
        raise CannotDecide("The issuers are not open.")
    return _open[-1]
