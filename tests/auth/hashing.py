"""Hashes of passwords in tests: older ones, and what each one costs."""

from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters

from services.auth import vault
from services.auth.vault import Passwords

COST = vault.PASSES * vault.MEMORY_KIB


def older(password: str, passes: int = 1, memory_kib: int = 1024) -> str:
    """A hash with parameters of an earlier release."""
    return PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1).hash(password)


def counted(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cost of every hash from here on: passes times KiB of memory, in order."""
    spent: list[int] = []

    class Counted(PasswordHasher):
        def hash(self, *what: Any, **more: Any) -> str:
            spent.append(self.time_cost * self.memory_cost)
            return super().hash(*what, **more)

        def verify(self, stored: str | bytes, password: str | bytes) -> Any:
            parameters = extract_parameters(str(stored))
            spent.append(parameters.time_cost * parameters.memory_cost)
            return super().verify(stored, password)

    monkeypatch.setattr(vault, "PasswordHasher", Counted)
    monkeypatch.setattr(passwords, "_hasher", Counted(time_cost=vault.PASSES, memory_cost=vault.MEMORY_KIB, parallelism=vault.LANES))
    return spent
