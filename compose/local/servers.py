"""The four servers, for the runner and for test fixtures alike."""

from compose.local.elasticsearch import Elasticsearch
from compose.local.kafka import Kafka
from compose.local.postgres import Postgres
from compose.local.valkey import Valkey

__all__ = ["Elasticsearch", "Kafka", "Postgres", "Valkey"]
