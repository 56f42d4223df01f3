"""The schemas of the reference: bodies, answers, headers and parameters."""

from collections.abc import Iterable
from typing import Any, get_args

from router.domain import Reason, Tier, Why
from router.encoders import Kind
from router.errors import RouterError
from router.routing_config import Routing as Routing_
from router.schema import Priority, Source
from router.stamps import STAMPS
from router.strict import ENGINE_KINDS

Json = dict[str, Any]


REFERENCE = "#/components/schemas/{model}"


def errors() -> Iterable[type[RouterError]]:
    return RouterError.__subclasses__()


def ref(name: str) -> Json:
    return {"$ref": REFERENCE.format(model=name)}


def _object(properties: Json, optional: Iterable[str] = ()) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in set(optional)],
    }


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


STRING, _INTEGER, _NUMBER, _BOOLEAN = (
    {"type": name} for name in ("string", "integer", "number", "boolean")
)


_STRING_OR_NULL, _NUMBER_OR_NULL, _OBJECT_OR_NULL = (
    {"type": [name, "null"]} for name in ("string", "number", "object")
)


TIER_OR_NULL: Json = {"enum": [*(tier.value for tier in Tier if tier is not Tier.AUTO), None]}


_REASONS = "|".join(reason for reason in Reason if reason is not Reason.RULE)


REASON = {"type": "string", "pattern": f"^({_REASONS}|rule:[a-z0-9-]+)$"}


_DECISION = _object(
    {
        "model": _STRING_OR_NULL,
        "tier": TIER_OR_NULL,
        "reason": REASON,
        "space": _STRING_OR_NULL,
        "predicted_ms": _NUMBER_OR_NULL,
        "degraded": _BOOLEAN,
        "canary": _BOOLEAN,
        "encoder": {"enum": [*get_args(Kind), None]},
        "expected_recall": _NUMBER_OR_NULL,
        "unread": {**_NUMBER, "description": "As routing.unread of an answer."},
    },
    optional=("unread",),
)


_SIDE = _object(
    {
        "p50_ms": _NUMBER_OR_NULL,
        "p95_ms": _NUMBER_OR_NULL,
        "models": {
            "type": "object",
            "additionalProperties": _INTEGER,
            "description": "By the model that answers, or `refused`.",
        },
        "quality": _NUMBER_OR_NULL,
        "degraded": _INTEGER,
        "misses": _INTEGER,
    }
)


