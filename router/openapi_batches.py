"""Files, batches and use in the reference."""

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from router.batch_objects import BatchList, BatchObject, FileDeleted, FileList, FileObject
from router.batches import BatchBody
from router.openapi_schemas import REFERENCE, STRING, Json, ref
from router.usage import BY, Usage

_ON_KEY = (400, 401, 403, 404, 500)
_FILES = {"tags": ["files"]}
_BATCHES = {"tags": ["batches"]}
_FILE_ID: Json = {"name": "id", "in": "path", "required": True, "schema": STRING}
_AFTER: Json = {
    "name": "after",
    "in": "query",
    "schema": STRING,
    "description": "Only what stands behind this id: the `last_id` of the page before.",
}


def batch_schemas() -> Json:
    """The bodies and answers, by name."""
    models = [
        (BatchBody, "validation"),
        *((one, "serialization") for one in (FileList, FileDeleted, BatchList, Usage)),
    ]
    _, made = models_json_schema(models, ref_template=REFERENCE)  # type: ignore[arg-type]
    schemas: Json = made["$defs"]
    schemas["BatchRequest"] = schemas.pop("BatchBody")
    return schemas


def batch_operations() -> Json:
    """What each handler does, by its name in router/routes.py."""
    upload = {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                    "purpose": {"const": "batch"},
                },
                "required": ["file", "purpose"],
                "additionalProperties": False,
            }
        }
    }
    return {
        "usage": usage_operation(),
        "upload_file": {
            "operationId": "uploadFile",
            **_FILES,
            "summary": "Upload the lines of a batch",
            "description": "JSON lines, each with custom_id, method, url and body. At most "
            "limits.max_file_bytes (200 MiB).",
            "requestBody": {"required": True, "content": upload},
            "responses": {"200": _answer("The file.", FileObject), **_refused(408, 413)},
        },
        "files": {
            "operationId": "listFiles",
            **_FILES,
            "summary": "List the files of the key, newest first",
            "parameters": [
                _AFTER,
                _limit(10_000, 10_000),
                {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}},
                {"name": "purpose", "in": "query", "schema": STRING},
            ],
            "responses": {"200": _answer("The files.", FileList), **_refused()},
        },
        "file": {
            "operationId": "getFile",
            **_FILES,
            "summary": "Show one file",
            "parameters": [_FILE_ID],
            "responses": {"200": _answer("The file.", FileObject), **_refused()},
        },
        "delete_file": {
            "operationId": "deleteFile",
            **_FILES,
            "summary": "Delete a file; a batch that reads it goes on",
            "parameters": [_FILE_ID],
            "responses": {"200": _answer("It is gone.", FileDeleted), **_refused()},
        },
        "file_content": {
            "operationId": "getFileContent",
            **_FILES,
            "summary": "Read a file",
            "parameters": [_FILE_ID],
            "responses": {
                "200": {
                    "description": "Its bytes.",
                    "content": {"application/jsonl": {"schema": STRING}},
                },
                **_refused(),
            },
        },
        "create_batch": {
            "operationId": "createBatch",
            **_BATCHES,
            "summary": "Embed the lines of a file when there is time",
            "description": "Each line is a request for embeddings on the bulk lane, with the "
            "permissions that the key has now. What is wrong with the file is in `errors` of the "
            "batch, which then has failed.",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ref("BatchRequest")}},
            },
            "responses": {
                "200": _answer("The batch.", BatchObject),
                **_refused(408, 413, 429),
            },
        },
        "batches": {
            "operationId": "listBatches",
            **_BATCHES,
            "summary": "List the batches of the key, newest first",
            "parameters": [_AFTER, _limit(100, 20)],
            "responses": {"200": _answer("The batches.", BatchList), **_refused()},
        },
        "batch": {
            "operationId": "getBatch",
            **_BATCHES,
            "summary": "Show one batch",
            "parameters": [_FILE_ID],
            "responses": {"200": _answer("The batch.", BatchObject), **_refused()},
        },
        "cancel_batch": {
            "operationId": "cancelBatch",
            **_BATCHES,
            "summary": "Run no more lines of a batch",
            "parameters": [_FILE_ID],
            "responses": {"200": _answer("The batch.", BatchObject), **_refused()},
        },
    }


def usage_operation() -> Json:
    """What `usage` does."""
    time: Json = {"type": "string", "format": "date-time"}
    by: Json = {"type": "array", "items": {"enum": list(BY)}}
    return {
        "operationId": "getUsage",
        "tags": ["usage"],
        "summary": "Sum up what the key used; an admin key sees all keys",
        "parameters": [
            {"name": "from", "in": "query", "schema": time},
            {"name": "to", "in": "query", "schema": time},
            {"name": "by", "in": "query", "schema": by, "style": "form", "explode": False},
            {"name": "key", "in": "query", "schema": STRING, "description": "Only this key."},
        ],
        "responses": {"200": _answer("The sums.", Usage), **_refused()},
    }


def _limit(most: int, usual: int) -> Json:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": usual}
    return {"name": "limit", "in": "query", "schema": schema}


def _answer(description: str, model: type[Any]) -> Json:
    content = {"application/json": {"schema": ref(model.__name__)}}
    return {"description": description, "content": content}


def _refused(*more: int) -> Json:
    statuses: Iterable[int] = sorted((*_ON_KEY, *more))
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
