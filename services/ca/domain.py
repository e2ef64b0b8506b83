"""The rules of ca: which requests are good, who may hold a certificate and how long, what stands in it, and what counts as revoked."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from chassis.errors import Conflict, Unprocessable
from contracts import events
from contracts.events import CertificateKind, ProjectState, RunState, UserStatus
from contracts.roles import Actor, Role
from services.ca.models import Certificate, CertificateState, Ending, Issuer, Member, Person, Project, RevocationList, Run, Standing

BACKDATE = timedelta(seconds=60)
CSR_MAX = 8192
COMMON_NAME_MAX = 64
MOST_LIVE = 100
SERIAL_BITS = 128
PEM_BLOCK = re.compile(r"\s*-----BEGIN (?P<label>(?:NEW )?CERTIFICATE REQUEST)-----[A-Za-z0-9+/=\s]+-----END (?P=label)-----\s*")
STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
SIGNED_BY = {
    CertificateKind.PROJECT: Issuer.PEOPLE,
    CertificateKind.JOB: Issuer.WORKLOADS,
    CertificateKind.AGENT: Issuer.WORKLOADS,
}
REASONS = {
    Ending.MEMBERSHIP_ENDED: x509.ReasonFlags.affiliation_changed,
    Ending.PERSON_NOT_ACTIVE: x509.ReasonFlags.privilege_withdrawn,
    Ending.PROJECT_CLOSED: x509.ReasonFlags.cessation_of_operation,
    Ending.RUN_ENDED: x509.ReasonFlags.cessation_of_operation,
    Ending.AGENT_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}


class CsrRefused(Unprocessable):
    """The certificate signing request cannot be answered with a certificate."""

    title = "The certificate signing request is not valid"


class TooManyCertificates(Conflict):
    """One person holds more certificates of one project than anybody needs."""

    title = "Too many of your certificates are in use; revoke some"


@dataclass(frozen=True)
class Terms:
    """How this authority issues: the SPIFFE trust domain and how long each kind of certificate lives at most.

    ``doors``: the address below which everybody reaches this service's doors; certificates do not name it where it is empty.
    """

    trust_domain: str
    project_life: timedelta
    job_life: timedelta
    agent_life: timedelta
    doors: str = ""

    def life(self, kind: CertificateKind) -> timedelta:
        """The longest life of a kind."""
        return {
            CertificateKind.PROJECT: self.project_life,
            CertificateKind.JOB: self.job_life,
            CertificateKind.AGENT: self.agent_life,
        }[kind]


@dataclass(frozen=True)
class Request:
    """What counts in a CSR: the key that the sender holds, and the hash of the request for telling repeats."""

    public_key: ec.EllipticCurvePublicKey
    sha256: str


@dataclass(frozen=True)
class Holder:
    """Whom a certificate speaks for. Exactly the ids of its kind are set."""

    kind: CertificateKind
    common_name: str
    project_id: UUID | None = None
    user_id: UUID | None = None
    agent_id: UUID | None = None
    run_id: UUID | None = None
    fencing_token: int | None = None

    def uri(self, trust_domain: str) -> str:
        """The SPIFFE identity."""
        if self.kind is CertificateKind.AGENT:
            return f"spiffe://{trust_domain}/agent/{self.agent_id}"
        person = f"spiffe://{trust_domain}/project/{self.project_id}/user/{self.user_id}"
        return f"{person}/job/{self.run_id}" if self.kind is CertificateKind.JOB else person


def read_csr(pem: str) -> Request:
    """The request in a PEM text (RFC 2986): one block, a P-256 key, and a signature by it. Raises CsrRefused."""
    if "PRIVATE KEY" in pem:
        raise CsrRefused("This holds a private key; a private key never leaves its machine. Send the request alone and make a new key.")
    if len(pem) > CSR_MAX:
        raise CsrRefused(f"A request has at most {CSR_MAX} characters.")
    if PEM_BLOCK.fullmatch(pem) is None:
        raise CsrRefused("Send one PEM block that begins with -----BEGIN CERTIFICATE REQUEST-----.")
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
        strong = isinstance(csr.signature_hash_algorithm, STRONG_HASHES)
        held = strong and csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion) as error:
        raise CsrRefused("The request cannot be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrRefused("The key of the request is not an elliptic-curve key on P-256.")
    if not strong:
        raise CsrRefused("The request is signed with a hash that is not SHA-256 or stronger.")
    if not held:
        raise CsrRefused("The request is not signed by the key that it names.")
    return Request(key, hashlib.sha256(csr.public_bytes(Encoding.DER)).hexdigest())


def common_name(project: str, project_id: UUID, username: str) -> str:
    """``project__username`` in at most 64 bytes (RFC 5280, ub-common-name), for people to read: the SPIFFE identity decides.

    A name loses what could be taken for the separator; one that is too long is cut and marked with its project's id.
    """
    left, right = (re.sub(r"[^\w.-]+|__+", "-", name).strip("-_") or "unnamed" for name in (project, username))
    whole = f"{left}__{right}"
    if len(whole.encode()) <= COMMON_NAME_MAX:
        return whole
    right = _cut(right, COMMON_NAME_MAX // 2)
    mark = f"-{project_id.hex[-8:]}__{right}"
    return _cut(left, COMMON_NAME_MAX - len(mark.encode())) + mark


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def member_holder(project: Project, member: Member) -> Holder:
    """A person in a project."""
    return Holder(
        CertificateKind.PROJECT,
        common_name(project.name, project.project_id, member.username),
        project_id=member.project_id,
        user_id=member.user_id,
    )


def run_holder(project: Project, member: Member, run: Run) -> Holder:
    """A run, bound to the fencing token of its lease."""
    return Holder(
        CertificateKind.JOB,
        common_name(project.name, project.project_id, member.username),
        project_id=run.project_id,
        user_id=run.user_id,
        run_id=run.run_id,
        fencing_token=run.fencing_token,
    )


def agent_holder(agent_id: UUID) -> Holder:
    """A node agent."""
    return Holder(CertificateKind.AGENT, f"agent {agent_id}", agent_id=agent_id)


def loss(person: Person, member: Member, project: Project, now: datetime) -> Ending | None:
    """Why the person holds no certificate of the project at ``now``; None when they may."""
    if not project.open:
        return Ending.PROJECT_CLOSED
    if not person.active:
        return Ending.PERSON_NOT_ACTIVE
    return None if counts(member, now) else Ending.MEMBERSHIP_ENDED


def counts(member: Member, now: datetime) -> bool:
    """Whether a membership gives a role at ``now``."""
    return member.role is not None and member.starts_at <= now and (member.ends_at is None or now < member.ends_at)


def seen_by(actor: Actor) -> UUID | None:
    """Whose certificates of the project an actor sees: the own ones, or everybody's (None) as a Data Owner."""
    return None if actor.role is Role.DATA_OWNER else actor.user_id


