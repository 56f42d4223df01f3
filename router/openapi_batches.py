"""The operations on files, batches and usage in the OpenAPI reference."""

from router.openapi_parts import (
    IGNORED,
    ON_KEY,
    STRING,
    answer,
    body,
    content,
    in_path,
    operation,
    query,
)
from router.openapi_schemas import Json
from router.usage import BY

_ID = [in_path("id")]
_AFTER = query(
    "after",
    STRING,
    description="Only entries after this id: the `last_id` of the previous page.",
)
_UPLOAD = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"const": "batch"},
    },
    "required": ["file", "purpose"],
    "additionalProperties": False,
}


def batch_operations() -> Json:
    """The operation of each handler, by its name in router/routes.py."""
    time: Json = {"type": "string", "format": "date-time"}
    by: Json = {"type": "array", "items": {"enum": list(BY)}}
    file, batch = answer("The file.", "FileObject"), answer("The batch.", "BatchObject")
    return {
        "usage": operation(
            "getUsage",
            answer("The sums.", "Usage"),
            ON_KEY,
            parameters=[
                query("from", time),
                query("to", time),
                query("by", by, style="form", explode=False),
                query("key", STRING, description="Only this key."),
            ],
        ),
        "upload_file": operation(
            "uploadFile",
            file | IGNORED,
            (*ON_KEY, 408, 413),
            description="JSON lines, each with custom_id, method, url and body. At most "
            "limits.max_file_bytes (200 MiB). 403 priority_not_allowed if the key may send no bulk "
            "requests, since batches are bulk.",
            requestBody=body(content(_UPLOAD, "multipart/form-data")),
        ),
        "files": operation(
            "listFiles",
            answer("The files.", "FileList"),
            ON_KEY,
            parameters=[
                _AFTER,
                _limit(10_000, 10_000),
                query("order", {"enum": ["asc", "desc"]}),
                query("purpose", STRING),
            ],
        ),
        "file": operation("getFile", file, ON_KEY, parameters=_ID),
        "delete_file": operation(
            "deleteFile",
            answer("It is gone.", "FileDeleted"),
            ON_KEY,
            parameters=_ID,
        ),
        "file_content": operation(
            "getFileContent",
            answer("Its bytes.", STRING, "application/jsonl"),
            ON_KEY,
            parameters=_ID,
        ),
        "create_batch": operation(
            "createBatch",
            batch | IGNORED,
            (*ON_KEY, 408, 413, 429),
            description="Each line is a request for embeddings that runs as bulk, with the "
            "permissions that the key has now. What is wrong with the file is in `errors` of the "
            "batch, which then has failed.",
            requestBody=body(content("BatchRequest")),
        ),
        "batches": operation(
            "listBatches",
            answer("The batches.", "BatchList"),
            ON_KEY,
            parameters=[_AFTER, _limit(100, 20)],
        ),
        "batch": operation("getBatch", batch, ON_KEY, parameters=_ID),
        "cancel_batch": operation("cancelBatch", batch, ON_KEY, parameters=_ID),
    }


def _limit(limit: int, usual: int) -> Json:
    return query("limit", {"type": "integer", "minimum": 1, "maximum": limit, "default": usual})
