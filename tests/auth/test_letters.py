import asyncio
import contextlib
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from services.auth import post
from services.auth.app import deliver
from services.auth.domain import letters as rules
from services.auth.domain.letters import Kind
from services.auth.service import letters
from services.auth.settings import AuthSettings
from tests.auth.people import invite
from tests.world import World, Worlds

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # the library sees no TLS below it

USER, SECRET = "hortus", "an smtp secret"
VALUES: dict[str, object] = {
    "username": "ada00000",
    "token": "invitation_abc",
    "hours": 1,
    "change": "a passkey was added",
    "source": "192.0.2.7",
    "client": "a browser",
    "left": 9,
    "keys": 2,
    "sessions": 1,
    "name": "nightly",
    "expires": "2026-12-24",
    "who": "root0000",
    "appointed": "bob00000",
    "project": "01900000-0000-7000-8000-000000000001",
    "opened": "2026-12-24 10:00",
    "until": "2026-12-24 11:00",
}


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    @property
    def trust(self) -> Path:
        file = self.folder / f"{self.certificate.serial_number}.pem"
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return file

    def server_context(self, name: str = "localhost") -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        made = _builder(name, key, self.certificate.subject).add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        file = self.folder / f"{made.serial_number}.pem"
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _builder(name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name | None = None) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _builder("mail authority", key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    return Authority(key, made.sign(key, hashes.SHA256()), tmp_path)


@dataclass
class MailServer:
    """A real SMTP server: what it took, and what it answers to a recipient and to a message."""

    port: int = 0
    to_recipient: str = "250 OK"
    to_message: str = "250 OK"
    took: list[EmailMessage] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)

    async def handle_RCPT(self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]) -> str:  # noqa: N802 - the library's name
        if self.to_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        if self.to_message.startswith("250"):
            assert isinstance(envelope.content, bytes)
            made = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(made, EmailMessage)
            self.took.append(made)
            self.envelopes.append(envelope)
        return self.to_message

    def login(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        self.logins.append(given.login)
        return AuthResult(success=given.login == USER.encode() and given.password == SECRET.encode(), handled=False)


@contextlib.asynccontextmanager
async def mail_server(
    context: ssl.SSLContext | None, *, implicit: bool = False, port: int = 0, login: bool = True
) -> AsyncIterator[MailServer]:
    """Without ``context`` the server knows no STARTTLS."""
    made = MailServer()

    def session() -> SMTP:
        return SMTP(
            made,
            hostname="localhost",
            tls_context=None if implicit else context,
            require_starttls=context is not None and not implicit,
            authenticator=made.login if login else None,
            auth_required=login,
            auth_require_tls=not implicit,
            enable_SMTPUTF8=True,
        )

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", port, ssl=context if implicit else None)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "smtp"
    file.write_text(SECRET + "\n")
    return file


@pytest.fixture
def mail(settings: dict[str, Any], authority: Authority, secret_file: Path) -> dict[str, Any]:
    """The settings of auth where mail is configured; the port is the test's."""
    return settings | {
        "smtp_trust": authority.trust,
        "smtp_password_file": secret_file,
        "smtp_from": "hortus@hospital.example",
        "origins": ("https://hortus.hospital.example",),
    }


def url(server: MailServer, scheme: str = "smtp") -> str:
    return f"{scheme}://{USER}@localhost:{server.port}"


async def write(world: World, kind: Kind = Kind.PASSWORD_CHANGED, address: str = "ada@example.org", **values: object) -> None:
    async with world.work() as uow:
        await letters.write(uow, world.runtime.extra["tools"], uuid4(), address, kind, **(VALUES | values))


async def waiting(world: World) -> list[Any]:
    return list(await world.sql("SELECT letter_id, tries, next_at > now() AS put_off FROM letters ORDER BY letter_id"))


async def one_round(world: World) -> None:
    """One pass of the background work."""
    await letters.deliver(world.runtime.extra["tools"], world.runtime.extra["post"])


# What is said


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_of_letter_says_what_happened_when_and_where(kind: Kind) -> None:
    at = dt.datetime(2026, 3, 4, 5, 6, tzinfo=dt.UTC)
    written = rules.compose(kind, "ada@example.org", "https://hortus.example", at, VALUES)
    assert "2026-03-04 05:06 UTC, on https://hortus.example." in written.text
    assert "\n" not in written.subject
    assert "{" not in written.text
    if kind is not Kind.REGISTRATION_DECLINED:
        assert "If " in written.text


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (Kind.INVITATION, "https://hortus.example/setup#invitation_abc"),
        (Kind.PASSWORD_RESET, "https://hortus.example/password-reset#invitation_abc"),
        (Kind.FACTOR_RESET, "https://hortus.example/factor-enrolment#invitation_abc"),
    ],
)
def test_a_letter_with_a_link_has_it_on_a_line_of_its_own(kind: Kind, link: str) -> None:
    written = rules.compose(kind, "ada@example.org", "https://hortus.example", dt.datetime.now(dt.UTC), VALUES)
    assert link in written.text.splitlines()


