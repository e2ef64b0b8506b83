"""Device cookies: what they say, and to whom."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.auth.service import devices
from services.auth.vault import Vault

SAFE = Vault(bytes(range(32)))
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA, BOB = UUID(int=1), UUID(int=2)


@given(st.binary(min_size=32, max_size=32) | st.none(), st.integers(0, 180 * 24 * 3600))
def test_a_cookie_says_what_it_was_made_with_for_180_days(login: bytes | None, age: int) -> None:
    known = devices.device(SAFE, devices.cookie(SAFE, ADA, NOW - timedelta(seconds=age), login), NOW)
    assert known is not None
    assert (known.user_id, known.login, len(known.nonce)) == (ADA, login, 32)
    assert devices.device(SAFE, devices.cookie(SAFE, ADA, NOW - timedelta(days=180, seconds=1), login), NOW) is None


@given(st.text(max_size=200), st.integers(0, 10**6))
def test_nothing_else_is_a_cookie(words: str, place: int) -> None:
    made = devices.cookie(SAFE, ADA, NOW, SAFE.blind("ada"))
    place %= len(made) - 1  # the last character holds bits that count for nothing
    other = made[:place] + ("A" if made[place] != "A" else "B") + made[place + 1 :]
    for shown in (words, other, made[:-4], "", None, SAFE.carry("oidc-pending", b"{}")):
        assert devices.device(SAFE, shown, NOW) is None
    assert devices.device(Vault(bytes(32)), made, NOW) is None


def test_no_two_cookies_share_a_count() -> None:
    made = [devices.cookie(SAFE, ADA, NOW) for _ in range(100)]
    assert len({known.nonce for each in made if (known := devices.device(SAFE, each, NOW))}) == 100


def test_the_name_that_only_the_directory_knew_stays_for_its_own_person_until_another_one_is_typed() -> None:
    def login(shown: str) -> bytes | None:
        known = devices.device(SAFE, shown, NOW)
        assert known is not None
        return known.login

    typed = devices.renewed(SAFE, None, ADA, NOW, "ada")
    assert login(typed) == SAFE.blind("ada")
    assert login(devices.renewed(SAFE, typed, ADA, NOW, None)) == SAFE.blind("ada")
    assert login(devices.renewed(SAFE, typed, ADA, NOW, "ada@hospital")) == SAFE.blind("ada@hospital")
    assert login(devices.renewed(SAFE, typed, BOB, NOW, None)) is None
    assert login(devices.renewed(SAFE, None, ADA, NOW, None)) is None
