"""The story of one study, on real servers and real data: `make demo`.

Each step prints one line when its promises hold, and the first that does not ends the story with a number other than 0.
The table is the Wisconsin diagnostic breast-cancer data (569 people, 30 measurements) that scikit-learn ships.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from compose.local.home import Home
from compose.local.problems import SetupProblem
from compose.local.suite import Suite
from contracts.surfaces import REACHES, Surface
from examples.wdbc.everything import LONG_FILE, ONE_JOB_AT_A_TIME, hold_everything
from examples.wdbc.holdings import Machine, NotSoon, Place
from examples.wdbc.people import Ended, Person
from examples.wdbc.verdicts import REVOKED_SECONDS, Outcome
from examples.wdbc.watch import shut_out, watched_on, watching
from hortus.client import HortusError, Refused

HERE = Path(__file__).parent
KIB = 1024
BUDGET = 64 * KIB
ACCURACY = 0.93
SETTLE_SECONDS = 15.0
WATCHED_AFTERWARDS = 1.0


class Broken(Exception):
    """A promise does not hold."""


def promise(holds: bool, sentence: str) -> None:
    """Go on only where it holds."""
    if not holds:
        raise Broken(sentence)


def table() -> Path:
    """The study's data: a CSV file in the installed scikit-learn."""
    found = importlib.util.find_spec("sklearn")
    promise(found is not None and found.origin is not None, "scikit-learn is not installed, and it ships the data")
    return Path(str(found and found.origin)).parent / "datasets" / "data" / "breast_cancer.csv"


class Story:
    """Who and what the steps have in common; ``tell`` takes the lines."""

    def __init__(self, suite: Suite, folder: Path, tell: Callable[[str], None] = print) -> None:
        self.suite = suite
        self.folder = folder
        self.tell = tell
        self.administrator = self._person("administrator")
        self.owner = self._person("owner")
        self.scientist = self._person("scientist")
        self.auditor = self._person("auditor")
        self.study: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.training: dict[str, Any] = {}
        self.own: dict[str, Any] = {}
        self._notes: list[str] = []

    def note(self, line: str) -> None:
        """Keep a line for below the step's."""
        self._notes.append(f"     · {line}")

    def end(self, line: str) -> None:
        """The step's line, and those below it."""
        for told in (line, *self._notes):
            self.tell(told)
        self._notes.clear()

    def machine(self) -> Machine:
        """A machine that takes runs beside the suite's agent."""
        place = Place(self.suite.address, self.suite.certificate_addresses[0], self.suite.root)
        with self.administrator.client() as root:
            return Machine(root, place, self.folder)

    def _person(self, name: str) -> Person:
        return Person(self.folder / name, self.suite.address, self.suite.certificate_addresses[0], self.suite.root)


def people(story: Story) -> str:
    """1. The administrator creates an owner and a scientist; all sign in with password and one-time code."""
    link = story.suite.setup_link()
    promise(link is not None, "a fresh Hortus offers its first administrator a one-time link")
    story.administrator.join(HORTUS_SETUP_LINK=str(link))
    story.administrator.sign_in()
    for person, email, roles in (
        (story.owner, "owner@hospital.example", []),
        (story.scientist, "scientist@institute.example", []),
        (story.auditor, "auditor@hospital.example", ["--cluster-role", "auditor"]),
    ):
        invited = story.administrator.hortus("users", "create", email, *roles)
        person.join(HORTUS_INVITATION=invited["invitation"])
        person.sign_in()
        promise(person.hortus("whoami")["status"] == "active", f"{email} is active and signed in")
    refusal(lambda: story.scientist.hortus("users", "list"), 403, "a scientist lists the accounts")
    return f"{story.administrator.username}, {story.owner.username}, {story.scientist.username} and {story.auditor.username} are signed in"


