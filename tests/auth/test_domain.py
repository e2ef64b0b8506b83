from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth import domain
from services.auth.models import Invitation, SigningKey, User

NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
ADA = UUID(int=1)
EVE = UUID(int=2)
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ADMINISTRATOR = frozenset({ClusterRole.ADMINISTRATOR})


def user(status: UserStatus = UserStatus.ACTIVE, roles: frozenset[ClusterRole] = frozenset(), *, confirmed: bool = True) -> User:
    made, _ = domain.accounts.invite(ADA, "ada00000", "ada@example.org", roles, b"h", NOW)
    made.status = status.value
    made.confirmed_at = NOW if confirmed else None
    return made


def invitation(**values: object) -> Invitation:
    _, made = domain.accounts.invite(ADA, "ada00000", "ada@example.org", frozenset(), b"h", NOW)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def code(offset: int = 0) -> str:
    return pyotp.TOTP(SECRET).at(int(NOW.timestamp()) + 30 * offset)


STEP = int(NOW.timestamp()) // 30


# Addresses


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("\uff41\uff44\uff41@example.org", "ada@example.org"),
        ("STRASSE@x.de", "strasse@x.de"),
        ("straße@x.de", "strasse@x.de"),
        ("a.b+c@sub.example.org", "a.b+c@sub.example.org"),
        ("root@localhost", "root@localhost"),
        ("müller@klinik.example", "müller@klinik.example"),
    ],
)
def test_an_address_has_one_form(typed: str, normal: str) -> None:
    assert domain.accounts.normal_email(typed) == normal


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "@",
        "ada",
        "ada@",
        "@example.org",
        "a@b@c",
        "a b@x.org",
        "a\u0000b@x.org",
        "a\u200bb@x.org",
        "a\u202eb@x.org",
        "a\nb@x.org",
        ".a@x.org",
        "a.@x.org",
        "a..b@x.org",
        "a@-x.org",
        "a@x-.org",
        "a@x..org",
        "a@x.org.",
        "a@x org",
        "a@[127.0.0.1]",
        '"a"@x.org',
        "x" * 65 + "@x.org",
        "a@" + "x" * 64 + ".org",
        "a@" + ".".join(["xxxxxxxxx"] * 26),
    ],
)
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(domain.accounts.BadEmail):
        domain.accounts.normal_email(typed)


@given(st.text(max_size=400))
def test_any_text_is_an_address_in_normal_form_or_refused(typed: str) -> None:
    try:
        normal = domain.accounts.normal_email(typed)
    except domain.accounts.BadEmail:
        return
    assert domain.accounts.normal_email(normal) == normal
    assert len(normal) <= 254
    assert normal.count("@") == 1


# Usernames


@pytest.mark.parametrize(
    ("email", "expected"),
    [
        ("ada@x.org", ["ada00000", "ada00001", "ada00002"]),
        ("ada.lovelace@x.org", ["adalovel", "adalove1", "adalove2"]),
        ("élodie@x.org", ["elodie00", "elodie01", "elodie02"]),
        ("李@x.org", ["00000000", "00000001", "00000002"]),
        ("a-b_c+d@x.org", ["abcd0000", "abcd0001", "abcd0002"]),
    ],
)
def test_a_username_comes_from_the_local_part(email: str, expected: list[str]) -> None:
    assert list(islice(domain.accounts.usernames(email), 3)) == expected


def test_a_clash_beyond_nine_takes_one_character_more() -> None:
    names = list(islice(domain.accounts.usernames("adalovelace@x.org"), 112))
    assert names[9:12] == ["adalove9", "adalov10", "adalov11"]
    assert names[111] == "adalo111"


@given(st.text(min_size=1, max_size=80))
def test_every_username_is_eight_lower_case_ascii_alphanumerics(local: str) -> None:
    for name in islice(domain.accounts.usernames(local + "@x.org"), 120):
        assert len(name) == 8
        assert name.isascii()
        assert name.isalnum()
        assert name == name.lower()


@given(st.text(max_size=20))
def test_the_usernames_of_an_address_never_run_out_early(local: str) -> None:
    assert len(set(islice(domain.accounts.usernames(local + "@x"), 400))) >= 200


# One-time codes


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_code_of_the_step_before_now_or_after_is_right(offset: int) -> None:
    assert domain.factors.matching_step(SECRET, code(offset), NOW, last_step=-1) == STEP + offset


@pytest.mark.parametrize("offset", [-20, -2, 2, 20])
def test_a_code_from_further_away_is_wrong(offset: int) -> None:
    assert domain.factors.matching_step(SECRET, code(offset), NOW, last_step=-1) is None


@pytest.mark.parametrize("last", [0, 1, 5])
def test_a_step_that_was_used_or_passed_is_refused(last: int) -> None:
    assert domain.factors.matching_step(SECRET, code(), NOW, last_step=STEP + last) is None


def test_the_next_step_is_still_open_after_the_last_one() -> None:
    assert domain.factors.matching_step(SECRET, code(1), NOW, last_step=STEP) == STEP + 1


