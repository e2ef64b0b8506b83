"""The index: one Elasticsearch index for each kind, one document for each aggregate, ordered by the facts' versions.

Boolean similarity, and n-grams where others expand fuzzily: no score depends on documents outside the caller's filter.
A deletion is a document too (``deleted``), because Elasticsearch forgets the version of a deleted document after a minute.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from elastic_transport import TransportError
from elasticsearch import ApiError, AsyncElasticsearch, BadRequestError, NotFoundError

from chassis import tls
from services.search.models import Document, Kind, Scope

USER = "search"
LAYOUT = "v1"
TIMEOUT_S = 5.0
EXPUNGE_S = 600.0
LEASE_LOOK_S = 0.2
REFRESH = "200ms"
REFUSED = 400
CONFLICT = 409
BUSY = 429
BROKEN = 500
ABSENT = 404

SEPARATORS = {"type": "mapping", "mappings": ["_=>\\u0020", "-=>\\u0020", ".=>\\u0020", "/=>\\u0020"]}
ANALYSIS = {
    "char_filter": {"separators": SEPARATORS},
    "filter": {
        "stop": {"type": "stop", "stopwords": "_english_"},
        "stem": {"type": "stemmer", "language": "english"},
        "possessive": {"type": "stemmer", "language": "possessive_english"},
        "three": {"type": "ngram", "min_gram": 3, "max_gram": 3},
    },
    "analyzer": {
        "words": {
            "type": "custom",
            "char_filter": ["separators"],
            "tokenizer": "standard",
            "filter": ["possessive", "lowercase", "asciifolding", "stop", "stem"],
        },
        "grams": {
            "type": "custom",
            "char_filter": ["separators"],
            "tokenizer": "standard",
            "filter": ["lowercase", "asciifolding", "three"],
        },
    },
}
EXPUNGE = "expunge_deletes_allowed"
SETTINGS = {
    "number_of_shards": 1,
    "number_of_replicas": 0,
    "refresh_interval": REFRESH,
    "analysis": ANALYSIS,
    # What was deleted or replaced goes at the next expunge, however little of a segment it is.
    f"merge.policy.{EXPUNGE}": 0,
}
TEXT = {
    "type": "text",
    "analyzer": "words",
    "similarity": "boolean",
    "fields": {"grams": {"type": "text", "analyzer": "grams", "similarity": "boolean"}},
}
KEYWORD = {"type": "keyword"}
MAPPINGS = {
    "dynamic": "strict",
    "properties": {
        "kind": KEYWORD,
        "id": KEYWORD,
        "project_id": KEYWORD,
        "name": TEXT,
        "description": TEXT,
        "deleted": {"type": "boolean"},
    },
}


class IndexAway(OSError):
    """The index cannot be reached, or is not there: try again later."""


class IndexRefused(Exception):
    """The index does not take a document."""


@dataclass(frozen=True)
class Hit:
    """One document found."""

    kind: Kind
    id: str
    project_id: str
    name: str
    description: str
    score: float
    highlight: dict[str, list[str]]


@dataclass(frozen=True)
class Found:
    """What a query found under its filter: how many, and a part of them."""

    hits: Sequence[Hit]
    total: int


class Index:
    """The client side. ``prefix`` begins the names of the indexes. Raises IndexAway from every method."""

    def __init__(self, url: str, password: str, tls_dir: Path, prefix: str) -> None:
        self._prefix = prefix
        self._client = AsyncElasticsearch(
            [url],
            basic_auth=(USER, password),
            ssl_context=tls.client_context(tls_dir),
            request_timeout=TIMEOUT_S,
            max_retries=1,
            retry_on_timeout=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def alias(self, kind: Kind) -> str:
        """The name that a kind's index is asked by."""
        return f"{self._prefix}-{kind}"

    async def ensure(self, kind: Kind) -> str:
        """Make the kind's index unless it is there; Elasticsearch's own id of it, which a lost and remade one does not share."""
        alias = self.alias(kind)
        name = f"{alias}-{LAYOUT}"
        with _away():
            if not await self._client.indices.exists_alias(name=alias):
                try:
                    await self._client.indices.create(index=name, settings=SETTINGS, mappings=MAPPINGS, aliases={alias: {}})
                except BadRequestError as error:
                    if error.error != "resource_already_exists_exception":
                        raise
                    await self._client.indices.put_alias(index=name, name=alias)
            made = (await self._client.indices.get_settings(index=alias))[name]["settings"]["index"]
            if made.get("merge", {}).get("policy", {}).get(EXPUNGE) != "0":  # made before this was set
                await self._client.indices.put_settings(index=alias, settings={f"index.merge.policy.{EXPUNGE}": 0})
        return str(made["uuid"])

    async def write(self, documents: Iterable[Document]) -> None:
        """Store documents unless the index has a newer version of them. Raises IndexRefused."""
        lines: list[dict[str, Any]] = []
        for document in documents:
            place = {"_index": self.alias(document.kind), "_id": document.id, "version": document.version, "version_type": "external_gte"}
            lines += [{"index": place}, document.body]
        if not lines:
            return
        with _away():
            answer = await self._client.bulk(operations=lines, require_alias=True, refresh=False)
        for item in answer["items"]:
            result = item["index"]
            status = result["status"]
            if status in (ABSENT, BUSY) or status >= BROKEN:
                raise IndexAway(f"{result['_index']}: {status}")
            if status >= REFUSED and status != CONFLICT:
                raise IndexRefused(f"{result['_index']}: {status} {result['error']['type']}")

    async def refresh(self, kinds: Iterable[Kind]) -> None:
        """Make what was written findable now; of no kind, nothing is done (an empty list would mean every index)."""
        aliases = [self.alias(kind) for kind in kinds]
        if aliases:
            with _away():
                await self._client.indices.refresh(index=aliases)

    async def of_project(self, project_id: UUID, most: int) -> list[tuple[Kind, str]]:
        """Some documents of a project, also what was written just now, that are not deleted."""
        aliases = [self.alias(kind) for kind in Kind]
        own = {"bool": {"filter": [{"term": {"project_id": str(project_id)}}]}}
        with _away():
            await self._client.indices.refresh(index=aliases)
            answer = await self._client.search(index=aliases, query=own, size=most, source_includes=["kind", "id"])
        return [(Kind(hit["_source"]["kind"]), hit["_source"]["id"]) for hit in answer["hits"]["hits"]]

    async def expunge(self) -> None:
        """Write the index's files anew without what was deleted or replaced up to now; it can take minutes.

        A merge keeps a replaced document until the index's retention lease, which moves on every 30 s, has passed it.
        """
        aliases = [self.alias(kind) for kind in Kind]
        with _away():
            written = {name: last for name, last, _ in await self._shards(aliases)}
            while True:
                kept = await self._shards(aliases)
                if all(kept_from > written.get(name, -1) for name, _, kept_from in kept):
                    break
                await asyncio.sleep(LEASE_LOOK_S)
            await self._client.indices.flush(index=aliases)
            await self._client.options(request_timeout=EXPUNGE_S).indices.forcemerge(index=aliases, only_expunge_deletes=True, flush=True)

    async def _shards(self, aliases: Sequence[str]) -> list[tuple[str, int, int]]:
        """Of each shard its index, the number of the last change in it, and the number of the first change that it keeps."""
        stats = await self._client.indices.stats(index=aliases, level="shards", metric=["docs"])
        return [
            (name, int(copy["seq_no"]["global_checkpoint"]), int(lease["retaining_seq_no"]))
            for name, index in stats["indices"].items()
            for copies in index["shards"].values()
            for copy in copies
            for lease in copy["retention_leases"]["leases"]
        ]

    async def search(self, text: str, kinds: Sequence[Kind], scope: Scope, limit: int, after: tuple[float, str] | None) -> Found:
        """Look for ``text`` within ``scope``, best first; ``after`` is score and id of the last hit seen. Up to ``limit + 1`` hits."""
        with _away():
            answer = await self._client.search(
                index=[self.alias(kind) for kind in kinds],
                query={"bool": {"filter": _visible(scope), "should": _matching(text), "minimum_should_match": 1}},
                sort=[{"_score": "desc"}, {"id": "asc"}],
                search_after=list(after) if after else None,
                size=limit + 1,
                track_total_hits=True,
                highlight={
                    "encoder": "html",
                    "fields": {"name": {"number_of_fragments": 0}, "description": {"number_of_fragments": 1, "fragment_size": 160}},
                },
                source_includes=["kind", "id", "project_id", "name", "description"],
            )
        hits = answer["hits"]
        return Found([_hit(hit) for hit in hits["hits"]], int(hits["total"]["value"]))