def study(story: Story) -> str:
    """2. The owner makes the study and puts the table in; on disk there is no plain text."""
    owner = story.owner
    story.study = owner.hortus("projects", "create", "wdbc_study", "--description", "Which tumours are malignant?")
    description = "Wisconsin diagnostic breast cancer table: 569 fine needle aspirates"
    story.data = owner.hortus("datasets", "create", "wdbc", "-p", story.study["project_id"], "--description", description)
    source = table()
    stored = owner.hortus("datasets", "put", "wdbc", str(source), "-p", "wdbc_study")[0]
    promise(stored["size"] == source.stat().st_size, "the whole table arrived")
    rows = [row for row in source.read_bytes().splitlines()[1:] if row]
    blobs = [file for file in story.suite.blobs.rglob("*") if file.is_file()]
    promise(sum(blob.stat().st_size for blob in blobs) >= stored["size"], "the table lies in the folder of blobs")
    searched, size = 0, 0
    for file in blobs:
        content = file.read_bytes()
        promise(not any(row in content for row in rows), f"no row of the table lies in plain text in {file.name}")
    for folder in {story.suite.home.path, story.suite.home.data}:
        for file in folder.rglob("*"):
            content = written(file)
            searched, size = searched + 1, size + len(content)
            promise(not any(row in content for row in rows[::50]), f"no row of the table lies in plain text in {file}")
    return f"{len(rows)} rows in {len(blobs)} blob(s), not one in plain text, nor in the {size / 1e6:.0f} MB of all {searched} files"


def written(file: Path) -> bytes:
    """What is written in a file, without the holes of a sparse one; nothing where it is no file, or is gone already."""
    found = []
    try:
        with file.open("rb") as opened:
            start, end = 0, file.stat().st_size
            while start < end:
                start = os.lseek(opened.fileno(), start, os.SEEK_DATA)
                hole = os.lseek(opened.fileno(), start, os.SEEK_HOLE)
                found.append(os.pread(opened.fileno(), hole - start, start))
                start = hole
    except OSError:
        # A folder, a socket, a file removed by its server, or nothing but a hole at the end.
        return b"".join(found)
    return b"".join(found)


def membership(story: Story) -> str:
    """3. Before being a member the scientist gets 404 and no hit; as data_scientist they find the dataset."""
    project = story.study["project_id"]
    scientist = story.scientist
    refusal(lambda: scientist.hortus("projects", "show", project), 404, "the study is shown to a stranger")
    refusal(lambda: scientist.hortus("datasets", "ls", story.data["dataset_id"], "-p", project), 404, "a stranger lists its files")
    until(lambda: hits(story.owner), "the owner finds the dataset by searching")
    promise(hits(scientist) == [], "a stranger's search finds nothing")
    story.owner.hortus("members", "add", scientist.username, "data_scientist", "-p", project, "--purpose", "training a classifier")
    waited = until(lambda: hits(scientist), "the scientist finds the dataset by searching")
    found = scientist.hortus("search", "fine needle aspirates", "--kind", "datasets")
    promise([hit["id"] for hit in found] == [story.data["dataset_id"]], "what is found is the study's dataset, and no other")
    return f"404 and no hit before; as data_scientist found after {waited:.2f} s"


