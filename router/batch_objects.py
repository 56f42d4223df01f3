"""OpenAI's file and batch objects, as they are sent and published."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from router.batches import BatchProblem, BatchStatus, StoredBatch


class Published(BaseModel):
    """An object of the reference: it always has all of its fields."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class FileObject(Published):
    """A file of the caller's key."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Seconds since 1970.")
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class FileDeleted(Published):
    """The response to a deleted file."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class RequestCounts(Published):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class BatchErrors(Published):
    """The reasons why a batch failed."""

    object: Literal["list"] = "list"
    data: tuple[BatchProblem, ...]


class BatchObject(Published):
    """A batch of the caller's key; times are seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = Field(description="Answers, in any order.")
    error_file_id: str | None = Field(description="Lines that were refused or not run.")
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class Page(Published):
    """A part of a list; the next one is behind `last_id`."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileList(Page):
    """Files, newest first."""

    data: list[FileObject]


class BatchList(Page):
    """Batches, newest first."""

    data: list[BatchObject]


def shown(batch: StoredBatch, cancelling_at: int | None = None) -> BatchObject:
    """The public object of a batch; `cancelling_at` is when its cancellation was requested."""
    one = batch if cancelling_at is None else batch.cancelling(cancelling_at)
    has_files = one.over and one.status is not BatchStatus.FAILED
    return BatchObject(
        **one.model_dump(include=set(BatchObject.model_fields)),
        errors=BatchErrors(data=one.problems) if one.problems else None,
        output_file_id=one.output_id if has_files and one.counts.completed else None,
        error_file_id=one.error_id if has_files and one.counts.failed else None,
        request_counts=RequestCounts(total=one.total, **one.counts._asdict()),
    )
