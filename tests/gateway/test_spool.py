"""The spool: dense numbers across crashes, torn tails, full disks; and what the records in it look like."""

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from chassis.audit import canonical, is_canonical
from contracts.events import AuditRecord, Outcome
from contracts.policy import POLICY
from gateway import spool as spool_module
from gateway.ledger import Access, Ledger, Traffic, resource_of
from gateway.publish import Reader
from gateway.spool import Spool, SpoolUnavailable, segments, write_published
from tests.gateway.stage import on_disk, until

REPOSITORY = Path(__file__).parents[2]


def add(spool: Spool, count: int = 1, size: int = 10) -> int:
    number = 0
    for _ in range(count):
        number = spool.append('{"number":', f',"text":"{"x" * size}"}}')
    return number


def numbers(folder: Path) -> list[int]:
    return [record["number"] for record in on_disk(folder)]


async def test_numbers_are_dense_and_go_on_after_a_restart(tmp_path: Path) -> None:
    for first in (1, 6, 11):
        async with Spool(tmp_path) as spool:
            assert spool.number == first - 1
            await spool.durable(add(spool, 5))
    assert numbers(tmp_path) == list(range(1, 16))


async def test_what_nobody_waits_for_is_on_disk_within_a_second(tmp_path: Path) -> None:
    async with Spool(tmp_path) as spool:
        began = asyncio.get_running_loop().time()
        add(spool, 3)
        await until(lambda: numbers(tmp_path) == [1, 2, 3])
        assert asyncio.get_running_loop().time() - began < 0.9


async def test_many_who_wait_at_once_share_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = 0
    fdatasync = os.fdatasync

    def counted(file: int) -> None:
        nonlocal synced
        synced += 1
        fdatasync(file)

    monkeypatch.setattr(os, "fdatasync", counted)
    async with Spool(tmp_path) as spool:
        await asyncio.gather(*[spool.durable(add(spool)) for _ in range(500)])
        assert spool.synced == 500
    assert synced < 20
    assert numbers(tmp_path) == list(range(1, 501))


@pytest.mark.parametrize("torn", [b'{"number":6,"te', b"\x00" * 100, b'{"number":9}\n', b"nonsense\n", b'{"number":6}'])
async def test_a_torn_tail_is_cut_off_and_its_number_given_again(tmp_path: Path, torn: bytes) -> None:
    async with Spool(tmp_path) as spool:
        await spool.durable(add(spool, 5))
    with segments(tmp_path)[-1][1].open("ab") as file:
        file.write(torn)
    async with Spool(tmp_path) as spool:
        assert spool.number == 5
        await spool.durable(add(spool))
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6]


async def test_numbers_go_on_when_every_segment_was_published_and_deleted(tmp_path: Path) -> None:
    async with Spool(tmp_path) as spool:
        await spool.durable(add(spool, 5))
    write_published(tmp_path, 5)
    for _, path in segments(tmp_path):
        path.unlink()
    async with Spool(tmp_path) as spool:
        assert add(spool) == 6