SCHEMAS: Json = {
    "EmbeddingsResponse": _object(
        {
            "object": {"const": "list"},
            "data": _array(
                _object(
                    {
                        "object": {"const": "embedding"},
                        "index": _INTEGER,
                        "embedding": {
                            "oneOf": [
                                {"title": "float", **_array(_NUMBER)},
                                {
                                    "title": "every other encoding_format, as base64 bytes",
                                    **STRING,
                                    "contentEncoding": "base64",
                                },
                            ]
                        },
                    }
                )
            ),
            "model": STRING,
            "usage": _object({"prompt_tokens": _INTEGER, "total_tokens": _INTEGER}),
            "routing": ref("Routing"),
        }
    ),
    "Route": _object(
        {
            "features": _object(
                {
                    "tokens": _INTEGER,
                    "language": _STRING_OR_NULL,
                    "script": _STRING_OR_NULL,
                    "mixed": _BOOLEAN,
                    "code": _BOOLEAN,
                    "languages": {
                        "type": "object",
                        "additionalProperties": _INTEGER,
                        "description": "Texts by language, for a list of several texts.",
                    },
                },
                optional=("languages",),
            ),
            "decision": _DECISION,
            "settings": _object(
                {
                    name: _object({"value": value, "from": {"enum": list(get_args(Source))}})
                    for name, value in {
                        "space": _STRING_OR_NULL,
                        "input_type": _STRING_OR_NULL,
                        "quality": {"enum": [tier.value for tier in Tier]},
                        "latency_budget_ms": _NUMBER_OR_NULL,
                        "priority": {"enum": list(get_args(Priority))},
                    }.items()
                }
            ),
            "models": _array(
                _object(
                    {
                        "model": STRING,
                        "predicted_ms": _NUMBER_OR_NULL,
                        "wait_ms": _NUMBER_OR_NULL,
                        "work_ms": _NUMBER_OR_NULL,
                        "margin": _NUMBER,
                        "chosen": _BOOLEAN,
                        "why": {"enum": [why.value for why in Why]},
                    }
                )
            ),
        }
    ),
    "Model": _object(
        {
            "id": STRING,
            "object": {"const": "model"},
            "created": _INTEGER,
            "owned_by": STRING,
            "kind": {"enum": ["embedding", "rerank", "tier", "collection", "alias"]},
            "model": {
                **STRING,
                "description": "The model that a tier, an alias or a collection stands for.",
            },
            "dimensions": _INTEGER,
            "max_tokens": _INTEGER,
        },
        optional=["model", "dimensions", "max_tokens"],
    ),
    "ModelList": _object({"object": {"const": "list"}, "data": _array(ref("Model"))}),
    "Tiers": _object(
        {
            "object": {"const": "list"},
            "policy": {"enum": list(get_args(Routing_.model_fields["policy"].annotation))},
            "tiers": {
                "type": "object",
                "additionalProperties": STRING,
                "description": "The model that each tier stands for.",
            },
            "collections": {
                "type": "object",
                "description": "What each collection's name means as a request's space.",
            },
            "reload_error": {
                **_STRING_OR_NULL,
                "description": "That the last change of the config was not taken; to an admin why.",
            },
            "router": {
                **STRING,
                "description": "The router replica that answers; loads and latencies are as it "
                "knows them.",
            },
            "routers": {**_INTEGER, "description": "How many router replicas there are."},
            "front": {
                "enum": ["haproxy", "serve"],
                "description": "What takes connections in front of the routers: HAProxy, or "
                "Serve's own Python proxy, which answers fewer requests.",
            },
            "data": _array(
                _object(
                    {
                        "model": STRING,
                        "tier": TIER_OR_NULL,
                        "engine": {"enum": list(ENGINE_KINDS)},
                        "dimensions": _INTEGER,
                        "space": STRING,
                        "sizes": STRING,
                        "max_tokens": _INTEGER,
                        "answers": _INTEGER,
                        "quality": {"type": "object", "additionalProperties": _NUMBER},
                        "memory_bytes": {"type": ["integer", "null"]},
                        "devices": {
                            **_NUMBER,
                            "description": "Accelerators that one replica occupies.",
                        },
                        "shares_device_with": {
                            **_array(STRING),
                            "description": "Other models with a replica on the same accelerator, "
                            "as replicas report it (`transport: direct`).",
                        },
                        "matryoshka": {
                            "description": "Smaller sizes that may be asked for: a list, {min: "
                            "N} for all from N up, or null."
                        },
                        "p50_ms": _NUMBER_OR_NULL,
                        "p95_ms": _NUMBER_OR_NULL,
                        "predicted_ms": {
                            "type": "object",
                            "additionalProperties": _NUMBER,
                            "description": "For one text of so many tokens, now.",
                        },
                        "replicas_ready": _INTEGER,
                        "load": _object(
                            {
                                "ahead_tokens": _NUMBER,
                                "queued_tokens": _NUMBER,
                                "margin": _NUMBER,
                            }
                        ),
                        "good_for": STRING,
                        "start": {
                            "type": ["object", "null"],
                            "additionalProperties": _NUMBER,
                            "description": "Seconds of each phase of the last replica's start: "
                            "import, download, load, compile, warm_up, proof.",
                        },
                        "fingerprint": {
                            **_STRING_OR_NULL,
                            "description": "What its replicas have proved to be.",
                        },
                    }
                )
            ),
        }
    ),
    "Comparison": _object(
        {"object": {"const": "comparison"}, "shadow": _OBJECT_OR_NULL, "canary": _OBJECT_OR_NULL}
    ),
    "Decisions": _object(
        {
            "object": {"const": "list"},
            "router": {**STRING, "description": "The router replica whose decisions these are."},
            "routers": {**_INTEGER, "description": "How many router replicas there are."},
            "next": {
                **STRING,
                "description": "What to send as `after` to see the ones that follow.",
            },
            "missed": {
                **_INTEGER,
                "description": "Later decisions that are not here: more than the limit, or than "
                "are kept.",
            },
            "data": _array(
                _object(
                    {
                        "id": STRING,
                        "at_s": {**_NUMBER, "description": "Seconds since 1970."},
                        "tokens": {
                            "type": ["integer", "null"],
                            "description": "Of the texts that were not in the cache.",
                        },
                        "language": _STRING_OR_NULL,
                        "script": _STRING_OR_NULL,
                        "mixed": _BOOLEAN,
                        "code": _BOOLEAN,
                        "tier": {
                            **_STRING_OR_NULL,
                            "description": "As asked; null where a model or a space was named.",
                        },
                        "pinned": _BOOLEAN,
                        "input_type": _STRING_OR_NULL,
                        "priority": {"enum": ["interactive", "bulk"]},
                        "budget_ms": _NUMBER_OR_NULL,
                        "model": _STRING_OR_NULL,
                        "target": _STRING_OR_NULL,
                        "reason": STRING,
                        "degraded": _BOOLEAN,
                        "predicted_ms": _NUMBER_OR_NULL,
                        "actual_ms": _NUMBER_OR_NULL,
                        "outcome": {
                            **STRING,
                            "description": "answered, cancelled, or the code of the error.",
                        },
                        "stamps_ms": {
                            **_object(dict.fromkeys(STAMPS, _NUMBER), STAMPS[1:]),
                            "description": "With `stamps: true`: when the request passed each "
                            "point of its way, in milliseconds since it arrived.",
                        },
                        "call_texts": {
                            "type": ["integer", "null"],
                            "description": "With `stamps: true`: texts of the call to a replica "
                            "that carried the last of its texts, those of other requests too.",
                        },
                    },
                    optional=("stamps_ms", "call_texts"),
                )
            ),
        }
    ),
    "Policy": {
        "type": "object",
        "properties": {
            "routing": {"type": "object", "description": "As `args.routing` of the config."},
            "tiers": {
                "type": "object",
                "additionalProperties": STRING,
                "description": "As `args.tiers` of the config.",
            },
        },
        "additionalProperties": False,
    },
    "WhatIf": _object(
        {
            "object": {"const": "what_if"},
            "router": STRING,
            "routers": _INTEGER,
            "since_s": _NUMBER_OR_NULL,
            "until_s": _NUMBER_OR_NULL,
            "requests": _INTEGER,
            "budgets": _INTEGER,
            "before": _SIDE,
            "after": _SIDE,
            "measured": _object(
                {"p50_ms": _NUMBER_OR_NULL, "p95_ms": _NUMBER_OR_NULL, "misses": _INTEGER}
            ),
            "moved": _array(
                _object(
                    {
                        "from": STRING,
                        "to": STRING,
                        "requests": _INTEGER,
                        "reasons": {"type": "object", "additionalProperties": _INTEGER},
                    }
                )
            ),
            "changed": {
                **_INTEGER,
                "description": "Decisions that differ in any detail, those that moved among them.",
            },
            "slices": _array(
                _object(
                    {
                        "dimension": {"enum": ["language", "script", "kind"]},
                        "value": STRING,
                        **dict.fromkeys(("requests", "moved"), _INTEGER),
                        **dict.fromkeys(("quality_before", "quality_after"), _NUMBER_OR_NULL),
                        "falls": {"type": "boolean"},
                    }
                )
            ),
        }
    ),
    "Health": _object(
        {
            "status": {"enum": ["ok", "starting"]},
            "waiting_for": _array(STRING),
            "unavailable": {
                **_array(STRING),
                "description": "Models without a replica that are not required.",
            },
        },
        optional=["waiting_for", "unavailable"],
    ),
    "Error": _object(
        {
            "error": _object(
                {
                    "message": STRING,
                    "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                    "param": _STRING_OR_NULL,
                    "code": {"enum": sorted({error.code for error in errors()})},
                }
            ),
        }
    ),
}
