"""The doors of auth, by what they are about."""

from fastapi import APIRouter

from services.auth.routes import accounts, factors, groups, keys, sessions

router = APIRouter()
for part in (accounts, factors, groups, keys, sessions):
    router.include_router(part.router)
