"""`stamps: true`: where the time of each request went, in /v1/decisions."""

import httpx
import jsonschema

from router.stamps import STAMPS
from tests.support.local_service import ARGS, served


def test_each_answered_request_shows_every_point_of_its_way_in_order() -> None:
    with served({**ARGS, "stamps": True}) as (url, _), httpx.Client(base_url=url) as client:
        body = {"input": "a text that comes twice", "model": "balanced"}
        for _ in range(2):
            client.post("/v1/embeddings", json=body).raise_for_status()
        client.post(
            "/v1/embeddings", json={**body, "latency_budget_ms": 1e-6, "on_budget_miss": "reject"}
        )
        page = client.get("/v1/decisions").json()
        schemas = client.get("/openapi.json").json()["components"]
        jsonschema.Draft202012Validator(
            {"$ref": "#/components/schemas/Decisions", "components": schemas}
        ).validate(page)
        first, cached, refused = page["data"]
    assert list(first["stamps_ms"]) == list(STAMPS)
    points = list(first["stamps_ms"].values())
    assert points == sorted(points)
    assert points[0] == 0.0
    assert first["call_texts"] == 1
    without_call = ["arrived", "planned", "read", "decided", "answered", "written"]
    assert (list(cached["stamps_ms"]), cached["call_texts"]) == (without_call, None)
    assert list(refused["stamps_ms"]) == ["arrived", "planned", "read", "decided", "written"]


def test_without_the_switch_nothing_is_stamped() -> None:
    with served() as (url, router), httpx.Client(base_url=url) as client:
        client.post("/v1/embeddings", json={"input": "a text"}).raise_for_status()
        (only,) = client.get("/v1/decisions").json()["data"]
        assert "stamps_ms" not in only
        (logged,) = router.service.recent.logged()
        assert logged.entry.stamps is None
