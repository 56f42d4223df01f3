"""A server of embeddings that has one fault at a time."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

WIDTH = 8
AFTER_S = 7  # what the server says with a 429


def vector(text: str) -> list[float]:
    """Unit vector that tells which text it is of."""
    row = np.array([float(len(text)), *[1.0] * (WIDTH - 1)])
    return [float(value) for value in row / np.linalg.norm(row)]


def answer(fault: str, texts: list[str]) -> tuple[int, bytes]:
    rows = [vector(text) for text in texts]
    if fault == "nonsense":
        return 200, b'{"data": 7}'
    if fault == "html":
        return 200, b"<html>we are moving</html>"
    if fault in ("500", "503", "429"):
        return int(fault), b"{}"
    if fault == "other weights":
        rows = [row[::-1] for row in rows]
    if fault == "another width":
        rows = [row * 2 for row in rows]
    if fault == "not finite":
        rows = [[float("nan")] * WIDTH for _ in rows]
    if fault == "too few":
        rows = rows[1:]
    return 200, json.dumps(
        {"data": [{"index": at, "embedding": row} for at, row in enumerate(rows)]}
    ).encode()


@contextmanager
def upstream(port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """A server on a socket, and the list whose only entry is the fault it has now; it starts
    without one. Port 0 is a free one.
    """
    fault, started, ended = ["none"], threading.Event(), asyncio.Event()
    place: dict[str, Any] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = next(
                    int(line.split(":")[1])
                    for line in head.splitlines()
                    if line.startswith("content-length")
                )
                texts = json.loads(await reader.readexactly(length))["input"]
                if fault[0] == "hang up":
                    return
                if fault[0] == "silence":
                    await reader.read()
                    return
                status, body = answer(fault[0], texts)
                head = (
                    f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nretry-after: "
                    f"{AFTER_S}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def life() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        place.update(port=server.sockets[0].getsockname()[1], loop=asyncio.get_running_loop())
        started.set()
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(life(),))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{place['port']}/v1", fault
    finally:
        place["loop"].call_soon_threadsafe(ended.set)
        thread.join()
