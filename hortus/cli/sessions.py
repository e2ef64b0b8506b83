"""Commands for signing in and out: password and code in the terminal, everything else through the browser."""

from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import asking, browser, notices, show, signin
from hortus.cli.options import Address, Code, Json, NoOpen, PasswordFile, RecoveryCode, Svg, Trust, signed_in
from hortus.client import Client, HortusError, Refused, SignIn
from hortus.client.shapes import Session

sessions = typer.Typer(no_args_is_help=True, help="Your sign-ins, on this machine and elsewhere.")
WHO = ("username", "email", "status", "cluster_roles", "groups", "user_id")
SESSION = ("session_id", "method", "client", "source", "created_at", "last_used_at", "factor_at", "current")
ENROLMENT_NEEDED = "factor-enrolment-needed"
BROWSER_S = 300.0
NEVER = 0.0
Timeout = Annotated[float, typer.Option(help="For the browser: how many seconds to wait.", min=1.0, max=3600.0)]


def login(
    username: Annotated[str | None, typer.Argument(help="Username or e-mail address.", show_default=False)] = None,
    address: Address = None,
    trust: Trust = None,
    certificate_address: Annotated[
        str | None,
        typer.Option(envvar="HORTUS_CERTIFICATE_ADDRESS", help="Where certificates are shown, if not port 8444 of the same host."),
    ] = None,
    password_file: PasswordFile = None,
    code: Code = None,
    recovery_code: RecoveryCode = False,
    through_browser: Annotated[
        bool, typer.Option("--browser", help="Sign in in the browser: with a passkey, or at an identity provider.")
    ] = False,
    no_open: NoOpen = False,
    timeout: Timeout = BROWSER_S,
    svg: Svg = None,
    machine: Json = False,
) -> None:
    """Sign in. The sign-in is kept in a file that only you can read, and renewed until it ends.

    Asks for the password and a code of your authenticator (empty if your account has none). Who has to set up a second
    factor first is shown how. Where the input is no terminal, a code is one line on standard input.
    """
    kept = signin.settle(address, trust)
    if certificate_address:
        kept = replace(kept, certificate_address=certificate_address)
    with signin.entering(kept) as client:
        if through_browser:
            client_code, verifier = browser.sign_in(kept.address, opens=not no_open, seconds=timeout)
            session = client.sessions.create(client_code=client_code, verifier=verifier)
        else:
            session = _typed(client, kept, username, password_file, code, recovery_code, svg, machine)
    if machine:
        show.as_json(_without_token(session))
        return
    show.say(f"Signed in as {session['user']['username']} until {show.moment(session['session_expires_at'])}.")
    left = session.get("recovery_codes_left")
    if left is not None:
        show.say(f"Recovery codes left: {left}. New ones: `hortus factors recovery-codes`.")
    with signin.own() as client:
        notices.at_hand(client, session["user"]["cluster_roles"])


def logout() -> None:
    """Sign out: the session ends everywhere, and this machine forgets it."""
    kept = signin.load()
    try:
        if kept.token:
            with signin.own() as client:
                client.sessions.end(kept.session_id)
    except Refused as refusal:
        if refusal.status not in {401, 404}:
            raise
    signin.forget()
    show.say("Signed out.")


def confirm(
    code: Code = None,
    recovery_code: RecoveryCode = False,
    by_password: Annotated[bool, typer.Option("--password", help="You have no second factor: show your password.")] = False,
    password_file: PasswordFile = None,
    through_browser: Annotated[
        bool, typer.Option("--browser", help="Sign in anew in the browser: with a passkey, or at an identity provider.")
    ] = False,
    no_open: NoOpen = False,
    timeout: Timeout = BROWSER_S,
    machine: Json = False,
) -> None:
    """Show your second factor once more, for what asks for one that is less than 5 minutes old.

    Who has none shows the password once more, or signs in anew at the identity provider.
    """
    if through_browser:
        session = _anew(opens=not no_open, seconds=timeout)
        if machine:
            show.as_json(_without_token(session))
        else:
            show.say(f"Signed in anew as {session['user']['username']}.")
        return
    with signin.own() as client:
        by_password = by_password or password_file is not None
        shown = {"password": asking.password(password_file)} if by_password else _factor(code, recovery_code)
        stepped = client.sessions.step_up(shown.get("code"), recovery_code=shown.get("recovery_code"), password=shown.get("password"))
    if machine:
        show.as_json(stepped)
    else:
        show.say("Confirmed; that holds for 5 minutes.")


