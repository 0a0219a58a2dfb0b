"""Asks one model after the other until an answer is good enough, and sends only that one.

Answers are held back until they are graded by how sure the model was of its own tokens. So a stream begins
late, and comes in a few events; nothing of an answer that is not sent is seen by the client, except in usage,
which counts every model that worked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from cluster.config.model_routing import CascadeConfig
from cluster.entities.decision import CascadeAnswer
from cluster.entities.reasons import Reason
from cluster.entities.workload import Surface
from cluster.policy.routing.models.cascade import CascadeStep, JudgedAnswer, next_step
from cluster.policy.routing.models.verifier import grade_by_margins, quality_after
from deployments.router.core import RouterCore
from deployments.router.generation.automatic import answer_text
from deployments.router.generation.engine_answer import EngineAnswer
from deployments.router.generation.held_answer import HeldAnswer, margins_of, sent_as
from deployments.router.generation.judge import question_about, verdict_in
from deployments.router.generation.open_model import OpenModel
from deployments.router.generation.relay import Relayed
from deployments.router.generation.stream import Finish
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import ParsedRequest
from deployments.router.wire.responder import Responder

AskModel = Callable[[str, ParsedRequest, Responder], Awaitable[EngineAnswer]]
"""Asks one model: its name, what it is asked, where the answer goes."""


class _Given:
    """An answer that was given."""

    def __init__(self, model: str, answer: EngineAnswer, held: HeldAnswer, started_at_s: float) -> None:
        self.model = model
        self.answer = answer
        self.held = held
        self.started_at_s = started_at_s
        self.grade: float | None = None
        self.verdict: EngineAnswer | None = None
        """What a judge was asked about it."""
        self.quality = 0.0
        self.step: CascadeStep | None = None
        """What was done after it."""

    @property
    def relayed(self) -> Relayed:
        """What was seen of it."""
        return self.answer.relayed or Relayed()

    @property
    def used(self) -> tuple[Relayed, ...]:
        """What was seen of it, and of its judge."""
        judged = None if self.verdict is None else self.verdict.relayed
        return (self.relayed,) if judged is None else (self.relayed, judged)


class Cascade:
    """The models of one request."""

    def __init__(
        self,
        core: RouterCore,
        chooser: OpenModel,
        request: ParsedRequest,
        *,
        ask: AskModel,
        arrived_at_s: float,
        models_max: int,
    ) -> None:
        """Take a request whose model is open.

        Args:
            core: the router's services.
            chooser: chooses its models.
            request: as parsed.
            ask: asks one model.
            arrived_at_s: when the request came.
            models_max: how many may be asked.
        """
        self._core = core
        self._config: CascadeConfig = core.config.routing.models.cascade.model_copy(
            update={"models_max": models_max}
        )
        self._chooser = chooser
        self._request = request
        self._ask = ask
        self._arrived_at_s = arrived_at_s
        self._given: list[_Given] = []
        self._best: _Given | None = None
        self.reasons: list[Reason] = []

    async def run(self) -> None:
        """Ask until an answer is to be sent.

        Raises:
            ApiError: no model answered.
        """
        model, reasons = await self._chooser.choose()
        self.reasons += reasons
        while True:
            given = await self._try(model)
            if given is not None:
                if given.held.status != 200:
                    self._best = given  # the request is at fault: every model would say so
                    return
                await self._grade(given)
            elif not self._given:
                model, reasons = await self._chooser.choose()
                self.reasons += reasons
                continue
            step = self._next()
            self._given[-1].step = step
            if step.model is None:
                self._best = next(g for g in self._given if g.model == step.answer)
                return
            model = step.model

    async def _try(self, model: str) -> _Given | None:
        """One model's answer; None if it failed and somebody else, or an earlier answer, can help."""
        held, started_at_s = HeldAnswer(), self._core.now_s()
        try:
            answer = await self._ask(model, self._whole(self._request.for_model(model)), held)
        except ApiError as error:
            another = self._chooser.failed(model)
            if error.status not in (502, 503) or not (another or self._given):
                raise
            self.reasons.append(Reason.MODEL_FALLBACK)
            return None
        given = _Given(model, answer, held, started_at_s)
        self._given.append(given)
        return given

    def _whole(self, request: ParsedRequest) -> ParsedRequest:
        """The request as a model gets it: not streamed, with two candidates a token where they grade it."""
        body = {key: value for key, value in request.body.items() if key not in ("stream", "stream_options")}
        if self._config.verifier == "margins" and request.surface is Surface.CHAT:
            asked = body.get("top_logprobs")
            body |= {"logprobs": True, "top_logprobs": max(2, asked if isinstance(asked, int) else 0)}
        elif self._config.verifier == "margins":
            asked = body.get("logprobs")
            body["logprobs"] = max(2, asked if isinstance(asked, int) else 0)
        return replace(request, body={**body, "stream": False}, stream=False)

    async def _grade(self, given: _Given) -> None:
        if self._config.verifier == "margins":
            margins = margins_of(given.held.content, self._request.surface)
            given.grade = grade_by_margins(margins, self._config) if margins else None
        else:
            given.grade = await self._verdict(given, self._config.judge or given.model)
        expected = self._chooser.expected_quality(given.model)
        # Where nobody says anything of the answer, it stays at what was expected of it.
        given.quality = (
            expected if given.grade is None else quality_after(expected, given.grade, self._config)
        )

    async def _verdict(self, given: _Given, judge: str) -> float | None:
        """What a judge says of an answer; None if it says neither yes nor no, or nothing at all."""
        text = answer_text(given.held.body, self._request.surface, streamed=False)
        question = question_about(self._chooser.text, text, model=judge, cache_salt=self._request.cache_salt)
        held = HeldAnswer()
        try:
            given.verdict = await self._ask(judge, question, held)
        except ApiError:
            return None  # a judge that is away costs no answer
        return verdict_in(held.content) if held.status == 200 else None

    def _next(self) -> CascadeStep:
        answers = [JudgedAnswer(model=given.model, quality=given.quality) for given in self._given]
        options = self._chooser.further({given.model for given in self._given})
        return next_step(
            answers,
            options,
            self._config,
            elapsed_s=self._core.now_s() - self._arrived_at_s,
            ttft_slo_s=self._chooser.ttft_slo_s,
        )

    @property
    def model(self) -> str | None:
        """Whose answer is sent; None while that is open."""
        return None if self._best is None else self._best.model

    @property
    def answer(self) -> EngineAnswer | None:
        """The one that is sent."""
        return None if self._best is None else self._best.answer

    async def send(self, responder: Responder) -> Relayed:
        """Send the best answer in the form that the client asked for."""
        best = self._best
        assert best is not None  # noqa: S101 - `run` has returned
        responder.headers |= best.held.headers
        relayed = replace(best.relayed, first_token_at_s=self._core.now_s())
        if best.held.status != 200:
            await responder.whole(best.held.status, best.held.content_type, best.held.body)
            return relayed
        seen = [relayed for given in self._given for relayed in given.used]
        prompt_tokens = sum(relayed.prompt_tokens or 0 for relayed in seen)
        output_tokens = sum(relayed.output_tokens for relayed in seen)
        usage = _usage(best.held.content, prompt_tokens, output_tokens)
        content_type, body = sent_as(self._request, {**best.held.content, "usage": usage})
        await responder.whole(200, content_type, body)
        return replace(
            relayed,
            ended_at_s=self._core.now_s(),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            content_type=content_type,
            cacheable_body=None if relayed.finish is Finish.BROKEN else body,
        )

    def record(self) -> tuple[CascadeAnswer, ...]:
        """What every model did."""
        return tuple(
            CascadeAnswer(
                model=given.model,
                grade=given.grade,
                accepted=given is self._best,
                reasons=() if given.step is None else given.step.reasons,
                prompt_tokens=sum(relayed.prompt_tokens or 0 for relayed in given.used),
                output_tokens=sum(relayed.output_tokens for relayed in given.used),
                cost_usd=self._cost_usd(given),
                started_at_s=given.started_at_s,
                ended_at_s=given.relayed.ended_at_s or given.started_at_s,
            )
            for given in self._given
        )

    def _cost_usd(self, given: _Given) -> float:
        """Of an answer and its judge."""
        cost_usd = self._chooser.cost_usd(given.model, given.relayed)
        for relayed in given.used[1:]:
            cost_usd += self._chooser.cost_usd(self._config.judge or given.model, relayed)
        return cost_usd


def _usage(answer: dict[str, Any], prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Usage of all models that worked."""
    return {
        **(answer.get("usage") or {}),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }
