"""A real agent process: enrolled over TLS, told by Celery over a real Valkey, running programs in real sandboxes."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from sqlalchemy import text
from uuid_utils.compat import uuid7

from compose.local.valkey import Valkey
from contracts.events import ShareState
from services.jobs import app
from tests.jobs.front import Front, Issuer, opened
from tests.jobs.scene import Scene, dataset, member, share
from tests.world import OURS, THEIRS, World, Worlds, administrator

LEASE_S = 10.0
ROOT = Path(__file__).parents[2]
SLEEPER = "import time\nprint('awake', flush=True)\ntime.sleep(600)"


@dataclass
class House:
    """An agent process, the door in front of jobs, and a scene behind it."""

    scene: Scene
    front: Front
    environment: dict[str, str]
    state: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "services.jobs.agent"]
        self.process = await asyncio.create_subprocess_exec(*command, env=self.environment, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await asyncio.wait_for(self.process.wait(), 20)

    async def sleeping(self, inputs: list[str]) -> dict[str, Any]:
        """A job whose program is awake and stays so; ``mark`` is among its arguments."""
        mark = f"sleeper-{uuid7()}"
        job = await self.scene.submitted(program=SLEEPER, inputs=inputs, arguments=[mark])
        await self.says(job, "awake")
        assert programs(mark)
        return {**job, "mark": mark}

    async def state_of(self, job: dict[str, Any], *states: str, within: float = 40) -> Any:
        """The run's row once it is in one of these states."""

        async def reached() -> Any:
            run = await self.scene.run_of(job)
            return run if run.state in states else None

        return await until(reached, within)

    async def says(self, job: dict[str, Any], text: str) -> str:
        """The log once it holds this text."""

        async def said() -> str | None:
            rows = await self.scene.world.sql(
                "SELECT kept FROM logs l JOIN runs r USING (run_id) WHERE r.job_id = :job", job=UUID(job["job_id"])
            )
            log = bytes(rows[0].kept).decode() if rows else ""
            return log if text in log else None

        found: str = await until(said, 40)
        return found


async def until(look: Callable[[], Awaitable[Any]], within: float) -> Any:
    end = time.monotonic() + within
    late = False
    while not late:
        late = time.monotonic() >= end
        if found := await look():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {within} s")


