"""OpenAI's files and batches with OpenAI's own client, over a real socket and real files."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from tests.support import batch_client
from tests.support.batch_client import (
    KEYS,
    OPEN,
    Service,
    begun,
    client,
    ended,
    lines,
    rows,
    upload,
)
from tests.support.local_service import held, served
from tests.support.waiting import wait_for

service = batch_client.service


def test_a_batch_embeds_every_line_once(service: Service) -> None:
    openai = client(service)
    content = lines(150)
    content[3]["body"]["model"] = "gpt-4"
    content[5]["body"]["input"] = ""
    content[7]["body"]["input"] = ["a", "b"]
    content[9]["body"] |= {"priority": "interactive", "dimensions": 8}
    content[11]["body"]["input"] = "word " * 500
    batch = begun(openai, content)
    assert (batch.object, batch.status, batch.completion_window) == ("batch", "validating", "24h")
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = ended(openai, batch)
    assert (batch.status, batch.metadata) == ("completed", {"name": "nightly"})
    assert batch.errors is None
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (150, 147, 3)
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(times) == sorted(times)  # type: ignore[type-var]
    good, bad = rows(openai, batch.output_file_id), rows(openai, batch.error_file_id)
    assert good.keys() | bad.keys() == {line["custom_id"] for line in content}
    assert {name: row["response"]["status_code"] for name, row in bad.items()} == {
        "c3": 404,
        "c5": 400,
        "c11": 400,
    }
    assert bad["c3"]["response"]["body"]["error"]["code"] == "model_not_found"
    assert {row["error"] for row in (*good.values(), *bad.values())} == {None}
    body = good["c7"]["response"]["body"]
    assert [one["index"] for one in body["data"]] == [0, 1]
    one = openai.embeddings.create(model="fast", input="text 0", encoding_format="float")
    assert good["c0"]["response"]["body"]["data"][0]["embedding"] == one.data[0].embedding
    assert good["c0"]["response"]["request_id"]


def test_the_address_of_a_batch_is_that_of_its_lines(service: Service) -> None:
    """All of OpenAI's client works there, files too."""
    openai = client(service)
    there = openai.with_options(base_url=f"{service[0]}/in/docs/v1")
    file = upload(there, [*lines(1, model="auto"), {**lines(1)[0], "custom_id": "other"}])
    assert openai.files.retrieve(file) == there.files.retrieve(file)
    batch = there.batches.create(
        input_file_id=file, endpoint="/v1/embeddings", completion_window="24h"
    )
    batch = ended(there, batch)
    (good,) = rows(there, batch.output_file_id).values()
    assert good["response"]["body"]["routing"]["space"] == "large/8"
    (bad,) = rows(there, batch.error_file_id).values()
    assert bad["response"]["status_code"] == 409
    assert there.files.delete(file).deleted
    nowhere = openai.with_options(base_url=f"{service[0]}/in/nothing/v1")
    with pytest.raises(NotFoundError, match="nothing"):
        nowhere.batches.create(
            input_file_id=file, endpoint="/v1/embeddings", completion_window="24h"
        )


def test_batches_are_listed_newest_first_in_pages(service: Service) -> None:
    openai = client(service, "slow")
    made = [begun(openai, lines(1)).id for _ in range(3)]
    assert [batch.id for batch in openai.batches.list(limit=2)] == made[::-1]
    page = openai.batches.list(limit=2)
    assert (page.has_more, page.data[-1].id) == (True, made[1])
    assert [one.id for one in openai.batches.list(after=made[1]).data] == [made[0]]
    with pytest.raises(BadRequestError, match="after"):
        openai.batches.list(after="batch_" + "0" * 32)
    for limit in (0, 101):
        with pytest.raises(BadRequestError, match="limit"):
            openai.batches.list(limit=limit)


def failure(service: Service, content: list[dict[str, Any]] | bytes) -> list[tuple[Any, ...]]:
    openai = client(service)
    batch = ended(openai, begun(openai, content))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert all(error.message for error in batch.errors.data)
    return [(error.line, error.code) for error in batch.errors.data]


def test_a_bad_file_fails_with_each_line_and_why(service: Service) -> None:
    good = lines(6)
    good[1]["custom_id"] = "c0"
    good[2]["method"] = "GET"
    good[3]["url"] = "/v1/responses"
    del good[4]["custom_id"]
    good[5]["body"]["input"] = "x" * 6000
    raw = "\n".join(json.dumps(line) for line in good).encode() + b'\n\n{"half": \n'
    assert failure(service, raw) == [
        (2, "duplicate_custom_id"),
        (3, "invalid_method"),
        (4, "invalid_url"),
        (5, "invalid_custom_id"),
        (6, "line_too_large"),
        (8, "invalid_json_line"),
    ]
    assert failure(service, b"\n\n") == [(None, "empty_file")]


