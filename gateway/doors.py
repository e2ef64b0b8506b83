"""Which row of the policy a request is for: method and path, through a trie made from ``contracts.policy`` once.

A path is percent-decoded once, like the service behind will do, and matched on its decoded segments. What could be read
differently by two readers (encoded slashes, dot segments, empty segments, control characters) is no path at all. The one value
that may have encoded slashes is the last of its row, and whoever reads it takes them for slashes of the value.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from chassis.errors import NotFound, Problem
from contracts.policy import API, POLICY, SERVICE, Action, Rule

MAX_PATH = 4096
MAX_QUERY = 8192
FREE = ":path}"
_PLAIN = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_ENCODED = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"[0-9a-f]{1,40}")
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ISSUER = re.compile(r"(?:people|workloads)(?:-[1-9][0-9]{0,3})?")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{1,1022}={0,2}")
_REST = re.compile(r".*[^/]", re.DOTALL)
_FORMS = {"certificate_id": _HEX, "provider": _PROVIDER, "issuer": _ISSUER, "request": _BASE64, "path": _REST}
_ODD = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})
_SLASH = re.compile(rb"%2[Ff]")


class MalformedPath(Problem):
    """The path cannot be read in one way only."""

    status = 400
    title = "The path is malformed"


class UnknownPath(NotFound):
    """No row of the policy has this path."""

    title = "No such path"


class MethodNotAllowed(Problem):
    """The path has rows, none for this method."""

    status = 405
    title = "The path does not take this method"

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = ", ".join(sorted(allowed))


@dataclass(frozen=True)
class Door:
    """One row as the gateway serves it.

    ``names`` of the values in the path; ``ids``: those without the free text that a path may end with, so what a record may hold for ever.
    ``forms``: what each value must look like; ``project``: which one is a project.
    """

    action: Action
    rule: Rule
    names: tuple[str, ...]
    ids: tuple[str, ...]
    forms: tuple[re.Pattern[str], ...]
    project: int | None

    @property
    def takes_slashes(self) -> bool:
        """Whether slashes of its last value come percent-encoded (RFC 6960 appendix A.1)."""
        return self.forms[-1:] == (_BASE64,)


@dataclass(slots=True)
class _Node:
    fixed: dict[str, "_Node"] = field(default_factory=dict)
    one: "_Node | None" = None
    rest: dict[str, Door] = field(default_factory=dict)
    doors: dict[str, Door] = field(default_factory=dict)


class Doors:
    """The trie over all rows, except those of services among themselves: from outside, these lead nowhere."""

    def __init__(self, policy: Mapping[Action, Rule] = POLICY) -> None:
        self._root = _Node()
        for action, rule in policy.items():
            if rule.who != SERVICE:
                self._enter(action, rule)

    def _enter(self, action: Action, rule: Rule) -> None:
        node = self._root
        names: list[str] = []
        segments = (API + rule.path).split("/")[1:]
        for segment in segments:
            if not segment.startswith("{"):
                node = node.fixed.setdefault(segment, _Node())
                continue
            name, _, kind = segment.strip("{}").partition(":")
            names.append(name)
            if kind != "path":
                node.one = node.one or _Node()
                node = node.one
        project = names.index("project_id") if "project_id" in names else None
        free = rule.path.endswith(FREE)
        door = Door(action, rule, tuple(names), tuple(names[:-1] if free else names), tuple(map(_form, names)), project)
        table = node.rest if free else node.doors
        if rule.method in table:
            raise ValueError(f"two rows for {rule.method} {rule.path}")
        table[rule.method] = door

    def find(self, method: str, raw_path: bytes) -> tuple[Door, list[str]]:
        """The row for a request and the values of its path parameters, in the row's order.

        ``raw_path`` is the path as sent, without the query. Raises MalformedPath, UnknownPath or MethodNotAllowed.
        """
        table, values = self._table(segments_of(raw_path))
        if _SLASH.search(raw_path) and not (table and all(door.takes_slashes for door in table.values())):
            raise MalformedPath("The path has an encoded slash.")
        if table is None:
            raise UnknownPath
        return _chosen(table, method, values)

    def _table(self, segments: list[str]) -> tuple[dict[str, Door] | None, list[str]]:
        """The rows of a path by method, None where it has none, and the values in it."""
        values: list[str] = []
        node = self._root
        rest: tuple[dict[str, Door], list[str]] | None = None
        for number, segment in enumerate(segments):
            if node.rest:
                rest = (node.rest, [*values, "/".join(segments[number:])])
            step = node.fixed.get(segment)
            if step is None:
                if node.one is None:
                    break
                values.append(segment)
                step = node.one
            node = step
        else:
            if node.doors:
                return node.doors, values
        return rest or (None, [])


def _chosen(table: dict[str, Door], method: str, values: list[str]) -> tuple[Door, list[str]]:
    door = table.get(method)
    if door is None:
        raise MethodNotAllowed(table)
    for number, form in enumerate(door.forms):
        if not form.fullmatch(values[number]):
            raise UnknownPath
        if form is _UUID:
            values[number] = values[number].lower()
    return door, values


def _form(name: str) -> re.Pattern[str]:
    """What a value of this name must look like. Raises ValueError for a name without a rule."""
    form = _FORMS.get(name) or (_UUID if name.endswith("_id") else None)
    if form is None:
        raise ValueError(f"nothing says what {{{name}}} of a path may look like")
    return form


def segments_of(raw_path: bytes) -> list[str]:
    """The decoded segments of a path; a slash in one was encoded. Raises MalformedPath."""
    if len(raw_path) > MAX_PATH:
        raise MalformedPath("The path is longer than 4 KiB.")
    segments = raw_path.decode("ascii").split("/")[1:] if _PLAIN.fullmatch(raw_path) else _decoded(raw_path)
    if "" in segments[:-1] or "." in segments or ".." in segments:
        raise MalformedPath("The path has an empty or a dot segment.")
    return segments


def _decoded(raw_path: bytes) -> list[str]:
    if not _ENCODED.fullmatch(raw_path):
        raise MalformedPath("The path has characters that must be percent-encoded.")
    segments = []
    for part in raw_path.split(b"/")[1:]:
        try:
            segment = unquote_to_bytes(part).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedPath("The path is not UTF-8.") from error
        if "\\" in segment or any(unicodedata.category(letter) in _ODD for letter in segment):
            raise MalformedPath("The path has a control character, a backslash or an unassigned character.")
        segments.append(segment)
    return segments
