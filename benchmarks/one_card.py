"""Measure prediction errors of models that share a card.

The real service on a virtual clock, with the models of configs/qwen3-one-gpu.yaml as engines that
sleep as long as their curves say. On one card, engines that work at the same time share it equally
(processor sharing), as CUDA slices time between processes; on separate cards they do not. The
figure is the median error of predictions, |predicted / actual - 1|, for interactive requests:

    own cards   nothing is shared: the rest is waiting and batching
    unaware     one card, and the router does not know that it is one
    one card    the service as it is, with the curves that it learns and with those of profiles
    truth       a prediction from the card's true backlog, with its own bias: the least error that
                any knowledge of the neighbours at the time of the decision can reach

The virtual clock makes the figures the same on every machine.
"""

import asyncio
import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import orjson

from benchmarks.live import ROOT
from benchmarks.marks import Row, conclude, show, to_file
from deployments.dispatch.wire import Call, Reply
from deployments.launch.serve_config import application
from deployments.service.recent import Recent
from deployments.service.service import Service
from router.cards import Cards as KnownCards
from router.config import RouterArgs
from router.decision_log import ANSWERED, LogEntry
from router.domain import Curve
from router.latency import Correction
from router.models import build_models
from router.profile import Profile, ProfileCurve, ProfileFit, ProfilePoint
from router.schema import parse
from router.strict import parse_args
from tests.support.virtual_loop import SleepingReplicas, VirtualLoop

Errors = dict[str, list[float]]  # of each model

SMALL, MIDDLE, LARGE = "qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b"
SHARES = {SMALL: 0.6, MIDDLE: 0.25, LARGE: 0.15}  # of the interactive requests
TOKENS = (12, 20, 40, 120, 400)  # of a text, equally often
INGEST_TEXTS, INGEST_TOKENS, INGEST_CALLS = 32, 128, 2
PHASE_S = 3.0  # mean of an ingest, and of the time until the next
WARM_S = 10.0  # in which curves and factors settle
MISS_SHARE = 0.05


class Load(NamedTuple):
    """Interactive work as a share of the card's time, and whether the 8B sometimes ingests."""

    share: float
    ingest: bool = False


LOADS = {
    "10 %": Load(0.1),
    "30 %": Load(0.3),
    "60 %": Load(0.6),
    "20 % beside an ingest": Load(0.2, ingest=True),
}


class Card:
    """A device whose time is shared equally by its running steps."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop, self._at_s = loop, 0.0
        self._left_s: dict[str, float] = {}
        self._done: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, model: str, seconds: float) -> None:
        """Return after this many seconds of the device; a model runs one step at a time."""
        self._advance()
        self._left_s[model], done = seconds, self._loop.create_future()
        self._done[model] = done
        self._set_timer()
        await done

    def left_s(self, model: str) -> float:
        """Seconds of the device that the model's running step still needs."""
        self._advance()
        return self._left_s.get(model, 0.0)

    def _advance(self) -> None:
        now = self._loop.time()
        if self._left_s:
            passed_s = (now - self._at_s) / len(self._left_s)
            for model in self._left_s:
                self._left_s[model] -= passed_s
        self._at_s = now

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._left_s:
            next_s = max(0.0, min(self._left_s.values())) * len(self._left_s)
            self._timer = self._loop.call_later(next_s, self._end)

    def _end(self) -> None:
        self._advance()
        for model in [model for model, left_s in self._left_s.items() if left_s < 1e-9]:
            del self._left_s[model]
            self._done.pop(model).set_result(None)
        self._set_timer()


class Cards(SleepingReplicas):
    """Engines on one card, or on separate cards."""

    def __init__(self, curves: dict[str, Curve], loop: VirtualLoop, together: bool) -> None:
        super().__init__(curves, 8, loop)
        one = Card(loop)
        self._cards = {name: one if together else Card(loop) for name in curves}
        self._own = curves
        self.waiting_s = dict.fromkeys(curves, 0.0)  # of calls whose step has not begun
        self.cards = KnownCards()

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        alone_s = step_of(self._own[model], call)
        self.waiting_s[model] += alone_s
        return await super().send(model, call, replica)

    async def step(self, model: str, seconds: float) -> None:
        self.waiting_s[model] -= seconds
        await self._cards[model].run(model, seconds)

    def left_s(self, model: str) -> float:
        """Seconds of the device that the calls at its replica still need."""
        return self.waiting_s[model] + self._cards[model].left_s(model)


