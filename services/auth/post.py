"""The post office: letters over SMTP, with TLS always, by threads of their own."""

import asyncio
import smtplib
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from urllib.parse import unquote, urlsplit

from services.auth.settings import AuthSettings

SECONDS = 10.0
SUBMISSION_PORT = 587
SUBMISSIONS_PORT = 465
PERMANENT = 500


class BadPostAddress(Exception):
    """The setting ``smtp_url`` is no address of a mail server."""


class Refused(Exception):
    """This letter will never be taken; the message is the server's code, never its words, which may name the person."""


class NotNow(Exception):
    """The letter was not taken this time; ``for_all``: nor would another one be."""

    def __init__(self, why: str, *, for_all: bool) -> None:
        super().__init__(why)
        self.for_all = for_all


@dataclass(frozen=True)
class Mail:
    """A letter to one address, in plain text; ``letter_id`` makes a repeated one recognisable."""

    letter_id: str
    written_at: datetime
    address: str
    subject: str
    text: str


class Post:
    """A mail server: ``smtps://`` (RFC 8314), or ``smtp://`` where STARTTLS has to succeed before anything is said."""

    def __init__(self, settings: AuthSettings) -> None:
        """Nothing connects yet. Raises BadPostAddress."""
        parts = urlsplit(settings.smtp_url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.password is not None:
            raise BadPostAddress("HORTUS_SMTP_URL is smtp[s]://[user@]host[:port], without a password")
        self._implicit = parts.scheme == "smtps"
        self._host = parts.hostname
        self._port = parts.port or (SUBMISSIONS_PORT if self._implicit else SUBMISSION_PORT)
        self._user = unquote(parts.username or "")
        self._password_file = settings.smtp_password_file
        self._trust = settings.smtp_trust
        local, _, domain = settings.smtp_from.rpartition("@")
        self._from = Address("Hortus", local, domain)

    async def send(self, mail: Mail) -> None:
        """Hand a letter over. Raises Refused, NotNow."""
        await asyncio.to_thread(self._send, mail)

    def _send(self, mail: Mail) -> None:
        message = self._message(mail)
        try:
            with self._connect() as server:
                self._hand_over(server, message)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotNow(f"{type(error).__name__} {getattr(error, 'smtp_code', '')}".strip(), for_all=True) from error

    def _connect(self) -> smtplib.SMTP:
        context = ssl.create_default_context(cafile=self._trust)
        if self._implicit:
            server: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=SECONDS, context=context)
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=SECONDS)
        try:
            if not self._implicit:
                server.starttls(context=context)
            if self._user and self._password_file is not None:
                server.login(self._user, self._password_file.read_text().rstrip("\r\n"))
        except BaseException:
            server.close()
            raise
        return server

    def _hand_over(self, server: smtplib.SMTP, message: EmailMessage) -> None:
        try:
            server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            ((code, _),) = error.recipients.values()
            raise (Refused(f"the server says {code}") if code >= PERMANENT else NotNow(f"the server says {code}", for_all=False)) from error
        except smtplib.SMTPDataError as error:
            code = error.smtp_code
            raise (Refused(f"the server says {code}") if code >= PERMANENT else NotNow(f"the server says {code}", for_all=False)) from error
        except smtplib.SMTPNotSupportedError as error:
            raise Refused("the server takes no address like this") from error

    def _message(self, mail: Mail) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        try:
            message["From"] = self._from
            local, _, domain = mail.address.rpartition("@")
            message["To"] = Address(username=local, domain=domain)
            message["Subject"] = mail.subject
        except (ValueError, IndexError, MessageError) as error:
            raise Refused(f"no message can have this address or subject: {type(error).__name__}") from error
        message["Date"] = format_datetime(mail.written_at)
        message["Message-ID"] = f"<{mail.letter_id}@{self._from.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        return message
