"""Every surface at two gateways and two of each service: each deed ends them all, in health and while parts fail, and all heals."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from compose.local.kafka import ADMIN
from compose.local.suite import Process
from contracts.events import CERTIFICATES, MEMBERSHIPS, SESSIONS, USERS
from contracts.surfaces import Deed, Surface
from examples.wdbc.doors import Door
from examples.wdbc.holdings import Account, Garden, Machine, Place
from examples.wdbc.probes import Held, judged, probes_of
from examples.wdbc.verdicts import Verdict
from examples.wdbc.watch import Probe, Watched, shut_out, watched_on, watching
from hortus.client import Refused
from tests.e2e.scene import PATIENCE, Scene, sleeping, until, works

pytestmark = pytest.mark.timeout(400)

AWAY_SECONDS = 4.0
ONE_TRY_SECONDS = 2.0
END_SECONDS = 3.0
HELD_SECONDS = 10.0
STALLED = (MEMBERSHIPS, USERS, SESSIONS, CERTIFICATES)
TRANSFERS = {Surface.DOWNLOAD.value, Surface.UPLOAD.value}
CLOCKS = Path(__file__).parent / "clocks"
READY_SECONDS = 60.0
UNHURRIED = 0.15  # the bench asks 20 times a second and more; here the machine may be busy
THREE_AT_ONCE = 0.4
SELDOM = 1.0  # until a deed
RARELY = 2.5  # while a server starts, which takes twice as long beside more
QUESTIONS = 3
NOT_FOUND = 404
CONDITION_FAILED = 412
HELD_BACK = "answer-held-back"
CANNOT_DECIDE = "cannot-decide"
ASKED_AT_THE_OTHER = (
    Surface.ACCESS_TOKEN,
    Surface.API_KEY,
    Surface.PROJECT_CERTIFICATE,
    Surface.OCSP,
    Surface.CRL,
    Surface.SEARCH,
    Surface.AGENT,
    Surface.DOWNLOAD,
    Surface.UPLOAD,
)


@pytest.fixture(scope="module")
def places(doubled: Scene) -> list[Place]:
    suite = doubled.suite
    return [
        Place(gateway, certificates, suite.root) for gateway, certificates in zip(suite.addresses, suite.certificate_addresses, strict=True)
    ]


@pytest.fixture(scope="module")
def planted(doubled: Scene, places: list[Place], tmp_path_factory: pytest.TempPathFactory) -> deque[Garden]:
    """Projects of an owner who stays, each with a person who holds everything in it."""
    folder = tmp_path_factory.mktemp("garden")
    administrator = doubled.administrator.at(0)
    names = [f"g{time.monotonic_ns()}-{number}@hospital.example" for number in range(1 + len(Deed))]
    invited = [str(administrator.users.create(name)["invitation"]) for name in names]
    machine = Machine(administrator, places[0], folder)
    with ThreadPoolExecutor(len(invited)) as pool:
        owner, *people = pool.map(lambda invitation: Account(places[0], invitation), invited)
        return deque(pool.map(lambda person: Garden(owner, person, machine, folder), people))


@pytest.fixture
def gardens(planted: deque[Garden]) -> dict[Deed, Garden]:
    """A garden for each deed, in turn: who was blocked needs a new one-time code, and those come slowly."""
    planted.rotate()
    return dict(zip(Deed, planted, strict=True))


def welcome(doubled: Scene, garden: Garden) -> None:
    """Give the person back what a deed took.

    A session ends, too, where the answer to a refresh was kept back for longer than the token before is taken.
    """
    administrator = doubled.administrator.fresh(0)
    known = administrator.users.get(garden.person.user_id)
    if known["status"] == "blocked":
        administrator.users.change(garden.person.user_id, status="active")
    with garden.person.client() as mine:
        signed_in = works(lambda: list(mine.sessions.list()))
    if not signed_in:
        garden.person.sign_in()
    garden.admit()


def all_welcome(doubled: Scene, gardens: Iterable[Garden]) -> None:
    """Give everybody back what the deeds took."""
    with ThreadPoolExecutor(len(Deed)) as pool:
        list(pool.map(lambda garden: welcome(doubled, garden), gardens))


@dataclass
class Ending:
    """Somebody's rights that are to end: what they hold, what asks for it, and from when on it is over (monotonic; 0 until it fell)."""

    garden: Garden
    held: Held
    probes: list[Watched]
    moment: float = 0.0


def paced(probes: Iterable[Watched], interval: float) -> None:
    """Ask every ``interval`` seconds from the next question on."""
    for probe in probes:
        if isinstance(probe, Probe):
            probe.interval = interval


def asked_since(probes: Iterable[Watched], moment: float) -> bool:
    """Whether each surface that is asked has answered some questions of later than ``moment``."""
    return all(
        sum(answer.sent > moment for answer in probe.seen.answers) >= QUESTIONS or probe.over
        for probe in probes
        if isinstance(probe, Probe)
    )


