"""What somebody of the story holds when a deed falls: something for every surface, with commands, programs and a machine that runs jobs."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from contracts.surfaces import Surface
from examples.wdbc.holdings import ENDLESS, LARGE, Machine, until
from examples.wdbc.people import Person
from examples.wdbc.probes import Held, probes_of
from examples.wdbc.watch import Watched, processes_with

HERE = Path(__file__).parent
LONG_FILE = "scan.raw"
MIB = 1024 * 1024
ONE_JOB_AT_A_TIME = {"HORTUS_AGENT_SLOTS": "1", "HORTUS_RUN_LEASE_S": "60"}
"""So that the suite's agent, busy with one job, leaves the next to a machine that shows us the certificate of the run, and one waits."""


@dataclass
class Everything:
    """``processing``: what is held in a project whose data somebody processes; ``owning``: transfers, in one where they are an owner."""

    processing: Held
    owning: Held
    job: str

    def probes(self) -> list[Watched]:
        """One for each surface that something is held for."""
        transfers = {Surface.DOWNLOAD, Surface.UPLOAD}
        asked = probes_of(self.processing, [surface for surface in Surface if surface not in transfers])
        return [*asked.values(), *probes_of(self.owning, transfers).values()]


def hold_everything(person: Person, owner: Person, machine: Machine, study: str, dataset: str, word: str, own: str) -> Everything:
    """Hold something for every surface: the ``dataset`` is in ``study`` and found by ``word``; in ``own`` the person is an owner."""
    inbox = person.hortus("datasets", "create", "inbox", "-p", own)["dataset_id"]
    folder = person.folder / "certificate"
    person.hortus("certificate", "create", "-p", study, "--folder", str(folder))
    mark = f"endless-{secrets.token_hex(8)}"
    job = person.hortus("jobs", "run", str(HERE / "endless.py"), "-p", study, "--wall-seconds", "300", "-a", mark)["job_id"]
    held = person.holds(study, folder)
    with owner.client() as staying, person.client() as mine:
        mine.datasets.put(own, inbox, (secrets.token_bytes(MIB) for _ in range(LARGE // MIB)), LONG_FILE)
        until(lambda: processes_with(mark), "the endless job runs")
        leased = mine.jobs.submit(study, "leased", ENDLESS, inputs=(dataset,))["job_id"]
        held.run, held.job = machine.run_of(leased)
        held.queued = mine.jobs.submit(study, "waits", ENDLESS, inputs=(dataset,))["job_id"]
        held.programs, held.mark = processes_with(mark), mark
        staying.users.me()
        held.dataset, held.word, held.staying = dataset, word, staying.wire.token or ""
    owning = Held(held.gateway, held.certificates, held.root, own, inbox, held.token, file=LONG_FILE, uploads=True)
    return Everything(held, owning, job)
