"""Tokens that must not pass, whoever reads them: the known attacks on JSON Web Tokens, made from one that would."""

import base64
import hashlib
import hmac
import json
import time
import zlib
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from uuid_utils.compat import uuid7

from chassis import tokens


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: object) -> str:
    return b64(json.dumps(value).encode())


def private_key(jwk: dict[str, str]) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(base64.urlsafe_b64decode(jwk["d"] + "==")), ec.SECP256R1())


def sign(jwk: dict[str, str], header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token with any header and any claims, signed rightly (ES256) with a key."""
    signed = f"{part(header)}.{part(claims)}"
    r, s = decode_dss_signature(private_key(jwk).sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def claims_of(user_id: UUID, session_id: UUID) -> dict[str, Any]:
    """What a good token says."""
    now = int(time.time())
    named = {"iss": tokens.ISSUER, "aud": tokens.ISSUER, "sub": str(user_id), "sid": str(session_id), "jti": str(uuid7())}
    return {**named, "iat": now, "exp": now + 300}


def forgeries(jwk: dict[str, str], key_id: str, claims: dict[str, Any]) -> dict[str, str]:
    """Forged tokens by name. ``jwk`` is the private half of the key that verifies as ``key_id``; ``claims`` would be good."""
    good: dict[str, Any] = {"alg": "ES256", "typ": "JWT", "kid": key_id}
    now = int(time.time())
    foreign = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    foreign_half = {name: value for name, value in foreign.items() if name != "d"}
    public = private_key(jwk).public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    half = {name: value for name, value in jwk.items() if name != "d"}
    secrets = {
        "the DER public key": public.public_bytes(serialization.Encoding.DER, info),
        "the PEM public key": public.public_bytes(serialization.Encoding.PEM, info),
        "the public point": public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
        "the public JWK": json.dumps(half).encode(),
        "nothing": b"",
    }
    whole = sign(jwk, good, claims)
    header, payload, signature = whole.split(".")

    def hmac_with(secret: bytes) -> str:
        signed = f"{part({**good, 'alg': 'HS256'})}.{payload}"
        return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"

    def without(name: str) -> str:
        return sign(jwk, good, {key: value for key, value in claims.items() if key != name})

    bomb = b64(zlib.compress(b"\0" * 2_000_000, 9))
    encrypted = part({"alg": "dir", "enc": "A256GCM", "zip": "DEF", "kid": key_id})
    made = {f"HS256 with {name}": hmac_with(secret) for name, secret in secrets.items()}
    made |= {f"alg {alg}": f"{part({**good, 'alg': alg})}.{payload}." for alg in ("none", "None", "NONE", "nOnE", "")}
    made |= {f"alg {alg}, signed": sign(jwk, {**good, "alg": alg}, claims) for alg in ("none", "ES384", "RS256", "es256")}
    made |= {f"without {name}": without(name) for name in ("iss", "aud", "sub", "sid", "iat", "exp")}
    made |= {
        "no alg": sign(jwk, {"kid": key_id}, claims),
        "no kid": sign(jwk, {"alg": "ES256"}, claims),
        "kid of another form": sign(jwk, {**good, "kid": [key_id]}, claims),
        "another's key under our kid": sign(foreign, good, claims),
        "another's key in the header": sign(foreign, {**good, "jwk": foreign_half, "jku": "https://evil.example/jwks.json"}, claims),
        "a signature of zeros": f"{header}.{payload}.{b64(bytes(64))}",
        "a signature in DER": f"{header}.{payload}.{b64(private_key(jwk).sign(f'{header}.{payload}'.encode(), ec.ECDSA(hashes.SHA256())))}",
        "an encrypted bomb": f"{encrypted}..{b64(bytes(12))}.{bomb}.{b64(bytes(16))}",
        "a bomb in three parts": f"{encrypted}.{bomb}.{signature}",
        "expired": sign(jwk, good, {**claims, "iat": now - 400, "exp": now - tokens.LEEWAY_S - 1}),
        "expired long ago": sign(jwk, good, {**claims, "iat": 1, "exp": 2}),
        "issued in the future": sign(jwk, good, {**claims, "iat": now + 60, "exp": now + 400}),
        "not valid yet": sign(jwk, good, {**claims, "nbf": now + 60}),
        "an end that is no number": sign(jwk, good, {**claims, "exp": "never"}),
        "an endless end": sign(jwk, good, {**claims, "exp": float("inf")}),
        "another audience": sign(jwk, good, {**claims, "aud": "hortus2"}),
        "another issuer": sign(jwk, good, {**claims, "iss": "https://evil.example"}),
        "a subject that is no id": sign(jwk, good, {**claims, "sub": "ada00000"}),
        "claims that are a list": f"{header}.{part([1])}.{signature}",
        "changed claims": f"{header}.{part({**claims, 'sub': str(uuid7())})}.{signature}",
        "too large": sign(jwk, good, {**claims, "more": "x" * tokens.MAX_LENGTH}),
        "two parts": f"{header}.{payload}",
        "four parts": f"{whole}.{signature}",
        "empty parts": "..",
        "noise": "x" * 6000,
    }
    return made
