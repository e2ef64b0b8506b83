"""The rules of signing in by an identity provider (OpenID Connect Core 1.0, RFC 9207)."""

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from chassis.errors import CannotDecide, Conflict, Forbidden, NotFound, Problem
from contracts.events import UserStatus
from services.auth.domain.flows import Flow
from services.auth.models import User
from services.auth.settings import VOUCH_DAYS, IdentityProvider, is_https

SOURCE = "oidc"
FLOW_LIFE = timedelta(minutes=10)
PENDING_LIFE = timedelta(minutes=5)
LEEWAY_S = 60
OLDEST_S = 600
LONGEST_SUBJECT = 255
LONGEST_GROUP = 256
MOST_GROUPS = 5_000
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
HASHES = {"RS256": hashlib.sha256, "ES256": hashlib.sha256, "PS256": hashlib.sha256}

P = TypeVar("P")


class UnknownProvider(NotFound):
    """PROVIDER_IS_KNOWN: no identity provider of this name is configured."""

    title = "There is no such identity provider"


class AnswerNotExpected(Forbidden):
    """PROVIDER_IS_KNOWN: an answer not asked for in this browser, too old, shown before, or whose person has signed out there since."""

    title = "This sign-in was not begun in this browser, took too long, or was used before; begin once more"


class ProviderRefused(Forbidden):
    """The provider says that it did not sign the person in."""

    title = "The identity provider did not sign you in"


class ProviderNotBelieved(Forbidden):
    """What the provider said does not hold; the log says why."""

    title = "The identity provider's answer could not be verified"


class ProviderAway(CannotDecide):
    """The provider does not answer, or not as the protocol says."""

    title = "The identity provider does not answer at this moment"


class NoAddress(Forbidden):
    """The provider gave no e-mail address that can be used."""

    title = "The identity provider told no verified e-mail address of you"


class AddressInUse(Conflict):
    """Somebody else's account has the address. Accounts are never joined by address."""

    title = "Another account has your e-mail address; ask an administrator"


class NotExpected(Forbidden):
    """The provider makes no accounts, and this person has none."""

    title = "You have no account here; ask an administrator"


class GroupMissing(Forbidden):
    """The person is in none of the groups that may sign in."""

    title = "You are in none of the groups that may sign in here"


class AccountNotOpen(Forbidden):
    """The account is blocked or deactivated."""

    title = "Your account is not open; ask an administrator"


class BadLogoutToken(Problem):
    """The provider's word that somebody signed out there cannot be believed."""

    status = 400
    title = "This is no logout token of the identity provider"


class NotBelieved(Exception):
    """Something in a provider's answer is missing or wrong; the text names it for the log, without its value."""


@dataclass(frozen=True)
class Metadata:
    """Where a provider's doors are; ``names_itself``: its answers carry ``iss`` (RFC 9207)."""

    authorization: str
    token: str
    keys: str
    userinfo: str | None
    end_session: str | None
    names_itself: bool


@dataclass(frozen=True)
class Answer:
    """What came back through the browser."""

    state: str | None = None
    code: str | None = None
    issuer: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Vouched:
    """What a provider says of somebody.

    ``groups`` is None where no claim for them is configured; ``signed_in_at``, when they last signed in there themselves, where it does not say.
    """

    subject: str
    session: str | None
    email: str | None
    groups: frozenset[str] | None
    factor: bool
    signed_in_at: datetime | None


def metadata(document: object, issuer: str) -> Metadata:
    """What a discovery document says (OpenID Connect Discovery 1.0 section 4.3). Raises NotBelieved."""
    if not isinstance(document, dict):
        raise NotBelieved("discovery")
    if document.get("issuer") != issuer:
        raise NotBelieved("issuer of the discovery document")
    places: dict[str, str | None] = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"):
        value = document.get(name)
        if value is not None and not is_https(value):
            raise NotBelieved(name)
        places[name] = value
    authorization, token, keys = places["authorization_endpoint"], places["token_endpoint"], places["jwks_uri"]
    if authorization is None or token is None or keys is None:
        raise NotBelieved("an address that every provider has")
    names_itself = document.get("authorization_response_iss_parameter_supported") is True
    return Metadata(authorization, token, keys, places["userinfo_endpoint"], places["end_session_endpoint"], names_itself)


