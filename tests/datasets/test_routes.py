"""The doors, on a real PostgreSQL and a real folder of blobs."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from chassis.guard import IDENTITY_HEADER, write_identity
from contracts.events import Dataset, DatasetKind, ProjectState, Share, ShareState
from services.datasets import service, vault
from tests.datasets.conftest import ADA, files_under, new_dataset, project, put, shared
from tests.deletions import purge, state
from tests.world import OURS, THEIRS, World, Worlds, owner, reason, scientist, stranger

ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
OTHERWISE = UUID("01900000-0000-7000-8000-00000000000f")
BIG = os.urandom(2 * vault.CHUNK + 12_345)


def path(dataset_id: UUID, *rest: str, project_id: UUID = OURS) -> str:
    return "/".join([f"/projects/{project_id}/datasets/{dataset_id}", *rest])


# Datasets


async def test_an_owner_makes_a_dataset_and_tells(world: World) -> None:
    answer = await world.post(
        f"/projects/{OURS}/datasets", owner(OURS), json={"name": " MRI scans ", "kind": "files", "description": "1.5 T"}
    )
    assert answer.status_code == 201
    made = answer.json()
    expected = {"name": "MRI scans", "kind": "files", "files": 0, "size": 0, "origins": [], "shared": False, "version": 1}
    assert expected.items() <= made.items()
    assert answer.headers["ETag"] == '"1"'
    (fact,) = await world.said()
    assert isinstance(fact, Dataset)
    assert (fact.name, fact.project_id, fact.version, fact.kind) == ("MRI scans", OURS, 1, DatasetKind.FILES)
    assert answer.headers["Hortus-Facts"] == f"datasets:{made['dataset_id']}:1"


async def test_a_data_scientist_may_not_make_a_dataset(world: World) -> None:
    answer = await world.post(f"/projects/{OURS}/datasets", scientist(OURS), json={"name": "mri"})
    assert (answer.status_code, reason(answer)) == (403, "role-may-not")
    assert await world.said() == []


async def test_two_datasets_of_a_project_do_not_differ_in_case_only(world: World) -> None:
    await new_dataset(world, "Größe")
    answer = await world.post(f"/projects/{OURS}/datasets", owner(OURS), json={"name": "GRÖSSE"})
    assert (answer.status_code, reason(answer)) == (409, "name-taken")
    await new_dataset(world, "Größe", THEIRS)


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": "a", "kind": "topic"},
        {"name": "a", "description": "x" * 2001},
        {"name": "a", "owner": "me"},
        {"name": 7},
        {},
    ],
)
async def test_a_dataset_that_is_not_described_right_is_refused_and_nothing_is_stored(world: World, body: dict[str, Any]) -> None:
    answer = await world.post(f"/projects/{OURS}/datasets", owner(OURS), json=body)
    assert answer.status_code == 422
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM datasets") == []


async def test_a_repeated_creation_with_its_key_answers_the_same_and_makes_one(world: World) -> None:
    somebody = owner(OURS)
    answers = [await world.post(f"/projects/{OURS}/datasets", somebody, json={"name": "mri"}, key="k1") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(await world.said()) == 1


async def test_nothing_comes_into_a_project_that_is_not_active(world: World) -> None:
    dataset_id = await new_dataset(world)
    await world.hear(project(OURS, ProjectState.ARCHIVED, version=2))
    for answer in (
        await world.post(f"/projects/{OURS}/datasets", owner(OURS), json={"name": "more"}),
        await put(world, dataset_id, "a", b"1"),
        await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(THEIRS)}),
    ):
        assert (answer.status_code, reason(answer)) == (409, "project-is-closed")


async def test_a_project_that_was_made_a_moment_ago_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.known, "KNOWN_WAIT_S", 30.0)
    fresh = uuid7()
    asked = asyncio.create_task(world.post(f"/projects/{fresh}/datasets", owner(fresh), json={"name": "mri"}))
    await asyncio.sleep(0.1)
    await world.hear(project(fresh))
    assert (await asked).status_code == 201


async def test_an_unknown_project_cannot_be_decided_about(world: World) -> None:
    answer = await world.post(f"/projects/{(other := uuid7())}/datasets", owner(other), json={"name": "mri"})
    assert (answer.status_code, reason(answer)) == (503, "cannot-decide")


async def test_a_description_is_changed_by_whoever_has_read_the_newest_version(world: World) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    changed = await world.patch(path(dataset_id), owner(OURS), version=1, json={"description": "new"})
    assert (changed.status_code, changed.json()["version"], changed.json()["description"]) == (200, 2, "new")
    assert [fact.version for fact in await world.said()] == [2]
    assert (await world.patch(path(dataset_id), owner(OURS), version=1, json={"description": "x"})).status_code == 412
    assert (await world.patch(path(dataset_id), owner(OURS), json={"description": "x"})).status_code == 428
    assert (await world.patch(path(dataset_id), scientist(OURS), version=2, json={"description": "x"})).status_code == 403
    assert await world.said() == []


async def test_datasets_are_listed_page_by_page(world: World) -> None:
    made = [str(await new_dataset(world, f"set {number}")) for number in range(5)]
    await new_dataset(world, "not ours", THEIRS)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = (await world.get(f"/projects/{OURS}/datasets?limit=2" + (f"&after={after}" if after else ""), scientist(OURS))).json()
        seen += [item["dataset_id"] for item in page["items"]]
        after = page["next"]
    assert seen == made
    for cursor in ("x", "W10", "WzFd"):
        assert (await world.get(f"/projects/{OURS}/datasets?after={cursor}", scientist(OURS))).status_code == 422


async def test_who_is_no_member_learns_nothing(world: World) -> None:
    dataset_id = await new_dataset(world)
    for answer in (
        await world.get(f"/projects/{OURS}/datasets", stranger(OURS)),
        await world.get(path(dataset_id), stranger(OURS)),
        await world.get(path(dataset_id, "files/a"), stranger(OURS)),
    ):
        assert (answer.status_code, reason(answer)) == (404, "not-found")


async def test_a_dataset_of_another_project_does_not_exist_here(world: World) -> None:
    theirs = await new_dataset(world, "theirs", THEIRS)
    await put(world, theirs, "a", b"1", THEIRS)
    await world.said()
    for answer in (
        await world.get(path(theirs), owner(OURS)),
        await world.get(path(theirs, "files"), owner(OURS)),
        await world.get(path(theirs, "files/a"), owner(OURS)),
        await put(world, theirs, "b", b"2"),
        await world.patch(path(theirs), owner(OURS), version=2, json={"description": "x"}),
        await world.get(path(theirs, "shares"), owner(OURS)),
        await world.post(path(theirs, "shares"), owner(OURS), json={"target_project_id": str(OURS)}),
    ):
        assert (answer.status_code, reason(answer)) == (404, "not-found")
    assert await world.said() == []


# Files


@pytest.mark.parametrize(
    "size", [0, 1, service.uploads.SMALL, service.uploads.SMALL + 1, vault.CHUNK - 1, vault.CHUNK, vault.CHUNK + 1, len(BIG)]
)
async def test_what_goes_in_comes_out_and_lies_encrypted(world: World, blobs: Path, size: int) -> None:
    dataset_id, data = await new_dataset(world), BIG[:size]
    await world.said()
    stored = await put(world, dataset_id, "scans/a b.dcm", data)
    assert stored.status_code == 201, stored.text
    sha256 = hashlib.sha256(data).hexdigest()
    assert {"path": "scans/a b.dcm", "size": size, "sha256": sha256, "version": 1}.items() <= stored.json().items()
    assert stored.json()["origins"] == [str(dataset_id)]
    (fact,) = await world.said()
    assert isinstance(fact, Dataset)
    assert (fact.version, fact.files, fact.size, fact.origins) == (2, 1, size, (dataset_id,))
    out = await world.get(path(dataset_id, "files/scans/a b.dcm"), owner(OURS))
    assert (out.status_code, out.content, out.headers["Content-Length"], out.headers["ETag"]) == (200, data, str(size), f'"{sha256}"')
    at_rest = b"".join(file.read_bytes() for file in files_under(blobs))
    rows = await world.sql("SELECT content FROM files")
    assert len(at_rest) == (0 if size <= service.uploads.SMALL else vault.sealed_size(size))
    for place in (at_rest, bytes(rows[0].content or b"")):
        assert size < 16 or not any(data[n : n + 16] in place for n in range(0, size - 16, 4096))


async def test_an_upload_is_recorded_with_the_file_and_its_size(world: World) -> None:
    dataset_id = await new_dataset(world)
    await world.recorded()
    await put(world, dataset_id, "secret name.csv", b"12345")
    (record,) = await world.recorded()
    assert (record["action"], record["project_id"], record["resource"]["bytes"]) == ("file.upload", str(OURS), "5")
    assert record["resource"]["datasets"] == str(dataset_id)
    assert "secret name" not in str(record)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-9", BIG[:10]),
        (f"bytes={vault.CHUNK - 5}-{vault.CHUNK + 4}", BIG[vault.CHUNK - 5 : vault.CHUNK + 5]),
        (f"bytes={2 * vault.CHUNK}-", BIG[2 * vault.CHUNK :]),
        ("bytes=-7", BIG[-7:]),
    ],
)
async def test_a_range_of_a_file_is_the_same_slice(world: World, wanted: str, expected: bytes) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    answer = await world.get(path(dataset_id, "files/a"), owner(OURS), headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (206, expected)
    start = BIG.index(expected)
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{len(BIG)}"
    other = {"Range": wanted, "If-Range": '"another version"'}
    assert (await world.get(path(dataset_id, "files/a"), owner(OURS), headers=other)).status_code == 200


async def test_a_range_after_the_end_says_how_long_the_file_is(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"12345")
    answer = await world.get(path(dataset_id, "files/a"), owner(OURS), headers={"Range": "bytes=5-"})
    assert (answer.status_code, reason(answer), answer.headers["Content-Range"]) == (416, "range-not-satisfiable", "bytes */5")


async def test_a_second_upload_is_a_new_version_and_the_old_one_is_kept(world: World, blobs: Path) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    again = await put(world, dataset_id, "a", b"short")
    assert again.json()["version"] == 2
    assert (await world.get(path(dataset_id, "files/a"), owner(OURS))).content == b"short"
    listed = (await world.get(path(dataset_id, "files"), scientist(OURS))).json()["items"]
    assert [(item["path"], item["version"], item["size"]) for item in listed] == [("a", 2, 5)]
    seen = (await world.get(path(dataset_id), scientist(OURS))).json()
    assert (seen["files"], seen["size"], seen["version"]) == (1, 5, 3)
    assert [tuple(row) for row in await world.sql("SELECT number, current FROM files ORDER BY number")] == [(1, False), (2, True)]
    assert len(list(files_under(blobs))) == 1


async def test_uploads_of_one_file_at_the_same_time_are_versions_one_after_the_other(world: World) -> None:
    dataset_id = await new_dataset(world)
    answers = await asyncio.gather(*[put(world, dataset_id, "a", bytes([number]) * 70_000) for number in range(4)])
    assert sorted(answer.json()["version"] for answer in answers) == [1, 2, 3, 4]
    assert (await world.get(path(dataset_id), owner(OURS))).json()["files"] == 1


async def test_files_are_listed_by_path_page_by_page(world: World) -> None:
    dataset_id = await new_dataset(world)
    for name in ("b", "a/2", "Z", "a/1", "ä"):
        await put(world, dataset_id, name, b"x")
    first = (await world.get(path(dataset_id, "files?limit=3"), scientist(OURS))).json()
    rest = (await world.get(path(dataset_id, f"files?limit=3&after={first['next']}"), scientist(OURS))).json()
    assert [item["path"] for item in first["items"] + rest["items"]] == ["Z", "a/1", "a/2", "b", "ä"]
    assert rest["next"] is None


@pytest.mark.parametrize(
    "name",
    ["%2e%2e/up", "a/%2e%2e/b", "%2Fabs", "a%5Cb", "a%00b", "a%0ab", "a%2F%2Fb", "%ff%fe", "u%CC%88", "x" * 256, "end%2F"],
)
async def test_a_path_that_could_mean_another_place_stores_nothing(world: World, blobs: Path, name: str) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    answer = await put(world, dataset_id, name, BIG[:100_000])
    assert (answer.status_code, reason(answer)) in ((422, "invalid-path"), (404, "not-found"))
    assert await world.said() == []
    assert list(files_under(blobs)) == []


@pytest.mark.parametrize("size", [10, 200_000])
async def test_bytes_with_another_hash_than_announced_are_not_stored(world: World, blobs: Path, size: int) -> None:
    dataset_id, data = await new_dataset(world), BIG[:size]
    await world.said()
    door = path(dataset_id, "files/a")
    wrong = await world.put(door, owner(OURS, ADA), content=data, headers={"Hortus-Content-SHA256": "0" * 64})
    assert (wrong.status_code, reason(wrong)) == (422, "hash-differs")
    bad = await world.put(door, owner(OURS, ADA), content=data, headers={"Hortus-Content-SHA256": "zz"})
    assert (bad.status_code, reason(bad)) == (422, "invalid-hash")
    assert await world.said() == []
    assert list(files_under(blobs)) == []
    right = await world.put(
        door, owner(OURS, ADA), content=data, headers={"Hortus-Content-SHA256": hashlib.sha256(data).hexdigest().upper()}
    )
    assert right.status_code == 201


@pytest.mark.parametrize("size", [10, 200_000, 3 * vault.CHUNK])
async def test_an_upload_that_is_cut_leaves_nothing(world: World, blobs: Path, size: int) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    pieces: list[dict[str, Any]] = [{"type": "http.request", "body": BIG[:size], "more_body": True}, {"type": "http.disconnect"}]
    sent = await raw(world, "PUT", path(dataset_id, "files/a"), owner(OURS, ADA), pieces)
    assert sent[0]["status"] == 400
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM files") == []
    assert list(files_under(blobs)) == []


async def test_a_data_scientist_can_neither_put_in_nor_take_out(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"1")
    await world.said()
    into = await world.put(path(dataset_id, "files/b"), scientist(OURS), content=b"1")
    out = await world.get(path(dataset_id, "files/a"), scientist(OURS))
    assert [(each.status_code, reason(each)) for each in (into, out)] == [(403, "role-may-not")] * 2
    assert await world.said() == []


async def test_a_file_that_is_not_there_is_not_found(world: World) -> None:
    dataset_id = await new_dataset(world)
    assert (await world.get(path(dataset_id, "files/none"), owner(OURS))).status_code == 404


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "swap"])
async def test_a_damaged_blob_is_never_handed_out(world: World, blobs: Path, damage: str) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    await put(world, dataset_id, "b", BIG[::-1])
    file, other = files_under(blobs)
    if damage == "gone":
        file.unlink()
        other.unlink()
    elif damage == "cut":
        for each in (file, other):
            os.truncate(each, vault.sealed_size(vault.CHUNK))
    elif damage == "swap":
        first = file.read_bytes()
        file.write_bytes(other.read_bytes())
        other.write_bytes(first)
    else:
        for each in (file, other):
            content = bytearray(each.read_bytes())
            content[500_000] ^= 1
            each.write_bytes(content)
    answer = await world.get(path(dataset_id, "files/a"), owner(OURS))
    assert (answer.status_code, reason(answer)) == (500, "data-damaged")


async def test_damage_behind_the_first_chunk_ends_the_stream_without_a_wrong_byte(world: World, blobs: Path) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    (file,) = files_under(blobs)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    got = bytearray()
    with pytest.raises(RuntimeError, match="response already started"):
        await stream(world, path(dataset_id, "files/a"), owner(OURS), got)
    assert bytes(got) == BIG[: 2 * vault.CHUNK]


async def test_without_the_datasets_key_the_bytes_are_noise(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    await world.sql("DELETE FROM dataset_keys")
    assert reason(await world.get(path(dataset_id, "files/a"), owner(OURS))) == "data-damaged"


async def test_another_master_key_opens_nothing(world: World, worlds: Worlds, settings: dict[str, Any], tmp_path: Path) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"12345")
    key = tmp_path / "other.key"
    key.write_bytes(b"A" * 43)
    other = await worlds.open("datasets", beside=world, **{**settings, "master_key_file": key})
    assert reason(await other.get(path(dataset_id, "files/a"), owner(OURS))) == "data-damaged"


# A full disk


async def test_the_door_is_closed_while_the_disk_has_less_than_its_reserve(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    dataset_id = await new_dataset(world)
    full = await worlds.open("datasets", beside=world, **{**settings, "blob_reserve": 2**60})
    answer = await put(full, dataset_id, "a", b"1")
    assert (answer.status_code, reason(answer)) == (507, "out-of-space")


async def test_an_upload_ends_when_the_disk_comes_under_its_reserve_and_nothing_of_it_stays(world: World, blobs: Path) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    store = world.runtime.extra["storage"].blobs
    sent = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(64):
            if number == 12:
                store.reserve = 2**60
            yield BIG[: vault.CHUNK]
            sent += 1

    answer = await world.put(path(dataset_id, "files/a"), owner(OURS, ADA), content=content())
    assert (answer.status_code, reason(answer)) == (507, "out-of-space")
    assert 12 <= sent < 64
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM files") == []
    assert list(files_under(blobs)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
async def test_a_disk_that_fills_up_stores_nothing_half_and_loses_nothing(
    world: World, worlds: Worlds, settings: dict[str, Any], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        dataset_id = await new_dataset(world)
        full = await worlds.open("datasets", beside=world, **{**settings, "blob_url": f"file://{small}"})
        assert (await put(full, dataset_id, "kept", BIG)).status_code == 201
        await full.said()
        answer = await put(full, dataset_id, "too much", os.urandom(10_000_000))
        assert (answer.status_code, reason(answer)) == (507, "out-of-space")
        assert await full.said() == []
        assert len(list(files_under(small))) == 1
        assert (await full.get(path(dataset_id, "files/kept"), owner(OURS))).content == BIG
    finally:
        subprocess.run(["umount", str(small)], check=True)


async def test_blobs_of_no_file_are_swept_and_no_others(world: World, blobs: Path) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    orphan = next(files_under(blobs)).with_name(str(uuid7()))
    orphan.write_bytes(b"left by an upload whose commit failed")
    storage = world.runtime.extra["storage"]
    assert await service.sweep.sweep(storage, 3600) == 0
    assert await service.sweep.sweep(storage, 0) == 1
    assert not orphan.exists()
    assert (await world.get(path(dataset_id, "files/a"), owner(OURS))).content == BIG


# Shares


async def test_a_dataset_is_offered_accepted_seen_and_withdrawn(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    await world.said()
    offered = await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(THEIRS)})
    assert offered.status_code == 201
    share = offered.json()
    assert (share["state"], share["dataset_name"], share["version"]) == ("offered", "mri", 1)
    assert (await world.get(path(dataset_id, project_id=THEIRS), scientist(THEIRS))).status_code == 404
    incoming = (await world.get(f"/projects/{THEIRS}/incoming-shares", scientist(THEIRS))).json()["items"]
    assert [item["share_id"] for item in incoming] == [share["share_id"]]

    door = f"/projects/{THEIRS}/incoming-shares/{share['share_id']}/acceptance"
    assert (await world.post(door, scientist(THEIRS))).status_code == 403
    accepted = await world.post(door, owner(THEIRS))
    assert (accepted.status_code, accepted.json()["state"]) == (200, "accepted")
    assert (await world.post(door, owner(THEIRS))).json() == accepted.json()
    seen = (await world.get(path(dataset_id, project_id=THEIRS), scientist(THEIRS))).json()
    assert (seen["shared"], seen["project_id"], seen["size"]) == (True, str(OURS), 3)
    listed = (await world.get(f"/projects/{THEIRS}/datasets", scientist(THEIRS))).json()["items"]
    assert [(item["dataset_id"], item["shared"]) for item in listed] == [(str(dataset_id), True)]
    files = (await world.get(path(dataset_id, "files", project_id=THEIRS), scientist(THEIRS))).json()["items"]
    assert [item["path"] for item in files] == ["a"]

    end = path(dataset_id, "shares", share["share_id"])
    assert (await world.delete(end, scientist(OURS))).status_code == 403
    assert (await world.delete(end, owner(OURS))).status_code == 204
    assert (await world.delete(end, owner(OURS))).status_code == 204
    assert (await world.get(path(dataset_id, project_id=THEIRS), scientist(THEIRS))).status_code == 404
    assert (await world.get(f"/projects/{THEIRS}/datasets", scientist(THEIRS))).json()["items"] == []
    assert (await world.get(f"/projects/{THEIRS}/incoming-shares", scientist(THEIRS))).json()["items"] == []
    assert [item["state"] for item in (await world.get(path(dataset_id, "shares"), scientist(OURS))).json()["items"]] == ["withdrawn"]
    facts = [fact for fact in await world.said() if isinstance(fact, Share)]
    assert [(fact.version, fact.state) for fact in facts] == [
        (1, ShareState.OFFERED),
        (2, ShareState.ACCEPTED),
        (3, ShareState.WITHDRAWN),
    ]


async def test_what_is_shared_in_can_neither_be_taken_out_nor_changed_nor_shared_on(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    await shared(world, dataset_id)
    await world.said()
    out = await world.get(path(dataset_id, "files/a", project_id=THEIRS), owner(THEIRS))
    assert (out.status_code, reason(out)) == (403, "origins-are-foreign")
    assert "Data Owner" in out.json()["detail"]
    on = path(dataset_id, "shares", project_id=THEIRS)
    for answer in (
        await put(world, dataset_id, "b", b"1", THEIRS),
        await world.post(on, owner(THEIRS), json={"target_project_id": str(uuid7())}),
        await world.get(on, owner(THEIRS)),
    ):
        assert (answer.status_code, reason(answer)) == (403, "dataset-is-not-own")
    assert await world.said() == []


async def test_an_offer_that_makes_no_sense_is_refused(world: World) -> None:
    dataset_id = await new_dataset(world)
    await shared(world, dataset_id)
    await world.said()
    for target, status, slug in ((OURS, 409, "shared-with-itself"), (THEIRS, 409, "already-shared")):
        answer = await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(target)})
        assert (answer.status_code, reason(answer)) == (status, slug)
    assert await world.said() == []


@pytest.mark.parametrize("target", ["nobody's", ProjectState.ACTIVE, ProjectState.ARCHIVED, ProjectState.CLOSING, ProjectState.PURGING])
async def test_an_offer_tells_nothing_of_the_project_that_it_is_for(world: World, target: str) -> None:
    dataset_id = await new_dataset(world)
    if target != "nobody's":
        await world.hear(state(ProjectState(target), 2, ELSEWHERE))
    offered = await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(ELSEWHERE)})
    assert (offered.status_code, offered.json()["state"]) == (201, "offered")
    withdrawn = await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(OTHERWISE)})
    await world.delete(path(dataset_id, "shares", withdrawn.json()["share_id"]), owner(OURS))
    before = (await world.get(path(dataset_id, "shares"), owner(OURS))).json()
    await world.hear(*[state(ProjectState.PURGING, 3, place) for place in (ELSEWHERE, OTHERWISE)])
    await purge(world)
    assert (await world.get(path(dataset_id, "shares"), owner(OURS))).json() == before, "nor does what becomes of it show in the offer"


async def test_a_share_is_accepted_by_nobody_else_and_not_after_its_end(world: World) -> None:
    dataset_id = await new_dataset(world)
    offered = await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(THEIRS)})
    share_id = offered.json()["share_id"]
    assert (await world.post(f"/projects/{OURS}/incoming-shares/{share_id}/acceptance", owner(OURS))).status_code == 404
    assert (await world.post(f"/projects/{THEIRS}/incoming-shares/{uuid7()}/acceptance", owner(THEIRS))).status_code == 404
    await world.delete(path(dataset_id, "shares", share_id), owner(OURS))
    late = await world.post(f"/projects/{THEIRS}/incoming-shares/{share_id}/acceptance", owner(THEIRS))
    assert (late.status_code, reason(late)) == (409, "share-is-withdrawn")
    assert (await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(THEIRS)})).status_code == 201


# Streams without a client in between


async def raw(world: World, method: str, target: str, actor: Any, pieces: list[dict[str, Any]]) -> list[Any]:
    """Drive the application itself with these messages; what it sent."""
    sent: list[Any] = []

    async def receive() -> Any:
        return pieces.pop(0) if pieces else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    request = world.client.build_request(method, f"/api/v1{target}", headers=identity(actor))
    await world.app(scope(request), receive, send)
    return sent


async def stream(world: World, target: str, actor: Any, got: bytearray) -> None:
    """Download into ``got``; raises what breaks the stream."""

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        got.extend(message.get("body", b""))

    await world.app(scope(world.client.build_request("GET", f"/api/v1{target}", headers=identity(actor))), receive, send)


def identity(actor: Any) -> dict[str, str]:
    return {IDENTITY_HEADER: write_identity(actor)}


def scope(request: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "path": request.url.path,
        "raw_path": request.url.raw_path,
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw if name.lower() != b"content-length"],
        "scheme": "https",
        "client": ("127.0.0.1", 1),
        "server": ("service", 443),
        "root_path": "",
        "state": {},
    }


async def pieces_of(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_a_body_in_pieces_of_any_size_is_one_file(world: World) -> None:
    dataset_id = await new_dataset(world)
    for size in (7_001, 65_536, 3_000_000):
        await put_stream(world, dataset_id, pieces_of(BIG, size))
        assert (await world.get(path(dataset_id, "files/a"), owner(OURS))).content == BIG


async def put_stream(world: World, dataset_id: UUID, content: AsyncIterator[bytes]) -> None:
    answer = await world.put(path(dataset_id, "files/a"), owner(OURS, ADA), content=content)
    assert answer.status_code == 201
