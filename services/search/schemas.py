"""Response shapes."""

from typing import Literal

from pydantic import BaseModel

from chassis.pages import Page


class HitView(BaseModel):
    """One thing found. ``highlight``: by field, HTML-escaped text with the words found in ``<em>``."""

    kind: Literal["datasets", "jobs"]
    id: str
    project_id: str
    name: str
    description: str
    score: float
    highlight: dict[str, list[str]]


class HitPage(Page[HitView]):
    """A page of what was found; ``total`` counts all that the caller can find by this query."""

    total: int
