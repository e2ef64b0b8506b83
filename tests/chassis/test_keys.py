"""API keys as text: what is made can be read again, what differs in one letter cannot."""

import hashlib
import time
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from chassis.keys import new_key, read_key

KEY_ID = UUID("019ab0c1-d2e3-7f45-a789-0123456789ab")
SECRET = "A" * 42 + "_"
TEXT = f"hortus_019ab0c1d2e37f45a7890123456789ab_{SECRET}"


def test_a_key_says_its_id_and_the_hash_of_its_secret() -> None:
    shown = read_key(TEXT)
    assert shown is not None
    assert (shown.key_id, shown.secret_sha256) == (KEY_ID, hashlib.sha256(SECRET.encode()).hexdigest())


def test_each_new_key_has_a_secret_of_its_own_that_can_be_read_again() -> None:
    key_id = uuid7()
    made = {new_key(key_id) for _ in range(50)}
    shown = [read_key(text) for text in made]
    assert len({key.secret_sha256 for key in shown if key}) == 50
    assert {key.key_id for key in shown if key} == {key_id}


def test_a_key_tells_when_it_was_made() -> None:
    shown = read_key(new_key(uuid7()))
    assert shown is not None
    assert abs(shown.made_at - time.time()) < 5


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "hortus_",
        TEXT[:-1],
        TEXT + "A",
        TEXT + "\n",
        " " + TEXT,
        TEXT.upper(),
        TEXT.replace("_", "-"),
        TEXT.replace("019ab0c1d2e3", "019AB0C1D2E3"),
        TEXT.replace("019ab0c1", "019ab0c1-"),
        TEXT[:-1] + "=",
        TEXT[:-1] + "é",
        TEXT.replace("hortus", "hortu\u017f"),
        f"hortus_{uuid4().hex}_{SECRET}",
        f"hortus_{KEY_ID}_{SECRET}",
    ],
)
def test_what_has_another_form_is_no_key(damaged: str) -> None:
    assert read_key(damaged) is None


@given(st.text(max_size=120))
def test_any_text_can_be_asked_about(text: str) -> None:
    assert read_key(text) is None
