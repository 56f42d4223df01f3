"""OpenAI's own form, and Azure's, which has the model in the path."""

from router.config import Limits
from router.encoding import IN_BASE64, encode
from router.errors import NameConflict, render, shorten
from router.ignoring import Ignore
from router.schema import Given, read
from router.shapes.form import AnswerContent, Errors, Form, Incoming


def _read(body: bytes, limits: Limits, ignore: Ignore, name: str) -> Incoming:
    return _incoming(read(body, limits, ignore))


def _read_azure(body: bytes, limits: Limits, ignore: Ignore, name: str) -> Incoming:
    """Read a body for the deployment `name`; raises NameConflict if the body names another."""
    given = read(body, limits, ignore)
    model = given.body.model
    if model is not None and model.lower() != name.lower():
        raise NameConflict(
            f"the path names the deployment {shorten(name)} and model is {shorten(model)}; leave "
            "model out",
            "model",
        )
    given.body.model = name
    return _incoming(given)


def _incoming(given: Given) -> Incoming:
    encoding_format = given.body.encoding_format or "float"

    def write(made: AnswerContent) -> bytes:
        return encode(made.vectors, encoding_format, made.routing, made.prompt_tokens)

    return Incoming(given, write, IN_BASE64[encoding_format])


OPENAI = Form(_read, Errors(render))
AZURE = Form(_read_azure, Errors(render))
