"""Whether two answers say the same: by their words, by a model that is asked, or by their meaning's vectors.

A model is asked only where one is configured (`contract.judge`) and the words differ; if it does not say yes
or no in time, the vectors decide.
"""

import asyncio
import logging
import os

import aiohttp
import numpy as np
import orjson

from cluster.config.semantic_cache import ErrorContractConfig, JudgeModelConfig
from deployments.encoder.encoder import Encoder, EncoderBusyError
from deployments.semantic_cache.answers import normalised, read_answer
from deployments.semantic_cache.documents import Document

logger = logging.getLogger("tidemill.cache.agreement")

_QUESTION = (
    "Question:\n{question}\n\nFirst answer:\n{one}\n\nSecond answer:\n{other}\n\nDo both answers tell "
    "whoever asked the same? Reply with one word, yes or no."
)
_CHARS_MAX = 8192
"""Of the question and of each answer: a judge has no longer context than others."""
_REPLY_TOKENS = 4
_REPLY_BYTES_MAX = 1 << 20


class Agreement:
    """Compares answers for one replica of the cache.

    Args:
        config: How.
        encoder: Makes the vectors.
    """

    def __init__(self, config: ErrorContractConfig, encoder: Encoder) -> None:
        self._config = config
        self._encoder = encoder
        self._judge = None if config.judge is None else JudgeModel(config.judge)

    async def close(self) -> None:
        """Close the connections to the judge."""
        if self._judge is not None:
            await self._judge.close()

    async def of(self, question: str, one: Document, other: Document) -> bool | None:
        """Whether two answers to a question say the same; None if that cannot be told now."""
        first = read_answer(one.body, one.content_type)
        second = read_answer(other.body, other.content_type)
        if first is None or second is None:
            return None
        if normalised(first.text) == normalised(second.text):
            return True
        verdict = None
        if self._judge is not None:
            verdict = await self._judge.says_same(question, first.text, second.text)
        return verdict if verdict is not None else await self._means_same(first.text, second.text)

    async def _means_same(self, one: str, other: str) -> bool | None:
        try:
            vectors = (await self._encoder.encode([one, other])).vectors
        except EncoderBusyError:
            return None
        return float(np.dot(vectors[0], vectors[1])) >= self._config.agreement_min


class JudgeModel:
    """A model behind an OpenAI-compatible address, asked for a yes or a no."""

    def __init__(self, config: JudgeModelConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def says_same(self, question: str, one: str, other: str) -> bool | None:
        """Its verdict; None if it has none or does not answer."""
        text = _QUESTION.format(
            question=question[-_CHARS_MAX:], one=one[:_CHARS_MAX], other=other[:_CHARS_MAX]
        )
        try:
            said = await self._ask(text)
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            logger.warning("the judge did not answer: %s: %s", type(error).__name__, error)
            return None
        words = said.lower().split()
        return {"yes": True, "no": False}.get(words[0].strip("*\"'.,!")) if words else None

    async def _ask(self, text: str) -> str:
        body = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": _REPLY_TOKENS,
            "temperature": 0,
        }
        # What is said about answers is nobody's answer.
        headers = {"content-type": "application/json", "cache-control": "no-cache, no-store"}
        key = os.environ.get(self._config.api_key_env, "") if self._config.api_key_env else ""
        if key:
            headers["authorization"] = f"Bearer {key}"
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = f"{self._config.url.rstrip('/')}/chat/completions"
        async with (
            asyncio.timeout(self._config.timeout_s),
            self._session.post(url, data=orjson.dumps(body), headers=headers) as response,
        ):
            response.raise_for_status()
            answer = orjson.loads(await response.content.read(_REPLY_BYTES_MAX))
        return str(answer["choices"][0]["message"]["content"])

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
