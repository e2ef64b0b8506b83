"""Names of datasets and paths of files."""

import unicodedata
from collections.abc import Collection

from chassis.errors import Conflict, Unprocessable

MAX_NAME = 100
MAX_DESCRIPTION = 2000
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class InvalidName(Unprocessable):
    """A name that cannot be shown or compared."""

    title = "The name is not valid"


class InvalidDescription(Unprocessable):
    """A description that is too long or holds control characters."""

    title = "The description is not valid"


class InvalidPath(Unprocessable):
    """A file's path that could mean another place, or two."""

    title = "The path of the file is not valid"


class NameTaken(Conflict):
    """Names are unique in a project, ignoring case."""

    title = "The project has a dataset of this name already"


def dataset_name(raw: str) -> str:
    """A dataset's name: 1 to 100 printable characters in NFC, no blanks around. Raises InvalidName."""
    name = unicodedata.normalize("NFC", raw).strip()
    if not 1 <= len(name) <= MAX_NAME:
        raise InvalidName(f"A name has 1 to {MAX_NAME} characters.")
    if not name.isprintable() or REPLACEMENT in name:
        raise InvalidName("A name has printable characters only.")
    return name


def name_key(name: str) -> str:
    """What two names are compared by: the same for names that differ in case only (Unicode caseless match, NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def description(raw: str) -> str:
    """A description: up to 2,000 characters in NFC; line breaks and tabs are its only control characters."""
    text = unicodedata.normalize("NFC", raw)
    if len(text) > MAX_DESCRIPTION:
        raise InvalidDescription(f"A description has at most {MAX_DESCRIPTION} characters.")
    if any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t" for character in text):
        raise InvalidDescription("A description holds no control characters.")
    return text


def file_path(path: str) -> str:
    """A file's path, unchanged. Raises InvalidPath unless it is relative, unambiguous and the same on every file system."""
    if not path or len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        raise InvalidPath(f"A path has 1 to {MAX_PATH_BYTES} bytes.")
    if path != unicodedata.normalize("NFC", path):
        raise InvalidPath("A path is written in Unicode normal form C.")
    if "\\" in path or REPLACEMENT in path or any(unicodedata.category(c) in ("Cc", "Cs", "Cf", "Zl", "Zp") for c in path):
        raise InvalidPath("A path holds no backslash, control or invisible characters and is valid UTF-8.")
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise InvalidPath("A path is relative, without empty segments and without . or .. in it.")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise InvalidPath(f"Each part of a path has at most {MAX_SEGMENT_BYTES} bytes.")
    return path


def output_name(wanted: str, taken: Collection[str]) -> str:
    """A name for a run's output dataset: the wanted one made valid, numbered when ``taken`` (name keys) has it."""
    printable = "".join(character for character in unicodedata.normalize("NFC", wanted) if character.isprintable())
    name = printable.replace(REPLACEMENT, "").strip()[:MAX_NAME].strip() or "output"
    number = 2
    candidate = name
    while name_key(candidate) in taken:
        ending = f" ({number})"
        candidate = name[: MAX_NAME - len(ending)] + ending
        number += 1
    return candidate
