"""Calls over sockets of our own, on real sockets: what a handle promises, they promise."""

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import suppress

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from deployments.dispatch import socket_transport
from deployments.dispatch.frames import Address
from deployments.dispatch.socket_transport import Connection, DirectTransport
from deployments.dispatch.transport import ConnectionLost, ReplicaLost
from deployments.dispatch.wire import (
    Call,
    Failure,
    Reply,
    pack_call,
    pack_reply,
    unpack_call,
    unpack_reply,
)
from deployments.engines.base import (
    EngineDead,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    ServerUnreachable,
)
from deployments.replica import socket_server
from router.errors import RequestTooLarge
from router.steps import ReplicaCounters
from tests.support.hand_transport import settle
from tests.support.socket_replica import WAIT_S, Handles, Replica, call, connected, until


@pytest.fixture(
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"]
)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops: Ray's workers run on uvloop where it is installed."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica("a")
    await made.start()
    yield made
    made.go_on.set()
    await made.listener.stop()


async def test_many_calls_share_a_line_and_each_gets_its_own_answer(replica: Replica) -> None:
    transport, handles = await connected(replica)
    replica.go_on.set()
    replies = await asyncio.gather(
        *(transport.send("m", call(3, index + 1), "a") for index in range(50))
    )
    assert [reply.tokens for reply in replies] == [[3, index + 1] for index in range(50)]
    assert all(reply.vectors[:, 0].tolist() == [1.0, 2.0] for reply in replies)
    assert (handles.sent, handles.counted_calls, handles.running["a"]) == ([], 50, 0)
    await transport.close()


async def test_a_reply_of_many_megabytes_arrives_whole(replica: Replica) -> None:
    line = await Connection.open(replica.address)
    replica.go_on.set()
    many = call(*[1] * 200_000)
    reply = await line.send(many)
    assert reply.vectors[:, 3].tolist() == [float(index + 1) for index in range(200_000)]
    line.close()


async def test_a_cancelled_call_is_cancelled_at_the_replica_and_its_neighbour_is_not(
    replica: Replica,
) -> None:
    transport, handles = await connected(replica)
    leaves, stays = (asyncio.ensure_future(transport.send("m", call(1), "a")) for _ in range(2))
    async with asyncio.timeout(WAIT_S):
        await replica.arrived.get()
        await replica.arrived.get()
        assert handles.running["a"] == 2
        leaves.cancel()
        await replica.cancelled.wait()
        replica.go_on.set()
        assert (await stays).tokens == [1]
    assert leaves.cancelled()
    assert handles.running["a"] == 0
    await transport.close()


async def test_a_router_that_dies_takes_its_texts_out_of_the_engine(replica: Replica) -> None:
    line = await Connection.open(replica.address)
    sent = asyncio.ensure_future(line.send(call(1)))
    async with asyncio.timeout(WAIT_S):
        await replica.arrived.get()
        line.abort()  # what the kernel does for a killed process
        await replica.cancelled.wait()
        with pytest.raises(ReplicaLost):
            await sent


async def test_a_replica_that_dies_loses_its_calls_at_once_and_later_ones_take_the_handle(
    replica: Replica,
) -> None:
    transport, handles = await connected(replica)
    sent = asyncio.ensure_future(transport.send("m", call(1), "a"))
    async with asyncio.timeout(WAIT_S):
        await replica.arrived.get()
        for caller in list(replica.listener.callers):
            caller.abort()
        with pytest.raises(ReplicaLost, match="broke"):
            await sent
        replica.go_on.set()
        assert (await transport.send("m", call(2), "a")).tokens == [2]
    assert handles.sent == ["a"]
    await transport.close()


async def test_a_line_that_broke_is_made_again(replica: Replica) -> None:
    transport, handles = await connected(replica, again_s=0.0)
    (first,) = transport.lines.values()
    first.abort()
    await until(lambda: transport.lines and transport.lines["a"] is not first)
    replica.go_on.set()
    assert (await transport.send("m", call(2), "a")).tokens == [2]
    assert handles.sent == []
    await transport.close()


async def test_a_replica_that_is_stopped_answers_what_it_has_taken(replica: Replica) -> None:
    transport, handles = await connected(replica)
    sent = asyncio.ensure_future(transport.send("m", call(7), "a"))
    async with asyncio.timeout(WAIT_S):
        await replica.arrived.get()
        transport.replicas_changed("m", [])  # Serve takes it off the list,
        stopping = asyncio.ensure_future(replica.listener.stop())  # and then stops it
        await until(lambda: not transport.lines)
        assert not stopping.done()
        replica.go_on.set()
        assert (await sent).tokens == [7]
        await stopping
    assert handles.sent == []