def whoami(machine: Json = False) -> None:
    """Show who is signed in, how, and until when."""
    with signed_in() as client:
        me = client.users.me()
        session = next((session for session in client.sessions.list() if session.get("current")), None)
        if machine:
            show.as_json({**me, "session": session})
            return
        about = {**me, **(_about(session) if session else {})}
        wanted = (*WHO, "signed_in_by", "session_ends", "last_used", "second_factor")
        show.one(about, [name for name in wanted if name in about], machine=False)
        notices.at_hand(client, me["cluster_roles"])


@sessions.command("list")
def list_sessions(machine: Json = False) -> None:
    """List your sign-ins that have not ended."""
    with signed_in() as client:
        show.rows(client.sessions.list(), SESSION, machine=machine)


@sessions.command("end")
def end_session(session_id: Annotated[str, typer.Argument(help="The session's id (`hortus sessions list`).")]) -> None:
    """End one of your sign-ins, wherever it is."""
    with signed_in() as client:
        client.sessions.end(session_id)
    if session_id == signin.load().session_id:
        signin.forget()
    show.say("The session is ended.")


@sessions.command("end-all")
def end_all_sessions() -> None:
    """End all of your sign-ins, also this one."""
    with signed_in() as client:
        client.sessions.end_all()
    signin.forget()
    show.say("All your sessions are ended.")


def _typed(
    client: Client,
    kept: SignIn,
    username: str | None,
    password_file: Path | None,
    code: str | None,
    recovery_code: bool,
    svg: Path | None,
    machine: bool,
) -> Session:
    name = username or kept.username or str(typer.prompt("Username", err=True))
    password = asking.password(password_file)
    try:
        return client.sessions.create(name, password, **_factor(code, recovery_code, needed=False))
    except Refused as refused:
        enrolment = refused.members.get("enrolment")
        if refused.slug != ENROLMENT_NEEDED or not isinstance(enrolment, str):
            raise
    show.say("Your account needs a second factor before you can sign in.")
    asking.show_factor(client.enrolments.accept(enrolment), svg, machine=machine)
    client.enrolments.confirm(enrolment, asking.code())
    return client.sessions.create(name, password, asking.code("The next code"))


def _anew(*, opens: bool, seconds: float) -> Session:
    """A new sign-in in the browser, in the place of the one that is kept, by the same person. Raises HortusError."""
    kept = signin.held()
    with signin.entering(kept) as client:
        client_code, verifier = browser.sign_in(kept.address, opens=opens, seconds=seconds, fresh=True)
        session = client.sessions.create(client_code=client_code, verifier=verifier)
        if session["user"]["user_id"] != kept.user_id:
            client.sessions.end(session["session_id"])
            raise HortusError(f"In the browser {session['user']['username']} signed in; here {kept.username} still is.")
    _end_before(kept.session_id)
    return session


def _end_before(session_id: str) -> None:
    """End the session before; one that is gone has ended, and one that cannot be ended now is named: the new one is kept already."""
    try:
        with signin.own() as client:
            client.sessions.end(session_id)
    except HortusError as error:
        if not isinstance(error, Refused) or error.status != HTTPStatus.NOT_FOUND:
            show.say(f"The sign-in before could not be ended ({error}). End it with: hortus sessions end {session_id}")


def _without_token(session: Session) -> dict[str, object]:
    """A sign-in as it is printed."""
    return {name: value for name, value in session.items() if name != "access_token"}


def _factor(code: str | None, recovery_code: bool, *, needed: bool = True) -> dict[str, str]:
    if recovery_code:
        return {"recovery_code": asking.secret("Recovery code", "HORTUS_RECOVERY_CODE")}
    shown = code or asking.code(needed=needed)
    return {"code": shown} if shown or needed else {}


def _about(session: Session) -> dict[str, str]:
    """What a person wants to know of the session that they use."""
    factor = datetime.fromisoformat(session["factor_at"])
    return {
        "signed_in_by": session["method"],
        "session_ends": show.moment(session["session_expires_at"]),
        "last_used": show.moment(session["last_used_at"]),
        "second_factor": f"shown {show.span(datetime.now(UTC) - factor)} ago" if factor.timestamp() > NEVER else "not shown",
    }
