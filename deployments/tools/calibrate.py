"""Measure how long one model takes for calls of every size, and fit the curve for predictions.

`router.policy.predict` adds up the parts:

- The curve is the time for which a call occupies the engine, from a batch to its vectors. Queued
  calls wait for this time. With an engine in this process nothing else can be measured.
- `overhead_s` is paid once a request, whatever is queued ahead: features, tokens, transport,
  encoding. Only a running router can measure it: the total of a short request less its inference.
- Router work for each token (tokenising a long text, moving its vectors) grows with the call.
  Through a router it is part of the curve, so that predictions hold for the whole answer.

A call of more than one batch counts as its average step, as in `predict`. Sizes double from 8
tokens to the model's context and from one text to a full batch, in random order, so that a slow
minute affects all sizes alike. Every text is new and of random words, so that no cache has it.
"""

import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np
import orjson
import psutil

from deployments import engines
from deployments.dispatch.wire import Call
from deployments.replica import cpu
from deployments.replica.device import accelerator_bytes
from deployments.service.prepare import Preparer
from deployments.tools.errors import ToolError
from router.calibration import Cell
from router.config import RouterArgs
from router.curve_fit import CurveFit, Point, fit
from router.domain import Curve, attention
from router.profile import Profile, ProfileCurve, ProfileFit, ProfilePoint
from router.routes import EMBEDDINGS

SHORT = 64  # tokens; the overhead of a request this short does not depend on its text
REQUEST_TIMEOUT_S = 300.0


class CalibrationError(ToolError):
    """The model cannot be measured; the message says what to do."""


class TimedCall(NamedTuple):
    """One measured call."""

    cell: Cell
    tokens: int  # of all texts, as the model read them
    tokens_sq: int
    inference_s: float  # the engine's
    total_s: float | None  # the whole request's, if a router measured it


class TextSource(Protocol):
    """A model that can be measured."""

    async def start(self) -> None:
        """Prepare to measure. Raises CalibrationError or EngineError."""

    async def measure(
        self, texts: Sequence[str], counts: Sequence[int]
    ) -> tuple[float, float | None]:
        """Return the seconds of the engine and, where known, of the whole request.

        `counts` are the tokens of the texts.
        """

    def memory_bytes(self) -> int | None:
        """Return the bytes that the model's process holds, on the accelerator if there is one.

        Returns None if they cannot be seen.
        """

    async def stop(self) -> None:
        """Release everything."""


class Writer:
    """Writes texts with a given number of tokens."""

    def __init__(self, count: Callable[[str], int], rng: random.Random) -> None:
        from pydoc_data.topics import topics  # English prose of every Python installation

        self._count, self._rng = count, rng
        self._written = set[str]()
        self._words = re.findall(r"[A-Za-z]{2,}", " ".join(topics.values()))
        sample = self._text(2000)
        self._per_word = count(sample) / 2000

    def write(self, tokens: int) -> tuple[str, int]:
        """Return a new text and its tokens: `tokens` or a few fewer; the shortest can have more."""
        words, minimum = max(1, round(0.98 * tokens / self._per_word)), 1
        while True:
            text = self._text(words)
            found = self._count(text)
            if text in self._written:  # happens to texts of a word or two
                minimum = words = words + (self._rng.random() < 0.1)
            elif found <= tokens or words <= minimum:
                self._written.add(text)
                return text, found
            else:
                words = max(minimum, words - max(1, round((found - tokens) / self._per_word)))

    def _text(self, words: int) -> str:
        return " ".join(self._rng.choices(self._words, k=words))


async def sample(
    source: TextSource,
    write: Callable[[int], tuple[str, int]],
    sizes: Sequence[Cell],
    batch_tokens: int,
    span: int | None,
    repeats: int,
    rng: random.Random,
    tick: Callable[[Cell], None],
) -> list[TimedCall]:
    """Measure every size in random order, after a warm-up call of each size that fits a batch.

    Each size is measured `repeats` times; sizes of more than a batch a third as often, because each
    call is several steps. `write` is Writer's, `tick` is called after each call, and `span` is the
    model's `attention_tokens`.
    """
    warm = [cell for cell in sizes if cell.tokens * cell.texts <= batch_tokens]
    plan = [
        cell for cell in sizes for _ in range(repeats if cell in warm else math.ceil(repeats / 3))
    ]
    rng.shuffle(plan)
    samples = []
    for index, cell in enumerate([*warm, *plan]):
        texts, counts = zip(*(write(cell.tokens) for _ in range(cell.texts)), strict=True)
        inference_s, total_s = await source.measure(texts, counts)
        if index >= len(warm):
            samples.append(
                TimedCall(cell, sum(counts), attention(counts, span), inference_s, total_s)
            )
        tick(cell)
    return samples


