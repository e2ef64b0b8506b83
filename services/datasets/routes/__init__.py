"""The doors of datasets, by what they are about."""

from fastapi import APIRouter

from services.datasets.routes import datasets, files, runs, shares

router = APIRouter()
for part in (datasets, files, shares, runs):
    router.include_router(part.router)
