"""A suite whose certificates live for less than a minute is used for longer than that, and one that was off until all had ended starts."""

import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from chassis import pairs, tls
from compose.local import operators
from compose.local.home import Home
from compose.local.suite import RUNNER, Suite
from contracts.policy import Service
from hortus.client import Client, Memory, new_key, write_private
from tests.e2e.scene import Scene, Watch, until, watching

pytestmark = pytest.mark.timeout(400)

LIFE = timedelta(seconds=24)
RENEWALS = 2
LOOK_SECONDS = 0.25
ENDED = timedelta(seconds=-30)
BUSY = {
    (503, "cannot-decide"),
    (503, "answer-held-back"),
}  # a machine with too much to do may know nothing fresh for a moment, which is no certificate's fault
OWN = ("auth-1", "projects-1", "ca-1", "gateway-1")


@pytest.fixture
def short() -> Iterator[Scene]:
    home = Home.temporary()
    suite = Suite(
        home, services=(Service.AUTH, Service.PROJECTS, Service.CA), agent=False, fsync=False, certificate_life=LIFE, respawn=False
    )
    scene: Scene | None = None
    try:
        suite.start()
        scene = Scene(suite)
        yield scene
    finally:
        if scene is not None:
            scene.close()
        suite.stop()
        home.erase()


class Looks:
    """Which certificates every listener has shown so far, seen from outside."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.shown: dict[str, dict[int, datetime]] = {name: {} for name in (*OWN, "kafka")}

    def look(self) -> None:
        """Look once at each listener."""
        runner = tls.client_context(self.suite.home.tls_folder(RUNNER))
        for name, seen in self.shown.items():
            port = self.suite.kafka.port if name == "kafka" else self.suite._port(name)
            with (
                socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
                runner.wrap_socket(plain, server_hostname="localhost") as channel,
            ):
                leaf = x509.load_der_x509_certificate(channel.getpeercert(binary_form=True) or b"")
            seen[leaf.serial_number] = leaf.not_valid_after_utc

    def enough(self) -> bool:
        """Whether each listener has shown a certificate that followed on one that followed on another, and the first ones have ended."""
        time.sleep(LOOK_SECONDS)
        self.look()
        over = datetime.now(UTC)
        return all(len(seen) > RENEWALS and min(seen.values()) < over for seen in self.shown.values())


def renewed_at_ca(suite: Suite) -> dict[str, int]:
    """How often ca has renewed a certificate, by service."""
    said = suite.postgres.run_sql("SELECT service || '=' || count(*) FROM service_certificates WHERE state = 'live' GROUP BY service", "ca")
    return {name: int(count) for name, _, count in (line.partition("=") for line in said.split())}


def seconds_left(suite: Suite, name: str) -> float:
    _, text = operators.ask(suite._port(name), "/metrics", suite.home.tls_folder(RUNNER))
    return next(float(line.split()[1]) for line in text.decode().splitlines() if line.startswith("hortus_certificate_seconds_left "))


def shows_its_newest(suite: Suite) -> bool:
    """Whether the broker shows the certificate in its folder; one that is renewed just now is shown a moment later."""
    looks = Looks(suite)
    looks.look()
    return list(looks.shown["kafka"]) == [pairs.leaf(suite.kafka.tls).serial_number]


def certified(scene: Scene, project: str, folder: Path) -> Client:
    """A connection that shows a project certificate of the owner."""
    pair = new_key("wish")
    ordered = scene.owner.at(0).certificates.create(project, pair.csr)
    write_private(folder / "key.pem", pair.key)
    write_private(folder / "chain.pem", ordered["chain"].encode())
    suite = scene.suite
    return Client(
        suite.certificate_addresses[0], suite.root, certificate=(folder / "chain.pem", folder / "key.pem"), memory=Memory(), attempts=1
    )


def test_a_suite_outlives_its_certificates_twice_without_a_failed_request_and_starts_after_all_have_ended(
    short: Scene, tmp_path: Path
) -> None:
    suite, owner, project = short.suite, short.owner, short.study()
    with certified(short, project, tmp_path) as machine:
        watches = [
            Watch("reads", owner.eager(0), lambda client: client.projects.get(project)),
            Watch("writes", owner.eager(0), lambda client: client.projects.create(f"made_{secrets.token_hex(8)}")),
            Watch("reads with a certificate", machine, lambda client: client.projects.get(project)),
        ]
        looks = Looks(suite)
        with watching(*watches):
            until(looks.enough, "every part shows a third certificate", 180)
            moment = time.time()
            for watch in watches:
                watch.allowed_within(moment)
    for watch in watches:
        assert {(seen.status, seen.slug) for seen in watch.seen if not seen.allowed} <= BUSY, watch.name
        assert len(watch.seen) > 20, watch.name
    short.until_ready()
    counts = renewed_at_ca(suite)
    assert {name for name, count in counts.items() if count >= 1} == {"auth", "projects", "ca", "gateway"}
    assert all(0 < seconds_left(suite, name) <= LIFE.total_seconds() for name in OWN)
    until(lambda: all(len(list(suite.home.tls_folder(name).glob("pair-*"))) <= 2 for name in OWN), "older pairs are removed")
    _starts_though_everything_has_ended(short)


def _starts_though_everything_has_ended(scene: Scene) -> None:
    suite = scene.suite
    suite.stop()
    for name in (*OWN, RUNNER, "admin"):
        suite.pki.issue_service_certificate(name.partition("-")[0], suite.home.tls_folder(name), lifetime=ENDED)
        assert pairs.life_of(pairs.leaf(suite.home.tls_folder(name))).ends_at < datetime.now(UTC)
    key, chain = suite.pki.certify_service("broker", lifetime=ENDED)
    for file, content in (("broker.pem", key + chain), ("cert.pem", chain)):
        (suite.kafka.tls / file).write_bytes(content)
    suite.start()
    scene.until_ready()
    assert scene.owner.fresh(0).projects.list()
    until(lambda: shows_its_newest(suite), "a broker that was told of a newer certificate shows its newest", LIFE.total_seconds() / 4)
