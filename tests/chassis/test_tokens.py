"""Access tokens: ours are taken, forgeries are not."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chassis.tokens import InvalidToken, issue, key_id, private_jwk, public_jwk, verify
from tests.forgeries import claims_of, forgeries, sign

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
KEYS = {"k1": public_jwk(KEY.public_key())}
USER, SESSION = UUID(int=1), UUID(int=2)


def token(key: ec.EllipticCurvePrivateKey = KEY, kid: str = "k1", at: datetime | None = None, life: int = 300) -> str:
    return issue(private_jwk(key), kid, USER, SESSION, at or datetime.now(UTC), timedelta(seconds=life))[0]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, Any], secret: bytes | None) -> str:
    claims = token().split(".")[1]
    signed = f"{b64(json.dumps(header).encode())}.{claims}"
    signature = b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest()) if secret is not None else ""
    return f"{signed}.{signature}"


def test_a_token_says_who_in_which_session_until_when() -> None:
    claims = verify(token(), KEYS)
    assert (claims.user_id, claims.session_id) == (USER, SESSION)
    assert 290 < claims.expires - datetime.now(UTC).timestamp() <= 300


def test_a_token_signed_by_another_key_is_refused() -> None:
    with pytest.raises(InvalidToken):
        verify(token(OTHER), KEYS)


def test_a_token_with_an_unknown_key_id_is_refused() -> None:
    with pytest.raises(InvalidToken):
        verify(token(kid="k2"), KEYS)


def test_a_token_is_taken_five_seconds_past_its_end_and_not_longer() -> None:
    now = datetime.now(UTC)
    assert verify(token(at=now - timedelta(seconds=303)), KEYS).user_id == USER
    with pytest.raises(InvalidToken):
        verify(token(at=now - timedelta(seconds=307)), KEYS)


def test_a_token_from_the_future_is_refused() -> None:
    with pytest.raises(InvalidToken):
        verify(token(at=datetime.now(UTC) + timedelta(hours=1)), KEYS)


@pytest.mark.parametrize("encoding", [serialization.Encoding.DER, serialization.Encoding.PEM])
def test_an_hmac_made_with_our_public_key_is_refused(encoding: serialization.Encoding) -> None:
    public = KEY.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidToken):
        verify(forged({"alg": "HS256", "kid": "k1"}, public), KEYS)


def test_an_unsigned_token_is_refused() -> None:
    with pytest.raises(InvalidToken):
        verify(forged({"alg": "none", "kid": "k1"}, None), KEYS)


def test_every_known_forgery_is_refused() -> None:
    for name, text in forgeries(private_jwk(KEY), "k1", claims_of(USER, SESSION)).items():
        with pytest.raises(InvalidToken):
            pytest.fail(f"{name} was taken for {verify(text, KEYS)}")


def test_a_token_made_by_hand_is_taken_so_that_it_is_the_forgery_which_is_refused() -> None:
    assert verify(sign(private_jwk(KEY), {"alg": "ES256", "kid": "k1"}, claims_of(USER, SESSION)), KEYS).user_id == USER


def test_a_key_id_is_read_from_what_has_our_form_alone() -> None:
    assert key_id(token(kid="k9")) == "k9"
    for name in (
        "HS256 with the DER public key",
        "alg none, signed",
        "no kid",
        "kid of another form",
        "an encrypted bomb",
        "noise",
        "too large",
    ):
        assert key_id(forgeries(private_jwk(KEY), "k1", claims_of(USER, SESSION))[name]) is None, name


@pytest.mark.parametrize("damage", ["", "x", "a.b", "a.b.c", "a.b.c.d.e", "é.é.é", "a" * 5000, ".."])
def test_what_is_no_token_is_refused(damage: str) -> None:
    with pytest.raises(InvalidToken):
        verify(damage, KEYS)


def test_a_changed_claim_is_refused() -> None:
    header, claims, signature = token().split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "=="))
    changed["sub"] = str(UUID(int=9))
    with pytest.raises(InvalidToken):
        verify(f"{header}.{b64(json.dumps(changed).encode())}.{signature}", KEYS)


def test_an_independent_library_takes_our_tokens() -> None:
    from joserfc import jwt  # noqa: PLC0415
    from joserfc.jwk import ECKey  # noqa: PLC0415

    decoded = jwt.decode(token(), ECKey.import_key(dict(KEYS["k1"])), algorithms=["ES256"])
    assert decoded.claims["sub"] == str(USER)