@contextmanager
def asked_everywhere(
    doubled: Scene, places: list[Place], gardens: dict[Deed, Garden]
) -> Iterator[tuple[dict[Deed, Ending], list[Watched]]]:
    """All surfaces at the first gateway, and those that a second one answers for there, of a person for each deed; all are let in."""
    all_welcome(doubled, gardens.values())
    with ThreadPoolExecutor(len(gardens)) as pool:
        holding = dict(zip(gardens, pool.map(lambda garden: garden.held(places[0]), gardens.values()), strict=True))
        list(pool.map(lambda deed: gardens[deed].queue(holding[deed]), gardens))
    ending: dict[Deed, Ending] = {}
    for deed, held in holding.items():
        there = replace(held, gateway=places[1].gateway, certificates=places[1].certificates)
        here = probes_of(held)
        assert set(here) == set(Surface), "each surface is asked"
        ending[deed] = Ending(gardens[deed], held, [*here.values(), *probes_of(there, ASKED_AT_THE_OTHER).values()])
    probes = [probe for each in ending.values() for probe in each.probes]
    paced(probes, SELDOM)
    try:
        with watching(probes):
            assert shut_out(probes, READY_SECONDS) == []
            yield ending, probes
    finally:
        for each in ending.values():
            each.garden.keep(each.held)


def stale(probes: list[Watched], moment: float) -> dict[str, int]:
    return {probe.name: found for probe in probes if (found := probe.result(moment).stale)}


def never_refused(probes: list[Watched], moment: float) -> list[str]:
    return [f"{probe.name}: {probe.last_words}" for probe in probes if probe.result(moment).refused == float("inf")]


def remove(doubled: Scene, garden: Garden, patience: float = 2 * PATIENCE) -> float:
    with garden.staying.client(patience) as owner:
        try:
            owner.members.remove(garden.project, garden.person.user_id)
        except Refused as refused:
            # It was done before, and its answer lost or kept back while nothing could be decided; so a second try meets nobody.
            if refused.slug != HELD_BACK and (refused.status != NOT_FOUND or garden.is_member(owner)):
                raise
    return time.monotonic()


def expire(doubled: Scene, garden: Garden) -> float:
    """Let the membership end in a moment; another moment for each time that nobody could decide, since nothing was done then."""
    with garden.staying.client() as patient, garden.staying.client(ONE_TRY_SECONDS) as owner:
        version = patient.members.find(garden.project, garden.person.username)["version"]
        while True:
            instant, end = time.monotonic() + END_SECONDS, datetime.now(UTC) + timedelta(seconds=END_SECONDS)
            try:
                owner.members.change(garden.project, garden.person.user_id, ends_at=end.isoformat(), version=version)
            except Refused as refused:
                if refused.slug == CANNOT_DECIDE:
                    continue
                if refused.slug != HELD_BACK:
                    raise
            break
    assert time.monotonic() < instant
    return instant


def block(doubled: Scene, garden: Garden) -> float:
    administrator = doubled.administrator.fresh(1, patience=2 * PATIENCE, attempts=60)
    try:
        administrator.users.change(garden.person.user_id, status="blocked")
    except Refused as refused:
        # It was done before, and its answer lost or kept back while nothing could be decided; so a second try meets another version.
        done = refused.slug == HELD_BACK or refused.status == CONDITION_FAILED
        if not done or administrator.users.get(garden.person.user_id)["status"] != "blocked":
            raise
    return time.monotonic()


DEEDS: dict[Deed, Callable[[Scene, Garden], float]] = {Deed.REMOVED: remove, Deed.EXPIRED: expire, Deed.BLOCKED: block}


def told_there(held: Held, place: Place, moment: float) -> dict[str, set[Verdict]]:
    """What the person is answered at a gateway more than 1 s after ``moment``, at each surface that is asked by single questions."""
    time.sleep(max(0.0, moment + 1.0 - time.monotonic()))
    there = replace(held, gateway=place.gateway, certificates=place.certificates)
    probes = [probe for probe in probes_of(there, ASKED_AT_THE_OTHER).values() if isinstance(probe, Probe)]
    for probe in probes:
        probe.most = QUESTIONS
    with watching(probes):
        until(lambda: all(len(probe.seen.answers) == QUESTIONS or probe.over for probe in probes), "each is asked some times")
    assert [repr(probe.failure) for probe in probes if probe.failure is not None] == []
    return {probe.name: {answer.verdict for answer in probe.seen.answers} for probe in probes}


def nobody_is_let_in(told: dict[str, set[Verdict]]) -> bool:
    """Whether no surface let the person in."""
    return all(Verdict.LET_IN not in verdicts for verdicts in told.values())


