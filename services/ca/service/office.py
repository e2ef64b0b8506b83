"""What issuing needs beside the database: the issuers, as they are now, and the terms."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TypeVar

from chassis.errors import CannotDecide
from chassis.log import logger
from chassis.outbox import Caller, UnitOfWork
from chassis.together import AT_ONCE, Together
from contracts.events import CertificateKind
from services.ca import domain, status_forms
from services.ca.domain.certificates import Authority, Terms
from services.ca.domain.requests import Order
from services.ca.models import Intent
from services.ca.repository import Engine
from services.ca.service.turns import HANGS, Turns
from services.ca.signer import Issuers, Keys, Signer, SignerAway
from services.ca.status_forms import IssuerName

log = logger(__name__)
TOGETHER_S = 0.5
Journal = Callable[[Sequence[Caller]], AbstractAsyncContextManager[list[UnitOfWork]]]
"""Transactions of their own, for intents."""

S = TypeVar("S")


class Office:
    """``engine`` is for looks outside of transactions; ``issuing`` does for many at once what the door asks for; ``list_life`` and ``answer_life`` are how long what is said of revocations holds.

    ``lists`` are the newest lists of revoked certificates that this process has seen, number and content by key; one at a time is in
    ``at_lists`` of a key, where it makes the next one.
    ``turns`` are those at the token, where the keys are in one; keys in files sign at once. ``unusable`` says why issuers that came are not taken up,
    ``doubtful`` which of the keys that issue nothing cannot answer for what they signed.
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
        self.turns = Turns()
        self.unusable = ""
        self.doubtful: Mapping[str, str] = {}
        self.lists: dict[str, tuple[int, bytes]] = {}
        self.at_lists: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._troubles: Mapping[str, str] = {}
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
        signer = self._current(kind)
        if trouble := self._trouble(signer):
            raise SignerAway(trouble, retry_after=1)
        return signer, self._authorities[signer.name]

    def signs(self, kind: CertificateKind) -> bool:
        """Whether certificates of a kind can be signed at this moment, as far as is known."""
        return not self._trouble(self._current(kind))

    def at_once(self, kind: CertificateKind, most: int) -> int:
        """How many of a kind are issued in a transaction, at most ``most``: a token signs those of all that are under way in half a second.

        Rights end behind them.
        """
        return min(most, self.turns.fit(TOGETHER_S / AT_ONCE)) if self._current(kind).slow else most

    def notice(self, troubles: Mapping[str, str]) -> None:
        """Issue nothing with keys that have trouble, in words by their names; go on when they have none."""
        if troubles != self._troubles:
            log.warning("issuers", troubles=troubles) if troubles else log.info("the issuers sign again")
        self._troubles = troubles

    def demand_answers(self, signer: Signer) -> None:
        """Whoever asks a key that neither signs nor fails would wait in vain. Raises SignerAway."""
        if signer.slow and self.turns.hanging:
            raise SignerAway(HANGS, retry_after=1)

    async def signed(self, calls: Sequence[tuple[Signer, Callable[[], S]]], *, counted: bool = True) -> list[S]:
        """What keys make of these: in turns, where one waits for something else than this processor. Raises SignerAway."""
        if any(signer.slow for signer, _ in calls):
            return await self.turns.take([call for _, call in calls], counted=counted)
        return [call() for _, call in calls]

    def close(self) -> None:
        """Sign no more."""
        self.turns.close()

    def missing(self) -> list[str]:
        """What keeps this from issuing, in words."""
        found = dict.fromkeys(trouble for signer in self.issuers.current.values() if (trouble := self._trouble(signer)))
        return [f"issuers: {'; '.join(found)}"] if found else []

    def _current(self, kind: CertificateKind) -> Signer:
        return self.issuers.current[domain.certificates.SIGNED_BY[kind]]

    def _trouble(self, signer: Signer) -> str:
        return HANGS if signer.slow and self.turns.hanging else self._troubles.get(signer.name, "")


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
