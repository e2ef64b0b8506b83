"""The rules of projects, by what they are about: pure, with the time and the ids passed in."""

from services.projects.domain import activity, bounds, break_glass, deletion, group_roles, invitations, lifecycle, projects

__all__ = ["activity", "bounds", "break_glass", "deletion", "group_roles", "invitations", "lifecycle", "projects"]
