"""What operators can measure of sign-ins."""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from prometheus_client import Counter

from chassis.errors import CannotDecide, Problem
from services.auth import domain

SIGNED_IN = "signed-in"
FACTOR_ASKED = "factor-asked"
OTHER = "other"
REFUSALS: tuple[type[Problem], ...] = (
    domain.sessions.SignInRefused,
    domain.patience.SlowDown,
    domain.factors.FactorEnrolmentNeeded,
    domain.directory.DirectoryAway,
    CannotDecide,
    domain.oidc.AnswerNotExpected,
    domain.oidc.ProviderAway,
    domain.oidc.ProviderNotBelieved,
    domain.oidc.ProviderRefused,
    domain.oidc.GroupMissing,
    domain.oidc.NotExpected,
    domain.oidc.NoAddress,
    domain.oidc.AddressInUse,
    domain.oidc.AccountNotOpen,
)
OUTCOMES = frozenset({SIGNED_IN, FACTOR_ASKED, OTHER, *(kind.slug for kind in REFUSALS)})
SIGN_INS = Counter("hortus_sign_ins_total", "Tries to sign in, by how they ended", ["outcome"])
for _outcome in OUTCOMES:
    SIGN_INS.labels(_outcome)  # a rate needs the zero before the first one

Given = ParamSpec("Given")
Ended = TypeVar("Ended")


def counted(sign_in: Callable[Given, Awaitable[Ended]]) -> Callable[Given, Coroutine[Any, Any, Ended]]:
    """Count how a way of signing in ends, whether its refusals are returned or raised."""

    @functools.wraps(sign_in)
    async def count(*args: Given.args, **more: Given.kwargs) -> Ended:
        try:
            ended = await sign_in(*args, **more)
        except Exception as error:
            SIGN_INS.labels(outcome_of(error)).inc()
            raise
        SIGN_INS.labels(outcome_of(ended)).inc()
        return ended

    return count


def outcome_of(ended: object) -> str:
    """One of ``OUTCOMES``. Who comes back from a provider and has their second factor still to show is not signed in yet."""
    if isinstance(ended, Exception):
        return ended.slug if isinstance(ended, Problem) and ended.slug in OUTCOMES else OTHER
    return FACTOR_ASKED if getattr(ended, "signed_in", ended) is None else SIGNED_IN