def step_of(curve: Curve, call: Call) -> float:
    """Seconds of a step with the texts of a call."""
    lengths = call.lengths.tolist()
    return curve.step(sum(lengths), sum(count * count for count in lengths), len(lengths))


def config(folder: Path | None) -> RouterArgs:
    """The models of configs/qwen3-one-gpu.yaml with engines that sleep; with a folder, their curves
    come from profiles and do not change.
    """
    shipped, _ = application(ROOT / "configs" / "qwen3-one-gpu.yaml")
    models: dict[str, Any] = {}
    for name, model in shipped.models.items():
        assert model.curve is not None
        curve = model.curve.model_dump() | {"overhead_s": 0.0}
        models[name] = {
            "engine": {"kind": "fake"},
            "dimensions": 8,
            "max_tokens": 8192,
            "quality": dict(model.quality),
        }
        if folder is None:
            models[name]["curve"] = curve
        else:
            models[name]["profile"] = str(_profile(folder / f"{name}.json", name, curve))
    return parse_args(
        {
            "models": models,
            "tiers": {"fast": SMALL, "balanced": MIDDLE, "best": LARGE},
            "routing": {"miss_share": MISS_SHARE},
            "cache": {"max_bytes": 0},
        }
    )


def _profile(path: Path, model: str, curve: Mapping[str, Any]) -> Path:
    points = (ProfilePoint(tokens=1, tokens_sq=1, seconds=1.0, texts=1),)
    fit = ProfileFit(median_error=0.0, p95_error=0.0, points=1)
    made = Profile(
        model=model, device="pretend", software="none", date="2026-01-01",
        curve=ProfileCurve(**curve), fit=fit, points=points,
    )  # fmt: skip
    path.write_text(made.model_dump_json())
    return path


class RunRecords(NamedTuple):
    """Records of one run."""

    entries: list[LogEntry]  # in the order of their ends
    left_s: dict[float, dict[str, float]]  # of the card, for each model, by the time of arrival


async def serve(
    args: RouterArgs, load: Load, seconds: float, together: bool, named: bool, seed: int
) -> RunRecords:
    """Serve the load for this many virtual seconds."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    curves = {name: model.curve for name, model in build_models(args).items()}
    cards, rng = Cards(curves, loop, together), Random(seed)
    service = Service(args, cards, clock=loop.time, rng=Random(seed))
    recent = service.recent = Recent(most=10**6)
    for number, name in enumerate(args.models):
        service.replicas_changed(name, [name])
        if named:
            cards.cards.joined(name, name, "node", ["0" if together else str(number)])
    left_s: dict[float, dict[str, float]] = {}
    numbers = count()

    async def embed(model: str, texts: int, tokens: int, **more: str) -> None:
        # without a tokenizer a router counts a token for three bytes
        body = {
            "model": model,
            "input": [f"{next(numbers)} ".ljust(3 * tokens, "x") for _ in range(texts)],
            **more,
        }
        left_s[loop.time()] = {
            name: cards.left_s(name) + _queued_s(service, name, curve)
            for name, curve in curves.items()
        }
        await service.embed(parse(orjson.dumps(body), {}, args.limits))

    async def ingest() -> None:
        while loop.time() < seconds:
            await asyncio.sleep(rng.expovariate(1 / PHASE_S))
            ends_s = loop.time() + rng.expovariate(1 / PHASE_S)

            async def caller(ends_s: float = ends_s) -> None:
                while loop.time() < ends_s:
                    await embed(LARGE, INGEST_TEXTS, INGEST_TOKENS, priority="bulk")

            await asyncio.gather(*(caller() for _ in range(INGEST_CALLS)))

    each_s = sum(
        share * statistics.mean(curves[name].step(n, n * n, 1) for n in TOKENS)
        for name, share in SHARES.items()
    )
    async with asyncio.TaskGroup() as tasks:
        if load.ingest:
            tasks.create_task(ingest())
        while loop.time() < seconds:
            await asyncio.sleep(rng.expovariate(load.share / each_s))
            (model,) = rng.choices(list(SHARES), list(SHARES.values()))
            tasks.create_task(embed(model, 1, rng.choice(TOKENS)))
    return RunRecords([logged.entry for logged in recent.logged()], left_s)


def _queued_s(service: Service, model: str, curve: Curve) -> float:
    """Work queued in the router, in seconds."""
    tokens = service.ledger.waiting_tokens(model)
    return curve.step(tokens) if tokens else 0.0


def beside(own_s: float, others_s: Iterable[float]) -> float:
    """Seconds of work whose device is shared equally with other work, if nothing else arrives."""
    return own_s + sum(min(own_s, other_s) for other_s in others_s)


def by_truth(entry: LogEntry, seen: RunRecords) -> float:
    """Predict from the card's true backlog."""
    model, left_s = entry.decision.model or "", seen.left_s[entry.arrived_s]
    work = entry.request.work[model]
    own_s = left_s[model] + entry.models[model].curve.step(work.tokens, work.tokens_sq, work.texts)
    return beside(own_s, (other_s for name, other_s in left_s.items() if name != model))


