"""The doors of auth, by what they are about."""

from fastapi import APIRouter

from services.auth.routes import accounts, client_codes, factors, groups, keys, oidc, pages, passwords, registrations, sessions, signing

router = APIRouter()
for part in (accounts, client_codes, factors, groups, keys, oidc, pages, passwords, registrations, sessions, signing):
    router.include_router(part.router)
router.include_router(oidc.browsers)
