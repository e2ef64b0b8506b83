"""What a person is asked for, and how secrets are shown to them once."""

import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import typer

from hortus.cli import qr, show
from hortus.client import HortusError, write_private
from hortus.client.shapes import SecondFactor

DIGITS = 6
SPAN = re.compile(r"(\d{1,6})([smh])")
SECONDS = {"s": 1, "m": 60, "h": 3600}


def terminal() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty()


def code(said: str = "Code", *, needed: bool = True) -> str:
    """A one-time code: typed, or one line of standard input. Empty only where it is not ``needed``."""
    if terminal():
        return str(typer.prompt(said, err=True, default=None if needed else "", show_default=False)).strip()
    given = sys.stdin.readline().strip()
    if needed and not given:
        raise HortusError("No code came on standard input.")
    return given


def password(file: Path | None, *, said: str = "Password", variable: str = "HORTUS_PASSWORD", confirm: bool = False) -> str:
    """A password: from a file, from the environment, or typed without being shown."""
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise HortusError(f"The password file {file} cannot be read.") from error
    return secret(said, variable, f"use a file or {variable}", confirm=confirm)


def secret(said: str, variable: str, otherwise: str = "", *, confirm: bool = False) -> str:
    """Something that is not shown: from the environment, or typed."""
    given = os.environ.get(variable)
    if given:
        return given
    if not terminal():
        raise HortusError(f"There is no terminal to ask for it ({said}): {otherwise or f'use {variable}'}.")
    return str(typer.prompt(said, hide_input=True, confirmation_prompt=confirm, err=True))


def link(text: str) -> tuple[str | None, str]:
    """The address in a one-time link (None where there is none), and its token."""
    parts = urlsplit(text.strip())
    if not parts.scheme:
        return None, text.strip()
    token = "".join(parse_qs(parts.query).get("token", [])) or parts.fragment.rpartition("=")[2]
    token = token or parts.path.rstrip("/").rpartition("/")[2]
    if parts.scheme != "https" or not parts.netloc or not token:
        raise typer.BadParameter("this is not a one-time link (https://…#…)", param_hint="LINK")
    return f"https://{parts.netloc}", token


def factor(shown: str) -> dict[str, Any]:
    """A typed second factor as the doors take it: six digits are a code, everything else is a recovery code."""
    typed = shown.strip()
    return {"code": typed} if len(typed) == DIGITS and typed.isascii() and typed.isdigit() else {"recovery_code": typed}


def fresh_factor() -> dict[str, Any]:
    """Ask for a second factor because a door wants a fresh one."""
    show.say("This needs a second factor that was shown less than 5 minutes ago: a code of your authenticator, or a recovery code.")
    show.say("With a passkey, or without any at an identity provider, stop here and run `hortus confirm --browser`.")
    show.say("Without a second factor, press Enter to be asked for your password.")
    shown = code(needed=False)
    return factor(shown) if shown else {"password": secret("Password", "HORTUS_PASSWORD")}


def when(text: str) -> str:
    """A time as the doors take it (RFC 3339), from a date, a time, or a number of days from now: ``90d``."""
    wanted = text.strip()
    try:
        if wanted.endswith("d") and wanted[:-1].isascii() and wanted[:-1].isdigit():
            at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=int(wanted[:-1]))
        else:
            at = datetime.fromisoformat(wanted)
    except (ValueError, OverflowError) as error:
        message = f"{text!r} is no time: 90d, 2030-01-31 or 2030-01-31T12:00:00Z"
        raise typer.BadParameter(message, param_hint="--expires") from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


def end(text: str | None) -> dict[str, Any]:
    """When something ends, as the client's methods take it: a time, ``never``, or not given."""
    return {"ends_at": None if text == "never" else text, "open_end": text == "never"}


def seconds(text: str, option: str) -> int:
    """A span of time: ``30m``, ``2h``, ``90s``."""
    match = SPAN.fullmatch(text)
    if match is None:
        raise typer.BadParameter("a number with s, m or h: 30m, 2h", param_hint=option)
    return int(match[1]) * SECONDS[match[2]]


def show_factor(factor: SecondFactor, svg: Path | None, *, machine: bool) -> None:
    """Show what an authenticator application needs; this is the only time. Raises HortusError where only a passkey is enough."""
    if factor.get("policy") == "passkey":
        raise HortusError("Your groups ask for a passkey, which a browser makes: sign in there with `hortus login --browser`.")
    if svg is not None:
        write_private(svg, factor.get("totp_svg", "").encode())
    if machine:
        show.as_json(factor)
        sys.stdout.flush()
        return
    show.say("Add this account to your authenticator application; it is shown only now.")
    drawn = None if svg is not None else qr.drawn(factor.get("totp_svg", ""))
    if drawn is not None and show.err.is_terminal and show.err.width >= qr.width(drawn):
        show.err.print(drawn)
    show.one(factor, ("username", "totp_secret", "totp_uri"), machine=False)
    if svg is not None:
        show.say(f"The QR code is in {svg}; remove it when your application has it.")


def show_link(address: str, command: str, token: str | None) -> None:
    """Say how a person uses a one-time link, or that it was mailed to them."""
    if token is None:
        show.say("The person is told by letter.")
    else:
        show.say(f"Give the token to the person, once: `{command} --address {address} --trust root.pem` asks for it.")
