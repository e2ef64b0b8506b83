"""What the doors of auth take beside their body: the tools of the use cases, and what a request says about itself."""

from typing import Annotated

from fastapi import Depends, Request

from chassis.app import Runtime
from services.auth import domain
from services.auth.routes import cookies
from services.auth.service.tools import About, Tools

SOURCE_HEADER = "Hortus-Source"


async def _tools(request: Request) -> Tools:
    runtime: Runtime = request.app.state.runtime
    tools: Tools = runtime.extra["tools"]
    return tools


async def _about(request: Request) -> About:
    return About(
        client=domain.sessions.shown_client(request.headers.get("User-Agent", "")),
        source=domain.sessions.shown_source(request.headers.get(SOURCE_HEADER, "")),
        device=request.cookies.get(cookies.DEVICE),
    )


Here = Annotated[Tools, Depends(_tools)]
AboutRequest = Annotated[About, Depends(_about)]
