"""The API forms by handler, as named in router/routes.py."""

from collections.abc import Mapping

from router.shapes.cohere import COHERE
from router.shapes.form import Form
from router.shapes.ollama import OLLAMA
from router.shapes.openai import AZURE, OPENAI
from router.shapes.tei import TEI

FORMS: Mapping[str, Form] = {
    "embed": OPENAI,
    "azure_embed": AZURE,
    "cohere_embed": COHERE,
    "ollama_embed": OLLAMA,
    "tei_embed": TEI,
}
