"""What was signed before certificates remembered their key finds out by which it was."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from chassis import db, migrate
from compose.local.pki import Pki
from tests.world import Databases

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CERTIFICATE = """INSERT INTO certificates (certificate_id, kind, state, csr_sha256, not_before, not_after, fingerprint, chain, created_at, version)
                 VALUES ($1, $2, $3, '', $4, $4, '', $5, $4, $6)"""


def upgrade(owner_url: str, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    config.set_main_option("version_locations", str(migrate.SERVICES / "ca" / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(url=owner_url, version_table="service_version", finish=lambda _: None)
    command.upgrade(config, to)


def signed(pki: Pki, issuer: str) -> tuple[str, str, bytes]:
    """A chain, a list, and the key that signed both, as an issuer of before made them."""
    folder: Path = pki.issuers_folder
    certificate = x509.load_pem_x509_certificate((folder / f"{issuer}.pem").read_bytes())
    key = load_pem_private_key((folder / f"{issuer}.key").read_bytes(), (folder / "passphrase").read_bytes())
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject).last_update(NOW).next_update(NOW + timedelta(hours=1))
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return pem + pem, own.digest.hex(), made.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]


async def test_certificates_and_lists_of_before_are_told_by_their_keys(databases: Databases, pki: Pki) -> None:
    name = "migrating_ca"
    _, owner_url = await asyncio.to_thread(databases.postgres.create_database, name, owner="ca_owner", runtime="ca")
    await asyncio.to_thread(upgrade, owner_url, "ca_0002")
    connection = await asyncpg.connect(db.plain_dsn(owner_url))
    try:
        found = {issuer: signed(pki, issuer) for issuer in ("people", "workloads")}
        for number, (kind, issuer) in enumerate((("project", "people"), ("job", "workloads"), ("agent", "workloads"))):
            await connection.execute(CERTIFICATE, f"{number:032x}", kind, "live", NOW, found[issuer][0], 1)
        await connection.execute(CERTIFICATE, "f" * 32, "project", "intended", NOW, "", 0)
        await connection.execute("UPDATE revocation_lists SET number = 7, der = $1 WHERE issuer = 'people'", found["people"][2])
        await asyncio.to_thread(upgrade, owner_url, "head")
        rows = await connection.fetch("SELECT certificate_id, issuer_key FROM certificates ORDER BY certificate_id")
        keys = [found[issuer][1] for issuer in ("people", "workloads", "workloads")]
        assert [row["issuer_key"] for row in rows] == [*keys, ""]
        lists = await connection.fetch("SELECT issuer_key, number FROM revocation_lists")
        assert [tuple(row) for row in lists] == [(keys[0], 7)]
    finally:
        await connection.close()
        await databases._execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")
