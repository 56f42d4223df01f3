"""Encode the response directly from the array; vectors never become lists of Python floats.

    float     JSON numbers, the shortest that read back as the same float32
    base64    little-endian float32, 4 bytes a dimension: the default of the openai client
    int8      round(127 * v / max|v|), one scale for the whole vector, so cosines of 384 dimensions
              change by about 0.001
    uint8     int8 + 128: subtract 128 before comparing
    ubinary   the signs, 1 where v > 0, eight to a byte, first dimension in the highest bit, zeros
              after the last
    binary    ubinary - 128 as int8: the format that Cohere and sentence-transformers return and
              vector databases accept

All formats but `float` are sent in base64. A scale per vector needs no calibration set. A dot
product of int8 vectors must be divided by their lengths.
"""

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from router.answers import Routing
from router.arrays import Vectors
from router.schema import EncodingFormat

# approximate bytes of JSON for one number of a vector, in base64 and as a number
IN_BASE64 = {"float": 12.0, "base64": 5.4, "int8": 1.4, "uint8": 1.4, "binary": 0.2, "ubinary": 0.2}
AS_NUMBER = {"float": 12.0, "base64": 5.4, "int8": 3.8, "uint8": 3.8, "binary": 0.5, "ubinary": 0.5}
AT_ONCE_NUMBERS = 100_000  # 6 ms, during which orjson holds the GIL


def encode(
    vectors: Vectors, encoding_format: EncodingFormat, routing: Routing, prompt_tokens: int
) -> bytes:
    """Return the JSON response for (n, dimensions) finite vectors in input order, n >= 1."""
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    rest: dict[str, object] = {
        "model": routing["model"],
        "usage": usage,
        "routing": routing,
    }
    if encoding_format == "float":
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if rows.size > AT_ONCE_NUMBERS:
            return _row_by_row(rows, rest)
        data = [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(rows)
        ]
        return orjson.dumps(
            {"object": "list", "data": data, **rest}, option=orjson.OPT_SERIALIZE_NUMPY
        )
    pieces: list[bytes] = []
    opening = b'{"object":"list","data":['
    for index, row in enumerate(quantise(vectors, encoding_format)):
        pieces += (
            opening,
            b'{"object":"embedding","index":%d,"embedding":"' % index,
            pybase64.b64encode(row.data),
            b'"}',
        )
        opening = b","
    pieces += (b"],", orjson.dumps(rest)[1:])
    return b"".join(pieces)


def estimated_bytes(texts: int, dimensions: int, bytes_each: float) -> int:
    """Estimate the size of the response, with `bytes_each` for each number of a vector."""
    return int(texts * dimensions * bytes_each) + 64 * texts


def _row_by_row(rows: Vectors, rest: dict[str, object]) -> bytes:
    """The same bytes, made row by row so that other threads can run in between."""
    option, pieces = orjson.OPT_SERIALIZE_NUMPY, [b'{"object":"list","data":[']
    for index, row in enumerate(rows):
        one = {"object": "embedding", "index": index, "embedding": row}
        pieces += (orjson.dumps(one, option=option), b",")
    pieces[-1:] = (b"],", orjson.dumps(rest)[1:])
    return b"".join(pieces)


def json_rows(rows: npt.NDArray[np.float32 | np.int8 | np.uint8], in_base64: bool = False) -> bytes:
    """Rows as a JSON array of arrays of numbers, or of base64 strings.

    Other threads can run between two rows.
    """
    rows = np.ascontiguousarray(rows)
    if in_base64:
        return b"[" + b",".join(b'"%s"' % pybase64.b64encode(row.data) for row in rows) + b"]"
    option = orjson.OPT_SERIALIZE_NUMPY
    return b"[" + b",".join(orjson.dumps(row, option=option) for row in rows) + b"]"


def quantise(
    vectors: Vectors, encoding_format: EncodingFormat
) -> npt.NDArray[np.float32 | np.int8 | np.uint8]:
    """The contiguous array whose rows are sent in base64.

    Its shape is (n, dimensions), or (n, ceil(dimensions / 8)) for binary and ubinary.
    """
    if encoding_format in ("int8", "uint8"):
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        largest[largest == 0.0] = 1.0
        signed: npt.NDArray[np.int8] = np.rint(vectors / largest * np.float32(127.0)).astype(
            np.int8
        )
        return signed if encoding_format == "int8" else signed.view(np.uint8) ^ np.uint8(128)
    if encoding_format in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0.0, axis=1)
        return bits if encoding_format == "ubinary" else (bits ^ np.uint8(128)).view(np.int8)
    return np.ascontiguousarray(vectors, dtype="<f4")