def overhead(samples: Sequence[TimedCall]) -> float | None:
    """Median seconds of short requests beyond their inference; None if no router measured."""
    smallest = min(sample.cell.tokens for sample in samples)
    beside = [
        sample.total_s - sample.inference_s
        for sample in samples
        if sample.total_s is not None
        and sample.cell.texts == 1
        and sample.cell.tokens <= max(SHORT, smallest)
    ]
    return statistics.median(beside) if beside else None


def points(samples: Sequence[TimedCall], batch_tokens: int, overhead_s: float) -> list[Point]:
    """Return one average step per sample.

    Its seconds are the engine's or, if a router measured the sample, the step's plus `overhead_s`.
    """
    found = []
    for sample in samples:
        steps = math.ceil(sample.tokens / batch_tokens)
        total_s = sample.total_s
        seconds = (
            sample.inference_s / steps
            if total_s is None
            else (total_s - overhead_s) / steps + overhead_s
        )
        texts = math.ceil(sample.cell.texts / steps)
        found.append(
            Point(round(sample.tokens / steps), round(sample.tokens_sq / steps), seconds, texts)
        )
    return found


def fitted(
    samples: Sequence[TimedCall], batch_tokens: int, assumed_overhead_s: float
) -> tuple[CurveFit, list[Point]]:
    """Fit the curve; return it with the median point of every size.

    Through a router the points include the overhead. `assumed_overhead_s` is the curve's if no
    router measured it. Raises CalibrationError if the samples do not make a curve.
    """
    measured_s = overhead(samples)
    overhead_s = assumed_overhead_s if measured_s is None else measured_s
    try:
        made = fit(points(samples, batch_tokens, overhead_s), batch_tokens, overhead_s)
    except ValueError as error:
        raise CalibrationError(str(error)) from error
    # the fit has the overhead in every step, so that its errors are shares of what a caller waits
    if measured_s is not None:
        made = made._replace(curve=_without_overhead(made.curve))
    medians = []
    for cell in sorted({sample.cell for sample in samples}):
        own = points(
            [sample for sample in samples if sample.cell == cell], batch_tokens, overhead_s
        )
        tokens, tokens_sq, seconds, texts = (
            statistics.median(column) for column in zip(*own, strict=True)
        )
        medians.append(Point(round(tokens), round(tokens_sq), seconds, round(texts)))
    return made, medians


def _without_overhead(curve: Curve) -> Curve:
    """Shorten every step of the curve by `overhead_s`, or by the least step if that is shorter."""
    overhead_s = min(curve.overhead_s, max(curve.fixed_s, curve.base_s))
    return replace(
        curve,
        fixed_s=max(0.0, curve.fixed_s - overhead_s),
        base_s=max(0.0, curve.base_s - overhead_s),
        overhead_s=overhead_s,
    )


def profile(
    model: str,
    device: str,
    software: str,
    date: str,
    fit: CurveFit,
    medians: Sequence[Point],
    memory_bytes: int | None,
) -> bytes:
    """Format the profile as JSON, one line per section and per point."""
    curve: dict[str, Any] = {
        name: _rounded(value) for name, value in asdict(fit.curve).items() if name != "batch_tokens"
    }
    made = Profile(
        model=model,
        device=device,
        software=software,
        date=date,
        curve=ProfileCurve(batch_tokens=fit.curve.batch_tokens, **curve),
        fit=ProfileFit(
            median_error=round(fit.median_error, 4),
            p95_error=round(fit.p95_error, 4),
            points=fit.points,
        ),
        points=tuple(
            ProfilePoint(
                tokens=p.tokens, tokens_sq=p.tokens_sq, seconds=_rounded(p.seconds), texts=p.texts
            )
            for p in medians
        ),
        memory_bytes=memory_bytes,
    )
    data = made.model_dump(mode="json")
    lines = [
        f'  "{key}": {orjson.dumps(value).decode()}'
        for key, value in data.items()
        if key != "points"
    ]
    rows = ",\n".join(f"    {orjson.dumps(point).decode()}" for point in data["points"])
    return ("{\n" + ",\n".join([*lines, f'  "points": [\n{rows}\n  ]']) + "\n}\n").encode()


