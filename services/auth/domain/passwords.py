"""The rules of passwords."""

from datetime import datetime, timedelta

from zxcvbn import zxcvbn

from chassis.errors import Unprocessable
from contracts.events import UserStatus
from services.auth.domain.accounts import LOCAL, PasswordIsElsewhere
from services.auth.models import Credential, Link, User

STRONG = 3
SEEN = 72
LEET = frozenset("4@8({[<36|9!17$5+02%")
LEET_SEEN = 8
RESET_LIFE = timedelta(hours=1)
RESET_LIFE_BY_ADMINISTRATOR = timedelta(hours=24)
RESET_PAUSE = timedelta(minutes=10)
MOST_ASKS = 1000
MOST_LINKS = 5
LINKS_WITHIN = timedelta(hours=24)


class PasswordTooWeak(Unprocessable):
    """Too few guesses would find it."""

    title = "This password is easy to guess"


class WrongPassword(Unprocessable):
    """PASSWORD_IS_RIGHT: the password that the account has now is another."""

    title = "The password that you have now is not right"


class PasswordUnchanged(Unprocessable):
    """A new password that is the old one."""

    title = "The new password is the one that you have now"


def weakness(password: str, about: tuple[str, ...]) -> str | None:
    """Why a password is easy to guess, in one sentence without it; None when zxcvbn gives it 3 of 4 or more.

    ``about`` are words that others would try for this person. Only a beginning is judged, up to 72 characters and 8 kinds of
    those that stand for letters: the time that the judge takes grows with both.
    """
    found = zxcvbn(_beginning(password), user_inputs=[*about, "hortus"])
    if found["score"] >= STRONG:
        return None
    said = [found["feedback"]["warning"], *found["feedback"]["suggestions"]]
    first = next((sentence for sentence in said if sentence), "Add another word or two. Uncommon words are better.")
    return first if first.endswith(".") else f"{first}."


def _beginning(password: str) -> str:
    kinds: set[str] = set()
    for position, character in enumerate(password[:SEEN]):
        kinds.update(LEET & {character})
        if len(kinds) > LEET_SEEN:
            return password[:position]
    return password[:SEEN]


def demand_here(user: User) -> None:
    """The account has its password here. Raises PasswordIsElsewhere."""
    if user.source != LOCAL:
        raise PasswordIsElsewhere


def demand_other(password: str, new_password: str) -> None:
    """A new password is another one. Raises PasswordUnchanged."""
    if new_password == password:
        raise PasswordUnchanged


def still_right(credential: Credential | None, right: bool, since: datetime | None) -> bool:
    """Condition.PASSWORD_IS_RIGHT: a password that was found ``right`` a moment ago is still the one that was chosen at ``since``.

    Its hash may be another by now: whoever signed in meanwhile had it made anew.
    """
    return right and credential is not None and credential.password_hash is not None and credential.password_at == since


def is_extra(last: Link | None, now: datetime) -> bool:
    """Whether a link would be one more beside one that is still open: these are counted, so that nobody's mailbox is filled.

    The others are not, or whoever used the count up for somebody would keep them from ever getting a link.
    """
    return last is not None and last.expires_at > now


def may_be_sent(user: User | None, last: Link | None, now: datetime) -> bool:
    """Whether somebody who asked for a new password gets a link: an active account with its password here, not sent one just now.

    Anybody can ask, so an open link that an administrator made, which asking would make void, stays the one that counts.
    """
    if user is None or user.status != UserStatus.ACTIVE or user.source != LOCAL:
        return False
    if last is None:
        return True
    by_administrator = last.expires_at - last.created_at > RESET_LIFE
    return last.expires_at <= now if by_administrator else now - last.created_at > RESET_PAUSE
