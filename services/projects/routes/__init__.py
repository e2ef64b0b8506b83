"""The doors of projects, by what they are about."""

from fastapi import APIRouter

from services.projects.routes import activity, break_glass, invitations, projects

router = APIRouter()
for part in (invitations, activity, break_glass, projects):
    router.include_router(part.router)
