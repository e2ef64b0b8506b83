"""What the authority topics say about a caller at this moment, as the actor that a decision is made about.

Nothing here waits for Kafka: the projection is in memory, and the data plane asks it for freshness before it asks here.
What was worked out for a credential is remembered for as long as the facts that it rests on are the newest ones and no
right begins or ends.
"""

import hmac
from typing import Any
from uuid import UUID

from chassis import tokens
from chassis.errors import Unauthenticated
from chassis.keys import ShownKey
from chassis.projection import Projection
from contracts.events import (
    CERTIFICATES,
    CREDENTIALS,
    MEMBERSHIPS,
    SESSIONS,
    SIGNING_KEYS,
    USERS,
    ApiKey,
    Certificate,
    CertificateKind,
    Fact,
    Membership,
    UserStatus,
)
from contracts.policy import STEP_UP_S
from contracts.roles import Actor, Principal, Role
from gateway.authenticate import NOTHING_SHOWN, Credential, CredentialsDiffer, InvalidCredential, NotKnownYet, ShownCertificate
from gateway.standing import NOBODY_STANDING, Search, Standing

TOPICS = (USERS, SESSIONS, CREDENTIALS, SIGNING_KEYS, MEMBERSHIPS, CERTIFICATES)
REMEMBERED = 256
YOUNG_SESSION_S = 60.0
YOUNG_KEY_S = 60.0
YOUNG_CERTIFICATE_S = 180.0


class SessionEnded(Unauthenticated):
    """The session behind the token was ended or has run out."""

    title = "The session has ended"


class KeyNotLive(Unauthenticated):
    """The API key was ended or has run out."""

    title = "The API key has ended or run out"


class AccountNotActive(Unauthenticated):
    """The person's account is invited, blocked or deactivated."""

    title = "The account is not active"


class CertificateNotLive(Unauthenticated):
    """The certificate was revoked, has run out, or is not on the list of those that count."""

    title = "The certificate does not count"


class MembershipEnded(Unauthenticated):
    """The person of a certificate, or of an API key for one project, is no member of its project at this moment."""

    title = "The membership that the credential rests on has ended"


_NO_SECRET = "0" * 64
"""What the secret of an unknown API key is compared with, so that it takes as long as with a known one."""


