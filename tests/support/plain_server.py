"""A server of `/v1/embeddings` and of nothing else, as a hosted model is."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from router import fingerprint
from router.arrays import Vectors
from router.fingerprint import TEXTS, Fingerprint, Probe

SIZE = 16


def vectors_of(texts: Sequence[str]) -> Vectors:
    """The sum of each text's words, (texts, SIZE), not of length 1."""
    rows = [
        np.sum([_vector(word) for word in text.split()], axis=0, dtype=np.float64) for text in texts
    ]
    return 3.0 * np.array(rows, np.float32)


def _vector(word: str) -> np.ndarray:
    return np.random.default_rng(list(word.encode())).standard_normal(SIZE)


def fingerprint_of(prompt: str = "") -> Fingerprint:
    """The fingerprint of the server's model, or of the same model with a prompt of queries."""
    probes = [Probe(text, "query", None, prompt + text) for text in TEXTS]
    if prompt:
        probes += [Probe(text, "document", None, text) for text in TEXTS]
    return fingerprint.make("bag", probes, vectors_of([probe.prompted or "" for probe in probes]))


class Plain(BaseHTTPRequestHandler):
    """What it does not know it refuses."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body.keys() == {"input", "model"}
        data = [
            {"index": place, "embedding": row}
            for place, row in enumerate(vectors_of(body["input"]).tolist())
        ]
        said = json.dumps({"data": data[::-1]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def plain_server() -> Iterator[str]:
    """Run the server; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
