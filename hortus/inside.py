"""What a program uses inside a job: where its inputs are, where its outputs go, and its metrics. Standard library alone."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


class NotInside(RuntimeError):
    """The program does not run inside a job of Hortus."""


def _setting(name: str) -> Path:
    value = os.environ.get(name)
    if value is None:
        raise NotInside(f"{name} is not set: hortus.inputs, hortus.outputs and hortus.metric() work inside a job")
    return Path(value)


class Inputs(Mapping[str, Path]):
    """The input datasets: read-only folders by name, in the order in which the job names them.

    A dataset's id works as well as its name. Raises KeyError for a dataset that is no input of this job.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        listed: list[dict[str, str]] = json.loads((folder / "inputs.json").read_text()) if (folder / "inputs.json").exists() else []
        self._names = {entry["folder"]: entry for entry in listed}
        self._ids = {entry["dataset_id"]: entry["folder"] for entry in listed}

    def __getitem__(self, name: str) -> Path:
        """The folder of a dataset, by its name or its id."""
        wanted = self._ids.get(name, name)
        if wanted not in self._names:
            raise KeyError(f"{name} is no input of this job; its inputs are {', '.join(self._names) or 'none'}")
        return Path(self._folder, wanted)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def only(self) -> Path:
        """The folder of the only input. Raises ValueError when the job has none or several."""
        if len(self._names) != 1:
            raise ValueError(f"the job has {len(self._names)} inputs, not one")
        return self[next(iter(self._names))]


def inputs() -> Inputs:
    """The inputs of the running job. Raises NotInside."""
    return Inputs(_setting("HORTUS_INPUTS"))


def outputs() -> Path:
    """The folder whose ordinary files become the job's output dataset when the program ends with 0. Raises NotInside."""
    return _setting("HORTUS_OUTPUTS")


def metric(name: str, value: float) -> None:
    """Report a number by name; the last one of a name counts.

    Names have up to 64 letters, digits and ``_ . - /``. Raises ValueError for a number that is not finite, NotInside.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the metric {name} is {number}, no finite number")
    line = (json.dumps([str(name), number]) + "\n").encode()
    opened = os.open(_setting("HORTUS_METRICS") / "metrics", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(opened, line)
    finally:
        os.close(opened)
