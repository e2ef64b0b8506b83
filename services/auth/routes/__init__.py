"""The doors of auth, by what they are about."""

from fastapi import APIRouter

from services.auth.routes import accounts, factors, keys, sessions

router = APIRouter()
for part in (accounts, factors, keys, sessions):
    router.include_router(part.router)
