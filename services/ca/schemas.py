"""The shapes of ca's requests and answers."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

CSR_MAX = 8192


class CertificateOrder(BaseModel):
    """A certificate signing request (PKCS#10, PEM). Names in it are ignored; the key counts."""

    model_config = ConfigDict(extra="forbid")

    csr: str = Field(min_length=1, max_length=CSR_MAX)


class ServiceCertificateView(BaseModel):
    """A service's new certificate; ``chain`` is PEM, leaf first, without the root."""

    model_config = ConfigDict(from_attributes=True)

    certificate_id: str
    service: str
    not_before: datetime
    not_after: datetime
    chain: str
    fingerprint: str


class CertificateView(BaseModel):
    """A project certificate; ``chain`` is PEM, leaf first, without the root; ``fingerprint`` is SHA-256 of the leaf's DER in hex."""

    model_config = ConfigDict(from_attributes=True)

    certificate_id: str
    project_id: UUID
    user_id: UUID
    not_before: datetime
    not_after: datetime
    live: bool
    chain: str
    fingerprint: str
    version: int
