"""Break one thing after another under load, and count lost and wrong answers.

One service on fake engines, two routers, two replicas of the larger model. Each scenario has one
fault under a load with known answers. Lost and wrong must be 0: a request is answered right, or
refused with a reason and, if it can be repeated, with the time to wait. Some scenarios have more
expectations, and report those that failed. "recovered" is the time from the fault until every
deployment is whole again and every router reports so; a dash if nothing had to recover.
"""

import asyncio
import copy
import json
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import click
import psutil

from benchmarks.chaos_load import PAUSE_S, Checked, LoadCounts
from benchmarks.chaos_stage import MODELS, REQUEST_TIMEOUT_S, Stage, stage
from benchmarks.marks import Row, at_least, at_most, numbers, to_file, write

BEFORE_S, AFTER_S = 2.0, 2.0  # load before the fault, and after the recovery
HOLD_S = 6.0  # how long a fault without a recovery of its own lasts
OVERLOAD = 3.0
OVERLOAD_S = 12.0
SLOW = 20  # clients that read or write slowly


class Broken(click.ClickException):
    """A scenario's expectation failed; the message says which."""


class Result(NamedTuple):
    """One row of the table."""

    scenario: str
    sent: int
    right: int
    refused: dict[str, int]
    lost: list[str]
    wrong: list[str]
    worst_s: float
    recovered_s: float | None
    note: str = ""
    broken: str = ""  # what else was promised

    @property
    def clean(self) -> bool:
        """Whether no request was lost, no vector was in another space, and all other expectations
        hold.
        """
        return not self.lost and not self.wrong and not self.broken and self.right > 0


Fault = Callable[[Stage, Checked], Awaitable[tuple[float | None, str]]]
SCENARIOS: dict[str, Fault] = {}


def scenario(fault: Fault) -> Fault:
    """Register a fault by its name. It returns the seconds until recovery, and a remark, and may
    raise Broken.
    """
    SCENARIOS[fault.__name__.replace("_", "-")] = fault
    return fault


@scenario
async def nothing(on: Stage, client: Checked) -> tuple[float | None, str]:
    """No fault: the load alone."""
    await asyncio.sleep(HOLD_S)
    return None, ""


def _pids(on: Stage) -> set[int]:
    return {one.pid for name in ("router", *MODELS) for one in on.replicas(name)}


async def _killed(on: Stage, victims: list[psutil.Process]) -> float:
    for victim in victims:
        victim.kill()
    return await on.recovered(victims)


@scenario
async def replica_killed(on: Stage, client: Checked) -> tuple[float | None, str]:
    """One of two replicas dies with calls in flight."""
    return await _killed(on, on.replicas("large")[:1]), ""


@scenario
async def only_replica_killed(on: Stage, client: Checked) -> tuple[float | None, str]:
    """The only replica of a model dies; no other can answer."""
    return await _killed(on, on.replicas("small")), ""


@scenario
async def engine_dies(on: Stage, client: Checked) -> tuple[float | None, str]:
    """The engine dies, its replica lives."""
    return await _faulty(on, "die")


@scenario
async def engine_hangs(on: Stage, client: Checked) -> tuple[float | None, str]:
    """The engine stops answering, including health probes."""
    return await _faulty(on, "hang")


@scenario
async def process_frozen(on: Stage, client: Checked) -> tuple[float | None, str]:
    """A replica's event loop is frozen and cannot report its own state."""
    return await _faulty(on, "block")


async def _faulty(on: Stage, fault: str) -> tuple[float, str]:
    victim = on.replicas("large")[0]
    on.fault(victim, fault)
    try:
        return await on.recovered([victim]), ""
    finally:
        on.fault(victim, None)


async def _for_a_while(on: Stage, fault: str) -> tuple[float, str]:
    victim = on.replicas("large")[0]
    on.fault(victim, fault)
    await asyncio.sleep(HOLD_S)
    on.fault(victim, None)
    return await on.recovered(), f"{fault} for {HOLD_S:g} s"


@scenario
async def engine_fails(on: Stage, client: Checked) -> tuple[float | None, str]:
    """An engine fails every batch for some seconds."""
    return await _for_a_while(on, "fail")


@scenario
async def engine_makes_nonsense(on: Stage, client: Checked) -> tuple[float | None, str]:
    """An engine returns vectors with NaN for some seconds."""
    return await _for_a_while(on, "nonsense")


@scenario
async def router_killed(on: Stage, client: Checked) -> tuple[float | None, str]:
    """One of two routers dies with requests in flight."""
    return await _killed(on, on.replicas("router")[:1]), ""


