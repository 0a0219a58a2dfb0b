"""A router, as far as the cache sees it, and a semantic tier for tests."""

import hashlib

import httpx
import orjson

from cluster.config.semantic_cache import (
    BreakEvenConfig,
    CategoryCacheConfig,
    ErrorContractConfig,
    SemanticCacheConfig,
    SemanticTierConfig,
)
from deployments.messages import CACHE_COST, CACHE_KEY, CACHE_MODEL, CACHE_TENANT, CacheQuery

ASKED = "How do I reset the password of my account?"
PARAPHRASE = "What is the way to reset my account password?"
OPPOSITE = "How do I keep the password of my account?"
SCOPE = "5c" * 32


def tier(*, verified=False, explore=0.0, room=100, on_disk=0, judge=None, **fields):
    category = CategoryCacheConfig(
        threshold=0.8, threshold_min=0.6, explore_share=explore, error_max=0.2, **fields
    )
    return SemanticCacheConfig(
        semantic=SemanticTierConfig(
            enabled=True,
            default=category,
            contract=ErrorContractConfig(verified=verified, judge=judge),
            break_even=BreakEvenConfig(enabled=False),
            embedding_wait_s=20.0,
            entries_max=room,
            disk_entries_max=on_disk,
        )
    )


def key_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def answer(text, **choice):
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": text}, **choice}
    return orjson.dumps({"choices": [{"index": 0, **choice}], "usage": {"completion_tokens": 7}})


class Asker:
    """A router, as far as the cache sees it."""

    def __init__(self, service, clock):
        self.service = service
        self.clock = clock
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://cache")

    async def ask(self, text, *, tenant="a", model="m", scope=SCOPE):
        query = CacheQuery(
            tenant=tenant, model=model, key=key_of(text + scope), text=text, scope=scope, single_flight=False
        )
        return await self.client.post("/lookup", json=query.to_json())

    async def tell(self, text, body, *, tenant="a", model="m", scope=SCOPE):
        headers = {
            CACHE_TENANT: tenant,
            CACHE_MODEL: model,
            CACHE_KEY: key_of(text + scope),
            CACHE_COST: "0.25",
            "content-type": "application/json",
        }
        await self.client.post("/store", content=body, headers=headers)
        await self.service.near.settled()

    async def answered(self, text, body, **where):
        assert (await self.ask(text, **where)).status_code == 204
        await self.tell(text, body, **where)
