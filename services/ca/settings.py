"""The settings of ca."""

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import Settings
from contracts.policy import LONGEST_RUN_S, RUN_CERTIFICATE_S


class KeySettings(BaseSettings):
    """Where the issuers and their keys are.

    ``issuers_dir``: a folder with their certificates and the roots', and with their keys where ``pkcs11_module`` names no library of a token that
    holds them. ``pkcs11_token`` is the token's label, ``pkcs11_pin_file`` a file with its PIN; its keys are called ``<pkcs11_key_prefix><issuer>``.
    """

    model_config = SettingsConfigDict(env_prefix="HORTUS_", extra="ignore", frozen=True)

    issuers_dir: Path
    pkcs11_module: Path | None = None
    pkcs11_token: str = "hortus"  # noqa: S105 - its label
    pkcs11_pin_file: Path | None = None
    pkcs11_key_prefix: str = "hortus-"


class CaSettings(KeySettings, Settings):
    """Settings of ca. Lives are seconds. An agent that had its certificate renewed can show the one before for ``agent_overlap_s`` more.

    ``origins``: where the gateway is reached, as in auth; certificates name the first one as the place where their status is told,
    and none where there is none. ``crl_life_s`` and ``ocsp_life_s``: how long a list of revoked certificates and an answer about one hold.
    ``services_issuer_dir``: the set-up's folder with the keys of the issuer of services, without which running services renew nothing here.
    ``issuer_rest_s``: how long a new certificate of an issuer lies there before it signs; ``issuer_warning_days``: how long before it ends somebody is told.
    """

    origins: tuple[str, ...] = ("https://localhost:8443",)
    project_life_s: int = 8 * 3600
    job_life_s: int = RUN_CERTIFICATE_S
    agent_life_s: int = 24 * 3600
    agent_overlap_s: float = Field(default=60.0, ge=0)
    services_issuer_dir: Path | None = None
    service_life_s: int = Field(default=72 * 3600, gt=0)
    crl_life_s: int = Field(default=3600, gt=0)
    ocsp_life_s: int = Field(default=60, gt=0)
    issuer_rest_s: float = Field(default=30.0, ge=0)
    issuer_warning_days: int = Field(default=90, ge=0)

    @field_validator("job_life_s")
    @classmethod
    def _outlasts_every_run(cls, value: int) -> int:
        if value < RUN_CERTIFICATE_S:
            raise ValueError(
                f"HORTUS_JOB_LIFE_S has to be {RUN_CERTIFICATE_S} at least: a run may take {LONGEST_RUN_S} s, and needs its certificate to the end"
            )
        return value
