"""A server of embeddings that answers as a test says."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Scripted:
    """A server that answers as a test says, with a good answer where it says nothing."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.port = 0
        self.heads: list[str] = []
        self.received, self.hung_up = asyncio.Event(), asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                lines = self.heads[-1].lower().splitlines()
                length = next(
                    int(line.split(":")[1]) for line in lines if line.startswith("content-length")
                )
                body = json.loads(await reader.readexactly(length))
                self.received.set()
                if self.answer is silence:
                    await reader.read()
                    self.hung_up.set()
                    return
                status, reply = (self.answer or good)(body)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(reply)}\r\n"
                    "Retry-After: 7\r\n\r\n".encode()
                    + reply
                )
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def good(body: dict[str, Any]) -> tuple[int, bytes]:
    """Vectors that say how long their text is, in reverse order."""
    data = [
        {"index": row, "embedding": vector(len(text))} for row, text in enumerate(body["input"])
    ]
    return 200, json.dumps({"data": data[::-1], "usage": {"prompt_tokens": 3 * len(data)}}).encode()


def vector(value: float, width: int = 8) -> str:
    return base64.b64encode(np.array([value] + [1] * (width - 1), "<f4").tobytes()).decode()


def silence(body: dict[str, Any]) -> tuple[int, bytes]:
    raise AssertionError("never called: the server waits for the client to hang up")
