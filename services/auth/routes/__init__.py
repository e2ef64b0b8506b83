"""The doors of auth, by what they are about."""

from fastapi import APIRouter

from services.auth.routes import accounts, keys, sessions

router = APIRouter()
for part in (accounts, keys, sessions):
    router.include_router(part.router)
