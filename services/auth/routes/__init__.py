"""The doors of auth, by what they are about."""

from fastapi import APIRouter

from services.auth.routes import accounts, sessions

router = APIRouter()
for part in (accounts, sessions):
    router.include_router(part.router)
