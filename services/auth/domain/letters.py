"""The letters that auth writes: what each kind says, and how long it is tried to deliver them."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)
LETTER_LIFE = timedelta(hours=48)
LONGEST_VALUE = 200


class Kind(StrEnum):
    """Why a letter is written; the texts name the values that each kind takes."""

    INVITATION = "invitation"
    PASSWORD_RESET = "password-reset"  # noqa: S105 - a kind
    FACTOR_RESET = "factor-reset"
    FACTOR_CHANGED = "factor-changed"
    PASSWORD_CHANGED = "password-changed"  # noqa: S105 - a kind
    PASSWORD_WAS_RESET = "password-was-reset"  # noqa: S105 - a kind
    SESSION_REUSE = "session-reuse"
    RECOVERY_CODE_USED = "recovery-code-used"
    PASSKEY_COPIED = "passkey-copied"
    FACTOR_GUESSED = "factor-guessed"
    KEY_MADE = "key-made"
    NOT_VOUCHED = "not-vouched"
    NOT_VOUCHED_BY_PROVIDER = "not-vouched-by-provider"
    RECOVERED = "recovered"
    REGISTRATION_DECLINED = "registration-declined"
    BREAK_GLASS_OPENED = "break-glass-opened"
    BREAK_GLASS_UNREVIEWED = "break-glass-unreviewed"
    OWNER_APPOINTED = "owner-appointed"


@dataclass(frozen=True)
class Written:
    """A letter as it will be sent."""

    address: str
    subject: str
    text: str


_NOT_YOU = "If this was not you, tell an administrator at once: somebody else may be using your account."
_TEXTS = {
    Kind.INVITATION: (
        "Your invitation to Hortus",
        (
            "You were invited to Hortus with the username {username}.\n\n"
            "Choose your password and set up your second factor with this link. It works once, for 24 hours:\n\n{origin}/setup#{token}\n\n"
            "On a command line, `hortus accept` asks for it.\n\n"
            "If you did not expect this, do nothing: without you the account never becomes active."
        ),
    ),
    Kind.PASSWORD_RESET: (
        "Choose a new password for Hortus",
        (
            "Somebody asked for a new password for your account {username}.\n\n"
            "Choose it with this link. It works once, for {hours} h, and your second factor stays as it is:\n\n"
            "{origin}/password-reset#{token}\n\nOn a command line, `hortus password reset` asks for it.\n\n"
            "If you did not ask for this, do nothing: your password stays as it is. If it happens again, tell an administrator."
        ),
    ),
    Kind.FACTOR_RESET: (
        "Your second factor for Hortus was reset",
        (
            "An administrator removed the second factors of your account {username} and ended its sessions and API keys.\n\n"
            "Set up a new second factor with this link and your password. It works once, for {hours} h:\n\n{origin}/factor-enrolment#{token}\n\n"
            "On a command line, `hortus factors enrol` asks for it.\n\n"
            "If you did not ask an administrator for this, do not use the link, and tell another administrator at once."
        ),
    ),
    Kind.FACTOR_CHANGED: ("Your second factors for Hortus were changed", "Of your account: {change}.\n\n" + _NOT_YOU),
    Kind.PASSWORD_CHANGED: (
        "Your password for Hortus was changed",
        "The password of your account {username} was changed, and all of its sessions were ended. Its API keys still count.\n\n" + _NOT_YOU,
    ),
    Kind.PASSWORD_WAS_RESET: (
        "Your password for Hortus was changed",
        "The password of your account {username} was changed with a one-time link, and all of its sessions and API keys were ended.\n\n"
        + _NOT_YOU,
    ),
    Kind.SESSION_REUSE: (
        "A session of yours on Hortus was ended",
        "A credential of one of your sessions was used twice, so a copy of it may be in other hands. The session was ended.\n"
        "It was begun from {source} with {client}.\n\n"
        "Sign in again, and look at your other sessions. " + _NOT_YOU,
    ),
    Kind.RECOVERY_CODE_USED: (
        "A recovery code of yours was used on Hortus",
        "Somebody signed in to your account with a recovery code; {left} are left.\n\n" + _NOT_YOU,
    ),
    Kind.PASSKEY_COPIED: (
        "A passkey of yours was refused on Hortus",
        (
            "Your passkey “{name}” was refused: its count of uses went backwards, so a copy of it may be in other hands.\n\n"
            "Sign in with another second factor and remove this passkey. If you did not use it just now, tell an administrator at once."
        ),
    ),
    Kind.FACTOR_GUESSED: (
        "Somebody seems to know your password for Hortus",
        (
            "Somebody showed the right password of your account {username} several times, each time with a wrong second factor. These tries "
            "were refused; a later one may have been right.\n\n"
            "If this was not you, choose another password at once, on a command line with `hortus password change`, which ends all sessions, and "
            "tell an administrator.\n\n"
            "For a while one code of your authenticator may not be enough on a new device. Then the first right one is refused like a wrong one; "
            "sign in there once more within five minutes, with the next code. Passkeys, recovery codes and the devices on which you have signed "
            "in before count as ever."
        ),
    ),
    Kind.KEY_MADE: (
        "An API key was made for your account on Hortus",
        (
            "An API key named “{name}” was made for your account. Programs that have it act in your name until {expires}.\n\n"
            "If this was not you, end the key with `hortus keys`, and tell an administrator at once."
        ),
    ),
    Kind.NOT_VOUCHED: (
        "Your access to Hortus has to be confirmed",
        (
            "Your organisation has not confirmed your account {username} for a long time. Your API keys ({keys}) and sessions ({sessions}) "
            "ended, you are no longer in the groups that your organisation had put you into, and a passkey alone does not let you in.\n\n"
            "Sign in once more by your organisation to have these groups and your passkey's way in again, and make new keys where programs "
            "need them. If you have left, there is nothing to do."
        ),
    ),
    Kind.NOT_VOUCHED_BY_PROVIDER: (
        "Your access to Hortus has to be confirmed",
        (
            "You have not signed in to your account {username} by your organisation's identity provider for a long time. Your API keys ({keys}) "
            "ended, and you are no longer in the groups that it had put you into. Your sessions and passkeys stay as they are.\n\n"
            "Sign in once more by your organisation to have these groups again, and make new keys where programs need them. If you have left, "
            "there is nothing to do."
        ),
    ),
    Kind.RECOVERED: (
        "An administrator's account on Hortus was recovered",
        (
            "On the machine that runs Hortus, the account {username} was given a new one-time link as an administrator.\n\n"
            "If you do not know why, ask whoever looks after that machine at once."
        ),
    ),
    Kind.REGISTRATION_DECLINED: (
        "Your request for an account on Hortus",
        "Your request for an account was declined. Ask whoever looks after the installation if you think that it was a mistake.",
    ),
    Kind.BREAK_GLASS_OPENED: (
        "An administrator opened a project on Hortus in an emergency",
        (
            "The administrator {who} opened the project {project} (break-glass) and is a Data Scientist there until {until} UTC, or until a "
            "Data Owner takes that away.\n\n"
            "The reason stands in `hortus break-glass list`. When it is over, a Data Owner of the project or an auditor is asked to say "
            "whether it was justified: `hortus break-glass review`.\n\n"
            "If you do not know of an emergency, ask at once. A Data Owner ends it with `hortus members remove`."
        ),
    ),
    Kind.OWNER_APPOINTED: (
        "An administrator appointed a Data Owner of a project on Hortus",
        (
            "Nobody owned the project {project} any more, and the administrator {who} made {appointed} its Data Owner.\n\n"
            "The reason stands in `hortus break-glass list`. Another Data Owner of the project, or an auditor, is asked to say whether it was "
            "justified: `hortus break-glass review`.\n\n"
            "If this should not be so, the Data Owner who was appointed can end it with `hortus members leave` once there is another."
        ),
    ),
    Kind.BREAK_GLASS_UNREVIEWED: (
        "Nobody has reviewed a break-glass on Hortus",
        (
            "The administrator {who} opened the project {project} in an emergency on {opened} UTC, or appointed a Data Owner there, and nobody "
            "has said in time whether that was justified.\n\n"
            "If you are a Data Owner of the project or an auditor, look at it: `hortus break-glass list`, then `hortus break-glass review`."
        ),
    ),
}


def compose(kind: Kind, address: str, origin: str, at: datetime, values: Mapping[str, object]) -> Written:
    """A letter with its values filled in, each on one line. Raises KeyError when one is missing."""
    subject, text = _TEXTS[kind]
    filled = text.format_map({name: _one_line(str(value)) for name, value in values.items()} | {"origin": origin})
    return Written(address, subject, f"{filled}\n\nThis happened at {at:%Y-%m-%d %H:%M} UTC, on {origin}.\n")


def next_try(now: datetime, tries: int) -> datetime:
    """When a letter is tried again after ``tries`` failures: the pause doubles from 1 min to 1 h."""
    return now + min(FIRST_PAUSE * (1 << min(tries, 16)), LONGEST_PAUSE)


def is_too_old(created_at: datetime, now: datetime) -> bool:
    """Whether a letter says nothing any more: its links are long void."""
    return now - created_at > LETTER_LIFE


def _one_line(value: str) -> str:
    shown = "".join(character if unicodedata.category(character)[0] not in "CZ" else " " for character in value)
    return shown[:LONGEST_VALUE]
