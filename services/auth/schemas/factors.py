"""Request and answer shapes of second factors."""

import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from services.auth.schemas.accounts import SecondFactorView
from services.auth.schemas.fields import Code, PasskeyAnswer, Request, Token, TypedPassword

LONGEST_NAME = 64


def _name(value: str) -> str:
    """What a person calls a passkey, in NFC and without white space around it; every character can be seen."""
    text = unicodedata.normalize("NFC", value).strip()
    if not text or not text.isprintable():
        raise ValueError("has at least one character, and none that cannot be seen")
    return text


Policy = Literal["optional", "required", "passkey"]
PasskeyName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_name)]


class Nothing(Request):
    """A body without anything in it."""


class TotpConfirmation(Request):
    """A code from the authenticator that was set up."""

    code: Code


class NewPasskey(PasskeyAnswer):
    """A new passkey's answer, and what its person calls it."""

    name: PasskeyName


class EnrolmentAcceptance(Request):
    """The one-time token of a link; for that of a reset, the password of the account beside it."""

    token: Token
    password: TypedPassword | None = None


class EnrolmentConfirmation(Request):
    """The one-time token of a link, and either a code of the new authenticator or a new passkey."""

    token: Token
    code: Code | None = None
    passkey: NewPasskey | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.code is None) == (self.passkey is None):
            raise ValueError("takes either a code or a passkey")
        return self


class ChallengeView(BaseModel):
    """A challenge, to be sent back as it is, and what the browser's ``navigator.credentials`` takes, in its JSON form."""

    challenge: str
    options: dict[str, Any]


class EnrolmentView(SecondFactorView):
    """What an authenticator needs, or a passkey; ``policy`` says which of them is enough."""

    passkey: ChallengeView
    policy: Policy


class TotpView(BaseModel):
    """An authenticator, and since when it counts."""

    since: datetime


class PasskeyView(BaseModel):
    """A passkey; ``backed_up``: copies of it lie with a provider of its person's."""

    model_config = ConfigDict(from_attributes=True)

    passkey_id: UUID
    name: str
    created_at: datetime
    last_used_at: datetime | None
    backed_up: bool


class FactorsView(BaseModel):
    """What a person has as second factors, and what the policy of their groups asks for."""

    totp: TotpView | None
    passkeys: list[PasskeyView]
    recovery_codes_left: int
    policy: Policy


class RecoveryCodesView(BaseModel):
    """New recovery codes, shown this once."""

    codes: list[str]


class FactorResetView(BaseModel):
    """A second factor that was reset; ``link_token`` is shown once, and only where the link did not go by mail."""

    model_config = ConfigDict(from_attributes=True)

    user_id: UUID
    link_token: str | None
    mailed: bool