def is_own(certificate: Certificate, actor: Actor) -> bool:
    """Condition.CERTIFICATE_IS_OWN: whether an actor may revoke a certificate of their project."""
    return actor.role is Role.DATA_OWNER or (certificate.user_id is not None and certificate.user_id == actor.user_id)


def has_room(live: int) -> None:
    """Bound the live certificates of one person in one project. Raises TooManyCertificates."""
    if live >= MOST_LIVE:
        raise TooManyCertificates


def serial(random: int) -> int | None:
    """A serial number of 128 random bits that has exactly 32 hex digits; None when another draw is needed."""
    return random if random >> (SERIAL_BITS - 4) else None


def certificate_id(number: int) -> str:
    """A serial number as 32 hex digits."""
    return f"{number:032x}"


def intend(
    holder: Holder, request: Request, number: int, now: datetime, terms: Terms, issuer: x509.Certificate, ends_at: datetime | None = None
) -> Certificate:
    """The intent to issue: all that will stand in the certificate, before anything is signed.

    It begins 60 s ago and ends with its kind's life, its issuer or the right behind it (``ends_at``), whichever is first.
    """
    ends = [now + terms.life(holder.kind), issuer.not_valid_after_utc, *([ends_at] if ends_at else [])]
    return Certificate(
        certificate_id=certificate_id(number),
        kind=holder.kind.value,
        project_id=holder.project_id,
        user_id=holder.user_id,
        agent_id=holder.agent_id,
        run_id=holder.run_id,
        fencing_token=holder.fencing_token,
        csr_sha256=request.sha256,
        not_before=(now - BACKDATE).replace(microsecond=0),
        not_after=min(ends).replace(microsecond=0),
        created_at=now,
    )


def build(intent: Certificate, holder: Holder, request: Request, issuer: x509.Certificate, terms: Terms) -> x509.CertificateBuilder:
    """The certificate to sign: a client's leaf (RFC 5280 section 4.2) with one SPIFFE URI.

    It names where its issuer, its status and the issuer's list are (sections 4.2.2.1 and 4.2.1.13), if that is known.
    """
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hortus"), x509.NameAttribute(NameOID.COMMON_NAME, holder.common_name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    uri = x509.UniformResourceIdentifier(holder.uri(terms.trust_domain))
    issuer_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject)
        .public_key(request.public_key)
        .serial_number(int(intent.certificate_id, 16))
        .not_valid_before(intent.not_before)
        .not_valid_after(intent.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
    )
    return _with_places(made, SIGNED_BY[holder.kind], terms.doors) if terms.doors else made