@given(st.text(alphabet="0123456789", min_size=6, max_size=6), st.integers(-1, 2**40))
def test_no_code_ever_gives_a_step_that_was_passed(typed: str, last: int) -> None:
    step = domain.factors.matching_step(SECRET, typed, NOW, last)
    assert step is None or (step > last and abs(step - STEP) <= 1)


def test_the_code_is_that_of_rfc_6238() -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    at = datetime.fromtimestamp(1111111109, UTC)
    assert domain.factors.matching_step(secret, "081804", at, last_step=-1) == 1111111109 // 30


def test_the_address_for_authenticators_names_issuer_and_person() -> None:
    uri = domain.factors.totp_uri(SECRET, "ada00000")
    assert uri.startswith("otpauth://totp/Hortus:ada00000?")
    assert f"secret={SECRET}" in uri


# Invitations


def test_an_invitation_is_open_for_a_day() -> None:
    made, opened = domain.accounts.invite(ADA, "ada00000", "ada@example.org", ADMINISTRATOR, b"h", NOW)
    assert (made.status, made.version, made.cluster_roles) == ("invited", 1, ["administrator"])
    assert opened.expires_at == NOW + timedelta(hours=24)


@pytest.mark.parametrize(
    ("found", "account", "later"),
    [
        (None, None, 0),
        (invitation(), None, 0),
        (invitation(), user(UserStatus.INVITED), 24),
        (invitation(), user(UserStatus.BLOCKED), 0),
        (invitation(), user(UserStatus.ACTIVE), 0),
    ],
)
def test_an_invitation_that_is_not_open_is_refused(found: Invitation | None, account: User | None, later: int) -> None:
    with pytest.raises(domain.accounts.InvitationNotOpen):
        domain.accounts.demand_open(found, account, NOW + timedelta(hours=later))


def test_confirming_makes_the_account_active_and_uses_the_code_up() -> None:
    invited = user(UserStatus.INVITED, confirmed=False)
    made = domain.accounts.confirm(invited, invitation(password_hash="$argon2id$", totp_sealed=b"s"), STEP, NOW)
    assert (invited.status, invited.version, invited.confirmed_at) == ("active", 2, NOW)
    assert (made.user_id, made.password_hash, made.totp_sealed, made.last_step) == (ADA, "$argon2id$", b"s", STEP)


def test_confirming_before_accepting_is_refused() -> None:
    with pytest.raises(domain.accounts.NotAcceptedYet):
        domain.accounts.confirm(user(UserStatus.INVITED), invitation(), STEP, NOW)


def test_confirming_with_a_wrong_code_is_refused() -> None:
    with pytest.raises(domain.factors.WrongCode):
        domain.accounts.confirm(user(UserStatus.INVITED), invitation(password_hash="x", totp_sealed=b"s"), None, NOW)


def test_inviting_again_voids_what_was_chosen() -> None:
    again = domain.accounts.invite_again(
        user(UserStatus.INVITED), invitation(password_hash="x", totp_sealed=b"s"), frozenset(), [], b"new", NOW + timedelta(hours=30)
    )
    assert (again.token_hash, again.password_hash, again.totp_sealed) == (b"new", None, None)
    assert again.expires_at == NOW + timedelta(hours=54)


def test_inviting_again_with_other_roles_is_a_new_version() -> None:
    invited = user(UserStatus.INVITED)
    domain.accounts.invite_again(invited, invitation(), ADMINISTRATOR, [], b"new", NOW)
    assert (invited.cluster_roles, invited.version) == (["administrator"], 2)


@pytest.mark.parametrize("status", [UserStatus.ACTIVE, UserStatus.BLOCKED, UserStatus.DEACTIVATED])
def test_who_has_confirmed_is_not_invited_again(status: UserStatus) -> None:
    with pytest.raises(domain.accounts.EmailTaken):
        domain.accounts.invite_again(user(status), None, frozenset(), [], b"new", NOW)


# Accounts


@dataclass
class Case:
    before: User
    status: UserStatus | None
    roles: frozenset[ClusterRole] | None
    after: tuple[str, list[str]]


@pytest.mark.parametrize(
    "case",
    [
        Case(user(), UserStatus.BLOCKED, None, ("blocked", [])),
        Case(user(UserStatus.BLOCKED), UserStatus.ACTIVE, None, ("active", [])),
        Case(user(), None, ADMINISTRATOR, ("active", ["administrator"])),
        Case(user(roles=ADMINISTRATOR), None, frozenset({ClusterRole.AUDITOR}), ("active", ["auditor"])),
        Case(user(UserStatus.INVITED, confirmed=False), UserStatus.BLOCKED, None, ("blocked", [])),
        Case(user(UserStatus.BLOCKED, confirmed=False), UserStatus.ACTIVE, None, ("invited", [])),
    ],
)
def test_an_account_is_changed(case: Case) -> None:
    assert domain.accounts.change(case.before, case.status, case.roles, [], [ADA, EVE])
    assert (case.before.status, case.before.cluster_roles, case.before.version) == (*case.after, 2)


