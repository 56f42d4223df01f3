"""Why JavaScript clients could not be installed: npm's registry, or what we ask of it."""

import pytest

from tests.support.node import Unreachable, failure


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *(
            (code, Unreachable)
            for code in (
                "ENOTFOUND", "EAI_AGAIN", "EAI_FAIL", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED",
                "ETIMEDOUT", "ESOCKETTIMEDOUT", "EIDLETIMEOUT", "ERR_SOCKET_TIMEOUT",
                "EHOSTUNREACH", "ENETUNREACH", "EPIPE", "EPROTO", "FETCH_ERROR", "E401", "E403",
                "E404", "E429", "E500", "E502", "E503", "E504", "CERT_HAS_EXPIRED",
                "SELF_SIGNED_CERT_IN_CHAIN",
                "DEPTH_ZERO_SELF_SIGNED_CERT", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
                "UNABLE_TO_VERIFY_LEAF_SIGNATURE", "ERR_TLS_CERT_ALTNAME_INVALID",
                "ERR_SSL_WRONG_VERSION_NUMBER",
            )
        ),
        *((code, RuntimeError) for code in ("EINTEGRITY", "EUSAGE", "EACCES", "ENOSPC")),
    ],
)  # fmt: skip
def test_a_failure_of_npm_is_the_registrys_or_ours(code: str, expected: type[Exception]) -> None:
    for mark in ("error", "ERR!"):
        said = f"npm warn E404 ECONNRESET\nnpm {mark} code {code}\nnpm {mark} see E503\n"
        assert type(failure(said)) is expected


def test_what_npm_says_without_a_code_is_ours() -> None:
    assert type(failure("Segmentation fault")) is RuntimeError