def asked_once(place: Place, garden: Garden) -> tuple[Verdict, str]:
    """What the person's token gets at a gateway."""
    door = Door(place.gateway, place.root, garden.person.token)
    answer = judged(door.ask("GET", f"/projects/{garden.project}/datasets"))
    door.close()
    return answer.verdict, answer.words


def set_clock(off: Path, seconds: float) -> None:
    """Let the process that looks into this file see a clock that is so many seconds ahead."""
    written = off.with_suffix(".new")
    written.write_text(str(seconds))
    written.replace(off)


@contextmanager
def kafka_paused(scene: Scene) -> Iterator[None]:
    scene.suite.pause("kafka")
    try:
        until(lambda: sleeping(scene.pid("kafka")), "Kafka stands still")
        yield
    finally:
        scene.suite.resume("kafka")


@contextmanager
def removed_while_kafka_is_paused(scene: Scene, garden: Garden) -> Iterator[float]:
    """Kafka stands still, and somebody is removed while what is known is still fresh; again where the machine took longer. When it was done."""
    while True:
        with kafka_paused(scene):
            try:
                moment = remove(scene, garden, ONE_TRY_SECONDS)
            except Refused as late:
                if late.slug != CANNOT_DECIDE:
                    raise
            else:
                yield moment
                return
        until(lambda: scene.ready("gateway-1"), "the first gateway knows again")


@contextmanager
def kafka_stopped(scene: Scene) -> Iterator[None]:
    scene.suite.kill("kafka")
    try:
        yield
    finally:
        scene.suite.kafka.start()


@contextmanager
def partition_stalled(scene: Scene) -> Iterator[None]:
    """A transaction that does not end: whoever reads what is committed gets no further in one partition of each topic of rights."""
    kafka = scene.suite.kafka
    producer = Producer({**kafka.client_settings(scene.suite.home.tls_folder(ADMIN)), "transactional.id": "stalls"})
    producer.init_transactions(PATIENCE)
    producer.begin_transaction()
    for topic in STALLED:
        producer.produce(topic.name, b"", b"stalls", partition=0)
    producer.flush(PATIENCE)
    try:
        yield
    finally:
        producer.abort_transaction(PATIENCE)


@contextmanager
def relay_leaders_paused(scene: Scene) -> Iterator[None]:
    """Those who tell of members and of people."""
    leaders = [scene.leader(service) for service in ("projects", "auth")]
    for leader in leaders:
        scene.suite.pause(leader)
    try:
        for leader in leaders:
            until(lambda: sleeping(scene.pid(leader)), "the leader stands still")  # noqa: B023 - called at once
        yield
    finally:
        for leader in leaders:
            scene.suite.resume(leader)


def test_a_gateway_that_starts_while_kafka_is_away_lets_nobody_in_before_it_knows_who_may(
    doubled: Scene, places: list[Place], gardens: dict[Deed, Garden]
) -> None:
    garden = gardens[Deed.REMOVED]
    welcome(doubled, garden)
    held = garden.held(places[0])
    second = doubled.suite.parts["gateway-2"]
    assert isinstance(second, Process)
    second.kill()

    with removed_while_kafka_is_paused(doubled, garden) as moment:
        second.launch()
        until(
            lambda: asked_once(places[1], garden) == (Verdict.CANNOT_DECIDE, "503 cannot-decide"),
            "it answers, and says that it cannot decide",
        )
        assert any("no fresh position" in reason or "Kafka" in reason for reason in second.missing())
        assert nobody_is_let_in(told_there(held, places[1], moment))
    until(lambda: not second.missing(), "it is ready")
    assert asked_once(places[1], garden) == (Verdict.REFUSED, "404 not-found")
    until(lambda: set.union(*told_there(held, places[1], moment).values()) == {Verdict.REFUSED}, "all surfaces refuse")
    garden.keep(held)


def test_a_gateway_whose_clock_is_five_seconds_off_decides_nothing_and_says_why_also_after_a_removal(
    doubled: Scene, places: list[Place], gardens: dict[Deed, Garden]
) -> None:
    garden = gardens[Deed.REMOVED]
    welcome(doubled, garden)
    held = garden.held(places[0])
    second = doubled.suite.parts["gateway-2"]
    assert isinstance(second, Process)
    right, off = dict(second.child.environment), doubled.suite.home.path / "clock-off"
    moment = 0.0
    set_clock(off, 5.0)
    try:
        second.stop()
        second.child.environment = right | {"PYTHONPATH": str(CLOCKS), "CLOCK_OFF": str(off)}
        second.launch()
        for seconds, words in ((5.0, "ahead of"), (-5.0, "behind")):  # one starts with it, to the other it is set while it runs
            set_clock(off, seconds)
            until(lambda: any("clock" in reason and words in reason for reason in second.missing()), "it says that its clock is wrong")  # noqa: B023
            with ThreadPoolExecutor(2) as pool:
                asked = [pool.submit(asked_once, places[1], garden) for _ in range(2)]
                moment = moment or remove(doubled, garden)
                told = told_there(held, places[1], moment)
            # A token can lie in the future of a clock that is behind; neither is an allow.
            assert Verdict.LET_IN not in {each.result()[0] for each in asked}
            assert {each.result()[1] for each in asked} <= {"503 cannot-decide", "401 invalid-credential"}
            assert nobody_is_let_in(told)
    finally:
        off.unlink()
        second.child.environment = right
    until(lambda: not second.missing(), "with the right clock it is ready")
    until(lambda: set.union(*told_there(held, places[1], moment).values()) == {Verdict.REFUSED}, "and all surfaces refuse")
    garden.keep(held)
    welcome(doubled, garden)
    until(lambda: asked_once(places[1], garden) == (Verdict.LET_IN, ""), "and it lets in whoever may")


