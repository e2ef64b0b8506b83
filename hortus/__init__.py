"""Hortus for people and programs: ``hortus.client`` and the command outside, inputs, outputs and metrics inside a job.

Importing this needs the standard library alone, because programs do it inside a job; the rest is found when it is named.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hortus.inside import metric

if TYPE_CHECKING:
    from hortus.inside import Inputs

    inputs: Inputs
    outputs: Path

__all__ = ["inputs", "metric", "outputs"]


def __getattr__(name: str) -> Any:
    """Find ``hortus.inputs`` and ``hortus.outputs`` when a program first asks for them."""
    if name in ("inputs", "outputs"):
        from hortus import inside  # noqa: PLC0415  the settings of a job are read when they are needed

        return getattr(inside, name)()
    raise AttributeError(f"module 'hortus' has no attribute {name!r}")
