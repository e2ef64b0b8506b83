"""The people of ``bench/revoke.py``, who lose their rights and get them back, and a load beside them."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bench._trials import Trial
from compose.local.suite import Suite
from contracts.surfaces import Deed
from examples.wdbc.doors import Door
from examples.wdbc.holdings import Account, Garden, Machine, Place

PATIENCE = 30.0
WORKERS = 8
OFTEN = 10


class Town:
    """The suite's people: an administrator, an owner who stays, and those who lose their rights again and again."""

    def __init__(self, suite: Suite, folder: Path, people: int) -> None:
        self.suite = suite
        self.folder = folder
        self.places = [
            Place(gateway, certificates, suite.root)
            for gateway, certificates in zip(suite.addresses, suite.certificate_addresses, strict=True)
        ]
        link = suite.setup_link()
        assert link is not None
        self.administrator = Account(self.places[0], link.rpartition("#")[2])
        with self.administrator.client() as root:
            self.machine = Machine(root, self.places[0], folder)
        self.owner = self.invite()
        print(f"an administrator, an owner and a machine are in; {people} more people come, each with a project", flush=True)
        with ThreadPoolExecutor(WORKERS) as pool:
            self.gardens = list(pool.map(lambda _: self.plant(), range(people)))
        self.cores: list[float] = []
        print("everybody is in", flush=True)

    def invite(self) -> Account:
        """Somebody new."""
        with self.administrator.client() as root:
            invited = root.users.create(f"p{time.monotonic_ns()}@hospital.example")
        return Account(self.places[0], str(invited["invitation"]))

    def plant(self) -> Garden:
        """Somebody new with a project to lose."""
        garden = Garden(self.owner, self.invite(), self.machine, self.folder)
        garden.admit()
        return garden

    def revive(self, trial: Trial) -> None:
        """Give back what the deed took."""
        if trial.deed is not Deed.BLOCKED:
            trial.garden.admit()
            return
        with self.administrator.client() as root:
            known = root.users.get(trial.garden.person.user_id)
            root.users.change(known["user_id"], status="active", version=known["version"])
        trial.garden.person.sign_in()


def busy(gateway: str, root: Path, token: str, project: str, dataset: str, stop: Event, done: Any) -> None:
    """The background load, in a process of its own: two who list, one who uploads, one who searches, each ``OFTEN`` a second at most."""
    content = os.urandom(256 * 1024)

    def go(number: int) -> None:
        door, count, began = Door(gateway, root, token), 0, time.monotonic()
        while not stop.wait(max(0.0, began + count / OFTEN - time.monotonic())):
            count += 1
            if number == 0:
                answer = door.ask("PUT", f"/projects/{project}/datasets/{dataset}/files/load-{count % 50}.bin", content)
            elif number == 1:
                answer = door.ask("GET", "/search?q=xylem")
            else:
                answer = door.ask("GET", f"/projects/{project}/datasets")
            if 200 <= answer.status < 300:
                with done.get_lock():
                    done.value += 1

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def background(town: Town) -> Iterator[Callable[[], float]]:
    """The load, for a while; gives how many requests a second were answered with 2xx."""
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Value("q", 0)
    garden = Garden(town.owner, town.owner, town.machine, town.folder)
    given = (town.places[0].gateway, town.places[0].root, town.owner.token, garden.project, garden.dataset, stop, done)
    process = context.Process(target=busy, args=given, daemon=True)
    process.start()
    began = time.monotonic()
    try:
        yield lambda: done.value / (time.monotonic() - began)
    finally:
        stop.set()
        process.join(PATIENCE)
