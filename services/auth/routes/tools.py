"""What the doors of auth take beside their body: the tools of the use cases."""

from typing import Annotated

from fastapi import Depends, Request

from chassis.app import Runtime
from services.auth.service.tools import Tools


def _tools(request: Request) -> Tools:
    runtime: Runtime = request.app.state.runtime
    tools: Tools = runtime.extra["tools"]
    return tools


Here = Annotated[Tools, Depends(_tools)]
