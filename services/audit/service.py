"""The use cases of audit: add what was told to the ledger, and keep an eye on what is missing."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from chassis.hears import RawRecord
from chassis.log import logger
from chassis.outbox import UnitOfWork
from services.audit import domain, repository
from services.audit.domain import Entry, NotARecord

log = logger(__name__)
LINKED_AT_ONCE = 1000
RECORDS = Counter("hortus_audit_records_total", "Records added to the ledger", ["source"])
GAPS = Counter("hortus_audit_gaps_total", "Times that numbers were missing when a later one arrived", ["source"])
ANOMALIES = Counter("hortus_audit_anomalies_total", "Records that cannot stand in a chain", ["source", "kind"])
UNREADABLE = Counter("hortus_audit_unreadable_total", "What came on a ledger topic and is no record", ["source"])
OPEN_GAPS = Gauge("hortus_audit_open_gaps", "Gaps in a source's numbers at this moment, 100 at most", ["source"])
WAITING = Gauge("hortus_audit_waiting_records", "Records behind a gap, not linked yet", ["source"])


async def append(uow: UnitOfWork, arrived: Sequence[RawRecord]) -> None:
    """Add a batch of one topic to the ledger. Nothing is thrown away, and adding it again changes nothing."""
    topic = arrived[0].topic
    source = domain.source_of(topic)
    await repository.lock(uow.session, source)
    entries = await _readable(uow, source, arrived)
    numbers = [entry.record.number for entry in entries if domain.wrong(entry, source) is None]
    batch = domain.sort_out(entries, source, await repository.leaves(uow.session, source, numbers))
    await _keep_odd(uow, topic, source, batch)
    if not batch.fresh:
        return
    await repository.add_source(uow.session, source, uow.now)
    before = await repository.highest(uow.session, source)
    await repository.add_records(uow.session, [domain.row_of(entry, uow.now) for entry in batch.fresh])
    RECORDS.labels(source).inc(len(batch.fresh))
    opened = domain.gaps(before, [entry.record.number for entry in batch.fresh])
    await repository.add_gaps(uow.session, source, opened, uow.now)
    for gap in opened:
        GAPS.labels(source).inc()
        log.error("numbers are missing in the ledger", source=source, first=gap.first, last=gap.last)
    await _link(uow, source, batch.fresh[0].record.number)


async def watch(uow: UnitOfWork) -> None:
    """Show the open gaps of every source in the metrics."""
    for chain in await repository.chains(uow.session):
        OPEN_GAPS.labels(chain.source).set(len(chain.gaps))
        WAITING.labels(chain.source).set(chain.waiting)


async def _readable(uow: UnitOfWork, source: str, arrived: Sequence[RawRecord]) -> list[Entry]:
    entries: list[Entry] = []
    for raw in arrived:
        try:
            entries.append(domain.read(raw.value, raw.offset))
        except NotARecord as error:
            row = domain.unreadable(raw.topic, raw.partition, raw.offset, raw.key, raw.value, str(error), uow.now)
            if await repository.add_unreadable(uow.session, row):
                UNREADABLE.labels(source).inc()
                log.error("what came on a ledger topic is no record", topic=raw.topic, offset=raw.offset, why=str(error))
    return entries


async def _keep_odd(uow: UnitOfWork, topic: str, source: str, batch: domain.Sorted) -> None:
    for entry, kind in batch.odd:
        if await repository.add_odd(uow.session, domain.odd(topic, entry, kind, uow.now)):
            ANOMALIES.labels(source, kind.value).inc()
            log.error("a record cannot stand in the chain", source=source, offset=entry.kafka_offset, kind=kind.value)


async def _link(uow: UnitOfWork, source: str, lowest: int) -> None:
    """Link what follows the head. Only the number after the head sets that going: ``lowest`` is the lowest one added."""
    head = await repository.head(uow.session, source)
    if lowest != head.number + 1:
        return
    while True:
        leaves = await repository.leaves_after(uow.session, source, head.number, LINKED_AT_ONCE)
        links = domain.link(head, leaves)
        await repository.add_links(uow.session, source, links)
        if len(links) < LINKED_AT_ONCE:
            return
        head = links[-1]
