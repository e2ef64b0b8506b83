"""What a service erased from its topic stands in no index of the gateway."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from uuid_utils.compat import uuid7

from chassis.projection import Projection
from chassis.settings import ProcessSettings
from contracts.events import Membership, SigningKey
from contracts.roles import Role
from gateway.authority import TOPICS, Authority


def test_an_erased_membership_and_an_erased_signing_key_count_no_more(tmp_path: Path) -> None:
    projection = Projection(ProcessSettings(service="gateway", tls_dir=tmp_path, kafka="localhost:1", state_dir=tmp_path), TOPICS)
    now = datetime.now(UTC)
    membership = Membership(
        version=1,
        project_id=uuid7(),
        user_id=uuid7(),
        username="ada00000",
        role=Role.DATA_OWNER,
        purpose="study",
        starts_at=now,
        ends_at=now + timedelta(hours=1),
    )
    key = SigningKey(version=1, key_id="k", jwk={"kty": "EC"}, live=True)
    for fact in (membership, key):
        projection.knowledge.apply(fact)
    authority = Authority(projection)
    assert "k" in authority.signing_keys()
    person = str(membership.user_id)
    assert list(authority._of_person[person]) == [membership.key]
    stamp = authority._stamps[person]
    for fact in (membership, key):
        for erased in projection.erasers:
            erased(fact)
    assert authority._of_person[person] == {}
    assert authority._stamps[person] != stamp
    assert "k" not in authority.signing_keys()
