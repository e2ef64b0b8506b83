"""The settings of projects: who founds them, and how people come in."""

from typing import Literal, Self

from pydantic import Field, model_validator

from chassis.settings import Settings

HOUR = 3600
DAY = 24 * HOUR
YEAR = 366 * DAY


class ProjectsSettings(Settings):
    """What projects is told beside what every service is told. Times are seconds.

    ``project_creator_groups``: the people of these may create projects, too, where not everybody may. ``direct_add``: whether Data
    Owners make people members without their acceptance. ``invitation_s``: how long an invitation can be accepted. ``break_glass_s`` and
    ``break_glass_max_s``: how long a break-glass lasts, unasked and at most. ``review_s``: how long after its end its review may take.
    """

    project_creators: Literal["everybody", "administrators"] = "everybody"
    project_creator_groups: frozenset[str] = frozenset()
    direct_add: bool = True
    invitation_s: int = Field(default=14 * DAY, ge=60, le=YEAR)
    break_glass_s: int = Field(default=HOUR, ge=1, le=30 * DAY)
    break_glass_max_s: int = Field(default=DAY, ge=1, le=30 * DAY)
    review_s: int = Field(default=72 * HOUR, ge=1, le=YEAR)

    @model_validator(mode="after")
    def _usual_is_allowed(self) -> Self:
        if self.break_glass_s > self.break_glass_max_s:
            raise ValueError("HORTUS_BREAK_GLASS_S is longer than HORTUS_BREAK_GLASS_MAX_S")
        return self
