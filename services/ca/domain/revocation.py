"""What counts as revoked, and when a list of it is made anew."""

from datetime import datetime, timedelta

from cryptography import x509

from services.ca.models import CertificateState, Ending, RevocationList, Standing

REASONS = {
    Ending.MEMBERSHIP_ENDED: x509.ReasonFlags.affiliation_changed,
    Ending.PERSON_NOT_ACTIVE: x509.ReasonFlags.privilege_withdrawn,
    Ending.PROJECT_CLOSED: x509.ReasonFlags.cessation_of_operation,
    Ending.RUN_ENDED: x509.ReasonFlags.cessation_of_operation,
    Ending.AGENT_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
    Ending.SUPERSEDED: x509.ReasonFlags.superseded,
}


def reason_of(ending: str) -> x509.ReasonFlags | None:
    """The reason code of an ending (RFC 5280 section 5.3.1); None, which is better than ``unspecified``, where nobody named one."""
    return REASONS.get(Ending(ending))


def revocation_of(standing: Standing, now: datetime) -> tuple[datetime, x509.ReasonFlags | None] | None:
    """When and why an issued certificate was ended before its own end; None where it was not: one that has expired was not revoked.

    A membership takes its certificates with it at the instant it ends, whenever somebody comes to write that down.
    """
    state, ended_at, ending, not_after, right_ends_at = standing
    if state == CertificateState.LIVE and right_ends_at is not None and right_ends_at <= now and right_ends_at < not_after:
        return right_ends_at, reason_of(Ending.MEMBERSHIP_ENDED)
    if state != CertificateState.REVOKED or ended_at is None or ending is None or ending == Ending.EXPIRED:
        return None
    return ended_at, reason_of(ending)


def is_current(kept: RevocationList, revoked: int, now: datetime) -> bool:
    """Whether no next list has to be made yet: this one holds, and less than half of its time is over. ``revoked`` as in ``holds``."""
    return holds(kept, revoked, now) and now < kept.this_update + (kept.next_update - kept.this_update) / 2


def holds(kept: RevocationList, revoked: int, now: datetime) -> bool:
    """Whether what a list says is true: its time is not over, and no certificate was revoked after it was made.

    ``revoked``: how many certificates would be on it if it were made anew with its own ``since``. That number only grows.
    """
    return revoked == kept.entries and now < kept.next_update


def renumber(kept: RevocationList, since: datetime, entries: int, now: datetime, life: timedelta) -> None:
    """Make a list the next one of its issuer (RFC 5280 section 5.2.3): one number more, from ``now`` on.

    Its entries are those that had not ended ``since`` the list before said to be made, so that each stays until it stood on a list that says to be made
    after its end (section 3.3).
    """
    kept.number += 1
    kept.since = since
    kept.entries = entries
    kept.this_update = now.replace(microsecond=0)
    kept.next_update = kept.this_update + life