def programs(mark: str) -> list[int]:
    """The processes of this machine that carry a mark among their arguments: bubblewraps and programs."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def house(worlds: Worlds, valkey: Valkey, tmp_path: Path) -> AsyncIterator[House]:
    world: World = await worlds.open("jobs", valkey_url=valkey.url, run_lease_s=LEASE_S, most_leases=3)
    scene = await Scene.of(world)
    answer = await world.post("/agents", administrator(), json={"name": "node 2"})
    (tmp_path / "token").write_text(answer.json()["token"])
    front = Front(world, Issuer(tmp_path), inputs={str(scene.dataset_id): {"a.txt": b"alpha", "deep/b.txt": b"beta" * 100_000}})
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    async with opened(front, tmp_path), world.running(app.announce), world.running(app.end_what_is_over):
        environment = {
            "PATH": os.environ["PATH"],
            "HORTUS_STATE_DIR": str(state),
            "HORTUS_AGENT_TOKEN_FILE": str(tmp_path / "token"),
            "HORTUS_ENROLMENT_URL": front.url,
            "HORTUS_GATEWAY_URL": front.url,
            "HORTUS_ROOT": str(front.issuer.root),
            "HORTUS_ENVIRONMENTS_DIR": str(tmp_path / "environments"),
            "HORTUS_VALKEY_URL": valkey.url,
        }
        made = House(scene, front, environment, state)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


async def test_a_program_reads_its_inputs_and_its_outputs_are_staged(house: House) -> None:
    program = (
        "import hortus, sys\n"
        "print(sys.argv[1:], sorted(hortus.inputs))\n"
        "folder = hortus.inputs['wdbc']\n"
        "(hortus.outputs / 'sub').mkdir()\n"
        "(hortus.outputs / 'sub' / 'copy.txt').write_bytes((folder / 'deep' / 'b.txt').read_bytes())\n"
        "hortus.metric('length', len((folder / 'a.txt').read_text()))\n"
    )
    job = await house.scene.submitted(program=program, arguments=["--fast"])
    run = await house.state_of(job, "succeeded", "failed")
    assert (run.state, run.reason, run.exit_code, run.metrics) == ("succeeded", None, 0, {"length": 5.0})
    assert house.front.outputs == {"sub/copy.txt": b"beta" * 100_000}
    assert (await house.scene.log(job["job_id"])).json()["text"] == "['--fast'] ['wdbc']\n"

    def states() -> list[str]:
        return [fact.state.value for fact in house.front.facts if fact.key == job["run_id"]]

    async with asyncio.timeout(20):  # the front reads the outbox a moment after the row was committed
        while "succeeded" not in states():
            await asyncio.sleep(0.02)
    assert states() == ["queued", "leased", "running", "succeeded"]


async def test_the_agent_keeps_its_identity_for_itself_and_enrols_once(house: House) -> None:
    state = house.state
    await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")
    assert {path.name: path.stat().st_mode & 0o777 for path in state.glob("*.pem")} == {"key.pem": 0o600, "cert.pem": 0o600}
    await house.stop()
    house.front.asked.clear()
    await house.start()
    await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")
    assert "POST /api/v1/agents/enrolment" not in house.front.asked


async def test_a_notice_over_valkey_starts_a_run_before_the_agent_would_look_by_itself(house: House) -> None:
    await house.stop()
    house.environment["HORTUS_AGENT_LOOK_S"] = "60"
    await house.start()
    await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")
    began = time.monotonic()
    for _ in range(2):
        await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")
    assert time.monotonic() - began < 30


async def test_a_run_that_fails_says_why_and_stages_nothing(house: House) -> None:
    wrote = "import os, hortus\n(hortus.outputs / 'a').write_text('a')\n"
    expected = {
        wrote + "raise SystemExit(7)": "The program ended with exit code 7.",
        wrote + "os.symlink('/etc/passwd', hortus.outputs / 'x')": "outputs can only be ordinary files and folders",
        wrote + "os.kill(os.getpid(), 11)": "The program was ended by SIGSEGV.",
    }
    for program, reason in expected.items():
        run = await house.state_of(await house.scene.submitted(program=program, inputs=[]), "failed")
        assert run.reason == reason
    run = await house.state_of(await house.scene.submitted(environment="fortran", inputs=[]), "failed")
    assert run.reason == "this machine has no environment fortran"
    listed = house.front.inputs[str(house.scene.dataset_id)]

    class Forged(dict[str, bytes]):
        def __getitem__(self, path: str) -> bytes:
            return listed[path][::-1]

    house.front.inputs[str(house.scene.dataset_id)] = Forged(listed)
    run = await house.state_of(await house.scene.submitted(), "failed")
    assert run.reason == "An input did not arrive as it was stored."
    assert house.front.outputs == {}


async def dead_within(job: dict[str, Any], seconds: float) -> float:
    began = time.monotonic()

    async def gone() -> bool:
        return not programs(job["mark"])

    await until(gone, seconds)
    return time.monotonic() - began


async def test_a_removed_member_s_program_is_dead_within_a_second(house: House) -> None:
    job = await house.sleeping([])
    await house.scene.world.hear(member(house.scene.scientist_id, None, version=2))
    assert await dead_within(job, 1.0) < 1.0
    assert (await house.scene.run_of(job)).state == "cancelled"


async def test_a_program_is_dead_within_a_second_of_the_instant_at_which_its_membership_ends(house: House) -> None:
    job = await house.sleeping([])
    end = await house.scene.world.now() + timedelta(seconds=1.5)
    await house.scene.world.hear(member(house.scene.scientist_id, version=2, ends_at=end))
    while await house.scene.world.now() < end:
        alive = programs(job["mark"])
        assert alive or await house.scene.world.now() >= end, "it runs until then"
        await asyncio.sleep(0.02)
    assert await dead_within(job, 1.0) < 1.0
    assert (await house.scene.run_of(job)).state == "cancelled"


async def test_a_withdrawn_share_kills_the_program_that_it_allowed(house: House) -> None:
    theirs = UUID(int=99)
    house.front.inputs[str(theirs)] = {"x": b"x"}
    await house.scene.world.hear(dataset(theirs, THEIRS), share(theirs, ShareState.ACCEPTED, 1))
    job = await house.sleeping([str(theirs)])
    await house.scene.world.hear(share(theirs, ShareState.WITHDRAWN, 2))
    await dead_within(job, 1.0)


async def test_an_agent_whose_certificate_is_refused_kills_what_it_runs(house: House) -> None:
    job = await house.sleeping([])
    house.front.revoked.add(f"spiffe://test/agent/{(await house.scene.run_of(job)).agent_id}")
    assert await dead_within(job, 3.0) < 2.5


async def test_an_agent_that_cannot_renew_kills_what_it_runs_before_the_lease_ends(house: House) -> None:
    job = await house.sleeping([])
    house.front.broken = True
    await dead_within(job, LEASE_S)
    assert (await house.scene.run_of(job)).state in ("running", "queued")


async def test_while_the_partition_of_memberships_stands_still_a_removed_member_s_run_ends_with_its_lease(house: House) -> None:
    job = await house.sleeping([])
    world = house.scene.world
    member_row = "SELECT 1 FROM members WHERE user_id = :user FOR UPDATE"
    async with world.work() as holding:
        await holding.session.execute(text(member_row), {"user": house.scene.scientist_id})
        await world.hears_until((await world.now()).isoformat())
        removed = asyncio.create_task(world.hear(member(house.scene.scientist_id, None, version=2)))
        await dead_within(job, LEASE_S + 1)
        assert not removed.done()
        assert (await house.state_of(job, "queued", within=LEASE_S)).ended_at is None
        assert (await house.scene.take()).status_code == 503
    await removed
    await world.hears_until("infinity")
    assert (await house.state_of(job, "cancelled")).fencing_token == 1
    await house.state_of(await house.scene.submitted(house.scene.owner, inputs=[]), "succeeded")


async def test_a_killed_agent_takes_its_programs_along_and_another_start_repeats_the_run(house: House) -> None:
    job = await house.sleeping([])
    await house.stop(signal.SIGKILL)
    await dead_within(job, 1.0)
    await house.state_of(job, "queued", within=12)
    await house.start()
    run = await house.state_of(job, "running")
    assert run.fencing_token == 2
    await house.says(job, "awake")
    await house.scene.world.post(f"/projects/{OURS}/jobs/{job['job_id']}/cancellation", house.scene.owner)
    await dead_within(job, 1.0)


async def test_a_program_runs_on_while_its_agents_certificate_is_renewed_and_the_one_before_ends(house: House) -> None:
    await house.stop()
    house.front.agent_life = timedelta(seconds=12)
    house.environment["HORTUS_AGENT_LOOK_S"] = "0.5"
    (house.state / "cert.pem").unlink(missing_ok=True)
    await house.start()
    job = await house.sleeping([])
    ends = ending(house.state)
    house.front.agent_life = timedelta(hours=1)

    async def renewed() -> bool:
        return ending(house.state) > datetime.now(UTC) + timedelta(minutes=30) and datetime.now(UTC) > ends

    await until(renewed, 60)
    await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")  # the other slot serves with the new certificate
    assert programs(job["mark"])
    run = await house.scene.run_of(job)
    assert (run.state, run.fencing_token) == ("running", 1)
    await house.scene.world.post(f"/projects/{OURS}/jobs/{job['job_id']}/cancellation", house.scene.owner)
    await dead_within(job, 5.0)


async def test_an_agent_that_was_off_until_its_certificate_had_ended_starts(house: House) -> None:
    await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")
    await house.stop()
    known = x509.load_pem_x509_certificate((house.state / "cert.pem").read_bytes())
    [uri] = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.UniformResourceIdentifier)
    (house.state / "cert.pem").write_text(house.front.issuer.sign(uri, known.public_key(), timedelta(seconds=-30)))
    await house.start()
    await house.state_of(await house.scene.submitted(inputs=[]), "succeeded")
    assert ending(house.state) > datetime.now(UTC)


async def test_a_run_whose_certificate_does_not_come_fails_and_its_slot_is_free_again(house: House) -> None:
    await house.stop()
    house.environment |= {"HORTUS_AGENT_CERTIFICATE_S": "1", "HORTUS_AGENT_SLOTS": "1"}
    house.front.withholds = True
    await house.start()
    run = await house.state_of(await house.scene.submitted(inputs=[]), "failed")
    assert run.reason == "The run's certificate did not come within 1 s."
    house.front.withholds = False

    async def succeeds() -> bool:
        """One whose certificate is late by chance fails, too, and leaves the slot to the next."""
        again = await house.state_of(await house.scene.submitted(inputs=[]), "succeeded", "failed")
        assert again.state == "succeeded" or again.reason == run.reason
        return bool(again.state == "succeeded")

    await until(succeeds, 40)


def ending(state: Path) -> datetime:
    """When the certificate in an agent's folder ends."""
    return x509.load_pem_x509_certificate((state / "cert.pem").read_bytes()).not_valid_after_utc


async def test_a_short_outage_of_the_gateway_ends_no_run(house: House) -> None:
    job = await house.scene.submitted(program="import time\nprint('awake', flush=True)\ntime.sleep(3)\nprint('done')", inputs=[])
    await house.says(job, "awake")
    house.front.broken = True
    await asyncio.sleep(1.5)
    house.front.broken = False
    await house.state_of(job, "succeeded")
    assert "done" in (await house.scene.log(job["job_id"])).json()["text"]