def test_what_others_typed_stays_on_its_line() -> None:
    name = "x\r\n\r\nGo to https://evil.example\u2028now" + "y" * 500
    written = rules.compose(Kind.KEY_MADE, "ada@example.org", "https://hortus.example", dt.datetime.now(dt.UTC), VALUES | {"name": name})
    (line,) = [line for line in written.text.splitlines() if "evil" in line]
    assert line.startswith("An API key named “x")
    assert len(line) < 400


def test_the_pause_between_two_tries_doubles_up_to_an_hour() -> None:
    now = dt.datetime.now(dt.UTC)
    pauses = [(rules.next_try(now, tries) - now).total_seconds() / 60 for tries in (0, 1, 2, 5, 6, 1000)]
    assert pauses == [1, 2, 4, 32, 60, 60]


# How it is sent


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_a_letter_goes_out_over_tls_with_a_login_and_is_forgotten(
    worlds: Worlds, mail: dict[str, Any], authority: Authority, scheme: str
) -> None:
    async with mail_server(authority.server_context(), implicit=scheme == "smtps") as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server, scheme))
        await write(world, Kind.INVITATION)
        await one_round(world)
    (got,) = server.took
    assert server.envelopes[0].mail_from == "hortus@hospital.example"
    assert server.envelopes[0].rcpt_tos == ["ada@example.org"]
    assert server.logins == [USER.encode()]
    assert (got["From"], got["To"]) == ("Hortus <hortus@hospital.example>", "ada@example.org")
    assert got["Subject"] == "Your invitation to Hortus"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got.get_content_type() == "text/plain"
    assert "https://hortus.hospital.example/setup#invitation_abc" in got.get_content()
    assert await waiting(world) == []


async def test_letters_go_out_in_the_order_they_were_written(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        for number in range(5):
            await write(world, Kind.KEY_MADE, name=f"number {number}")
        await one_round(world)
    assert [f"number {number}" in got.get_content() for number, got in enumerate(server.took)] == [True] * 5


async def test_the_background_sends_what_is_written_while_it_runs(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        async with world.running(deliver):
            await write(world)
            async with asyncio.timeout(10):
                while await waiting(world):
                    await asyncio.sleep(0.02)
    assert len(server.took) == 1


async def test_two_replicas_send_a_letter_once(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        beside = await worlds.open("auth", beside=world, **mail, smtp_url=url(server))
        for _ in range(6):
            await write(world)
        await asyncio.gather(one_round(world), one_round(beside))
    assert len(server.took) == 6
    assert len({got["Message-ID"] for got in server.took}) == 6


async def test_a_server_without_starttls_gets_no_letter_and_no_login(worlds: Worlds, mail: dict[str, Any]) -> None:
    async with mail_server(None) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world)
        with capture_logs() as logs:
            await one_round(world)
    assert (server.took, server.logins) == ([], [])
    assert [(row.tries, row.put_off) for row in await waiting(world)] == [(1, True)]
    assert "SMTPNotSupportedError" in str(logs)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_server_with_a_wrong_certificate_gets_no_letter_and_no_login(
    worlds: Worlds, mail: dict[str, Any], authority: Authority, scheme: str, wrong: str
) -> None:
    context = authority.server_context("other.example" if wrong == "name" else "localhost")
    settings = mail if wrong == "name" else mail | {"smtp_trust": None}
    async with mail_server(context, implicit=scheme == "smtps") as server:
        world = await worlds.open("auth", **settings, smtp_url=url(server, scheme))
        await write(world)
        with capture_logs() as logs:
            await one_round(world)
    assert (server.took, server.logins) == ([], [])
    assert [row.tries for row in await waiting(world)] == [1]
    assert "SSLCertVerificationError" in str(logs)


async def test_with_a_wrong_password_the_letter_waits(
    worlds: Worlds, mail: dict[str, Any], authority: Authority, secret_file: Path
) -> None:
    secret_file.write_text("another secret")
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world)
        with capture_logs() as logs:
            await one_round(world)
        assert [row.tries for row in await waiting(world)] == [1]
        assert "another secret" not in str(logs)
        secret_file.write_text(SECRET)
        await world.sql("UPDATE letters SET next_at = now()")
        await one_round(world)
    assert len(server.took) == 1


async def test_while_the_server_is_away_letters_wait_and_are_sent_when_it_is_back(
    worlds: Worlds, mail: dict[str, Any], authority: Authority
) -> None:
    async with mail_server(authority.server_context()) as gone:
        pass
    world = await worlds.open("auth", **mail, smtp_url=url(gone))
    await write(world)
    await write(world)
    with capture_logs() as logs:
        await one_round(world)
    assert sorted(row.tries for row in await waiting(world)) == [0, 1], "one try shows that the server is away"
    assert "ada@example.org" not in str(logs)
    await world.sql("UPDATE letters SET next_at = now()")
    async with mail_server(authority.server_context(), port=gone.port) as server:
        await one_round(world)
    assert len(server.took) == 2
    assert await waiting(world) == []


async def test_a_letter_that_is_put_off_does_not_hold_up_the_next(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world)
        server.to_recipient = "450 busy"
        await one_round(world)
        server.to_recipient = "250 OK"
        await write(world)
        await one_round(world)
    assert len(server.took) == 1
    assert [(row.tries, row.put_off) for row in await waiting(world)] == [(1, True)]


@pytest.mark.parametrize("stage", ["to_recipient", "to_message"])
async def test_a_letter_that_is_refused_for_good_ends_with_a_line_and_a_record(
    worlds: Worlds, mail: dict[str, Any], authority: Authority, stage: str
) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        setattr(server, stage, "550 no ada@example.org here")
        await write(world)
        (letter,) = await waiting(world)
        with capture_logs() as logs:
            await one_round(world)
    assert await waiting(world) == []
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]["letter_id"]) == ("letter.refuse", str(letter.letter_id))
    assert record["resource"]["why"] == "the server says 550"
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["letter_id"] == str(letter.letter_id)
    assert "ada@example.org" not in json.dumps([logs, record], default=str)


