"""An authenticator of the tests: soft-webauthn's, with a person who shows it that they are there."""

import json
from typing import Any

from fido2 import cbor
from soft_webauthn import SoftWebauthnDevice
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url

ORIGIN = "https://localhost:8443"
PRESENT, VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40
FLAGS_AT = 32


def _with_flags(data: bytes, flags: int) -> bytes:
    """Authenticator data with other flags (WebAuthn level 3 section 6.1)."""
    return data[:FLAGS_AT] + bytes([flags]) + data[FLAGS_AT + 1 :]


class _Signer:
    """The device's key, which signs other flags than the device put in."""

    def __init__(self, key: Any, flags: int) -> None:
        self.key = key
        self.flags = flags

    def sign(self, data: bytes, algorithm: Any) -> bytes:
        return bytes(self.key.sign(_with_flags(data, self.flags), algorithm))


class Authenticator:
    """Makes and shows one passkey, as a browser's page gets it; by default it verifies who its person is."""

    def __init__(self, *, flags: int = PRESENT | VERIFIED, origin: str = ORIGIN) -> None:
        self.device = SoftWebauthnDevice()
        self.flags = flags
        self.origin = origin

    def make(self, options: dict[str, Any], **other: Any) -> dict[str, Any]:
        """``navigator.credentials.create``, and ``toJSON()``."""
        asked = {**options, "challenge": base64url_to_bytes(options["challenge"])}
        asked["user"] = {**options["user"], "id": base64url_to_bytes(options["user"]["id"])}
        made = self.device.create({"publicKey": asked}, other.get("origin", self.origin))
        attested: dict[str, Any] = dict(cbor.decode(made["response"]["attestationObject"]))
        attested["authData"] = _with_flags(attested["authData"], self.flags | ATTESTED)
        return self._json(made, attestationObject=cbor.encode(attested))

    def show(self, options: dict[str, Any], **other: Any) -> dict[str, Any]:
        """``navigator.credentials.get``, and ``toJSON()``; ``other`` is what the page or the device gets wrong."""
        key, self.device.private_key = self.device.private_key, _Signer(self.device.private_key, self.flags)
        self.device.rp_id = options["rpId"]
        try:
            asked = {**options, "challenge": base64url_to_bytes(options["challenge"])}
            shown = self.device.get({"publicKey": asked}, other.get("origin", self.origin))
        finally:
            self.device.private_key = key
        return self._json(shown, authenticatorData=_with_flags(shown["response"]["authenticatorData"], self.flags))

    def _json(self, credential: dict[str, Any], **response: bytes) -> dict[str, Any]:
        """What ``PublicKeyCredential.toJSON()`` gives (WebAuthn level 3 section 5.1)."""
        fields = {**credential["response"], **response}
        raw = bytes_to_base64url(credential["rawId"])
        answer = {name: bytes_to_base64url(value) for name, value in fields.items()}
        made = {"id": raw, "rawId": raw, "type": "public-key", "response": answer, "clientExtensionResults": {}}
        return dict(json.loads(json.dumps(made)))
