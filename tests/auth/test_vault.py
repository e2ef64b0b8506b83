import asyncio
import base64
import stat
from pathlib import Path
from uuid import UUID

import pytest

from chassis import tokens
from chassis.errors import CannotDecide
from services.auth import vault
from services.auth.vault import BadMasterKey, Passwords, Vault
from tests.auth.hashing import COST, counted, older

KEY = bytes(range(32))
ADA = UUID(int=1)
EVE = UUID(int=2)


def test_a_second_factor_opens_for_its_own_account_alone() -> None:
    safe = Vault(KEY)
    sealed = safe.seal_totp("JBSWY3DP", ADA)
    assert b"JBSWY3DP" not in sealed
    assert safe.open_totp(sealed, ADA) == "JBSWY3DP"
    with pytest.raises(BadMasterKey):
        safe.open_totp(sealed, EVE)


def test_nothing_opens_with_another_master_key_or_after_a_change() -> None:
    sealed = Vault(KEY).seal_totp("JBSWY3DP", ADA)
    with pytest.raises(BadMasterKey):
        Vault(bytes(32)).open_totp(sealed, ADA)
    with pytest.raises(BadMasterKey):
        Vault(KEY).open_totp(sealed[:-1] + bytes([sealed[-1] ^ 1]), ADA)
    with pytest.raises(BadMasterKey):
        Vault(KEY).open_totp(b"\x02" + sealed[1:], ADA)


def test_two_seals_of_one_secret_differ() -> None:
    safe = Vault(KEY)
    assert safe.seal_totp("JBSWY3DP", ADA) != safe.seal_totp("JBSWY3DP", ADA)


def test_a_sealed_signing_key_fits_its_public_half() -> None:
    safe = Vault(KEY)
    sealed, public = safe.new_signing_key("k1")
    private = safe.signing_key("k1", sealed).to_dict()
    assert "d" not in public
    assert (private["x"], private["y"]) == (public["x"], public["y"])
    assert private["d"].encode() not in sealed
    assert public["alg"] == tokens.ALGORITHM
    with pytest.raises(BadMasterKey):
        safe.signing_key("k2", sealed)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", base64.urlsafe_b64encode(bytes(31)).decode(), "é"])
def test_a_bad_master_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(BadMasterKey) as refused:
        vault.read_master_key(path)
    assert not text or text not in str(refused.value)


def test_a_missing_master_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadMasterKey):
        vault.read_master_key(tmp_path / "none")


@pytest.mark.parametrize("padding", ["", "="])
def test_a_master_key_is_read_with_and_without_padding(tmp_path: Path, padding: str) -> None:
    path = tmp_path / "key"
    path.write_text(base64.urlsafe_b64encode(KEY).rstrip(b"=").decode() + padding + "\n")
    assert vault.read_master_key(path) == KEY


async def test_a_password_is_hashed_with_argon2id_at_the_cost_that_is_promised() -> None:
    passwords = Passwords(threads=1)
    hashed = await passwords.hash("correct horse battery")
    passwords.close()
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_a_right_password_with_other_parameters_is_told_apart() -> None:
    passwords = Passwords(threads=1)
    old = older("correct horse battery")
    new = await passwords.hash("correct horse battery")
    assert await passwords.check("correct horse battery", old) == (True, True)
    assert await passwords.check("correct horse battery", new) == (True, False)
    assert await passwords.check("wrong horse battery", old) == (False, False)
    assert await passwords.check("wrong horse battery", new) == (False, False)
    passwords.close()


@pytest.mark.parametrize("older_costs", [(1, 8), (1, 1024), (1, 19456), (2, 9728), (2, 19448), (4, 9728), (1, 38912), (2, 19456)])
async def test_a_check_costs_what_a_hash_costs_now_whatever_is_stored(
    monkeypatch: pytest.MonkeyPatch, older_costs: tuple[int, int]
) -> None:
    passwords = Passwords(threads=1)
    spent = counted(passwords, monkeypatch)
    found = []
    for stored in (older("correct horse battery", *older_costs), None, "", "$argon2id$v=19$m=1"):
        for password in ("correct horse battery", "wrong horse battery"):
            spent.clear()
            await passwords.check(password, stored)
            found.append(sum(spent))
    passwords.close()
    assert found == [COST] * 8


async def test_a_dearer_hash_than_now_is_checked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(threads=1)
    spent = counted(passwords, monkeypatch)
    assert await passwords.check("correct horse battery", older("correct horse battery", 3, 19456)) == (True, True)
    passwords.close()
    assert spent == [3 * 19456]


@pytest.mark.parametrize("stored", [None, "", "garbage", "$argon2id$v=19$m=1"])
async def test_no_password_fits_a_missing_or_broken_hash(stored: str | None) -> None:
    passwords = Passwords(threads=1)
    assert await passwords.check("anything at all", stored) == (False, False)
    passwords.close()


async def test_too_many_at_once_are_asked_to_come_back() -> None:
    passwords = Passwords(threads=1, waiting=2)
    answers = await asyncio.gather(*[passwords.check("x", None) for _ in range(6)], return_exceptions=True)
    passwords.close()
    assert [isinstance(answer, CannotDecide) for answer in answers] == [False] * 3 + [True] * 3
    assert passwords._room == 3


async def test_one_source_that_asks_without_end_leaves_room_for_the_others() -> None:
    passwords = Passwords(threads=1, waiting=64)
    flood = [asyncio.create_task(passwords.check("x", None, "192.0.2.66/32")) for _ in range(100)]
    others = [asyncio.create_task(passwords.check("x", None, f"192.0.2.{number}/32")) for number in range(10)]
    answers = await asyncio.gather(*flood, *others, return_exceptions=True)
    passwords.close()
    assert [isinstance(answer, CannotDecide) for answer in answers] == [False] * 8 + [True] * 92 + [False] * 10
    assert (passwords._room, passwords._of_source) == (65, {})


def test_a_name_is_hashed_with_a_key() -> None:
    assert Vault(KEY).blind("ada") == Vault(KEY).blind("ada")
    assert Vault(KEY).blind("ada") != Vault(bytes(32)).blind("ada")
    assert Vault(KEY).blind("ada") != Vault(KEY).blind("eve")


def test_a_kept_token_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "setup"
    vault.keep_token(path, "t0ken")
    assert path.read_text() == "t0ken\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert vault.kept_token(path) == "t0ken"
    vault.keep_token(path, "another")
    assert [each.name for each in tmp_path.iterdir()] == ["setup"]
    vault.forget_token(path)
    vault.forget_token(path)
    assert vault.kept_token(path) is None


def test_one_time_tokens_are_long_and_never_the_same() -> None:
    made = {vault.new_token() for _ in range(100)}
    assert len(made) == 100
    assert {len(each.removeprefix("invitation_")) for each in made} == {43}  # 256 bits, and a word that no option begins with


def test_a_new_second_factor_has_160_bits() -> None:
    assert len(base64.b32decode(vault.new_totp_secret())) == 20


def test_what_a_browser_carries_opens_only_for_its_purpose_and_only_unchanged() -> None:
    safe = Vault(KEY)
    value = safe.carry("flow", b"content")
    assert safe.carried("flow", value) == b"content"
    assert b"content" not in value.encode()
    for other in (value[:-4] + "AAAA", value[4:], "", "not base64url!", "é", "A" * 5):
        assert safe.carried("flow", other) is None
    assert safe.carried("pending", value) is None
    assert Vault(KEY[::-1]).carried("flow", value) is None
