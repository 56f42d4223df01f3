"""Send answers through ASGI: whole or from a file, in parts that the client must read in time."""

import asyncio
from typing import BinaryIO

from deployments.ingress.asgi import SEND_TIMEOUT_S, Headers, Receive, Scope, Send
from deployments.ingress.outgoing import Held
from deployments.ingress.pace import PATIENCE
from router.errors import NotSupported, render

SEND_BYTES = 64 * 1024  # of an answer, passed to the server at a time
FILE_BYTES = 256 * 1024  # the same for a file


async def respond(
    send: Send, status: int, content: bytes, given: Headers, held: Held | None = None
) -> None:
    """Send one whole response, in parts that the client must read in time."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    stall_s = SEND_TIMEOUT_S if held is None else held.stall_s
    try:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        for start in range(0, max(1, len(content)), SEND_BYTES):
            part = content[start : start + SEND_BYTES] if len(content) > SEND_BYTES else content
            more = start + SEND_BYTES < len(content)
            async with asyncio.timeout(PATIENCE * stall_s):
                await send({"type": "http.response.body", "body": part, "more_body": more})
    except TimeoutError:
        pass  # the server closes an incomplete response
    finally:
        if held is not None:
            held.release()


async def respond_with_file(
    send: Send, status: int, given: Headers, stream: BinaryIO, stall_s: float, whole: bool = True
) -> None:
    """Send a response whose body is a file, read in parts; if not `whole`, only its headers."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    try:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        more = True
        while more:
            part = await asyncio.to_thread(stream.read, FILE_BYTES) if whole else b""
            more = len(part) == FILE_BYTES
            async with asyncio.timeout(PATIENCE * stall_s):
                await send({"type": "http.response.body", "body": part, "more_body": more})
    except TimeoutError:
        pass  # the server closes an incomplete response
    finally:
        stream.close()


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake with 426, or close it if the server cannot send a response."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    error = NotSupported()
    content = render(error)
    given = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        **error.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    start = {"type": "websocket.http.response.start", "status": error.status, "headers": raw}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": content})


async def lifespan(receive: Receive, send: Send) -> None:
    """Confirm startup and shutdown: Serve's own hooks start what a router runs, and the caller
    stops it afterwards.
    """
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