def _visible(scope: Scope) -> list[dict[str, Any]]:
    """The filter that every query carries: the caller's projects, and datasets shared into them."""
    allowed = [
        {"terms": {"project_id": sorted(map(str, scope.projects))}},
        {"terms": {"id": sorted(map(str, scope.shared))}},
    ]
    return [{"term": {"deleted": False}}, {"bool": {"should": allowed, "minimum_should_match": 1}}]


def _matching(text: str) -> list[dict[str, Any]]:
    """Words of the name count most, then words of the description, then parts of words."""
    return [
        {"match": {"name": {"query": text, "boost": 4}}},
        {"match": {"description": {"query": text, "boost": 2}}},
        {"constant_score": {"filter": {"match": {"name.grams": {"query": text, "minimum_should_match": "70%"}}}, "boost": 1}},
        {"constant_score": {"filter": {"match": {"description.grams": {"query": text, "minimum_should_match": "70%"}}}, "boost": 0.5}},
    ]


def _hit(hit: dict[str, Any]) -> Hit:
    source = hit["_source"]
    return Hit(
        kind=Kind(source["kind"]),
        id=source["id"],
        project_id=source["project_id"],
        name=source["name"],
        description=source["description"],
        score=float(hit["_score"]),
        highlight=dict(hit.get("highlight", {})),
    )


@contextlib.contextmanager
def _away() -> Iterator[None]:
    """Turn what only means "not now" into IndexAway."""
    try:
        yield
    except TransportError as error:
        raise IndexAway(type(error).__name__) from error
    except NotFoundError as error:
        raise IndexAway("the index is not there") from error
    except ApiError as error:
        if error.status_code == BUSY or error.status_code >= BROKEN:
            raise IndexAway(f"status {error.status_code}") from error
        raise