def known(providers: Mapping[str, P], name: str) -> P:
    """Condition.PROVIDER_IS_KNOWN, for a sign-in that begins or ends. Raises UnknownProvider."""
    provider = providers.get(name)
    if provider is None:
        raise UnknownProvider
    return provider


def demand_asked_for(flow: Flow | None, provider: str, state: str | None, now: datetime) -> Flow:
    """Condition.PROVIDER_IS_KNOWN, for an answer: this browser asked this provider, a short while ago. Raises AnswerNotExpected."""
    if flow is None or flow.provider != provider or state is None or not hmac.compare_digest(flow.state.encode(), state.encode()):
        raise AnswerNotExpected
    if not timedelta(seconds=-LEEWAY_S) <= now - datetime.fromtimestamp(flow.at, now.tzinfo) <= FLOW_LIFE:
        raise AnswerNotExpected
    return flow


def demand_code(answer: Answer, provider: IdentityProvider, names_itself: bool) -> str:
    """The code in an answer of the provider that was asked (RFC 9207 section 2.4). Raises ProviderRefused, NotBelieved."""
    if answer.issuer is not None or names_itself:
        _want(answer.issuer == provider.issuer, "iss of the answer")
    if answer.error is not None or not answer.code:
        raise ProviderRefused
    return answer.code


def _want(holds: bool, what: str) -> None:
    if not holds:
        raise NotBelieved(what)


def _common(claims: Mapping[str, Any], provider: IdentityProvider, now: datetime) -> None:
    """What id_tokens and logout tokens have in common."""
    _want(claims.get("iss") == provider.issuer, "iss")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    _want(provider.client_id in audiences, "aud")
    _want(len(audiences) == 1 or claims.get("azp") == provider.client_id, "azp")
    _want(claims.get("azp", provider.client_id) == provider.client_id, "azp")
    issued = _time(claims, "iat")
    _want(issued <= now.timestamp() + LEEWAY_S, "iat")
    _want(issued >= now.timestamp() - OLDEST_S, "iat")
    if "exp" in claims:
        _want(_time(claims, "exp") > now.timestamp() - LEEWAY_S, "exp")
    if "nbf" in claims:
        _want(_time(claims, "nbf") <= now.timestamp() + LEEWAY_S, "nbf")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotBelieved(name)
    return float(value)


def _text(value: object, what: str, longest: int = LONGEST_SUBJECT) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise NotBelieved(what)
    return value


def demand_id_token(
    claims: Mapping[str, Any], algorithm: str, provider: IdentityProvider, flow: Flow, access_token: str | None, now: datetime
) -> None:
    """The claims of an id_token whose signature is right (OpenID Connect Core 1.0 section 3.1.3.7). Raises NotBelieved.

    Where the person was to sign in at the provider anew, it has to say that they did, after they were sent there.
    """
    _common(claims, provider, now)
    _text(claims.get("sub"), "sub")
    _want("exp" in claims, "exp")
    told = claims.get("nonce")
    _want(isinstance(told, str) and hmac.compare_digest(told.encode(), flow.nonce.encode()), "nonce")
    if "at_hash" in claims and access_token is not None:
        digest = HASHES[algorithm](access_token.encode()).digest()
        right = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
        _want(claims["at_hash"] == right, "at_hash")
    if flow.fresh or "auth_time" in claims:
        oldest = flow.at - LEEWAY_S if flow.fresh else 0
        _want(oldest <= _time(claims, "auth_time") <= now.timestamp() + LEEWAY_S, "auth_time")


def wants_userinfo(claims: Mapping[str, Any], provider: IdentityProvider) -> bool:
    """Whether something that is needed of a person does not stand in their id_token."""
    verified = "email_verified" in claims or provider.trusts_email
    groups = provider.groups_claim is None or provider.groups_claim in claims
    return provider.email_claim not in claims or not verified or not groups


def vouched(claims: Mapping[str, Any], userinfo: Mapping[str, Any], provider: IdentityProvider) -> Vouched:
    """What the provider says of somebody; the id_token comes before ``userinfo``, which is about the same subject. Raises NotBelieved."""
    _want(not userinfo or userinfo.get("sub") == claims["sub"], "sub of userinfo")
    told = {**userinfo, **claims}
    email = told.get(provider.email_claim)
    believed = isinstance(email, str) and _verified(email, claims, userinfo, provider)
    groups = None if provider.groups_claim is None else _groups(told.get(provider.groups_claim, []))
    session = claims.get("sid")
    return Vouched(
        subject=claims["sub"],
        session=_text(session, "sid") if session is not None else None,
        email=email if believed else None,
        groups=groups,
        factor=_trusted(claims, provider.trusts_factor),
        signed_in_at=datetime.fromtimestamp(_time(claims, "auth_time"), UTC) if "auth_time" in claims else None,
    )