def _rounded(value: float) -> float:
    """Round to four digits, which is more than any measurement here has."""
    return float(f"{value:.4g}")


class InProcessSource:
    """A model's engine in this process, behind the same host as in its replica."""

    def __init__(self, args: RouterArgs, model: str) -> None:
        from deployments.replica.host import (
            Host,
        )  # imports Ray; the rest of this file needs only the engine's own libraries

        self._engine = engines.create(args.models[model], args.base_dir)
        self._preparer = Preparer(args)
        self._host, self._model = Host(self._engine, "calibration"), model
        self._settings = args.models[model]

    @property
    def batch_tokens(self) -> int:
        """Most tokens of one step of the engine; known after `start`."""
        return self._engine.batch_tokens

    async def start(self) -> None:
        if self._settings.environment == "cpu-vllm":
            cpu.prepare()
        await self._engine.start()

    async def measure(
        self, texts: Sequence[str], counts: Sequence[int]
    ) -> tuple[float, float | None]:
        prepared = self._preparer.prepare(texts, None, None, [self._model])[self._model]
        ids = None if prepared.ids is None else np.concatenate(prepared.ids)
        lengths = np.asarray(counts, np.int32)
        call = Call(
            ids,
            lengths,
            None if prepared.texts is None else list(prepared.texts),
            prepared.side,
            [None] * len(texts),
        )
        reply = await self._host.embed(call)
        for failure in reply.failed.values():
            raise CalibrationError(f"{self._model} could not embed a text: {failure.message}")
        return reply.queue_s + reply.inference_s, None

    def memory_bytes(self) -> int | None:
        return accelerator_bytes() or int(psutil.Process().memory_info().rss)

    async def stop(self) -> None:
        await self._host.stop()


class Running:
    """A model behind a running router that has no other traffic."""

    def __init__(self, base_url: str, model: str, api_key: str | None = None) -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1")
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._client = httpx.AsyncClient(
            base_url=self._url, headers=headers, timeout=REQUEST_TIMEOUT_S
        )
        self._model = model

    async def start(self) -> None:
        try:
            answer = await self._client.get(f"/v1/models/{self._model}")
        except httpx.HTTPError as error:
            raise CalibrationError(
                f"no router at {self._url} ({error}); start one with `embedding-router run`"
            ) from None
        if answer.status_code != httpx.codes.OK:
            raise CalibrationError(
                f"the router at {self._url} has no model {self._model}; give it the same --config"
            )

    async def measure(
        self, texts: Sequence[str], counts: Sequence[int]
    ) -> tuple[float, float | None]:
        body = {"input": list(texts), "model": self._model, "encoding_format": "base64"}
        answer = await self._client.post(EMBEDDINGS[0], json=body)
        if answer.status_code != httpx.codes.OK:
            raise CalibrationError(
                f"the router at {self._url} answered {answer.status_code}: {answer.text[:300]}"
            )
        headers = answer.headers
        return float(headers["x-inference-ms"]) / 1000.0, float(headers["x-total-ms"]) / 1000.0

    def memory_bytes(self) -> int | None:
        """Bytes of this model's largest replica on this machine; None if there is none."""
        return max(
            (
                int(process.memory_info().rss)
                for process in replicas(self._model, psutil.process_iter())
            ),
            default=None,
        )

    async def stop(self) -> None:
        await self._client.aclose()


def replicas(model: str, processes: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    """Find the model's replicas: Serve writes the deployment's name into the process title."""
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            title = " ".join(process.cmdline()).strip()  # a method's name can follow while it runs
            if re.fullmatch(rf"ray::ServeReplica:.*:{re.escape(model)}(\.\w+)?", title):
                yield process
