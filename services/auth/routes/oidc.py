"""The doors of signing in by an identity provider."""

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from chassis.errors import Problem, problem_response
from chassis.guard import LaterUow, doors, may
from chassis.pages import Page
from contracts.policy import Action, Service
from services.auth.domain.oidc import FLOW_LIFE, PENDING_LIFE, Answer, BadLogoutToken
from services.auth.routes import cookies
from services.auth.routes.pages import BROWSER_RESPONSE, BrowserDoor, problem_page
from services.auth.routes.sessions import keep_signed_in
from services.auth.routes.tools import AboutRequest, Here
from services.auth.schemas.oidc import ProviderView
from services.auth.service import oidc

router = doors(Service.AUTH)
browsers = doors(Service.AUTH)
browsers.route_class = BrowserDoor
browsers.responses = {"default": BROWSER_RESPONSE}
LOGOUT_TOKEN = {"type": "object", "properties": {"logout_token": {"type": "string"}}, "required": ["logout_token"]}
LOGOUT_FORM = {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": LOGOUT_TOKEN}}}}
Name = Annotated[str, Path(min_length=1, max_length=32)]
Told = Annotated[str | None, Query(max_length=4096)]


@router.get("/oidc", dependencies=[may(Action.OIDC_LIST)])
async def list_providers(here: Here) -> Page[ProviderView]:
    """The identity providers that somebody can sign in by."""
    return Page(items=[ProviderView.model_validate(each.config) for each in here.providers.values()])


@browsers.get("/oidc/{provider}/start", status_code=303, response_class=RedirectResponse, dependencies=[may(Action.OIDC_START)])
async def start(provider: Name, here: Here, to: Told = None, fresh: bool = False) -> Response:
    """Begin to sign in by a provider: the browser is sent there; ``fresh``: to sign in there anew, although it may know the person still."""
    begun = await oidc.start(here, provider, to, fresh=fresh)
    response = RedirectResponse(begun.place, 303)
    # The provider's answer is a navigation from another site, which brings no cookie that is Strict.
    cookies.keep(response, cookies.OIDC, begun.cookie, int(FLOW_LIFE.total_seconds()), "lax")
    return response


@browsers.get("/oidc/{provider}/callback", status_code=303, response_class=RedirectResponse, dependencies=[may(Action.OIDC_CALLBACK)])
async def callback(
    provider: Name,
    request: Request,
    later: LaterUow,
    here: Here,
    about: AboutRequest,
    state: Told = None,
    code: Told = None,
    iss: Told = None,
    error: Told = None,
) -> Response:
    """The browser comes back from a provider."""
    finished = await oidc.finish(later, here, provider, Answer(state, code, iss, error), request.cookies.get(cookies.OIDC), about)
    if isinstance(finished, Problem):
        response = problem_page(finished)
    else:
        response = RedirectResponse(finished.place, 303)
        if finished.signed_in is not None:
            keep_signed_in(finished.signed_in, response)
        if finished.pending is not None:
            cookies.keep(response, cookies.PENDING, finished.pending, int(PENDING_LIFE.total_seconds()))
    cookies.forget(response, cookies.OIDC, "lax")
    return response


@router.post("/oidc/{provider}/logout", response_class=Response, openapi_extra=LOGOUT_FORM, dependencies=[may(Action.OIDC_LOGOUT)])
async def logout(provider: Name, request: Request, later: LaterUow, here: Here, about: AboutRequest) -> Response:
    """A provider tells that somebody signed out there (a form with ``logout_token``)."""
    try:
        (token,) = parse_qs((await request.body()).decode("ascii"), strict_parsing=True)["logout_token"]
    except (ValueError, KeyError):
        return problem_response(BadLogoutToken())
    refused = await oidc.sign_out(later, here, provider, token, about)
    return problem_response(refused) if refused else Response(status_code=200)
