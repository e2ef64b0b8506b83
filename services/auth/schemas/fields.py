"""Fields that several shapes of auth share."""

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 128
RECOVERY_CODE = re.compile(r"[A-Za-z2-7]{5}[- ]?[A-Za-z2-7]{5}")
LONGEST_NAME = 64


def _password(value: SecretStr) -> SecretStr:
    """A password in NFC (RFC 8265 section 4.2), 12 to 128 characters, none of them a control character."""
    text = unicodedata.normalize("NFC", value.get_secret_value())
    if not SHORTEST_PASSWORD <= len(text) <= LONGEST_PASSWORD:
        raise ValueError(f"has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Cn"} for character in text):
        raise ValueError("contains a character that no keyboard types")
    return SecretStr(text)


def _typed(value: SecretStr) -> SecretStr:
    return SecretStr(unicodedata.normalize("NFC", value.get_secret_value()))


def _name(value: str) -> str:
    """A name that people give something: NFC, without space around it, every character one that can be seen."""
    name = unicodedata.normalize("NFC", value).strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(f"has 1 to {LONGEST_NAME} characters")
    if not name.isprintable():
        raise ValueError("contains a character that cannot be seen")
    return name


Name = Annotated[str, Field(max_length=4 * LONGEST_NAME), AfterValidator(_name)]


def _recovery_code(value: SecretStr) -> SecretStr:
    """A recovery code as somebody typed it: ten base32 characters, in one group or two."""
    if RECOVERY_CODE.fullmatch(value.get_secret_value()) is None:
        raise ValueError("has ten characters, letters and 2 to 7")
    return value


NewPassword = Annotated[SecretStr, Field(max_length=4 * LONGEST_PASSWORD), AfterValidator(_password)]
TypedPassword = Annotated[SecretStr, Field(min_length=1, max_length=4 * LONGEST_PASSWORD), AfterValidator(_typed)]
Code = Annotated[str, Field(pattern=r"^[0-9]{6}$")]
RecoveryCode = Annotated[SecretStr, Field(max_length=16), AfterValidator(_recovery_code)]
Token = Annotated[SecretStr, Field(min_length=1, max_length=128)]


class Request(BaseModel):
    """Requests take no field that they do not know, and show no secret when they are printed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PasskeyAnswer(Request):
    """A passkey's answer: the challenge as it was given out, and the browser's ``PublicKeyCredential.toJSON()``."""

    challenge: Annotated[str, Field(min_length=1, max_length=512)]
    credential: dict[str, Any]
