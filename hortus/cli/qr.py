"""The QR code that Hortus draws for an authenticator, in characters: two modules in each, dark on light."""

import re

from rich.text import Text

QUIET = 2
LARGEST = 177
_PATH = re.compile(r'\bd="([Mmhv0-9.\- ]+)"')
_STEP = re.compile(r"([Mmh])(-?\d+(?:\.\d+)?)(?: ?(-?\d+(?:\.\d+)?))?")


def drawn(svg: str) -> Text | None:
    """The picture; None where the SVG is not one of rows of strokes, as QR codes are drawn."""
    dark = _modules(svg)
    if not dark:
        return None
    left, top = min(x for x, _ in dark), min(y for _, y in dark)
    size = max(max(x for x, _ in dark) - left, max(y for _, y in dark) - top) + 1
    if size > LARGEST:
        return None
    picture = Text(style="black on white", no_wrap=True)
    for y in range(-QUIET, size + QUIET, 2):
        for x in range(-QUIET, size + QUIET):
            upper, lower = ((left + x, top + row) in dark for row in (y, y + 1))
            picture.append("█" if upper and lower else "▀" if upper else "▄" if lower else " ")
        picture.append("\n")
    picture.right_crop(1)
    return picture


def width(picture: Text) -> int:
    """The columns that a picture takes."""
    return picture.plain.find("\n")


def _modules(svg: str) -> set[tuple[int, int]]:
    """The dark modules: strokes of width 1 along the middles of rows."""
    path = _PATH.search(svg[:200_000])
    found: set[tuple[int, int]] = set()
    x = y = 0.0
    for command, first, second in _STEP.findall(path[1] if path else ""):
        if command == "h":
            if not 0 < float(first) <= LARGEST:
                return set()
            found.update((int(x) + step, int(y)) for step in range(int(float(first))))
            x += float(first)
        elif command == "M":
            x, y = float(first), float(second or 0)
        else:
            x, y = x + float(first), y + float(second or 0)
    return found