def as_served(seen: RunRecords) -> Errors:
    """Errors of the service's own predictions."""
    errors: Errors = {name: [] for name in SHARES}
    for entry in _counted(seen):
        errors[entry.decision.model or ""].append(
            abs((entry.decision.predicted_s or 0.0) / (entry.actual_s or 1.0) - 1.0)
        )
    return errors


def corrected(seen: RunRecords, predicted: Callable[[LogEntry, RunRecords], float]) -> Errors:
    """Errors of other predictions, with a bias that learns from them in the order of time."""
    corrections = {name: Correction(MISS_SHARE) for name in SHARES}
    errors: Errors = {name: [] for name in SHARES}
    made: dict[float, tuple[float, float, float]] = {}
    events = [(entry.now, 0, entry) for entry in _answered(seen)]
    events += [(entry.arrived_s + (entry.actual_s or 0.0), 1, entry) for entry in _answered(seen)]
    for _, ended, entry in sorted(events, key=lambda event: event[:2]):
        correction = corrections[entry.decision.model or ""]
        if not ended:
            bias = correction.bias
            made[entry.now] = predicted(entry, seen) * bias, bias, correction.margin
            continue
        predicted_s, bias, margin = made[entry.now]
        actual_s = entry.actual_s or 1.0
        correction.observe(actual_s, predicted_s, bias, margin)
        if entry.arrived_s >= WARM_S:
            errors[entry.decision.model or ""].append(abs(predicted_s / actual_s - 1.0))
    return errors


def _answered(seen: RunRecords) -> list[LogEntry]:
    return [
        entry
        for entry in seen.entries
        if entry.outcome == ANSWERED and entry.priority == "interactive"
    ]


def _counted(seen: RunRecords) -> list[LogEntry]:
    return [entry for entry in _answered(seen) if entry.arrived_s >= WARM_S]


def median(errors: Errors, model: str | None = None) -> float:
    """The median error, of one model or of all, in percent."""
    own = errors.values() if model is None else [errors[model]]
    return 100 * statistics.median(error for each in own for error in each)


def on_virtual_clock(
    args: RouterArgs, load: Load, seconds: float, together: bool, named: bool, seed: int
) -> RunRecords:
    """Run `serve` on its own event loop."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(serve(args, load, seconds, together, named, seed))
    finally:
        loop.close()


def measure(load: Load, seconds: float, seed: int) -> dict[str, Errors]:
    """Errors of each way to predict."""
    with TemporaryDirectory() as folder:
        learned, profiled = config(None), config(Path(folder))
        apart = on_virtual_clock(learned, load, seconds, False, False, seed)
        unaware = on_virtual_clock(learned, load, seconds, True, False, seed)
        together = on_virtual_clock(learned, load, seconds, True, True, seed)
        of_profiles = on_virtual_clock(profiled, load, seconds, True, True, seed)
    return {
        "own cards": as_served(apart),
        "one card, unaware": as_served(unaware),
        "one card, learned curves": as_served(together),
        "one card, profiles": as_served(of_profiles),
        "truth": corrected(of_profiles, by_truth),
    }


@click.command()
@click.option("--seconds", default=120.0, type=click.FloatRange(20.0), show_default=True)
@click.option("--seed", default=0, show_default=True)
@to_file
def main(seconds: float, seed: int, file: Path | None) -> None:
    """Measure the prediction errors on a shared card, and the gain from knowing the neighbours."""
    rows = []
    for name, load in LOADS.items():
        found = measure(load, seconds, seed)
        for way, errors in found.items():
            rows.append(Row(f"{name}, {way}, error %", median(errors)))
            show(rows[-1:])
            rows += [
                Row(f"{name}, {way}, {model}, error %", median(errors, model)) for model in SHARES
            ]
    conclude(rows, file)


if __name__ == "__main__":
    main()