def _with_places(made: x509.CertificateBuilder, issuer: Issuer, doors: str) -> x509.CertificateBuilder:
    status, certificate, revoked = (
        x509.UniformResourceIdentifier(f"{doors}/{door}") for door in ("ocsp", f"issuers/{issuer}", f"crls/{issuer}")
    )
    access = [
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, status),
        x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, certificate),
    ]
    point = x509.DistributionPoint(full_name=[revoked], relative_name=None, reasons=None, crl_issuer=None)
    return made.add_extension(x509.AuthorityInformationAccess(access), critical=False).add_extension(
        x509.CRLDistributionPoints([point]), critical=False
    )


def issued(intent: Certificate, leaf: x509.Certificate, issuer: x509.Certificate) -> events.Certificate:
    """Turn an intent into a certificate that counts."""
    intent.state = CertificateState.LIVE
    intent.version = 1
    intent.fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
    intent.chain = (leaf.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM)).decode()
    return fact_of(intent)


def revoke(certificate: Certificate, ending: Ending, now: datetime) -> events.Certificate | None:
    """End a certificate; None when it does not count anyway."""
    if not certificate.live:
        return None
    certificate.state = CertificateState.REVOKED
    certificate.version += 1
    certificate.ended_at = now
    certificate.ending = ending
    return fact_of(certificate)


def kinds_of(issuer: Issuer) -> list[CertificateKind]:
    """The kinds of certificates that an issuer signs."""
    return [kind for kind, signed_by in SIGNED_BY.items() if signed_by is issuer]


def reason_of(ending: str) -> x509.ReasonFlags | None:
    """The reason code of an ending (RFC 5280 section 5.3.1); None, which is better than ``unspecified``, where nobody named one."""
    return REASONS.get(Ending(ending))


def revocation_of(standing: Standing) -> tuple[datetime, x509.ReasonFlags | None] | None:
    """When and why an issued certificate was ended before its own end; None where it was not: one that has expired was not revoked."""
    state, ended_at, ending = standing
    if state != CertificateState.REVOKED or ended_at is None or ending is None or ending == Ending.EXPIRED:
        return None
    return ended_at, reason_of(ending)


def is_current(kept: RevocationList, revoked: int, now: datetime) -> bool:
    """Whether a list can still be handed out: less than half of its time is over, and no certificate was revoked after it was made.

    ``revoked``: how many certificates would be on it if it were made anew with its own ``since``. That number only grows.
    """
    return revoked == kept.entries and now < kept.this_update + (kept.next_update - kept.this_update) / 2


def renumber(kept: RevocationList, entries: int, now: datetime, life: timedelta) -> None:
    """Make a list the next one of its issuer (RFC 5280 section 5.2.3): one number more, from ``now`` on.

    Its entries are those since the list before, so that each stays until it stood on a list made after its end (section 3.3).
    """
    kept.number += 1
    kept.since = kept.this_update
    kept.entries = entries
    kept.this_update = now.replace(microsecond=0)
    kept.next_update = kept.this_update + life


def fact_of(certificate: Certificate) -> events.Certificate:
    """The public state of a certificate."""
    return events.Certificate(
        certificate_id=certificate.certificate_id,
        version=certificate.version,
        kind=CertificateKind(certificate.kind),
        fingerprint=certificate.fingerprint,
        project_id=certificate.project_id,
        user_id=certificate.user_id,
        agent_id=certificate.agent_id,
        run_id=certificate.run_id,
        fencing_token=certificate.fencing_token,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        live=certificate.live,
        chain=certificate.chain,
    )


def person_of(fact: events.User) -> Person:
    """What ca keeps of a person."""
    return Person(user_id=fact.user_id, username=fact.username, active=fact.status is UserStatus.ACTIVE, version=fact.version)


def project_of(fact: events.Project) -> Project:
    """What ca keeps of a project."""
    is_open = fact.state in (ProjectState.ACTIVE, ProjectState.ARCHIVED)
    return Project(project_id=fact.project_id, name=fact.name, open=is_open, version=fact.version)


def member_of(fact: events.Membership) -> Member:
    """What ca keeps of a membership."""
    return Member(**fact.model_dump(exclude={"purpose"}))


def run_of(fact: events.Run) -> Run:
    """What ca keeps of a run."""
    active = fact.state in (RunState.LEASED, RunState.RUNNING)
    return Run(
        run_id=fact.run_id,
        project_id=fact.project_id,
        user_id=fact.user_id,
        active=active,
        fencing_token=fact.fencing_token,
        csr=fact.csr if active else None,
        version=fact.version,
    )