async def test_who_does_not_know_the_token_is_cut_off(replica: Replica) -> None:
    with pytest.raises(OSError, match="broke"):
        await Connection.open(replica.address._replace(token="0" * 64))
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.address.port)
    writer.write(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\n\r\n" * 100)
    async with asyncio.timeout(WAIT_S):
        with suppress(ConnectionError):  # reset is as good as closed without a word
            assert await reader.read() == b""
    assert not replica.listener.callers
    assert replica.arrived.empty()


async def test_a_call_before_the_token_is_not_read(replica: Replica) -> None:
    line = await Connection.open(replica.address)
    stranger = Connection("a")
    await asyncio.get_running_loop().create_connection(
        lambda: stranger, "127.0.0.1", replica.address.port
    )
    with pytest.raises(ReplicaLost):
        await stranger.send(call(1))
    with pytest.raises(ConnectionError):
        await stranger.greeted
    assert replica.arrived.empty()
    line.close()


async def test_where_no_line_can_be_made_calls_take_the_handle() -> None:
    deaf = Replica("a")  # listens nowhere
    deaf.go_on.set()
    handles = Handles(deaf)
    transport = DirectTransport(handles)
    deaf.address = deaf.address._replace(port=1)
    transport.replicas_changed("m", ["a"])
    async with asyncio.timeout(WAIT_S):
        assert await handles.asked.get() == "a"
        assert (await transport.send("m", call(5), "a")).tokens == [5]
    assert handles.sent == ["a"]
    await transport.close()


class BrokenAtFirst(Handles):
    """Whose first question for an address fails in Ray."""

    failures = 1

    async def address(self, model: str, replica: str) -> Address | None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("unexpected")
        return await super().address(model, replica)


async def test_a_replica_is_asked_again_for_its_address_whatever_ray_says_first(
    replica: Replica,
) -> None:
    handles = BrokenAtFirst(replica)
    transport = DirectTransport(handles, again_s=0.0)
    transport.replicas_changed("m", ["a"])
    await until(lambda: transport.lines)
    assert not handles.failures
    await transport.close()


async def test_whoever_says_nothing_is_hung_up_on(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_server, "CONNECT_S", 0.05)
    reader, writer = await asyncio.open_connection(replica.address.host, replica.address.port)
    async with asyncio.timeout(WAIT_S):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert not replica.listener.strangers


async def test_models_that_share_a_device_are_named_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING", logger="ray.serve")

    def warnings() -> list[str]:
        return [one.getMessage() for one in caplog.records if "share device" in one.getMessage()]

    places = {"a": ("node-1", ("0",)), "b": ("node-1", ("0", "1")), "c": ("node-2", ("0",))}
    replicas = {name: Replica(name) for name in places}
    for name, (node, devices) in places.items():
        await replicas[name].start()
        replicas[name].address = replicas[name].address._replace(node=node, devices=devices)
    transport = DirectTransport(Handles(*replicas.values()), warn_shared_s=0.0)
    for name in places:
        transport.replicas_changed(f"model-{name}", [name])
    async with asyncio.timeout(WAIT_S):
        await until(lambda: len(transport.lines) == 3 and bool(warnings()))
    cards = transport.cards
    assert [cards.shared_with(f"model-{name}") for name in "abc"] == [["model-b"], ["model-a"], []]
    (said,) = warnings()
    assert said.startswith("model-a and model-b share device 0 of node node-1: ")

    transport.replicas_changed("model-b", [])
    assert cards.shared_with("model-a") == []
    transport.replicas_changed("model-b", ["b"])
    async with asyncio.timeout(WAIT_S):
        await until(lambda: cards.shared_with("model-a") == ["model-b"])
        await settle()  # a second warning would come now
    assert len(warnings()) == 1
    await transport.close()
    for replica in replicas.values():
        await replica.listener.stop()


async def test_an_address_of_another_replica_is_not_taken_for_it(replica: Replica) -> None:
    other = Replica("b")
    handles = Handles(replica, other)
    other.address = replica.address  # Serve's handle answered from elsewhere
    transport = DirectTransport(handles)
    transport.replicas_changed("m", ["b"])
    async with asyncio.timeout(WAIT_S):
        assert await handles.asked.get() == "b"
        assert await handles.asked.get() == "b", "asked again, as the first answer was of no use"
    other.go_on.set()
    assert (await transport.send("m", call(1), "b")).replica == "b"
    assert handles.sent == ["b"]
    assert not replica.listener.callers
    await transport.close()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (EngineDead("burnt"), ReplicaLost),
        (EngineError("no"), EngineError),
        (ValueError("what"), EngineError),
    ],
)
async def test_what_fails_at_the_replica_is_said_here(
    replica: Replica, error: Exception, raised: type[Exception]
) -> None:
    replica.error = error
    replica.go_on.set()
    line = await Connection.open(replica.address)
    with pytest.raises(raised, match=str(error)) as seen:
        await line.send(call(1))
    assert type(seen.value) is raised
    line.close()


