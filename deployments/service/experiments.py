"""Shadow and canary on live traffic (router/compare.py defines them and what is counted).

A shadow starts after the caller's answer, as bulk work, which yields to every interactive request.
It does not use the cache, and no demand is booked for it. The queue is bounded: what does not fit
is left out and counted, because a shadow is a sample. Errors are only counted in the report.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple

import numpy as np

from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.service.gather import Gatherer
from deployments.service.prepare import Preparer
from deployments.telemetry.logs import where
from router.arrays import Vectors
from router.cache import VectorCache
from router.compare import CanaryReport, Ring, Seen, Shadowed, ShadowReport, falls_in, slices_of
from router.config import RouterArgs
from router.domain import Decision, Model, Request, Work, work_of
from router.errors import RouterError
from router.models import build_floor
from router.routing_config import Canary, Shadow
from router.schema import EmbeddingsRequest

log = logging.getLogger("ray.serve")

MAX_WAITING = 256  # requests; beyond it the newest are left out
MAX_AT_ONCE = 4  # of them in flight
MAX_TEXTS = 16  # of one request
DEADLINE_S = 60.0

CONTROL, CANARY = CanaryReport.ARMS


class AnsweredRequest(NamedTuple):
    """An answered request, as the service reports it to the experiments."""

    request: EmbeddingsRequest
    decision_input: Request
    decision: Decision
    models: Mapping[str, Model]
    digests: Sequence[bytes]  # of its texts as the answering model read them
    vectors: Vectors  # of that model, in its native size
    arrived_s: float
    actual_s: float
    arm: str | None


class Comparison:
    """The experiments of one router replica under the current config."""

    def __init__(
        self,
        args: RouterArgs,
        preparer: Preparer,
        dispatchers: Mapping[str, ModelDispatcher],
        clock: Callable[[], float],
    ) -> None:
        self._preparer, self._lanes, self._clock = preparer, dispatchers, clock
        self._args = args
        self._waiting: deque[AnsweredRequest] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._idle, self._comparing = asyncio.Event(), asyncio.Lock()
        self._idle.set()
        self._use(args)

    def reload(self, args: RouterArgs) -> None:
        """Use a new config; if `compare` changed, the experiments and reports start again."""
        if args.compare != self._args.compare:
            self._use(args)

    def _use(self, args: RouterArgs) -> None:
        # of the sections read here, only `compare` can change without a restart
        self._args = args
        self.shadow, self.canary = args.compare.shadow, args.compare.canary
        self.since_s = self._clock()
        self.shadowed, self.canaried = ShadowReport(), CanaryReport()
        self._rings: dict[str, Ring] = {}
        self._waiting.clear()
        self._applies = (
            None
            if self.shadow is None
            else build_floor("shadow", self.shadow.when, self.shadow.model).applies
        )
        # A separate cache that keeps nothing: a shadow takes no room from callers' vectors.
        self._gatherer = (
            None
            if self.shadow is None
            else Gatherer(self._lanes[self.shadow.model], VectorCache(0))
        )

    def arm(self, request: EmbeddingsRequest, decision_input: Request) -> str | None:
        """Return which rules decide the request: CANARY, CONTROL, or None if it takes no part.

        Only a request that leaves the choice open takes part: none with a model, a tier, a space
        or a size.
        """
        canary = self.canary
        if (
            canary is None
            or request.texts is None
            or decision_input.pinned
            or decision_input.target is not None
            or decision_input.candidates is not None
        ):
            return None
        return CANARY if falls_in(request.texts, "canary", canary.share) else CONTROL

    def entered(self) -> None:
        """Count a caller that starts to wait."""
        self._under_way += 1
        self._idle.clear()

    def left(self) -> None:
        """Count a caller that no longer waits."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def failed(self, arm: str | None, code: str) -> None:
        """Count an error of a request in an arm of the canary."""
        if arm is not None:
            self.canaried.failed[arm][code] += 1

    def answered(self, answered: AnsweredRequest) -> None:
        """Count an answer for the canary, and shadow it if it is in the sample."""
        if answered.arm is not None:
            self.canaried.add(answered.arm, _seen(answered))
        shadow, texts = self.shadow, answered.request.texts
        if shadow is None or self._applies is None or texts is None:
            return
        model, decision_input = answered.decision.model, answered.decision_input
        assert model is not None
        if model == shadow.model or not self._applies(
            decision_input.features, decision_input.work[model].longest, decision_input.input_type
        ):
            return
        if not falls_in(texts, "shadow", shadow.share):
            return
        if not self._lanes[shadow.model].replicas:  # no sample is worth a cold start
            self.shadowed.left_out["no ready replica"] += 1
        elif len(self._waiting) >= MAX_WAITING:
            self.shadowed.left_out["no room"] += 1
        else:
            self._waiting.append(_sample(answered))
            if len(self._workers) < (1 if shadow.wait_for_idle else MAX_AT_ONCE):
                # An empty context: nothing of the ended request is inherited.
                worker = asyncio.get_running_loop().create_task(self._work(), context=Context())
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)

    async def close(self) -> None:
        """Cancel all shadows."""
        self._waiting.clear()
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until no shadow is queued or in flight."""
        while self._workers:
            await asyncio.wait(set(self._workers))

    def as_dict(self) -> dict[str, Any]:
        """The response of GET /v1/compare."""
        running_s = round(self._clock() - self.since_s, 1)
        return {
            "object": "comparison",
            "shadow": None
            if self.shadow is None
            else {
                **_described(self.shadow),
                "running_s": running_s,
                "waiting": len(self._waiting),
                **self.shadowed.as_dict(),
            },
            "canary": None
            if self.canary is None
            else {
                **_described(self.canary),
                "running_s": running_s,
                **self.canaried.as_dict(),
            },
        }

    async def _work(self) -> None:
        while self._waiting:
            report, shadow = self.shadowed, self.shadow
            if shadow is None:
                return
            if shadow.wait_for_idle:
                await self._idle.wait()
                if not self._waiting:  # a config change discarded them meanwhile
                    return
                report, shadow = self.shadowed, self.shadow  # or it replaced them
                if shadow is None:
                    return
            answered = self._waiting.popleft()
            try:
                await self._compare(answered, report, shadow)
            except RouterError as error:
                report.left_out[error.code] += 1
            except Exception as error:  # a bug must not end the comparison
                report.left_out["internal_error"] += 1
                log.error("a shadow failed:\n%s", where(error))

    async def _compare(
        self, answered: AnsweredRequest, report: ShadowReport, shadow: Shadow
    ) -> None:
        # a reload replaces these
        request, gatherer, rings = (
            answered.request,
            self._gatherer,
            self._rings,
        )
        assert request.texts is not None
        assert gatherer is not None, "there is a shadow"
        read = (request.texts, request.side, request.instruction, [shadow.model])
        prepared = (await asyncio.to_thread(self._preparer.prepare, *read))[shadow.model]
        config, model = self._args.models[shadow.model], answered.models[shadow.model]
        if prepared.exact and max(prepared.counts) > config.max_tokens:
            report.left_out["too long for it"] += 1
            return
        got = await gatherer.gather(prepared, self._clock() + DEADLINE_S, bulk=True)
        assert answered.decision.model is not None
        ring = rings.setdefault(answered.decision.model, Ring())
        async with self._comparing:
            overlaps = await asyncio.to_thread(
                ring.add, answered.digests, answered.vectors, got.vectors
            )
        predicted = answered.decision.predictions.get(shadow.model)
        # A cache would have served both: the shadow is charged for the share of texts that the
        # other model had to embed.
        new = answered.decision_input.work[answered.decision.model].texts / len(request.texts)
        report.add(
            _seen(answered),
            Shadowed(
                overlaps,
                got.inference_s,
                None if predicted is None else predicted.total_s,
                new * _device_s(model, work_of(prepared.counts, config.attention_tokens, None)),
            ),
        )


def _seen(answered: AnsweredRequest) -> Seen:
    decision_input, decision = answered.decision_input, answered.decision
    assert decision.model is not None
    model, work = answered.models[decision.model], decision_input.work[decision.model]
    done_s = answered.arrived_s + answered.actual_s
    return Seen(
        slices_of(decision_input.features, work.longest, decision_input.input_type),
        decision.model,
        len(answered.request.texts or ()),
        work.tokens,
        answered.actual_s,
        _device_s(model, work),
        None if decision_input.deadline_s is None else done_s <= decision_input.deadline_s,
        decision.degraded,
        model.quality_of(decision_input.features, work) or 0.0,
    )


def _device_s(model: Model, work: Work) -> float:
    return (
        model.curve.step(work.tokens, work.tokens_sq, work.texts) * model.devices
        if work.tokens
        else 0.0
    )


def _sample(answered: AnsweredRequest) -> AnsweredRequest:
    """Reduce a request to at most MAX_TEXTS evenly spread texts, with their share of its work."""
    texts, model = answered.request.texts, answered.decision.model
    assert texts is not None
    assert model is not None
    if len(texts) <= MAX_TEXTS:
        return answered
    rows = np.linspace(0, len(texts) - 1, MAX_TEXTS).astype(int).tolist()
    share, work = len(rows) / len(texts), answered.decision_input.work[model]
    own = Work(
        round(share * work.tokens),
        work.longest,
        round(share * work.tokens_sq),
        round(share * work.texts),
    )
    return answered._replace(
        decision_input=answered.decision_input._replace(
            work={**answered.decision_input.work, model: own}
        ),
        request=answered.request._replace(texts=[texts[row] for row in rows]),
        digests=[answered.digests[row] for row in rows],
        vectors=answered.vectors[rows],
    )


def _described(section: Shadow | Canary) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