def test_another_endpoint_fails_and_a_wrong_request_is_refused(service: Service) -> None:
    openai = client(service)
    file = upload(openai, lines(1))
    batch = openai.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["invalid_endpoint"]
    for window in ("0h", "169h", "2d"):
        with pytest.raises(BadRequestError, match='"1h" to "168h"'):
            begun(openai, lines(1), window)
    with pytest.raises(BadRequestError, match="unknown field 'extra'"):
        openai.batches.create(
            input_file_id=file,
            endpoint="/v1/embeddings",
            completion_window="24h",
            extra_body={"extra": 1},
        )
    done = ended(openai, begun(openai, lines(1)))
    assert done.output_file_id
    with pytest.raises(BadRequestError, match="output file"):
        openai.batches.create(
            input_file_id=done.output_file_id,
            endpoint="/v1/embeddings",
            completion_window="1h",  # type: ignore[arg-type]
        )
    with pytest.raises(BadRequestError, match="is completed"):
        openai.batches.cancel(done.id)


def test_keys_never_see_each_other(service: Service) -> None:
    own, other = client(service, "one"), client(service, "other")
    batch = ended(own, begun(own, lines(2)))
    assert batch.output_file_id
    calls: list[Any] = [
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.output_file_id or ""),
        lambda: other.files.delete(batch.input_file_id),
        lambda: other.batches.create(
            input_file_id=batch.input_file_id,
            endpoint="/v1/embeddings",
            completion_window="24h",
        ),
    ]
    for call in calls:
        with pytest.raises(NotFoundError) as refused:
            call()
        assert refused.value.code == "not_found"
    assert batch.id not in [one.id for one in other.batches.list()]
    assert batch.input_file_id not in [one.id for one in other.files.list()]
    assert own.files.retrieve(batch.input_file_id).id == batch.input_file_id
    for id in ("../other", "..%2f..%2fother", "%2e%2e", "file-" + "g" * 32, "a/b"):
        headers = {"authorization": f"Bearer {KEYS['one']}"}
        assert httpx.get(f"{service[0]}/v1/files/{id}", headers=headers).status_code == 404


def test_lines_have_the_permissions_of_the_key(service: Service) -> None:
    openai = client(service, "one")
    content = lines(2)
    content[1]["body"]["model"] = "best"
    batch = ended(openai, begun(openai, content))
    assert rows(openai, batch.output_file_id).keys() == {"c0"}
    refused = rows(openai, batch.error_file_id)["c1"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["code"]) == (403, "tier_not_allowed")


def test_a_key_without_bulk_requests_neither_uploads_nor_makes_a_batch(service: Service) -> None:
    openai, other = client(service, "interactive"), client(service)
    for refused in (
        lambda: upload(openai, lines(1)),
        lambda: upload(openai, b"x" * 90_000),
        lambda: openai.batches.create(
            input_file_id=upload(other, lines(1)),
            endpoint="/v1/embeddings",
            completion_window="24h",
        ),
    ):
        with pytest.raises(PermissionDeniedError) as no:
            refused()
        assert no.value.code == "priority_not_allowed"
        assert "batches run as bulk requests" in str(no.value)
        assert "send the texts to POST /v1/embeddings" in str(no.value)
    assert list(openai.files.list()) == []


def test_a_line_with_a_ranking_gets_the_advice_that_a_request_gets(service: Service) -> None:
    openai = client(service)
    content = lines(4)
    content[1]["body"] = {"query": "which?", "documents": ["a", "b"]}
    content[2]["body"] = {"input": "a", "top_n": 3}
    batch = ended(openai, begun(openai, content))
    assert rows(openai, batch.output_file_id).keys() == {"c0", "c3"}
    refused = rows(openai, batch.error_file_id)
    for id, line in (("c1", content[1]), ("c2", content[2])):
        with pytest.raises(BadRequestError) as direct:
            openai.post("/embeddings", body=line["body"], cast_to=dict)
        error = refused[id]["response"]["body"]["error"]
        assert error == direct.value.body
        assert "is a field of rankings (POST /v1/rerank)" in error["message"]


def test_lines_are_charged_to_the_limits_of_the_key(service: Service) -> None:
    openai = client(service, "slow")

    def left() -> int:
        raw = openai.embeddings.with_raw_response.create(model="fast", input="text")
        return int(raw.headers["x-ratelimit-remaining-requests"])

    before, begun_s = left(), time.monotonic()
    batch = ended(openai, begun(openai, lines(40)))
    assert left() <= before - 40 + (time.monotonic() - begun_s)  # a second gives one back
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 40


