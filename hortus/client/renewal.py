"""Renewing a sign-in before its token ends: once for all threads and processes that share it, never twice with one refresh token.

A refresh token counts once. Who shows an old one is taken for a thief, and the session ends; only for 10 s the server gives the
same successor again, because an answer can be lost. So a renewal is noted before it is sent, is repeated only within that
time, and is given up where its outcome is not known and the time has passed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus

import httpx2

from hortus.client import answers
from hortus.client.errors import Altered, HortusError, Refused, Unreachable
from hortus.client.shapes import Session
from hortus.client.signin import REFRESH_COOKIE, Keeper, SignIn

# What begins within 5 s of the first attempt arrives within the server's 10 s: connecting takes 4 s at most, sending 1 s. A repetition
# may wait for its answer as long as it takes, because a server that is slow has not lost it.
REPEAT_S = 5.0
CONNECT_S = 2.0
WRITE_S = 1.0
FIRST_ANSWER_S = 4.0
ANSWER_S = 30.0
FIRST_PAUSE_S = 0.2


class _NoAnswer(Exception):
    """An attempt without an outcome; ``perhaps_done``: it may have been carried out."""

    def __init__(self, failure: HortusError, *, perhaps_done: bool) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.perhaps_done = perhaps_done


class Renewal:
    """The sign-in of a client, shared with whoever has the same keeper.

    ``send`` asks for the renewal, on a connection of its own: one that lay idle may be dead without anybody knowing.
    """

    def __init__(self, keeper: Keeper, address: str, send: Callable[[SignIn, httpx2.Timeout], httpx2.Response]) -> None:
        self._keeper = keeper
        self._address = address
        self._send = send
        self.current = keeper.read()

    @property
    def due(self) -> bool:
        """Whether the token ends soon and can be renewed."""
        return bool(self.current.refresh_token) and time.time() >= self.current.renew_at

    def enter(self, session: Session, cookies: Mapping[str, str]) -> None:
        """A session was opened: this is who is signed in from here on."""
        with self._keeper.alone() as kept:
            self.current = kept.opened(session, cookies)
            self._keeper.write(self.current)

    def renew(self, refused: str | None = None) -> bool:
        """See to a token that does not end soon and is not the one that was refused; False when there is none to be had.

        Raises Refused when the sign-in is over, Unreachable.
        """
        with self._keeper.alone() as kept:
            if kept.token != self.current.token:
                if not kept.token or self.current.user_id not in {"", kept.user_id}:
                    raise Refused(HTTPStatus.UNAUTHORIZED, "signed-out", "The sign-in that this began with is not there any more")
                self.current = kept
            if not self.due and kept.token != refused:
                return True
            if not kept.refresh_token:
                return False
            self.current = self._rotate(kept)
            return True

    def _rotate(self, kept: SignIn) -> SignIn:
        began = time.time()
        unknown_since = kept.asked_at
        if unknown_since and not 0 <= began - unknown_since <= REPEAT_S:
            self._keeper.write(kept.ended())
            raise Refused(HTTPStatus.UNAUTHORIZED, "renewal-lost", "The connection was lost while the sign-in was being renewed")
        pause = FIRST_PAUSE_S
        patience = FIRST_ANSWER_S
        while True:
            sent = time.time()
            self._keeper.write(replace(kept, asked_at=unknown_since or sent))
            try:
                answer = self._ask(kept, patience)
            except _NoAnswer as none:
                if none.perhaps_done:
                    unknown_since = unknown_since or sent
                self._keeper.write(replace(kept, asked_at=unknown_since))
                if time.time() + pause - (unknown_since or began) > REPEAT_S:
                    raise none.failure from none
                time.sleep(pause)
                pause *= 2
                patience = ANSWER_S
            else:
                return self._take(kept, answer)

    def _ask(self, kept: SignIn, patience: float) -> httpx2.Response:
        try:
            answer = self._send(kept, httpx2.Timeout(patience, connect=CONNECT_S, write=WRITE_S))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise _NoAnswer(Unreachable(answers.unreachable(self._address, error)), perhaps_done=False) from error
        except httpx2.TransportError as error:
            lost = Unreachable(f"The connection to {self._address} was lost ({answers.said(error)}).")
            raise _NoAnswer(lost, perhaps_done=True) from error
        if answer.is_server_error:
            refused = answers.refusal(answer)
            # 503 says that nothing was done, unless it says that it was.
            done = refused.slug == answers.HELD_BACK or refused.status != HTTPStatus.SERVICE_UNAVAILABLE
            raise _NoAnswer(refused, perhaps_done=done)
        return answer

    def _take(self, kept: SignIn, answer: httpx2.Response) -> SignIn:
        if not answer.is_success:
            over = answer.status_code == HTTPStatus.UNAUTHORIZED
            self._keeper.write(kept.ended() if over else kept)
            raise answers.refusal(answer)
        cookies = answers.cookies_of(answer)
        if not cookies.get(REFRESH_COOKIE):
            raise Altered("The renewal of the sign-in brought no new refresh token.")
        renewed = kept.opened(answers.json_of(answer), cookies)
        self._keeper.write(renewed)
        return renewed
