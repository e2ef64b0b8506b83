"""One-time tokens are typed on command lines."""

from services.auth.vault import new_token


def test_a_one_time_token_is_never_taken_for_an_option() -> None:
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    assert all(token.startswith("invitation_") and len(token) >= 54 for token in tokens)