@scenario
async def controller_killed(on: Stage, client: Checked) -> tuple[float | None, str]:
    """Serve's controller dies; Ray starts another one, which takes over the existing replicas."""
    kept = _pids(on)
    victims = on.processes(r"^ray::ServeController")
    for victim in victims:
        victim.kill()
    start_s = time.monotonic()
    old = {victim.pid for victim in victims}
    for _ in range(400):
        if {one.pid for one in on.processes(r"^ray::ServeController")} - old:
            break
        await asyncio.sleep(0.25)
    await on.until(("RUNNING",))
    await on.recovered()
    if kept != _pids(on):
        raise Broken("the new controller replaced replicas that lived")
    return time.monotonic() - start_s, "every replica was kept"


@scenario
async def redeployed(on: Stage, client: Checked) -> tuple[float | None, str]:
    """A new config restarts every replica of every deployment."""
    return await _redeploy(on), ""


async def _redeploy(on: Stage) -> float:
    old = [one for name in ("router", *MODELS) for one in on.replicas(name)]
    data = copy.deepcopy(on.data)
    limits = data["applications"][0]["args"]["limits"]
    limits["max_items"] = limits.get("max_items", 2000) + 1
    start_s = time.monotonic()
    await on.deploy(data)
    on.data = data  # or the next change would restart everything once more, to take this one back
    await on.recovered(old)
    await on.until(("RUNNING",))
    return time.monotonic() - start_s


@scenario
async def bad_config_deployed(on: Stage, client: Checked) -> tuple[float | None, str]:
    """An unusable config is deployed; the old one keeps serving until the right one is deployed."""
    data = copy.deepcopy(on.data)
    data["applications"][0]["args"]["tiers"]["fast"] = "smal"
    before = {one.pid for one in on.replicas("small")}
    await on.deploy(data)
    status = await on.until(("DEPLOY_FAILED",))
    kept = before == {one.pid for one in on.replicas("small")}
    await asyncio.sleep(HOLD_S)
    await on.deploy(on.data)
    await on.until(("RUNNING",))
    recovered_s = await on.recovered()
    if not kept:
        raise Broken("a config that cannot be used replaced the replicas of a model")
    return recovered_s, f"{status}, the old replicas served on"


@scenario
async def config_reloaded(on: Stage, client: Checked) -> tuple[float | None, str]:
    """Routing, tiers and collections change five times through user_config, without a restart."""
    before = _pids(on)
    for turn in range(5):
        data = copy.deepcopy(on.data)
        data["applications"][0]["deployments"][0]["user_config"] = {
            "routing": {"default_tier": "best" if turn % 2 else "fast"},
            "collections": {f"turn-{turn}": "small/64"},
        }
        await on.deploy(data)
        await asyncio.sleep(1)
        await on.until(("RUNNING",))
    await on.deploy(on.data)
    await on.until(("RUNNING",))
    if before != _pids(on):
        raise Broken("a change of user_config restarted processes")
    return None, "no process restarted"


def _raw(body: bytes, url: str) -> tuple[str, int, bytes]:
    host, _, port = url.removeprefix("http://").partition(":")
    lines = (
        "POST /v1/embeddings HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    return host, int(port), "\r\n".join([*lines, "", ""]).encode() + body


@scenario
async def clients_leave(on: Stage, client: Checked) -> tuple[float | None, str]:
    """Clients send large requests and close the connection."""
    for _ in range(60):
        host, port, message = _raw(
            json.dumps({"input": client.texts(50, 60), "model": "large"}).encode(), on.url
        )
        _, writer = await asyncio.open_connection(host, port)
        writer.write(message)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()
    return await on.recovered(), "60 x 50 texts left behind"


@scenario
async def slow_clients(on: Stage, client: Checked) -> tuple[float | None, str]:
    """Clients send their headers or body byte by byte and are disconnected, or do not read their
    answer.
    """
    body = json.dumps(
        {"input": client.texts(30, 5), "model": "large", "encoding_format": "float"}
    ).encode()
    host, port, message = _raw(body, on.url)
    end = message.index(b"\r\n\r\n") + 4

    async def trickle(until: int) -> bool:
        """Send slowly; return whether the service closed the connection."""
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(message[:until])
            for byte in message[until : until + int(HOLD_S * 4)]:
                await asyncio.sleep(0.25)
                if reader.at_eof():
                    return True
                writer.write(bytes([byte]))
            async with asyncio.timeout(1):
                return b"request_timeout" in await reader.read()  # up to the end of the connection
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            writer.close()

    async def unread() -> bool:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, (host, port))
            for _ in range(4):
                await asyncio.get_running_loop().sock_sendall(one, message)
            await asyncio.sleep(HOLD_S)
        return True

    slow = (
        [trickle(20) for _ in range(SLOW)]
        + [trickle(end) for _ in range(SLOW)]
        + [unread() for _ in range(SLOW)]
    )
    ended = await asyncio.gather(*slow)
    if not all(ended):
        raise Broken(f"{ended.count(False)} clients could go on sending byte by byte")
    return None, f"{3 * SLOW} slow ones"


