"""The rules of groups: what they make of the people in them, and by which names directories know them."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from ldap3.core.exceptions import LDAPInvalidDnError
from ldap3.utils.dn import parse_dn

from chassis.errors import Conflict
from contracts.roles import ClusterRole
from services.auth.domain.accounts import effective
from services.auth.models import Group, User

MOST_MEMBERS = 10_000
REMEMBERED = 20_000
ESCAPED = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)", re.DOTALL)
SPECIAL = re.compile(r'[,+"\\<>;=#\x00]')


class GroupNameTaken(Conflict):
    """Another group has the name, or had it."""

    title = "There is a group with this name, or there was one: a name is for ever"


class TooManyMembers(Conflict):
    """A change of a group is one transaction, so a group has a bound."""

    title = f"A group has at most {MOST_MEMBERS} members"


class MemberByDirectory(Conflict):
    """Only the directory takes its own people out."""

    title = "The directory put this person into the group: take them out there, or the directory's name out of the group"


@dataclass(frozen=True)
class Membership:
    """Somebody in a group, and who put them there: an administrator, a directory, or both."""

    user_id: UUID
    username: str
    by_hand: bool
    by_directory: bool


@lru_cache(REMEMBERED)
def compared(name: str) -> str:
    """A group's name in a directory or a claim, in the form in which it is compared.

    A DN is one whatever its case, spacing and escapes (RFC 4514, RFC 4518); everything else counts as it is. To parse one takes
    long, and many people are in the same groups: so it is remembered.
    """
    try:
        parts = parse_dn(name, escape=False, strip=True)
    except LDAPInvalidDnError:
        return name
    rdns: list[list[str]] = [[]]
    for attribute, value, separator in parts:
        rdns[-1].append(f"{attribute.strip().lower()}={SPECIAL.sub(_escape, _compared(value))}")
        if separator != "+":
            rdns.append([])
    return ",".join("+".join(sorted(rdn)) for rdn in rdns if rdn)


def _compared(value: str) -> str:
    raw = ESCAPED.sub(_unescape, value)
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raw).casefold()).split())


def _unescape(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[2]
    return bytes.fromhex(found[1].replace("\\", "")).decode("utf-8", errors="replace")


def _escape(found: re.Match[str]) -> str:
    return f"\\{ord(found[0]):02x}"


def called(groups: Iterable[Group], names: Iterable[str]) -> set[UUID]:
    """Those of the groups that directories know by one of these names."""
    wanted = {compared(name) for name in names}
    return {group.group_id for group in groups if not wanted.isdisjoint(group.external)}


def create(
    group_id: UUID, name: str, policy: str | None, roles: Collection[ClusterRole], external: Collection[str], now: datetime
) -> Group:
    """A new group, with nobody in it."""
    return Group(
        group_id=group_id,
        name=name,
        factor_policy=policy,
        cluster_roles=sorted(role.value for role in roles),
        external=sorted({compared(each) for each in external}),
        version=1,
        created_at=now,
    )


def change(group: Group, policy: str | None, roles: Collection[str], external: Collection[str]) -> bool:
    """Give a group these values, external names in their normal form; whether that changed anything."""
    wanted = (policy, sorted(set(roles)), sorted(set(external)))
    if wanted == (group.factor_policy, group.cluster_roles, group.external):
        return False
    group.factor_policy, group.cluster_roles, group.external = wanted
    group.version += 1
    return True


def demand_room(members: int) -> None:
    """Refuse one more than a group holds. Raises TooManyMembers."""
    if members >= MOST_MEMBERS:
        raise TooManyMembers


def follow(user: User, groups: Collection[Group], vouched: Collection[str]) -> bool:
    """Let an account follow its groups; whether that changed anything.

    ``vouched`` are the names of those that a directory or identity provider put it into. Roles in projects follow from these
    alone: an administrator, who decides about the others, would else open projects to whom they like.
    """
    names, roles, vouched = sorted({group.name for group in groups}), effective(user.own_roles, groups), sorted(vouched)
    if (names, roles, vouched) == (user.groups, user.cluster_roles, user.directory_groups):
        return False
    user.groups = names
    user.directory_groups = vouched
    user.cluster_roles = roles
    user.version += 1
    return True


def staying(user: User, leaving: Iterable[Group], ahead: Collection[Group], administrators: Collection[UUID]) -> set[UUID]:
    """Which of the groups that somebody is ``leaving`` they stay in all the same: those by which they are the last of the active ``administrators``.

    None, where the groups ``ahead`` or a role of their own make them one.
    """
    if set(administrators) != {user.user_id} or ClusterRole.ADMINISTRATOR in effective(user.own_roles, ahead):
        return set()
    return {group.group_id for group in leaving if ClusterRole.ADMINISTRATOR in group.cluster_roles}


def no_longer_administer(administrators: Collection[UUID], people: Iterable[User]) -> list[UUID]:
    """Which of those who administered until now do not after a change; ``people`` are they, and whoever else was changed."""
    return [user.user_id for user in people if user.user_id in administrators and ClusterRole.ADMINISTRATOR not in user.cluster_roles]
