"""OpenAI's files: what may be uploaded, how much of it, and what an upload that fails leaves
behind.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import NotFoundError, OpenAI

from tests.support import batch_client
from tests.support.batch_client import KEYS, OPEN, Service, client, upload
from tests.support.local_service import served
from tests.support.waiting import wait_for

service = batch_client.service


def test_files_are_those_of_openai(service: Service) -> None:
    openai = client(service)
    content = b'{"a": 1}\r\n\r\n--boundary\r\n' * 900
    made = openai.files.create(file=("in ü.jsonl", content), purpose="batch")
    assert (made.object, made.status, made.purpose) == ("file", "processed", "batch")
    assert (made.bytes, made.filename) == (len(content), "in ü.jsonl")
    assert openai.files.retrieve(made.id) == made
    assert openai.files.content(made.id).content == content
    other = openai.files.create(file=b"x", purpose="batch")
    listed = [file.id for file in openai.files.list(limit=1)]  # page after page
    assert listed[:2] == [other.id, made.id]
    assert [file.id for file in openai.files.list(order="asc")][-2:] == [made.id, other.id]
    assert not list(openai.files.list(purpose="fine-tune"))
    assert openai.files.delete(made.id).deleted
    for gone in (openai.files.retrieve, openai.files.content, openai.files.delete):
        with pytest.raises(NotFoundError, match="there is no file"):
            gone(made.id)


MULTIPART = "multipart/form-data; boundary=xx"
FILE = b'--xx\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n'
PURPOSE = b'--xx\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
END = b"--xx--\r\n"


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (PURPOSE + FILE + END, MULTIPART, 200, "batch"),
        (FILE + PURPOSE + END, MULTIPART, 200, "batch"),
        (FILE + PURPOSE, MULTIPART, 400, "ends too early"),
        (b"", MULTIPART, 400, "ends too early"),
        (b"nothing of this", MULTIPART, 400, "not multipart"),
        (FILE + END, MULTIPART, 400, "purpose is missing"),
        (PURPOSE + END, MULTIPART, 400, "file is missing"),
        (FILE + FILE + PURPOSE + END, MULTIPART, 400, "sent twice"),
        (FILE + PURPOSE.replace(b"batch", b"assistants") + END, MULTIPART, 400, "must be"),
        (FILE + PURPOSE.replace(b"batch", b"b" * 999) + END, MULTIPART, 400, "too long"),
        (PURPOSE.replace(b"purpose", b"purposes") + END, MULTIPART, 400, "did you mean"),
        (b"{}", "application/json", 400, "multipart/form-data"),
        (b"{}", "multipart/form-data", 400, "multipart/form-data"),
    ],
    ids=str,
)
def test_an_upload_is_a_form_with_two_fields(
    service: Service, content: bytes, kind: str, status: int, said: str
) -> None:
    headers = {"authorization": f"Bearer {KEYS['one']}", "content-type": kind}
    answer = httpx.post(f"{service[0]}/v1/files", content=content, headers=headers, timeout=60)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_upload_that_is_too_large_leaves_nothing(service: Service) -> None:
    openai, router = client(service, "empty"), service[1]
    store = router.batches
    assert store is not None
    with pytest.raises(Exception, match=r"limits\.max_file_bytes") as refused:
        upload(openai, b"x" * 400_000)
    assert getattr(refused.value, "status_code", None) == 413

    def chunks() -> Iterator[bytes]:  # of no declared length
        yield FILE.replace(b"abc", b"")
        for _ in range(40):
            yield b"y" * 10_000

    headers = {"authorization": f"Bearer {KEYS['empty']}", "content-type": MULTIPART}
    answer = httpx.post(f"{service[0]}/v1/files", content=chunks(), headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert not list(openai.files.list())
    assert not list((store.files.content("empty", "x").parent.parent).glob("*"))


def test_an_upload_that_stalls_or_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    args = {**OPEN, "limits": {"body_timeout_s": 0.5}, "batches": {"folder": str(tmp_path)}}
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: {MULTIPART}\r\n"
        "content-length: 5000\r\n\r\n"
    ).encode()
    with served(args) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head + FILE)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert b"request_timeout" in answer
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head + FILE)
            wait_for(lambda: bool(list(tmp_path.glob("files/_/*"))), "the upload to begin")
        wait_for(lambda: not list(tmp_path.glob("files/_/*")), "what was sent to be removed")


def test_a_key_may_keep_only_so_much(tmp_path: Path) -> None:
    args = {**OPEN, "batches": {"folder": str(tmp_path), "max_bytes_per_key": 25}}
    with served(args) as (url, _):
        openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        first = upload(openai, b"x" * 20)
        with pytest.raises(Exception, match=r"batches\.max_bytes_per_key"):
            upload(openai, b"x" * 20)
        openai.files.delete(first)
        assert upload(openai, b"x" * 20)