@scenario
async def overload(on: Stage, client: Checked) -> tuple[float | None, str]:
    """Three times the capacity of the large model, half of it bulk, for some seconds: accepted
    requests are answered, bulk last.
    """
    tokens = 2000  # of one request: the engine takes 0.0001 s for each, on two replicas
    rate = OVERLOAD * 2 / (0.0001 * tokens + 0.01)
    tallies = {"interactive": LoadCounts(), "bulk": LoadCounts()}
    tasks: list[asyncio.Task[int]] = []
    end_s, turn = time.monotonic() + OVERLOAD_S, 0
    while time.monotonic() < end_s:
        priority = ("interactive", "bulk")[turn % 2]
        turn += 1
        body = {"input": client.texts(20, 64), "model": "large", "priority": priority}
        tasks.append(asyncio.create_task(client.send(body, tallies[priority])))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    summary = "; ".join(
        f"{name} {tally.right} of {tally.sent}, worst {max(tally.took_s, default=0.0):.1f} s"
        for name, tally in tallies.items()
    )
    for name, tally in tallies.items():
        if late := tally.sent - tally.right - tally.refused["429 overloaded"]:
            raise Broken(
                f"{late} {name} requests were accepted and not answered in time: "
                f"{dict(tally.refused)} ({summary})"
            )
    if tallies["bulk"].right > tallies["interactive"].right:
        raise Broken(f"bulk went first ({summary})")
    return await on.recovered(), summary


async def play(on: Stage, name: str, seed: int = 0) -> Result:
    """Run one scenario under load."""
    async with Checked(on.url, MODELS, REQUEST_TIMEOUT_S, seed) as client:
        stop, recovered_s, note, broken = asyncio.Event(), None, "", ""
        load = asyncio.create_task(client.run(stop))
        try:
            await asyncio.sleep(BEFORE_S)
            try:
                recovered_s, note = await SCENARIOS[name](on, client)
            except Broken as error:
                broken = error.message
            await asyncio.sleep(AFTER_S)
        finally:
            stop.set()
            await load
        tally = client.tally
    return Result(
        name,
        tally.sent,
        tally.right,
        dict(tally.refused),
        tally.lost,
        tally.wrong,
        tally.worst_s,
        recovered_s,
        note,
        broken,
    )


HEAD = (
    f"{'scenario':<22} {'sent':>6} {'right':>6} {'refused':>7} {'lost':>4} {'wrong':>5} "
    f"{'worst':>7} {'recovered':>9}  remarks"
)


def row(result: Result) -> str:
    """The result as a table row, followed by what was lost or wrong."""
    recovered = "-" if result.recovered_s is None else f"{result.recovered_s:.1f} s"
    refused = ", ".join(f"{count} x {reason}" for reason, count in sorted(result.refused.items()))
    remarks = "; ".join(filter(None, [result.note, refused]))
    line = (
        f"{result.scenario:<22} {result.sent:6} {result.right:6} "
        f"{sum(result.refused.values()):7} {len(result.lost):4} "
        f"{len(result.wrong):5} {result.worst_s:5.2f} s {recovered:>9}  {remarks}"
    )
    faults = [*filter(None, [result.broken]), *result.lost[:3], *result.wrong[:3]]
    return "\n".join([line, *(f"    {what}" for what in faults)])


def judged(result: Result) -> list[Row]:
    """The figures of a result and their marks."""
    name = result.scenario
    return [
        Row(f"{name}: sent", result.sent),
        at_least(f"{name}: right", result.right, 1),
        Row(f"{name}: refused", sum(result.refused.values())),
        *numbers(f"{name}: refused", result.refused),
        at_most(f"{name}: lost", len(result.lost), 0),
        at_most(f"{name}: wrong", len(result.wrong), 0),
        at_most(f"{name}: other promises broken", bool(result.broken), 0),
        *numbers(name, {"worst, s": result.worst_s, "recovered, s": result.recovered_s}),
    ]


async def _play_all(names: tuple[str, ...], port: int) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory(prefix="er-chaos-", dir="/tmp") as scratch:
        async with stage(Path(scratch), port) as on:
            click.echo(f"{PAUSE_S=:g}\n{HEAD}")
            for name in names:
                results.append(await play(on, name))
                click.echo(row(results[-1]))
    return results


@click.command()
@click.option(
    "--scenario",
    "names",
    multiple=True,
    help="Scenario to run; repeatable. [default: all]",
)
@to_file
@click.option("--port", default=8140, show_default=True, help="First of two ports to use.")
def main(names: tuple[str, ...], file: Path | None, port: int) -> None:
    """Break one thing after another under load and count the outcomes of requests; exit 1 if an
    expectation fails.
    """
    if unknown := set(names) - set(SCENARIOS):
        raise click.ClickException(
            f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}"
        )
    results = asyncio.run(_play_all(names or tuple(SCENARIOS), port))
    write([one for result in results for one in judged(result)], file)
    if not all(result.clean for result in results):
        raise click.ClickException("requests were lost or answered wrong, or a promise was broken")
