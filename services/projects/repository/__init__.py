"""All the SQL of projects, by what it is about. Reads of memberships name their project."""

from services.projects.repository import activity, break_glass, deletion, group_roles, invitations, lifecycle, projects

__all__ = ["activity", "break_glass", "deletion", "group_roles", "invitations", "lifecycle", "projects"]