@pytest.mark.parametrize(("status", "roles"), [(None, None), (UserStatus.ACTIVE, None), (None, frozenset[ClusterRole]())])
def test_a_change_to_what_is_already_so_is_none(status: UserStatus | None, roles: frozenset[ClusterRole] | None) -> None:
    same = user()
    same.gone_at = NOW
    assert not domain.accounts.change(same, status, roles, [], [EVE])
    assert (same.version, same.gone_at) == (1, NOW), "whom their directory lacks is not missed anew by this"


def test_only_another_status_is_a_word_over_the_directorys() -> None:
    missed = user()
    missed.gone_at = NOW
    assert domain.accounts.change(missed, UserStatus.ACTIVE, frozenset({ClusterRole.AUDITOR}), [], [EVE])
    assert (missed.version, missed.gone_at) == (2, NOW)
    assert domain.accounts.change(missed, UserStatus.BLOCKED, None, [], [EVE])
    assert missed.version == 3
    assert missed.gone_at is None


def test_whom_a_directory_deactivated_an_administrator_deactivates_once_more_and_for_good() -> None:
    gone = user(UserStatus.DEACTIVATED)
    gone.source, gone.gone_at, gone.factor_enrolled_at = "ldap", NOW, NOW
    gone.groups = gone.directory_groups = ["staff"]
    assert domain.accounts.change(gone, UserStatus.DEACTIVATED, None, [], [EVE])
    assert (gone.status, gone.version) == ("deactivated", 2)
    assert [gone.gone_at, gone.factor_enrolled_at] == [None, None]
    assert (gone.groups, gone.directory_groups) == ([], [])
    assert not domain.accounts.change(gone, UserStatus.DEACTIVATED, None, [], [EVE])


def test_what_an_account_stopped_being_is_counted_and_said() -> None:
    def told() -> tuple[int, int]:
        fact = domain.accounts.user_fact(ada)
        return fact.stops, fact.departures

    ada = user(UserStatus.INVITED)
    assert told() == (0, 0)
    for wanted, expected in (
        (UserStatus.BLOCKED, (0, 0)),
        (UserStatus.ACTIVE, (0, 0)),
        (UserStatus.BLOCKED, (1, 0)),
        (UserStatus.ACTIVE, (1, 0)),
        (UserStatus.DEACTIVATED, (2, 1)),
    ):
        assert domain.accounts.change(ada, wanted, None, [], [EVE])
        assert told() == expected, wanted
    ada.confirmed_at = NOW
    assert domain.accounts.change(ada, UserStatus.ACTIVE, frozenset({ClusterRole.ADMINISTRATOR}), [], [EVE])
    domain.accounts.recover(ada, [], make_administrator=False)
    assert told() == (3, 1)


def test_an_account_is_not_made_active_by_somebody_else() -> None:
    with pytest.raises(domain.status.NotConfirmedYet):
        domain.accounts.change(user(UserStatus.INVITED, confirmed=False), UserStatus.ACTIVE, None, [], [EVE])


@pytest.mark.parametrize(
    ("status", "roles"),
    [(UserStatus.BLOCKED, None), (None, frozenset[ClusterRole]()), (None, frozenset({ClusterRole.AUDITOR}))],
)
def test_the_last_administrator_stays(status: UserStatus | None, roles: frozenset[ClusterRole] | None) -> None:
    last = user(roles=ADMINISTRATOR)
    with pytest.raises(domain.accounts.LastAdministratorStays):
        domain.accounts.change(last, status, roles, [], [ADA])
    assert (last.status, last.cluster_roles, last.version) == ("active", ["administrator"], 1)


def test_one_of_two_administrators_can_go() -> None:
    assert domain.accounts.change(user(roles=ADMINISTRATOR), UserStatus.BLOCKED, None, [], [ADA, EVE])


def test_the_last_administrator_can_take_another_role_as_well() -> None:
    assert domain.accounts.change(user(roles=ADMINISTRATOR), None, ADMINISTRATOR | {ClusterRole.AUDITOR}, [], [ADA])


# Sessions and facts


def test_a_session_lives_for_twelve_hours() -> None:
    session = domain.sessions.sign_in(user(), EVE, "password+totp", NOW, timedelta(hours=12))
    fact = domain.sessions.session_fact(session)
    assert (fact.version, fact.live, fact.factor_at, fact.expires_at) == (1, True, NOW, NOW + timedelta(hours=12))


def test_a_session_ends_once() -> None:
    session = domain.sessions.sign_in(user(), EVE, "password+totp", NOW, timedelta(hours=12))
    assert domain.sessions.end_session(session, NOW, "signed-out")
    assert not domain.sessions.end_session(session, NOW, "signed-out")
    fact = domain.sessions.session_fact(session)
    assert (fact.version, fact.live) == (2, False)


def test_the_fact_of_an_account_names_no_address() -> None:
    assert "example.org" not in domain.accounts.user_fact(user()).model_dump_json()


def test_the_fact_of_a_key_holds_no_private_half() -> None:
    jwk = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "BB"}
    fact = domain.signing.key_fact(SigningKey(key_id="k", sealed=b"s", jwk=jwk, live=True, version=1, created_at=NOW, signs_from=NOW))
    assert set(fact.jwk) == {"kty", "crv", "x", "y"}
    assert fact.key == "k"
