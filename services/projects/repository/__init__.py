"""All the SQL of projects, by what it is about. Reads of memberships name their project."""

from services.projects.repository import group_roles, projects

__all__ = ["group_roles", "projects"]
