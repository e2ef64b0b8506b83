"""What several doors of projects share: the settings of the process, and how a membership is shown."""

from typing import Annotated

from fastapi import Depends, Request

from services.projects.domain.lifecycle import Creators, Founders
from services.projects.models import Membership
from services.projects.schemas.projects import MemberView
from services.projects.settings import ProjectsSettings


async def _settings(request: Request) -> ProjectsSettings:
    settings: ProjectsSettings = request.app.state.runtime.settings
    return settings


Configured = Annotated[ProjectsSettings, Depends(_settings)]


def founders(settings: ProjectsSettings) -> Founders:
    """Who may create projects here."""
    return Founders(Creators(settings.project_creators), settings.project_creator_groups)


def show_member(member: Membership) -> MemberView:
    """A membership as members see it."""
    return MemberView.model_validate(member)
