"""Closed-loop clients: each connection sends its next request after the answer, always with a new
text.

The client is wrk if it is installed, as it leaves the most CPU to the servers; else our own in
another process. Texts are random words of one token each, so that their length is known and no two
begin alike.
"""

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from router.tokenizer import load

WORDS = 4000
POOL = 2000  # texts that repeat


@dataclass(frozen=True)
class Shape:
    """Content of every request of a point."""

    models: tuple[str, ...]  # taken in turn
    texts: int
    tokens: int  # of each text, the one that ends it included
    encoding_format: str = "base64"
    # share of requests whose text was sent before, drawn from a pool by Zipf's law
    repeats: float = 0.0


@dataclass(frozen=True)
class Load:
    """One measurement."""

    requests: int
    failures: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@cache
def words(tokenizer: str, english: Path | None = None) -> tuple[str, ...]:
    """Words that are one token of this tokenizer, both at the start of a text and after a space.

    They are made of random letters, and so of no language; with `english`, words of that text.
    """
    encode = load(tokenizer)
    if english is not None:
        known = sorted(
            {word for word in english.read_text().split() if word.isascii() and word.isalpha()}
        )
        counts = encode([f" {word}" for word in known], "document").counts
        return tuple(word for word, count in zip(known, counts, strict=True) if count == 2)
    rng = random.Random(0)
    letters = "aeiourstlnmpcdbhgfwyk"
    found: set[str] = set()
    while len(found) < WORDS:
        made = {"".join(rng.choices(letters, k=rng.choice((2, 3, 4)))) for _ in range(4000)}
        candidates = sorted(made - found)
        for word, count in zip(
            candidates, encode([f" {word}" for word in candidates], "document").counts, strict=True
        ):
            if count == 2:
                found.add(word)
    return tuple(sorted(found))


def run(
    url: str,
    shape: Shape,
    connections: int,
    seconds: float,
    seed: int,
    word_file: Path,
    key: str | None = None,
) -> Load:
    """Load `url` with `connections` for `seconds`; equal seeds send equal texts. `key` is an API
    key.
    """
    wrk = shutil.which("wrk")
    plan = json.dumps({"shape": asdict(shape), "seed": seed, "words": str(word_file), "key": key})
    if wrk is None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.load",
            url,
            str(connections),
            str(seconds),
            plan,
        ]
    else:
        allowed = [] if key is None else ["-H", f"authorization: Bearer {key}"]
        script = word_file.with_name("load.lua")
        script.write_text(_LUA)
        given = [
            str(seed),
            str(word_file),
            str(shape.texts),
            str(shape.tokens),
            shape.encoding_format,
            str(shape.repeats),
        ]
        command = [
            wrk,
            *allowed,
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "60s",
            "-s",
            str(script),
            url,
            "--",
            *given,
            *shape.models,
        ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"the client did not finish: {done.stdout[-500:]} {done.stderr[-500:]}")


_LUA = """
local words, models, pool = {}, {}, {}
local texts, tokens, format, repeats
local function text()
  local picked = {}
  for i = 1, tokens - 1 do picked[i] = words[math.random(#words)] end
  return " " .. table.concat(picked, " ")
end
local function zipf()
  return math.floor(math.exp(math.random() * math.log(#pool + 1)))
end
function init(args)
  math.randomseed(tonumber(args[1]))
  for line in io.lines(args[2]) do words[#words + 1] = line end
  texts, tokens, format, repeats = tonumber(args[3]), tonumber(args[4]), args[5], tonumber(args[6])
  for i = 7, #args do models[#models + 1] = args[i] end
  if repeats > 0 then
    local seed = math.random(2^31 - 1)
    math.randomseed(1)
    for i = 1, POOL do pool[i] = text() end
    math.randomseed(seed)
  end
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
end
local turn = 0
function request()
  turn = turn + 1
  local model, all = models[turn % #models + 1], {}
  for i = 1, texts do
    if repeats > 0 and math.random() < repeats then all[i] = pool[zipf()] else all[i] = text() end
  end
  local input = texts == 1 and '"' .. all[1] .. '"' or '["' .. table.concat(all, '","') .. '"]'
  return wrk.format(nil, nil, nil,
  '{"model":"' .. model .. '","encoding_format":"' .. format .. '","input":' .. input .. '}')
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"failures":%d,"seconds":%.4f,' ..
    '"p50_ms":%.3f,"p95_ms":%.3f,"p99_ms":%.3f}\\n',
    summary.requests, e.status + e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
""".replace("POOL", str(POOL))


class _Texts:
    """The bodies of the Lua script above, generated in Python."""

    def __init__(self, shape: Shape, seed: int, word_file: Path) -> None:
        self._shape, self._words = shape, word_file.read_text().split()
        self._rng = random.Random(1)
        self._pool = [self._text() for _ in range(POOL)] if shape.repeats else []
        self._rng = random.Random(seed)
        self._turn = 0

    def _text(self) -> str:
        return " " + " ".join(self._rng.choices(self._words, k=self._shape.tokens - 1))

    def _one(self) -> str:
        if self._rng.random() < self._shape.repeats:
            return self._pool[int((POOL + 1) ** self._rng.random()) - 1]
        return self._text()

    def body(self) -> bytes:
        shape = self._shape
        self._turn += 1
        texts = [self._one() for _ in range(shape.texts)]
        return json.dumps(
            {
                "model": shape.models[self._turn % len(shape.models)],
                "encoding_format": shape.encoding_format,
                "input": texts[0] if len(texts) == 1 else texts,
            }
        ).encode()


async def _connection(
    url: str, texts: _Texts, end_s: float, took_s: list[float], failures: list[int], key: str | None
) -> None:
    parts = urlsplit(url)
    allowed = "" if key is None else f"authorization: Bearer {key}\r\n"
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{allowed}content-type: "
        "application/json\r\ncontent-length: "
    )
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    while time.perf_counter() < end_s:
        body, started_s = texts.body(), time.perf_counter()
        writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(
            int(line.split(":")[1]) for line in answer if line.startswith("content-length:")
        )
        await reader.readexactly(length)
        if answer[0].split()[1] != "200":
            failures.append(1)
        took_s.append(time.perf_counter() - started_s)
    writer.close()


async def _client(url: str, connections: int, seconds: float, plan: str) -> None:
    given = json.loads(plan)
    shape = given["shape"]
    texts = _Texts(
        Shape(**(shape | {"models": tuple(shape["models"])})), given["seed"], Path(given["words"])
    )
    took_s: list[float] = []
    failures: list[int] = []
    started_s = time.perf_counter()
    end_s, key = started_s + seconds, given["key"]
    await asyncio.gather(
        *(_connection(url, texts, end_s, took_s, failures, key) for _ in range(connections))
    )
    took_s.sort()
    at = [
        took_s[min(len(took_s) - 1, int(share * len(took_s)))] * 1000 for share in (0.5, 0.95, 0.99)
    ]
    print(
        "RESULT",
        json.dumps(asdict(Load(len(took_s), len(failures), time.perf_counter() - started_s, *at))),
    )


if __name__ == "__main__":
    asyncio.run(_client(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