def test_each_deed_ends_every_surface_at_both_gateways(doubled: Scene, places: list[Place], gardens: dict[Deed, Garden]) -> None:
    with asked_everywhere(doubled, places, gardens) as (ending, _):
        for deed, each in ending.items():  # one after the other, each person asked for often meanwhile
            paced(each.probes, UNHURRIED)
            each.moment = DEEDS[deed](doubled, each.garden)
            watched_on(each.probes, each.moment, 2.0)
            paced(each.probes, SELDOM)
    for deed, each in ending.items():
        assert never_refused(each.probes, each.moment) == [], deed
        assert stale(each.probes, each.moment) == {}, deed
        with each.garden.staying.client() as owner:
            assert {owner.jobs.get(each.garden.project, each.held.queued)["state"]} == {"cancelled"}
            there = owner.datasets.files(each.garden.project, each.garden.dataset)
            assert [file["path"] for file in there if "trickle" in file["path"]] == []


@pytest.mark.parametrize("away", [kafka_paused, kafka_stopped, partition_stalled, relay_leaders_paused])
def test_beside_a_part_that_fails_each_deed_ends_every_surface_and_all_heals(
    doubled: Scene, places: list[Place], gardens: dict[Deed, Garden], away: Callable[[Scene], AbstractContextManager[None]]
) -> None:
    with asked_everywhere(doubled, places, gardens) as (ending, probes), ThreadPoolExecutor(len(Deed)) as pool:
        # One end is told while all is well, and comes when nobody can tell anybody anything.
        paced(probes, THREE_AT_ONCE)
        expired = ending[Deed.EXPIRED]
        expired.moment = expire(doubled, expired.garden)
        # Another is acknowledged right before the part fails; the third is asked for, again where nobody can decide, until it is acknowledged.
        ending[Deed.REMOVED].moment = remove(doubled, ending[Deed.REMOVED].garden)
        with away(doubled):
            blocked = pool.submit(block, doubled, ending[Deed.BLOCKED].garden)
            time.sleep(max(0.0, expired.moment + AWAY_SECONDS - time.monotonic()))
            if away is not relay_leaders_paused:  # there, others take the lead, and what waits for those who stand still waits
                until(lambda: asked_since(probes, expired.moment), "all are asked meanwhile")
                says_why(places[0], expired)
            paced(probes, RARELY if away is kafka_stopped else SELDOM)
        paced(probes, THREE_AT_ONCE)
        ending[Deed.BLOCKED].moment = blocked.result(2 * PATIENCE)
        watched_on(probes, time.monotonic(), 2.0, 2 * PATIENCE)
    for deed, each in ending.items():
        # Where nobody can decide, transfers are held at once and cut later; that no byte passes meanwhile is seen at the gateway (test_transfers).
        held = [probe for probe in each.probes if probe.name in TRANSFERS and deed is not Deed.EXPIRED]
        assert {probe.name: ended for probe in held if (ended := probe.result(each.moment).refused) > HELD_SECONDS} == {}, deed
        assert never_refused(each.probes, each.moment) == [], (deed, doubled.all_ready())
        assert stale([probe for probe in each.probes if probe not in held], each.moment) == {}, deed
    until(lambda: not doubled.all_ready(), "all processes are ready again", 2 * PATIENCE)
    all_welcome(doubled, gardens.values())  # and rights that stand are rights again


def says_why(place: Place, expired: Ending) -> None:
    """Who keeps their rights is told why nothing is decided; what ca ended itself it can say."""
    owner = Door(place.gateway, place.root, expired.garden.staying.token).ask("GET", expired.held.listed)
    assert (owner.status, owner.reason, owner.headers["retry-after"]) == (503, "cannot-decide", "1")
    asked = next(probe for probe in expired.probes if probe.name == Surface.OCSP.value)
    assert asked.last_words in {"cannot decide TRY_LATER", "refused revoked"}
