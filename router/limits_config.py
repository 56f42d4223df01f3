"""The limits section of the config."""

from typing import Literal

from pydantic import Field

from router.engine_config import Float, PositiveFloat, PositiveInt, Section


class Limits(Section):
    """Limits of requests; a request beyond one is refused with an error that says what to do."""

    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    max_gzip_ratio: PositiveInt = 100  # after the first MiB
    max_items: PositiveInt = 2048
    max_documents: PositiveInt = 1000  # to rerank
    # unknown fields of a body: an error, or dropped and listed in a header
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    max_tokens_per_request: PositiveInt = 300_000
    max_instruction_characters: PositiveInt = 2_000  # of a request's own instruction
    max_prompt_characters: PositiveInt = 1_000_000  # of the prompts of all texts together
    max_reading_characters: PositiveInt = 32_000_000  # of long texts at once; half for one client
    max_queued_tokens: PositiveInt = 4_000_000  # of one model in one router replica
    max_requests: PositiveInt = 10_000  # concurrent, in one router replica
    # concurrent, in one router replica; a client is an API key or, without one, an address
    max_requests_per_client: PositiveInt = 1024
    client_address_header: str | None = None  # written by a proxy that you trust
    max_file_bytes: PositiveInt = 200 * 1024 * 1024  # of POST /v1/files
    max_answer_bytes: PositiveInt = 256 * 1024 * 1024  # not read yet by clients; half for one
    # how far a reader can fall behind 1,000 bytes a second before it is disconnected
    send_timeout_s: PositiveFloat = 10.0
    max_headers: PositiveInt = 100
    max_header_bytes: PositiveInt = 32 * 1024
    # for all headers, if `embedding-router run` starts HAProxy in front
    headers_timeout_s: PositiveFloat = 15.0
    body_timeout_s: PositiveFloat = 45.0  # for the whole body
    # predicted wait of interactive requests; bulk can wait until request_timeout_s
    max_queue_s: PositiveFloat = 30.0
    bulk_call_ms: PositiveFloat = 50.0  # predicted work of a call with bulk; one text can be longer
    # share of a model's time that is reserved for bulk
    bulk_share: Float = Field(default=0.1, ge=0.0, le=0.25)
    request_timeout_s: PositiveFloat = 300.0
    # a replica with calls that answers none for so long counts as hung
    replica_timeout_s: PositiveFloat = 60.0
