"""All errors that callers can receive.

The tree is closed: each class is a code of the HTTP contract with its status, and each message says
what to do. `type` follows from the status, as in OpenAI's API. OpenAI's clients retry every 409;
`x-should-retry: false` prevents that if the same request cannot succeed.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from router.error_base import AS_QUERY as AS_QUERY
from router.error_base import CUT as CUT
from router.error_base import INPUT as INPUT
from router.error_base import RouterError as RouterError
from router.error_base import did_you_mean as did_you_mean
from router.error_base import field as field
from router.error_base import nearest_name as nearest_name
from router.error_base import render as render
from router.error_base import retry_after as _retry_after
from router.error_base import shorten as shorten
from router.error_base import suggest as suggest
from router.routes import EMBEDDINGS, Route
from router.server_errors import BudgetUnreachable as BudgetUnreachable
from router.server_errors import DeadlineExceeded as DeadlineExceeded
from router.server_errors import InternalError as InternalError
from router.server_errors import ModelUnavailable as ModelUnavailable
from router.server_errors import Overloaded as Overloaded


class InvalidJson(RouterError):
    """The body is not a JSON object in UTF-8."""

    status, code = 400, "invalid_json"


class InvalidValue(RouterError):
    """A field is missing or has an invalid value."""

    status, code = 400, "invalid_value"


class UnknownField(RouterError):
    """The request has a top-level field that the API does not define."""

    status, code = 400, "unknown_field"

    def __init__(self, key: str, valid: Sequence[str]) -> None:
        hint = suggest(key, valid)
        super().__init__(
            f"unknown field {shorten(key)}{hint or ';'} valid fields are {', '.join(valid)}",
            key[:80],
        )


class AmbiguousTokenIds(RouterError):
    """The input holds token ids, and the request does not name the model that they belong to.
    Embedded by another model, they would give wrong vectors without an error.
    """

    status, code = 400, "ambiguous_token_ids"
    WITH_IDS = (
        " LangChain sends OpenAI token ids unless it is created with "
        "OpenAIEmbeddings(check_embedding_ctx_length=False). If the ids are from the tokenizer of "
        'the model that will embed them, name that model in "model" (not auto or a tier) and add '
        '"token_ids": "model".'
    )

    def __init__(self) -> None:
        super().__init__(
            f"{INPUT} holds token ids. They mean something only to the tokenizer that made them, "
            "and another model's ids would be embedded as other words without an error: send text "
            f"instead.{field(self.WITH_IDS)}",
            "input",
        )


class DimensionsNotSupported(RouterError):
    """No model that the request allows can return vectors of this size."""

    status, code = 400, "dimensions_not_supported"

    def __init__(self, dimensions: int, sizes: Sequence[str], param: str = "dimensions") -> None:
        """`sizes` has one entry per model, for example `wordllama-256: 64, 128 or 256`."""
        super().__init__(
            f"{_number(dimensions)} dimensions are not available; send one of these: "
            f"{'; '.join(sizes)}",
            param,
        )


class ContextLengthExceeded(RouterError):
    """A text has more tokens than the model can read, and `truncate` is none."""

    status, code = 400, "context_length_exceeded"

    def __init__(
        self, index: int, tokens: int, limit: int, model: str, longer: tuple[str, int] | None = None
    ) -> None:
        """`model` is the one that would embed it if it were cut; `longer` is the one that reads
        most of those that the request may use, and how much.
        """
        more = "" if longer is None else f" ({longer[0]} reads most, {longer[1]})"
        super().__init__(
            f"{INPUT}[{index}] has {tokens} tokens with its prompt and {model} reads {limit}{more}"
            f"; shorten it, split it, or send {CUT} so that only its first {limit} tokens are read",
            "input",
        )


class MaxTokensPerRequest(RouterError):
    """The texts together have more tokens than one request can have."""

    status, code = 400, "max_tokens_per_request"

    def __init__(self, tokens: int | None, limit: int) -> None:
        """`tokens` is None if counting stopped at the limit."""
        super().__init__(
            f"{INPUT} has {tokens} tokens; the limit is {limit} "
            "(limits.max_tokens_per_request); send its texts in several requests"
            if tokens is not None
            else f"{INPUT} has more than {limit} tokens, the limit of a request "
            "(limits.max_tokens_per_request); send its texts in several requests",
            "input",
        )


class InvalidApiKey(RouterError):
    """The API key is missing or not valid. The message does not say which keys are valid."""

    status, code = 401, "invalid_api_key"

    def __init__(
        self,
        message: str = 'the API key is missing or not valid; send a valid one as "Authorization: '
        'Bearer KEY"',
    ) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class TierNotAllowed(RouterError):
    """The API key does not permit the requested model or tier."""

    status, code = 403, "tier_not_allowed"

    def __init__(self, requested: str, allowed: Iterable[str], param: str = "model") -> None:
        names = ", ".join(allowed)
        rest = f"it may use {names}" if names else "it may use no model; ask for a key that may"
        super().__init__(f"this API key may not use {requested!r}; {rest}", param)


class CollectionNotAllowed(RouterError):
    """The API key does not permit this collection."""

    status, code = 403, "collection_not_allowed"

    def __init__(self, requested: str, allowed: Sequence[str]) -> None:
        self.allowed = allowed
        rest = (
            f"{did_you_mean(nearest_name(requested, allowed)) or ';'} it may use "
            f"{', '.join(allowed)}"
            if allowed
            else "; it may use none; ask for a key that may"
        )
        super().__init__(
            f"this API key may not use the collection {shorten(requested)}{rest}", "space"
        )


class PriorityNotAllowed(RouterError):
    """The API key does not permit this priority."""

    status, code = 403, "priority_not_allowed"

    def __init__(self, requested: str, allowed: Sequence[str]) -> None:
        super().__init__(
            f'this API key may not use priority {requested!r}; send "priority": "{allowed[0]}", or '
            "leave it out",
            "priority",
        )

    @classmethod
    def of_batches(cls, allowed: Sequence[str]) -> "PriorityNotAllowed":
        """The error for a batch, which gives no priority itself."""
        error = cls("bulk", allowed)
        error.param = None
        error.message = (
            "batches run as bulk requests, and this API key may send none; send the texts to POST "
            f"{EMBEDDINGS[0]}, or use a key whose `priorities` have bulk"
        )
        return error


class OriginNotAllowed(RouterError):
    """A service without keys received a request from a web page of another origin."""

    status, code = 403, "origin_not_allowed"

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"a service without keys answers no web page of another origin, and this request is "
            f"from {shorten(origin)}; add the origin to `cors.origins`, or add `keys:`"
        )


class AdminKeyRequired(RouterError):
    """The path shows requests of other callers, so it needs an admin key."""

    status, code = 403, "admin_key_required"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{shorten(path)} shows what other callers do; it needs a key whose config says "
            "`admin: true`"
        )


class NotFound(RouterError):
    """There is nothing at this path."""

    status, code = 404, "not_found"

    def __init__(
        self, path: str, nearest: Route | None = None, collections: Iterable[str] | None = None
    ) -> None:
        """`collections` lists the existing ones, if `path` is an address that names another one."""
        if collections is not None:
            known = tuple(collections)
            hint = suggest(path.split("/")[2], known) or ";"
            names = ", ".join(known) or "no collection"
            super().__init__(
                f"the address {shorten(path)} names no collection{hint} this service has {names}"
            )
            return
        hint = (
            f"embeddings are at POST {EMBEDDINGS[0]},"
            if nearest is None
            else f"this service has POST {nearest.path} of Ollama's API, with the texts in input;"
            if nearest.handler == "ollama_embed"
            else f"did you mean {nearest.methods[0]} {nearest.path}?"
        )
        super().__init__(f"there is nothing at {shorten(path)}; {hint} /docs lists every path")


class ModelNotFound(RouterError):
    """No model, tier or alias has this name."""

    status, code = 404, "model_not_found"

    def __init__(
        self,
        requested: str,
        valid: Sequence[str],
        param: str = "model",
        more: Iterable[str] = (),
        suffixes: Sequence[str] | None = None,
    ) -> None:
        """`more` are names that are suggested, but not listed; `suffixes` as for nearest_name."""
        hint = did_you_mean(nearest_name(requested, (*valid, *more), suffixes)) or ";"
        names = f"valid names are {', '.join(valid)}"
        super().__init__(f"there is no model {shorten(requested)}{hint} {names}", param)

    @classmethod
    def of_space(
        cls, space: str, model: str, models: Sequence[str], near: str | None
    ) -> "ModelNotFound":
        """The error for MODEL/DIMENSIONS in `space`; `near` is the space that was perhaps meant."""
        error, hint = cls(model, models, "space"), did_you_mean(near) or ";"
        error.message = (
            f"there is no model {shorten(model)} for the space {shorten(space)}{hint} the models "
            f"are {', '.join(models)}"
        )
        return error


class MethodNotAllowed(RouterError):
    """The path exists, but does not support this method."""

    status, code = 405, "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        methods = ", ".join(allowed)
        super().__init__(
            f"{shorten(path)} does not answer {shorten(method)}; use {methods}",
            headers={"allow": methods},
        )


class RequestTimeout(RouterError):
    """The client took too long to send its body. The service closes the connection after the
    response.
    """

    status, code = 408, "request_timeout"

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"the body did not arrive within {limit_s:g} s; send it faster, or its texts in "
            "several requests",
            headers={"connection": "close"},
        )


class SpaceConflict(RouterError):
    """The pinned vector space conflicts with another part of the request."""

    status, code = 409, "space_conflict"

    def __init__(self, message: str) -> None:
        super().__init__(message, "space", {"x-should-retry": "false"})


class NameConflict(RouterError):
    """The name in `model`, the address and a field of the request set different values for the same
    option.
    """

    status, code = 409, "name_conflict"

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param, {"x-should-retry": "false"})


class RequestTooLarge(RouterError):
    """The request body is too large, or its response would be."""

    status, code = 413, "request_too_large"
    SMALLER = ", or ask for encoding_format base64 or fewer dimensions"

    def __init__(self, limit: int, then: str = "send its texts in several requests") -> None:
        super().__init__(f"the body is larger than {limit} bytes; {then}")

    @classmethod
    def by_answer(cls, size: int, limit: int) -> "RequestTooLarge":
        """The error for texts whose answer would be larger than `limit`."""
        error = cls(limit)
        error.param = "input"
        error.message = (
            f"the answer would have about {size} bytes; the limit is {limit} "
            "(limits.max_answer_bytes); send the texts in several "
            f"requests{field(cls.SMALLER)}"
        )
        return error


class NotSupported(RouterError):
    """The service does not support the protocol of this handshake, such as WebSocket."""

    status, code = 426, "not_supported"

    def __init__(self) -> None:
        super().__init__(
            "WebSocket is not supported; send an ordinary HTTP/1.1 request",
            headers={"upgrade": "HTTP/1.1", "connection": "upgrade"},
        )


class RateLimitExceeded(RouterError):
    """The client has reached its rate limit."""

    status, code = 429, "rate_limit_exceeded"

    def __init__(self, limit: str, retry_after_s: float, who: str = "this API key") -> None:
        """`limit` is a phrase such as `100000 tokens per minute`."""
        self.kind: Literal["tokens", "requests"] = "tokens" if "tokens" in limit else "requests"
        self.of_key = who == "this API key"
        super().__init__(
            f"{who} has reached its limit of {limit}; send the request again after the time in "
            "Retry-After",
            headers=_retry_after(retry_after_s),
        )

    @classmethod
    def never(cls, tokens: int, per_minute: int) -> "RateLimitExceeded":
        """The error for a request that needs more than the whole limit: waiting does not help."""
        error = cls(f"{per_minute} tokens per minute", 60.0)
        error.message = (
            f"this request has {tokens} tokens; the limit of this API key is {per_minute} per "
            "minute, so it can never be answered; send its texts in several requests"
        )
        error.headers = {"x-should-retry": "false"}
        return error


class HeadersTooLarge(RouterError):
    """The request has too many headers, or headers that are too long."""

    status, code = 431, "headers_too_large"

    def __init__(self, limit: int, max_bytes: int) -> None:
        super().__init__(
            f"the headers of this request are too large; the limit is {limit} headers of "
            f"{max_bytes} bytes in all; send fewer or shorter ones"
        )


def _number(value: int) -> str:
    """A caller's integer, or "that many" if it has too many digits for a message."""
    return str(value) if abs(value) < 10**12 else "that many"