async def test_what_was_durable_survives_kill_9(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from gateway.spool import Spool
        async def main():
            spool = Spool(Path(sys.argv[1]))
            while True:
                for _ in range(50):
                    number = spool.append('{"number":', ',"text":"x"}')
                await spool.durable(number)
                print(number, flush=True)
        asyncio.run(main())
    """)
    acknowledged = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        assert child.stdout is not None
        for _ in range(20):
            acknowledged = int(child.stdout.readline())
        child.kill()
        child.wait()
        child.stdout.close()
        async with Spool(tmp_path) as spool:
            assert spool.number >= acknowledged
    assert numbers(tmp_path) == list(range(1, spool.number + 1))


async def test_a_full_disk_refuses_loses_nothing_acknowledged_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    folder = small_disk / "spool"
    ballast = small_disk / "ballast"
    async with Spool(folder) as spool:
        await spool.durable(add(spool, 10))
        ballast.write_bytes(b"x" * 200 * 1024)
        acknowledged = 10
        with pytest.raises(SpoolUnavailable):  # noqa: PT012 - which of them is refused depends on the file system's blocks
            for _ in range(100):
                await spool.durable(add(spool, 5, size=1000))
                acknowledged += 5
        assert spool.missing() == ["the spool cannot be written: No space left on device"]
        with pytest.raises(SpoolUnavailable):
            await spool.durable(add(spool))
        assert numbers(folder) == list(range(1, acknowledged + 1))
        last = spool.number
        ballast.unlink()
        await until(lambda: spool.missing() == [])
        await spool.durable(last)
        assert numbers(folder) == list(range(1, last + 1))


async def test_memory_for_records_is_bounded_while_the_disk_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "PENDING_BYTES", 1000)
    async with Spool(tmp_path) as spool:
        assert spool.accepts
        add(spool, 20, size=100)
        assert not spool.accepts
        await spool.durable(spool.number)
        assert spool.accepts


async def test_a_reader_goes_over_segments_in_order_and_forgets_those_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1000)
    async with Spool(tmp_path) as spool:
        for _ in range(10):
            await spool.durable(add(spool, 7, size=50))
        assert len(segments(tmp_path)) > 2
        reader = Reader(tmp_path, 0)
        seen: list[int] = []
        while lines := reader.read(spool.synced):
            seen += [json.loads(line)["number"] for line in lines]
        assert seen == list(range(1, 71))
        reader.forget()
        assert len(segments(tmp_path)) == 1
        assert Reader(tmp_path, 68).read(spool.synced) == reader_lines(tmp_path)[-2:]
        assert Reader(tmp_path, 68).read(69) == reader_lines(tmp_path)[-2:-1]
    async with Spool(tmp_path) as spool:
        assert spool.number == 70


def reader_lines(folder: Path) -> list[bytes]:
    return segments(folder)[-1][1].read_bytes().splitlines()


async def test_records_are_the_canonical_bytes_of_the_contract(tmp_path: Path) -> None:
    project, person = uuid7(), uuid7()
    actor = f'{{"principal":"person","role":"data_owner","user_id":"{person}","username":"zoë \\" x"}}'
    names, values = ("project_id", "dataset_id", "provider"), [str(project), str(uuid7()), 'a "b"/ü.csv']
    access = Access(str(uuid7()), "file.download", actor, resource_of(names, values), str(project))
    async with Spool(tmp_path) as spool:
        ledger = Ledger(spool, "gateway-1")
        ledger.record(str(uuid7()), access, Outcome.CLOSED, "allowed", 200, Traffic(0, 5, "ab" * 32))
        ledger.record(str(uuid7()), Access(str(uuid7())), Outcome.REFUSED, "unknown-path", 404)
        ledger.record(str(uuid7()), access, Outcome.FAILED, "cut", None)
        ledger.record(str(uuid7()), Access(str(uuid7()), address="2001:db8::7"), Outcome.REFUSED, "unknown-path", 404)
        await spool.durable(4)
        lines = segments(tmp_path)[0][1].read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        record = AuditRecord.model_validate_json(line)
        assert record.number == number
        assert canonical(record) == line
    assert AuditRecord.model_validate_json(lines[0]).resource["provider"] == 'a "b"/ü.csv'
    assert [json.loads(line).get("address") for line in lines] == [None, None, None, "2001:db8::7"]


class Kept:
    """Takes a record and keeps its text."""

    text = ""

    def append(self, before: str, after: str) -> int:
        self.text = f"{before}1{after}"
        return 1


ROWS = sorted({tuple(re.findall(r"\{(\w+)", rule.path)) for rule in POLICY.values()})
OTHERS = {name for names in ROWS for name in names if not name.endswith("_id")} | {"certificate_id"}
ANY = st.text() | st.sampled_from(['x"', 'x","outcome":"allowed', "x\\", 'x"}', "\n", "\u2028"])


@given(st.data(), st.sampled_from(ROWS), st.sampled_from(list(Outcome)), st.none() | st.uuids().map(str))
def test_no_text_breaks_out_of_its_place_in_a_record(
    data: st.DataObject, names: tuple[str, ...], outcome: Outcome, project: str | None
) -> None:
    values = [data.draw(ANY if name in OTHERS else st.uuids().map(str), name) for name in names]
    action, reason, request, source = [data.draw(ANY, name) for name in ("action", "reason", "request", "source")]
    address = data.draw(st.none() | ANY, "address")
    kept: Any = Kept()
    access = Access(request, action, resource=resource_of(names, values), project_id=project, address=address)
    Ledger(kept, source).record(str(uuid7()), access, outcome, reason, 200)
    line = kept.text.encode()
    record = AuditRecord.model_validate_json(line)
    assert record.resource == dict(zip(names, values, strict=True))
    assert (record.action, record.reason, record.request_id, record.source) == (action, reason, request, source)
    assert (record.outcome, record.number, str(record.project_id), record.address) == (outcome, 1, str(project), address)
    assert canonical(record) == line
    assert is_canonical(line, record)