def train(story: Story) -> str:
    """4. The scientist trains a model in the sandbox: metrics come back, the network does not answer, the log has a budget."""
    scientist, project = story.scientist, story.study["project_id"]
    began = time.monotonic()
    job = scientist.hortus("jobs", "run", str(HERE / "train.py"), "-p", "wdbc_study", "-i", "wdbc", "--environment", "torch", "--watch")
    took = time.monotonic() - began
    story.training = job
    accuracy = job["metrics"]["test_accuracy"]
    promise(accuracy >= ACCURACY, f"the test accuracy {accuracy:.3f} is at least {ACCURACY}")
    log = scientist.hortus("jobs", "log", job["job_id"], "-p", project)["text"]
    network = [line for line in log.splitlines() if line.lower().startswith("network: ")]
    promise(len(network) == 1, "the log shows what became of the attempt to reach the network")
    promise(network[0].startswith("network: refused"), f"the program did not reach the network: {network[0]}")
    story.note(f"the program said: {network[0]}")
    size, got = table().stat().st_size, len(log.encode())
    promise(0 < got <= BUDGET < size, f"of {size} bytes printed the scientist sees {got}, at most {BUDGET}")
    again = scientist.hortus("jobs", "log", job["job_id"], "-p", project)["text"]
    promise(again == log, "a second look shows the same and nothing more")
    curious = scientist.hortus("jobs", "run", str(HERE / "print_table.py"), "-p", "wdbc_study", "-i", "wdbc", "--watch")
    said = refusal(lambda: scientist.hortus("jobs", "log", curious["job_id"], "-p", project), 403, "the table is printed once more")
    story.note(f"it printed the whole table ({size} bytes): {got} bytes were shown; printed once more: {said}")
    return f"test accuracy {accuracy:.3f} after {took:.1f} s, no network, {got / KIB:.1f} KiB of log of at most 64"


def walls(story: Story) -> str:
    """5. Nothing leaves by the scientist: not the table, not the model, not a copy made in a project of their own."""
    scientist, owner = story.scientist, story.owner
    project, model = story.study["project_id"], story.training["output_dataset_id"]
    out = story.folder / "out"
    files = owner.hortus("datasets", "ls", model, "-p", project)
    for dataset, path, what in ((story.data["dataset_id"], table().name, "the table"), (model, files[0]["path"], "the model")):
        said = refusal(
            lambda dataset=dataset, path=path: take(scientist, project, dataset, path, out),  # type: ignore[misc]
            403,
            f"the scientist takes {what}",
        )
        story.note(f"{what}: {said}")
    promise(scientist.hortus("datasets", "ls", model, "-p", project) == [], "what the program called its files is not shown to them")

    story.own = scientist.hortus("projects", "create", "my_own_garden")
    share = owner.hortus("datasets", "share", "wdbc", story.own["project_id"], "-p", "wdbc_study")
    accepted = scientist.hortus("datasets", "accept", share["share_id"], "-p", story.own["project_id"])
    promise(accepted["state"] == "accepted", "the share is accepted")
    copied = scientist.hortus("jobs", "run", str(HERE / "copy.py"), "-p", "my_own_garden", "-i", story.data["dataset_id"], "--watch")
    copy = copied["output_dataset_id"]
    with scientist.client() as client:
        promise(client.datasets.get(story.own["project_id"], copy)["files"] == 1, "the job copied the table")
    copied_to = f"wdbc/{table().name}"
    for dataset, path, what in ((copy, copied_to, "the copy"), (story.data["dataset_id"], table().name, "the shared dataset")):
        said = refusal(
            lambda dataset=dataset, path=path: take(scientist, story.own["project_id"], dataset, path, out),  # type: ignore[misc]
            403,
            f"the scientist takes {what} as the owner of their project",
        )
        story.note(f"{what}: {said}")
    promise(not out.exists() or not [file for file in out.rglob("*") if file.is_file()], "nothing was written to disk")

    owner.hortus("datasets", "get", model, "-p", project, "--to", str(out / "model"))
    taken = [file for file in (out / "model").rglob("*") if file.is_file()]
    promise(len(taken) == len(files), "the study's owner takes the model")
    return f"403 four times; the study's owner took the model ({sum(file.stat().st_size for file in taken)} bytes)"