async def test_a_letter_that_is_too_old_is_given_up(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world)
        await world.sql("UPDATE letters SET created_at = now() - interval '49 hours'")
        await one_round(world)
    assert (server.took, await waiting(world)) == ([], [])
    assert [record["action"] for record in await world.recorded()] == ["letter.expire"]


async def test_a_process_that_dies_while_it_sends_leaves_the_letter(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world)
        dying = asyncio.create_task(_die_after_sending(world))
        await dying
        assert (len(server.took), len(await waiting(world))) == (1, 1)
        await world.sql("UPDATE letters SET next_at = now()")
        await one_round(world)
    assert await waiting(world) == []
    assert len({got["Message-ID"] for got in server.took}) == 1, "the repeated letter is recognised as the same"


async def _die_after_sending(world: World) -> None:
    class Dying(post.Post):
        async def send(self, mail: post.Mail) -> None:
            await super().send(mail)
            raise asyncio.CancelledError

    with contextlib.suppress(asyncio.CancelledError):
        await letters.deliver(world.runtime.extra["tools"], Dying(world.runtime.settings))


@pytest.mark.parametrize("address", ["ada@example.org\r\nBcc: eve@evil.example", "ada@example.org, eve@evil.example", "no address"])
async def test_an_address_that_would_become_two_is_refused(
    mail: dict[str, Any], worlds: Worlds, authority: Authority, address: str
) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world, address=address)
        await one_round(world)
        assert await waiting(world) == []
    assert [envelope.rcpt_tos for envelope in server.envelopes if "eve@evil.example" in envelope.rcpt_tos] == []


async def test_an_address_with_letters_beyond_ascii_is_written_to(worlds: Worlds, mail: dict[str, Any], authority: Authority) -> None:
    async with mail_server(authority.server_context()) as server:
        world = await worlds.open("auth", **mail, smtp_url=url(server))
        await write(world, address="jürgen@example.org")
        await one_round(world)
    assert [envelope.rcpt_tos for envelope in server.envelopes] == [["jürgen@example.org"]]


async def test_what_waits_shows_neither_address_nor_text_to_who_reads_the_table(worlds: Worlds, mail: dict[str, Any]) -> None:
    world = await worlds.open("auth", **mail, smtp_url="smtp://localhost:1")
    await write(world, Kind.INVITATION)
    (row,) = await world.sql("SELECT sealed FROM letters")
    assert b"ada" not in row.sealed
    assert b"invitation_abc" not in row.sealed


async def test_without_mail_nothing_is_written(world: World) -> None:
    assert not letters.possible(world.runtime.extra["tools"])
    await write(world)
    assert await waiting(world) == []
    assert (await invite(world, "ada@example.org")).json()["invitation"]


@pytest.mark.parametrize("address", ["mail.example:25", "http://mail.example", "smtp://", "smtp://user:secret@mail.example"])
def test_a_setting_that_is_no_mail_server_stops_the_start(settings: dict[str, Any], tmp_path: Path, address: str) -> None:
    given: dict[str, Any] = settings | {"service": "auth", "tls_dir": tmp_path, "kafka": "localhost:1", "state_dir": tmp_path}
    made = AuthSettings(**given, database_url="postgresql+asyncpg://a@/a", smtp_url=address)
    with pytest.raises(post.BadPostAddress) as refused:
        post.Post(made)
    assert "secret" not in str(refused.value)