def test_a_batch_larger_than_a_limit_waits_for_it(service: Service) -> None:
    openai = client(service, "tiny")
    batch = ended(openai, begun(openai, lines(63)))  # 60 a minute
    assert batch.status == "completed"
    assert len(rows(openai, batch.output_file_id)) == 63


def test_a_cancelled_batch_keeps_what_was_done(service: Service) -> None:
    openai, router = client(service), service[1]
    done = 0

    def stop_after_a_while() -> bool:
        nonlocal done
        done += 1
        return done > 3

    with held(router, stop_after_a_while):
        batch = begun(openai, lines(200))
        wait_for(lambda: done > 3, "some lines to be done")
        assert openai.batches.cancel(batch.id).status == "cancelling"
        batch = ended(openai, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert openai.batches.cancel(batch.id).status == "cancelled"
    good, bad = rows(openai, batch.output_file_id), rows(openai, batch.error_file_id)
    assert bad
    assert not good.keys() & bad.keys()
    assert len(good) + len(bad) == 200
    assert {row["error"]["code"] for row in bad.values()} == {"batch_cancelled"}


def test_an_expired_batch_keeps_what_was_done(service: Service) -> None:
    openai, router = client(service), service[1]
    store = router.batches
    assert store is not None
    calls = 0

    def stop_after_a_while() -> bool:
        nonlocal calls
        calls += 1
        return calls > 3

    clock = store.clock
    try:
        with held(router, stop_after_a_while):
            batch = begun(openai, lines(200), "2h")
            wait_for(lambda: calls > 3, "some lines to be done")
            store.clock = lambda: clock() + 2 * 3600
            batch = ended(openai, batch)
    finally:
        store.clock = clock
    assert batch.status == "expired"
    good, bad = rows(openai, batch.output_file_id), rows(openai, batch.error_file_id)
    assert bad
    assert len(good.keys() | bad.keys()) == len(good) + len(bad) == 200
    assert {(row["response"], row["error"]["code"]) for row in bad.values()} == {
        (None, "batch_expired")
    }
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.completed, counts.failed) == (len(good), len(bad))


def test_an_input_may_be_deleted_while_it_is_read(service: Service) -> None:
    openai, router = client(service), service[1]
    go = False
    with held(router, lambda: not go):
        batch = begun(openai, lines(200))
        wait_for(lambda: openai.batches.retrieve(batch.id).status == "in_progress", "the batch")
        openai.files.delete(batch.input_file_id)
        with pytest.raises(NotFoundError):
            openai.files.retrieve(batch.input_file_id)
        go = True
        batch = ended(openai, batch)
    assert len(rows(openai, batch.output_file_id)) == 200
    store = router.batches
    assert store is not None
    folder = store.files.content("other", batch.input_file_id).parent
    wait_for(lambda: not folder.exists(), "its content to be removed")


def test_without_a_folder_each_path_names_the_config_key() -> None:
    with served(OPEN) as (url, _):
        for method, path in (
            ("POST", "/v1/files"),
            ("GET", "/v1/files"),
            ("GET", "/v1/files/a"),
            ("GET", "/v1/files/a/content"),
            ("DELETE", "/v1/files/a"),
            ("POST", "/v1/batches"),
            ("GET", "/v1/batches"),
            ("GET", "/v1/batches/a"),
            ("POST", "/v1/batches/a/cancel"),
        ):
            answer = httpx.request(method, url + path, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
            assert "`batches.folder`" in answer.json()["error"]["message"]


def test_a_batch_survives_a_restart_and_lies_where_others_cannot_read_it(tmp_path: Path) -> None:
    args = {**OPEN, "batches": {"folder": str(tmp_path / "shared")}}
    go = False
    with served(args) as (url, router), held(router, lambda: not go):
        openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        batch = begun(openai, lines(100))
        wait_for(lambda: openai.batches.retrieve(batch.id).status == "in_progress", "the batch")
    with served(args) as (url, _):
        openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        batch = ended(openai, batch)
        assert len(rows(openai, batch.output_file_id)) == 100
    for entry in (tmp_path / "shared").rglob("*"):
        assert not entry.stat().st_mode & 0o077, entry


def test_an_input_that_is_gone_before_it_is_read_fails_the_batch(service: Service) -> None:
    openai, router = client(service), service[1]
    store = router.batches
    assert store is not None
    file = upload(openai, lines(20))
    content = store.files.content("other", file)
    away = content.with_name("away")
    content.rename(away)
    batch = openai.batches.create(
        input_file_id=file, endpoint="/v1/embeddings", completion_window="24h"
    )
    batch = ended(openai, batch)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["file_not_found"]