def removal(story: Story) -> str:
    """6. The owner removes the scientist, who holds something for every surface: each of the twelve ends within a second of the answer."""
    scientist, owner, study_id = story.scientist, story.owner, story.study["project_id"]
    follow_up = owner.hortus("projects", "create", "wdbc_follow_up")["project_id"]
    owner.confirm()
    owner.hortus("members", "add", scientist.username, "data_owner", "-p", follow_up)
    held = hold_everything(scientist, owner, story.machine(), study_id, story.data["dataset_id"], "aspirates", follow_up)
    probes = held.probes()
    promise({probe.name for probe in probes} == set(Surface), "every surface is asked")
    with owner.client() as deciding, owner.client() as deciding_too:
        deciding_too.users.me()
        deciding.users.me()
        with watching(probes), ThreadPoolExecutor(2) as both:
            shut = shut_out(probes)
            promise(not shut, f"before the removal each surface lets the scientist in: {shut}")
            sent = time.monotonic()
            first = both.submit(deciding.members.remove, study_id, scientist.user_id)
            second = both.submit(deciding_too.members.remove, follow_up, scientist.user_id)
            first.result()
            second.result()
            removed = time.monotonic()
            story.note(f"the removal was acknowledged after {removed - sent:.3f} s; from then on:")
            watched_on(probes, removed, REVOKED_SECONDS + WATCHED_AFTERWARDS, SETTLE_SECONDS)
        slowest = within_a_second(story, [probe.result(removed) for probe in probes])
        state = deciding.jobs.wait(study_id, held.job, seconds=30)["state"]
        promise(state in {"cancelled", "failed"}, "the job did not succeed")
        stored = [file["path"] for file in deciding.datasets.files(follow_up, held.owning.dataset)]
        promise(stored == [LONG_FILE], "the half upload is no file")
    return f"{len(probes)} surfaces refused, the slowest ({slowest.name}) after {slowest.lasted:.3f} s; the job is {state}"


def within_a_second(story: Story, surfaces: list[Outcome]) -> Outcome:
    """Tell how long each surface lasted, and promise that it was a second at most; the slowest."""
    for surface in surfaces:
        asked = f" ({surface.rate} questions/s, {surface.undecided} “cannot decide”)" if REACHES[Surface(surface.name)].asks else ""
        story.note(f"{surface.name:<20} refused after {surface.refused:.3f} s{asked}: {surface.words}")
    for surface in surfaces:
        promise(surface.let_in <= REVOKED_SECONDS, f"{surface.name} lets nobody in after {REVOKED_SECONDS:.0f} s ({surface.let_in:.3f})")
        promise(surface.refused <= REVOKED_SECONDS, f"{surface.name} is refused within {REVOKED_SECONDS:.0f} s")
    return max(surfaces, key=lambda surface: surface.lasted)


def answers(story: Story) -> str:
    """7. The auditor lists who did what, refusals included, and verifies the chains and the numbering."""
    auditor = story.auditor
    scientist, owner, administrator = story.scientist.user_id, story.owner.user_id, story.administrator.user_id
    expected = [
        (administrator, "user.create", {"allowed"}),
        (owner, "file.upload", {"allowed"}),
        (scientist, "project.read", {"refused"}),
        (scientist, "job.submit", {"allowed"}),
        (scientist, "file.download", {"refused"}),
        (owner, "file.download", {"opened", "closed"}),
        (owner, "member.remove", {"allowed"}),
    ]
    with auditor.client() as client:

        def missing() -> list[tuple[str, str, str]]:
            found = {
                (who, action, str(record["outcome"]))
                for who, action in {(who, action) for who, action, _ in expected}
                for record in client.audit.records(actor=who, action=action)
            }
            return [
                (who, action, outcome) for who, action, outcomes in expected for outcome in outcomes if (who, action, outcome) not in found
            ]

        until(lambda: not missing(), "every deed of the story is in the ledger", detail=lambda: str(missing()))
        refused = list(client.audit.records(actor=scientist, outcome="refused"))
        promise(all(record["reason"] for record in refused), "every refusal has its reason")
        reasons = sorted({record["reason"] for record in refused})
        checks = client.audit.verify()
    story.note(f"{len(refused)} refusals of the scientist, for: {', '.join(reasons)}")
    promise("origins-are-foreign" in reasons, "the refused copy is in the ledger with its reason")
    verified = auditor.hortus("audit", "verify")
    promise(bool(verified) and all(check["holds"] for check in verified), "the command finds the same")
    broken = [f"{check.source}: {check.findings[0]}" for check in checks if not check.holds]
    promise(not broken, f"the ledger holds {broken}")
    records = sum(check.records for check in checks)
    refusal(lambda: story.owner.hortus("audit", "list"), 403, "somebody who is no auditor reads the ledger")
    return f"{records} records of {len(checks)} sources recomputed: chains and numbers hold"