async def test_a_line_that_breaks_is_told_from_a_replica_that_is_lost(replica: Replica) -> None:
    line = await Connection.open(replica.address)
    running = asyncio.create_task(line.send(call(1)))
    await replica.arrived.get()
    for caller in list(replica.listener.callers):
        caller.abort()
    with pytest.raises(ConnectionLost):
        await running
    with pytest.raises(ConnectionLost):
        await line.send(call(1))


async def test_what_is_too_large_for_a_frame_breaks_nobodys_line(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await Connection.open(replica.address)
    running = asyncio.create_task(line.send(call(1)))
    await replica.arrived.get()
    monkeypatch.setattr(socket_transport, "MAX_BYTES", 1000)
    for caller in replica.listener.callers:
        caller.max_bytes = 1000
    with pytest.raises(RequestTooLarge, match="1000 bytes"):
        await line.send(call(2000))
    replica.go_on.set()
    assert (await running).tokens == [1]
    line.close()


async def test_when_to_come_back_travels_with_a_refusal(replica: Replica) -> None:
    replica.error = EngineOverloaded("the server behind it is full", 7.5)
    replica.go_on.set()
    line = await Connection.open(replica.address)
    with pytest.raises(EngineOverloaded, match="is full") as seen:
        await line.send(call(1))
    assert seen.value.retry_after_s == 7.5
    line.close()


@pytest.mark.parametrize("kind", [EngineFailed, ServerUnreachable])
async def test_whether_a_failure_may_be_due_to_the_texts_travels_with_it(
    replica: Replica, kind: type[EngineFailed]
) -> None:
    replica.error = kind("for the log", "for the caller")
    replica.go_on.set()
    line = await Connection.open(replica.address)
    with pytest.raises(EngineFailed, match="for the log") as seen:
        await line.send(call(1))
    assert (type(seen.value), seen.value.detail) == (kind, "for the caller")
    by_value = pickle.loads(pickle.dumps(kind("for the log", "for the caller")))
    assert type(by_value) is kind
    line.close()


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@given(lengths, st.booleans(), st.sampled_from(["query", "document"]), st.data())
def test_a_call_is_the_same_after_its_journey(
    given: list[int], as_text: bool, side: str, data: st.DataObject
) -> None:
    ids = (
        None
        if as_text
        else np.array(
            data.draw(
                st.lists(st.integers(-(2**31), 2**31 - 1), min_size=sum(given), max_size=sum(given))
            ),
            np.int32,
        )
    )
    legal = st.text(st.characters(exclude_categories=["Cs"]))
    texts = (
        data.draw(st.lists(legal, min_size=len(given), max_size=len(given))) if as_text else None
    )
    left = [data.draw(st.none() | st.floats(-1.0, 1e6)) for _ in given]
    stamped = data.draw(st.booleans())
    sent = Call(ids, np.array(given, np.int32), texts, side, left, stamped=stamped)  # type: ignore[arg-type]
    came = unpack_call(bytearray(pack_call(sent)))
    assert (came.texts, came.input_type, came.expires_in_s) == (texts, side, left)
    assert came.stamped is stamped
    np.testing.assert_array_equal(came.lengths, sent.lengths)
    assert (came.ids is None) == as_text
    if ids is not None:
        np.testing.assert_array_equal(came.ids, ids)


@given(st.integers(0, 9), st.integers(1, 9), st.data())
def test_a_reply_is_the_same_after_its_journey_and_may_be_written_to(
    rows: int, width: int, data: st.DataObject
) -> None:
    vectors = np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)
    failed = {
        row: Failure("too_long", "no", 9, 8) for row in range(rows) if data.draw(st.booleans())
    }
    stamps = data.draw(st.sampled_from([(), (1.5, 2.25, 2.5)]))
    tokens, counters = list(range(rows)), ReplicaCounters(99, 1.5)
    running = data.draw(st.none() | st.integers(0, 12))
    sent = Reply(vectors, tokens, failed, "app#m#x", 0.25, 0.125, 12, counters, running, stamps)
    came = unpack_reply(bytearray(pack_reply(sent)))
    assert came[1:] == sent[1:]
    np.testing.assert_array_equal(came.vectors, vectors)
    assert came.vectors.flags.writeable
    assert came.vectors.flags.aligned


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x05\0\0\0\xff\xff\xff\xff", b"\x01\0\0\0\xff\xff\xff\xff\x02\0\0\0{"]
)
def test_what_is_no_call_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        unpack_call(bytearray(data))


async def test_a_replica_says_what_it_runs_on(replica: Replica) -> None:
    replica.address = replica.address._replace(device="a card")
    told = list[tuple[str, str]]()
    transport = DirectTransport(Handles(replica))
    transport.on_device = lambda model, device: told.append((model, device))
    transport.replicas_changed("m", ["a"])
    await until(lambda: transport.lines)
    assert told == [("m", "a card")]
    await transport.close()
