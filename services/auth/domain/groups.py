"""The rules of groups."""

import unicodedata
from collections.abc import Collection, Iterable

from services.auth.models import Group, User


def compared(name: str) -> str:
    """The form in which names of groups in directories and claims are compared."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def named_by(groups: Iterable[Group], external: Collection[str]) -> list[Group]:
    """The groups that these names, of a directory or of a claim, stand for."""
    names = {compared(name) for name in external}
    return [group for group in groups if names & set(group.external)]


def belong(user: User, groups: Collection[Group]) -> bool:
    """Make somebody what their groups say, beside their own roles; whether that changed anything."""
    names = sorted(group.name for group in groups)
    roles = sorted({*user.own_roles, *(role for group in groups for role in group.cluster_roles)})
    if (names, roles) == (sorted(user.groups), sorted(user.cluster_roles)):
        return False
    user.groups, user.cluster_roles = names, roles
    user.version += 1
    return True
