"""A model behind somebody else's server that answers nonsense, errors, nothing, or hangs up: no
request is left alone.
"""

import asyncio
import itertools
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest

from deployments import engines
from deployments.dispatch.wire import Call
from deployments.engines.base import EngineDead
from deployments.engines.remote import RemoteEngine
from deployments.replica.host import Host
from deployments.replica.identity import WrongModel, identity_of
from router import replica_health
from router.strict import parse_args
from tests.support.bridges import with_fingerprints
from tests.support.local_service import served
from tests.support.upstream import AFTER_S, WIDTH, upstream, vector

SILENCE_S = 0.5  # how long a server that says nothing is waited for
WAIT_S = 60.0
ALL = 12  # requests while it has one fault
FAULTS = (
    "none",
    "nonsense",
    "html",
    "500",
    "hang up",
    "silence",
    "another width",
    "429",
    "not finite",
    "too few",
)


def test_whatever_the_server_behind_a_model_does_a_request_ends_right_or_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_health, "EJECTION_S", 0.05)
    monkeypatch.setattr(replica_health, "MAX_EJECTION_S", 0.2)
    with upstream() as (url, fault):
        model = {
            "engine": {"kind": "remote", "base_url": url, "model": "theirs", "timeout_s": WAIT_S},
            "dimensions": WIDTH,
            "max_tokens": 512,
            "curve": {"fixed_s": 0.01, "base_s": 0, "s_per_token": 1e-5, "batch_tokens": 512},
        }
        args = {
            "models": {"theirs": model},
            "tiers": {"fast": "theirs"},
            "routing": {"default_tier": "fast"},
            "limits": {"request_timeout_s": WAIT_S},
            "cache": {"max_bytes": 0},
        }
        ended: dict[str, Counter[str]] = {}
        with served(args) as (base, router):
            numbers, engine = itertools.count(), router.transport.engines["theirs"]
            assert isinstance(engine, RemoteEngine)

            async def ask(client: httpx.AsyncClient, seen: Counter[str]) -> None:
                texts = ["x" * (next(numbers) % 50 + 1) for _ in range(3)]
                reply = await client.post(
                    "/v1/embeddings", json={"input": texts, "encoding_format": "float"}
                )
                if reply.status_code == httpx.codes.OK:
                    got = np.array([item["embedding"] for item in reply.json()["data"]])
                    np.testing.assert_allclose(got, [vector(text) for text in texts], atol=1e-6)
                    seen["right"] += 1
                else:
                    error = reply.json()["error"]
                    assert error["message"], error
                    assert reply.headers["retry-after"] == str(
                        AFTER_S if fault[0] == "429" else 1
                    ), error
                    seen[f"{reply.status_code} {error['code']}"] += 1

            async def load() -> None:
                async with httpx.AsyncClient(base_url=base, timeout=2 * WAIT_S) as client:
                    for now in (*FAULTS, "none"):
                        fault[0] = now
                        engine.timeout_s = SILENCE_S if now == "silence" else WAIT_S
                        seen = ended[now if now != "none" or not ended else "after all"] = Counter()
                        await asyncio.gather(*(ask(client, seen) for _ in range(ALL)))
                        fault[0] = "none"
                        engine.timeout_s = WAIT_S
                        until_s = time.monotonic() + WAIT_S
                        while (
                            await client.post("/v1/embeddings", json={"input": "well again?"})
                        ).status_code != httpx.codes.OK:
                            assert time.monotonic() < until_s, (
                                f"after {now!r} the model did not come back"
                            )
                            await asyncio.sleep(0.05)

            asyncio.run(load())
            assert router.service.ledger.outstanding_tokens("theirs", 0.0) == {"theirs": 0}
    expected = {name: Counter({"503 model_unavailable": ALL}) for name in FAULTS}
    expected |= {
        "none": Counter(right=ALL),
        "429": Counter({"429 overloaded": ALL}),
        "after all": Counter(right=ALL),
    }
    assert ended == expected


@pytest.mark.parametrize(
    ("fault", "elsewhere"),
    [("hang up", True), ("503", True), ("500", False), ("nonsense", False), ("too few", False)],
)
def test_another_model_answers_for_a_server_that_is_away_and_for_no_other(
    fault: str, elsewhere: bool
) -> None:
    with upstream() as (url, now):
        theirs = {
            "engine": {"kind": "remote", "base_url": url, "model": "theirs", "timeout_s": WAIT_S},
            "dimensions": WIDTH,
            "max_tokens": 512,
        }
        ours = {"engine": {"kind": "fake"}, "dimensions": WIDTH, "max_tokens": 512}
        args = {
            "models": {"ours": ours, "theirs": theirs},
            "tiers": {"fast": "ours", "best": "theirs"},
            "cache": {"max_bytes": 0},
        }
        with served(args) as (base, _), httpx.Client(base_url=base, timeout=WAIT_S) as client:
            now[0] = fault
            reply = client.post("/v1/embeddings", json={"input": "a text", "model": "best"})
    if elsewhere:
        assert reply.status_code == httpx.codes.OK, reply.text
        assert reply.json()["routing"]["model"] == "ours"
    else:
        assert reply.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert "theirs failed twice: its server answered" in reply.json()["error"]["message"]


async def test_a_server_that_becomes_another_model_without_a_failure_is_found_out_by_the_next_proof(
    tmp_path: Path,
) -> None:
    now_s = [0.0]
    with upstream() as (url, fault):
        model = {
            "engine": {"kind": "remote", "base_url": url, "model": "theirs"},
            "dimensions": WIDTH,
            "max_tokens": 512,
        }
        args = parse_args(
            await with_fingerprints(
                {"models": {"theirs": model}, "tiers": {"fast": "theirs"}}, tmp_path
            )
        )
        config = args.models["theirs"]
        engine = engines.create(config, None)
        await engine.start()
        identity = identity_of(engine, config.fingerprint, None, lambda: now_s[0])
        assert config.fingerprint is not None
        assert identity is not None
        host, call = (
            Host(engine, "one", identity),
            Call(None, np.array([1], np.int32), ["text"], "document", [None]),
        )
        fault[0] = "other weights"
        await host.check_health()
        assert (await host.embed(call)).failed == {}  # nobody can know yet
        now_s[0] = config.fingerprint.every_s
        await host.check_health()
        while identity.passed + identity.failed == 0:  # noqa: ASYNC110  # it runs beside what is served
            await asyncio.sleep(0.01)
        for asked in (host.check_health(), host.embed(call)):
            with pytest.raises(EngineDead, match="these are not the weights, pooling or revision"):
                await asked
        with pytest.raises(
            WrongModel
        ):  # nor does the replica that Serve starts in its place become ready
            await identity.prove()
        await host.stop()


@pytest.mark.parametrize("fault", ["nonsense", "hang up", "silence"])
def test_a_server_that_is_broken_at_the_start_is_named(fault: str) -> None:
    with upstream() as (url, now):
        now[0] = fault
        timeout_s = SILENCE_S if fault == "silence" else WAIT_S
        model = {
            "engine": {
                "kind": "remote",
                "base_url": url,
                "model": "theirs",
                "timeout_s": timeout_s,
            },
            "dimensions": WIDTH,
            "max_tokens": 9,
        }
        args = {
            "models": {"theirs": model},
            "tiers": {"fast": "theirs"},
            "routing": {"default_tier": "fast"},
        }
        with pytest.raises(Exception, match="theirs"), served(args):
            pass