def _verified(email: str, claims: Mapping[str, Any], userinfo: Mapping[str, Any], provider: IdentityProvider) -> bool:
    """Whether a provider says that an address is its person's: where it says nothing, that is its setting's to say."""
    said = [each["email_verified"] for each in (claims, userinfo) if each.get(provider.email_claim) == email and "email_verified" in each]
    return all(each in (True, "true") for each in said) and (bool(said) or provider.trusts_email)


def _groups(value: object) -> frozenset[str]:
    values = value if isinstance(value, list) else [value]
    _want(len(values) <= MOST_GROUPS, "groups")
    return frozenset(_text(each, "groups", LONGEST_GROUP) for each in values)


def _trusted(claims: Mapping[str, Any], trusted: Collection[str]) -> bool:
    methods = claims.get("amr")
    shown = {each for each in methods if isinstance(each, str)} if isinstance(methods, list) else set()
    level = claims.get("acr")
    return bool(shown & set(trusted)) or (isinstance(level, str) and level in trusted)


def demand_group(told: Vouched, provider: IdentityProvider) -> None:
    """Refuse somebody outside of the groups that may sign in. Raises GroupMissing."""
    if provider.only_groups and not (told.groups or frozenset()) & provider.only_groups:
        raise GroupMissing


def group_names(told: Vouched, provider: IdentityProvider) -> set[str]:
    """What a person's groups are called among the external names of groups here: no provider can name another's, or a directory's."""
    return {f"{provider.name}:{group}" for group in told.groups or ()}


def demand_active(user: User) -> None:
    """Refuse who was blocked or deactivated. Raises AccountNotOpen."""
    if user.status != UserStatus.ACTIVE:
        raise AccountNotOpen


def needs_provider(user: User) -> bool:
    """Whether a factor counts only after a provider has vouched: it alone knows whether the person is still one of its own."""
    return user.source == SOURCE


def is_in_doubt(user: User, provider: IdentityProvider | None, now: datetime) -> bool:
    """Whether a provider has not vouched for so long that what somebody has by its word ends; one that is gone vouches for nobody."""
    days = provider.vouch_days if provider else VOUCH_DAYS
    return needs_provider(user) and now - (user.vouched_at or user.created_at) > timedelta(days=days)


def new_account(user_id: UUID, username: str, email: str, provider: str, subject: str, now: datetime) -> User:
    """An account for somebody whom a provider vouches for: active at once, known by the subject alone."""
    return User(
        user_id=user_id,
        username=username,
        email=email,
        status=UserStatus.ACTIVE.value,
        cluster_roles=[],
        version=1,
        created_at=now,
        confirmed_at=now,
        source=SOURCE,
        provider=provider,
        external_id=subject,
    )


@dataclass(frozen=True)
class SignedOutThere:
    """Whose sessions end because they ended at the provider: one session of it, all of a subject's, or both must match."""

    token_id: str
    subject: str | None
    session: str | None


def demand_logout_token(claims: Mapping[str, Any], provider: IdentityProvider, now: datetime) -> SignedOutThere:
    """The claims of a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.6). Raises NotBelieved."""
    _common(claims, provider, now)
    _want("nonce" not in claims, "nonce")
    events = claims.get("events")
    _want(isinstance(events, dict) and isinstance(events.get(LOGOUT_EVENT), dict), "events")
    subject, session = claims.get("sub"), claims.get("sid")
    _want(subject is not None or session is not None, "sub or sid")
    return SignedOutThere(
        _text(claims.get("jti"), "jti"),
        None if subject is None else _text(subject, "sub"),
        None if session is None else _text(session, "sid"),
    )


def sign_out_there(place: str, client_id: str, id_token: str | None) -> str:
    """The address that ends the session at the provider too (OpenID Connect RP-Initiated Logout 1.0)."""
    asked = {"client_id": client_id}
    if id_token is not None:
        asked["id_token_hint"] = id_token
    return f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}"
