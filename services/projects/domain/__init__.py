"""The rules of projects, by what they are about: pure, with the time and the ids passed in."""

from services.projects.domain import group_roles, projects

__all__ = ["group_roles", "projects"]