STEPS: list[Callable[[Story], str]] = [people, study, membership, train, walls, removal, answers]


def refusal(deed: Callable[[], object], status: int, what: str) -> str:
    """Do it and expect to be refused with this status; gives the reason in words."""
    code = {403: 1, 404: 4}[status]
    try:
        deed()
    except Ended as end:
        promise(end.code == code, f"{what}: refused with {status}, and not with “{end.said}”")
        return end.said
    except Refused as refused:
        promise(refused.status == status, f"{what}: refused with {status}, and not with {refused.status}")
        return str(refused)
    raise Broken(f"{what}: refused with {status}")


def take(person: Person, project: str, dataset: str, path: str, out: Path) -> None:
    """Download a file of a dataset with the library, which shows the status of a refusal."""
    with person.client() as client:
        client.datasets.download(project, dataset, path, out / path)


def hits(person: Person) -> list[Any]:
    """What a person finds by the words of the dataset's description."""
    with person.client() as client:
        return list(client.search("fine needle aspirates", kind="datasets"))


def until(holds: Callable[[], object], sentence: str, seconds: float = SETTLE_SECONDS, detail: Callable[[], str] = str) -> float:
    """Wait until it holds, and say how long that took; breaks the promise after ``seconds``."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise Broken(f"{sentence}, within {seconds:.0f} s {detail()}".strip())
        time.sleep(0.05)
    return time.monotonic() - began


def tell_steps(story: Story) -> None:
    """Go through all steps, one line each; raises Broken, HortusError, Ended or NotSoon at the first that does not hold."""
    for number, step in enumerate(STEPS, 1):
        began = time.monotonic()
        try:
            result = step(story)
        except (Broken, HortusError, Ended, NotSoon) as error:
            story.note(f"and then: {error}")
            story.end(f"✘ {number}. {sentence_of(step)}")
            raise
        story.note(result)
        story.end(f"✔ {number}. {sentence_of(step)} ({time.monotonic() - began:.1f} s)")


def sentence_of(step: Callable[[Story], str]) -> str:
    """The step's promise, from its docstring."""
    return str(step.__doc__).strip().splitlines()[0].split(". ", 1)[1]


def main() -> int:
    """Start a Hortus of its own, tell the story, stop it, leave nothing behind."""
    parser = argparse.ArgumentParser(description="One study from the first sign-in to the audit, on real servers.")
    parser.add_argument("--home", type=Path, help="keep the state in this folder (it must not exist yet)")
    given = parser.parse_args()
    home = Home(given.home) if given.home else Home.temporary()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hortus-story-") as folder:
            suite = Suite(home, settings=ONE_JOB_AT_A_TIME)
            print("  Starting Kafka, Elasticsearch, PostgreSQL, Valkey, seven services, the gateway and an agent …", flush=True)
            suite.start()
            print(f"✔ 0. Everything is ready at {suite.address} ({time.monotonic() - began:.1f} s)", flush=True)
            try:
                tell_steps(Story(suite, Path(folder), lambda line: print(line, flush=True)))
            finally:
                suite.stop()
    except (Broken, HortusError, Ended, NotSoon):
        print("The story broke off; the state is in " + str(home.path), file=sys.stderr)
        return 1
    except SetupProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if not given.home:
            home.erase()
        return 130
    if not given.home:
        home.erase()
    print(f"✔ The story holds ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
