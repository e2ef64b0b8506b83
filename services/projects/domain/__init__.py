"""The rules of projects, by what they are about: pure, with the time and the ids passed in."""

from services.projects.domain import deletion, group_roles, lifecycle, projects

__all__ = ["deletion", "group_roles", "lifecycle", "projects"]
