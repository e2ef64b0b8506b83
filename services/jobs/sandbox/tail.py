"""The end of a program's output: everything is counted, the last bytes are kept."""

KEPT = 64 * 1024


class Tail:
    """The last 64 KiB of a stream as UTF-8 text, and where in the stream they stand.

    Offsets count bytes of the cleaned text: what is no UTF-8, and NUL, was replaced before it was counted.
    """

    def __init__(self) -> None:
        self.kept = bytearray()
        self.end = 0
        self._open = b""

    @property
    def start(self) -> int:
        """The offset of the first byte that is kept."""
        return self.end - len(self.kept)

    def add(self, data: bytes, *, last: bool = False) -> None:
        """Take in what the program wrote; a character split between two calls is put together."""
        data = self._open + data
        self._open = b"" if last else _unfinished(data)
        text = data[: len(data) - len(self._open)].decode(errors="replace").replace("\0", "\ufffd").encode()
        self.end += len(text)
        self.kept += text[-KEPT:]
        del self.kept[: max(0, len(self.kept) - KEPT)]

    def since(self, offset: int, most: int) -> tuple[int, str]:
        """Up to ``most`` bytes of text from ``offset`` on, or from where the kept part starts; returns where it starts."""
        start = max(offset, self.start)
        part = bytes(self.kept[start - self.start :])
        while part and part[0] & 0xC0 == 0x80:  # noqa: PLR2004  the cut fell into a character
            part = part[1:]
            start += 1
        part = part[:most]
        return start, part[: len(part) - len(_unfinished(part))].decode(errors="replace")


def _unfinished(data: bytes) -> bytes:
    """The bytes at the end that begin a character and do not finish it."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # noqa: PLR2004
            continue
        needs = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1  # noqa: PLR2004
        return data[-back:] if needs > back else b""
    return b""