class Authority:
    """Looks credentials up in the projection of the authority topics. ``step_up_s``: for how long a second factor is fresh."""

    def __init__(self, projection: Projection, step_up_s: float = STEP_UP_S) -> None:
        self._step_up_s = step_up_s
        self._facts = projection.knowledge.facts
        self._users = self._facts[USERS.name]
        self._sessions = self._facts[SESSIONS.name]
        self._api_keys = self._facts[CREDENTIALS.name]
        self._certificates = self._facts[CERTIFICATES.name]
        self._memberships = self._facts[MEMBERSHIPS.name]
        self._of_person: dict[str, dict[str, Membership]] = {}
        self._stamps: dict[str, int] = {}
        self._signing_keys: dict[str, dict[str, str]] = {}
        for fact in self._memberships.values():
            self._learn(None, fact)
        for fact in self._facts[SIGNING_KEYS.name].values():
            self._learn(None, fact)
        projection.on_change(self._learn)
        projection.on_erased(self._unlearn)

    def _learn(self, _old: Fact | None, new: Fact) -> None:
        if isinstance(new, Membership):
            person = str(new.user_id)
            self._of_person.setdefault(person, {})[new.key] = new
            self._stamps[person] = self._stamps.get(person, 0) + 1
        elif new.topic is SIGNING_KEYS:
            key: Any = new
            if key.live:
                self._signing_keys[key.key_id] = dict(key.jwk)
            else:
                self._signing_keys.pop(key.key_id, None)

    def _unlearn(self, gone: Fact) -> None:
        if isinstance(gone, Membership):
            person = str(gone.user_id)
            self._of_person.get(person, {}).pop(gone.key, None)
            self._stamps[person] = self._stamps.get(person, 0) + 1
        elif gone.topic is SIGNING_KEYS:
            self._signing_keys.pop(gone.key, None)

    def signing_keys(self) -> dict[str, dict[str, str]]:
        """The live signing keys by key id, as JWK."""
        return self._signing_keys

    def standing(self, credential: Credential, project_id: str | None, now: float) -> Standing:
        """The actor that ``credential`` is at ``now`` (Unix seconds), for a request whose path names ``project_id`` or no project.

        Raises a subclass of Unauthenticated when it does not count, and NotKnownYet when it is young and unknown.
        """
        if credential is NOTHING_SHOWN:
            return NOBODY_STANDING
        known: Standing | None = credential.standings.get(project_id)
        if known is not None and now < known.until and self._unchanged(known):
            return known
        made = self._work_out(credential, project_id, now)
        if len(credential.standings) >= REMEMBERED:
            credential.standings.clear()
        credential.standings[project_id] = made
        return made

    def _unchanged(self, standing: Standing) -> bool:
        for facts, key, fact in standing.basis:
            if facts.get(key) is not fact:
                return False
        return standing.stamp < 0 or standing.stamp == self._stamps.get(standing.principal, 0)

    def _work_out(self, credential: Credential, project_id: str | None, now: float) -> Standing:
        search = Search(now)
        shown = credential.certificate
        certificate = self._certificate(search, shown) if shown is not None else None
        if certificate is not None and certificate.kind is CertificateKind.AGENT:
            return search.standing(
                Actor(
                    principal=Principal.AGENT,
                    agent_id=certificate.agent_id,
                    certificate_id=certificate.certificate_id,
                    versions=search.versions,
                )
            )
        about: dict[str, Any] = {}
        if credential.signed_by is not None:
            self._signature(search, credential.signed_by)
        if credential.session_id is not None:
            about |= self._session(search, credential)
        key = self._api_key(search, credential.key) if credential.key is not None else None
        if key is not None:
            about |= {"key_id": key.key_id, "scopes": key.scopes}
        person = _text(key.user_id) if key is not None else credential.user_id or (shown.user_id if shown else None)
        home = _home(certificate, key, person)
        user = self._user(search, person or "", credential, now)
        about |= {"user_id": user.user_id, "username": user.username}
        if certificate is not None:
            about["certificate_id"] = certificate.certificate_id
        elif key is None:
            about["cluster_roles"] = user.cluster_roles
        if home is None:
            return self._person(search, about, str(user.user_id), project_id)
        own = self._membership(search, str(home), str(user.user_id))
        if own is None:
            raise MembershipEnded
        if certificate is not None and certificate.kind is CertificateKind.JOB:
            return search.standing(
                Actor(
                    principal=Principal.JOB,
                    project_id=certificate.project_id,
                    run_id=certificate.run_id,
                    fencing_token=certificate.fencing_token,
                    versions=search.versions,
                    **about,
                )
            )
        return self._in_one_project(search, about, own, project_id)

    def _person(self, search: "Search", about: dict[str, Any], person: str, project_id: str | None) -> Standing:
        """A person by a token, or an API key for all projects: the role in the path's project, or all roles when it names none."""
        if project_id is not None:
            membership = self._membership(search, project_id, person)
            about |= {"project_id": project_id}
            if membership is not None:
                about |= {"role": membership.role, "purpose": membership.purpose}
            return search.standing(Actor(principal=Principal.PERSON, versions=search.versions, **about))
        projects: dict[Any, Role] = {}
        for membership in self._of_person.get(person, {}).values():
            if search.counts(membership) and membership.role is not None:
                projects[membership.project_id] = membership.role
                search.versions[f"{MEMBERSHIPS.name}:{membership.key}"] = membership.version
        stamp = self._stamps.get(person, 0)
        return search.standing(Actor(principal=Principal.PERSON, projects=projects, versions=search.versions, **about), stamp)

    def _in_one_project(self, search: "Search", about: dict[str, Any], own: Membership, project_id: str | None) -> Standing:
        """A person by a project certificate, or an API key for one project: in every other project they are nobody's member."""
        if project_id is None and own.role is not None:
            about["projects"] = {own.project_id: own.role}
        elif project_id == str(own.project_id):
            about |= {"project_id": own.project_id, "role": own.role, "purpose": own.purpose}
        else:
            about["project_id"] = project_id
        return search.standing(Actor(principal=Principal.PERSON, versions=search.versions, **about))

    def _signature(self, search: "Search", key_id: str) -> None:
        """A token counts no longer than the key that signed it, whoever it speaks for."""
        key: Any = search.rests_on(self._facts[SIGNING_KEYS.name], key_id)
        if key is None or not key.live:
            raise InvalidCredential

    def _session(self, search: "Search", credential: Credential) -> dict[str, Any]:
        """What a session adds to its actor. The second factor grows old at an instant."""
        session: Any = search.look(self._sessions, SESSIONS.name, str(credential.session_id))
        if session is None:
            raise _unknown(SESSIONS.name, str(credential.session_id), SessionEnded(), young=search.now - credential.since < YOUNG_SESSION_S)
        expires = session.expires_at.timestamp()
        if not session.live or expires <= search.now or str(session.user_id) != credential.user_id:
            raise SessionEnded
        search.ends(expires)
        stale = session.factor_at.timestamp() + self._step_up_s
        fresh = search.now < stale
        if fresh:
            search.ends(stale)
        return {"session_id": session.session_id, "factor_at": session.factor_at, "factor_fresh": fresh}

    def _api_key(self, search: "Search", shown: ShownKey) -> ApiKey:
        """The API key that is shown. Nothing is said about it to somebody who does not know its secret."""
        fact: Any = search.look(self._api_keys, CREDENTIALS.name, str(shown.key_id))
        right = hmac.compare_digest(shown.secret_sha256, fact.secret_sha256 if fact is not None else _NO_SECRET)
        if fact is None:
            young = -tokens.LEEWAY_S <= search.now - shown.made_at < YOUNG_KEY_S
            raise _unknown(CREDENTIALS.name, str(shown.key_id), InvalidCredential(), young=young)
        if not right:
            raise InvalidCredential
        key: ApiKey = fact
        expires = key.expires_at.timestamp()
        if not key.live or expires <= search.now:
            raise KeyNotLive
        search.ends(expires)
        return key

    def _user(self, search: "Search", person: str, credential: Credential, now: float) -> Any:
        user: Any = search.look(self._users, USERS.name, person)
        if user is None:
            raise _unknown(USERS.name, person, AccountNotActive(), young=now - credential.since < YOUNG_SESSION_S)
        if user.status is not UserStatus.ACTIVE:
            raise AccountNotActive
        return user

    def _membership(self, search: "Search", project_id: str, person: str) -> Membership | None:
        found: Any = search.look(self._memberships, MEMBERSHIPS.name, f"{project_id}:{person}")
        return found if found is not None and search.counts(found) else None

    def _certificate(self, search: "Search", shown: ShownCertificate) -> Certificate:
        fact: Any = search.look(self._certificates, CERTIFICATES.name, shown.certificate_id)
        if fact is None:
            young = search.now - shown.not_before < YOUNG_CERTIFICATE_S
            raise _unknown(CERTIFICATES.name, shown.certificate_id, CertificateNotLive(), young=young)
        certificate: Certificate = fact
        said = (
            certificate.kind,
            certificate.fingerprint,
            *map(_text, (certificate.project_id, certificate.user_id, certificate.agent_id, certificate.run_id)),
        )
        if said != (shown.kind, shown.fingerprint, shown.project_id, shown.user_id, shown.agent_id, shown.run_id):
            raise CertificateNotLive
        if not certificate.live or not certificate.not_before.timestamp() <= search.now < certificate.not_after.timestamp():
            raise CertificateNotLive
        search.ends(certificate.not_after.timestamp())
        return certificate


def _home(certificate: Certificate | None, key: ApiKey | None, person: str | None) -> UUID | None:
    """The one project that the credentials are good for; None for all. Raises CredentialsDiffer."""
    bound = key.project_id if key is not None else None
    if certificate is None:
        return bound
    if _text(certificate.user_id) != person or bound not in (None, certificate.project_id):
        raise CredentialsDiffer
    return certificate.project_id


def _unknown(topic: str, key: str, refusal: Unauthenticated, *, young: bool) -> Exception:
    return NotKnownYet(topic, key, refusal) if young else refusal


def _text(value: object) -> str | None:
    return None if value is None else str(value)
