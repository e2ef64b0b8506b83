"""All the SQL of projects, by what it is about. Reads of memberships name their project."""

from services.projects.repository import deletion, group_roles, lifecycle, projects

__all__ = ["deletion", "group_roles", "lifecycle", "projects"]
