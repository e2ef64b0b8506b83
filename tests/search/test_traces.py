"""What was deleted leaves no trace in the files of the index."""

import asyncio

from compose.local.elasticsearch import Elasticsearch
from tests.deletions import CLOSING, PURGING, purge
from tests.search.conftest import PREFIX, dataset
from tests.world import THEIRS, World


async def test_what_was_deleted_is_in_no_file_of_the_index_however_little_it_was(world: World, elasticsearch: Elasticsearch) -> None:
    marker = "xq7kz9wv2mhdr4tb"
    await world.hear(dataset("zebra", description=marker), *[dataset(f"lion {number}", THEIRS) for number in range(50)])
    for asked in ("_forcemerge?max_num_segments=1", "_flush?force=true"):
        await asyncio.to_thread(elasticsearch.request, "POST", f"/{PREFIX}-*/{asked}", b"")

    def found() -> list[str]:
        return [path.name for path in elasticsearch.folder.rglob("*") if path.is_file() and marker.encode() in path.read_bytes()]

    assert found()
    await world.hear(CLOSING, PURGING)
    await purge(world)
    assert found() == []
