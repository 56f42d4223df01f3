"""Distil a student (router/student.py) from a model's vectors alone, and measure a search with it.

Training has three stages: rows that start as the teacher's vectors of single tokens; general texts,
if there are any; the collection's own documents and their sentences. All texts are embedded on the
query side, because a student makes queries. The student is judged on queries that it never saw,
with their documents in the fit and, by folds, with these left out of it.
"""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from deployments.tools.align import (
    AlignError,
    Material,
    check_documents,
    folds_of,
    not_in,
    relevant_places,
    rows_by_language,
)
from deployments.tools.corpus import Text
from deployments.tools.vector_store import Embed
from deployments.tools.vocabulary import (
    PREFIX,
    examples,
    tokenizer,
    vocabulary,
    words_of,
)
from router.arrays import Indices, Vectors
from router.proof import left_out, prove
from router.retrieval import TOP, nearest, overlap
from router.space import Space
from router.space import fit as cut
from router.student import About, Student

if TYPE_CHECKING:  # torch takes seconds, and `--help` needs none of it
    from deployments.tools.student_training import Bags, Network, Recipe

FEWEST_LETTERS = 25  # of a sentence
FEWEST_OF_A_WORD = 2
MAX_WORDS = 30_000  # beyond the word pieces
EXAMPLES = 5  # words that a piece of a word starts from
OVERLAP_SENTENCES = 500
_WORD = re.compile(r"\w+")
_SENTENCE_ENDS = re.compile(
    r"(?<=[.!?])\s+"
    r"|(?<=[a-z0-9)\]%][.!?])(?=[A-Z][a-z ])"  # lines that were joined without a space
    r"|(?<=[。！？])"
)


class Progress:
    """Follows training; this one shows nothing."""

    def expect(self, texts: int) -> None:
        """Train on so many texts, those of every epoch counted."""

    def done(self, texts: int) -> None:
        """Count texts that were trained on."""


SILENT = Progress()


class Start(NamedTuple):
    """The start of a student: the tokens, and the network of the general stage."""

    tokenizer: Tokenizer
    network: "Network"
    general_texts: int
    licences: Mapping[str, int]


class Teacher:
    """The model that is distilled, in one of its sizes."""

    def __init__(self, embed: Embed, space: Space, fingerprint: str) -> None:
        self._embed, self.space, self.fingerprint = embed, space, fingerprint

    async def queries(self, texts: Sequence[str]) -> Vectors:
        """Embed texts on the query side."""
        made = await self._embed(self.space.model, texts, "query")
        return cut(made, self.space.dimensions)

    async def documents(self, texts: Sequence[str]) -> Vectors:
        """Embed texts on the document side."""
        made = await self._embed(self.space.model, texts, "document")
        return cut(made, self.space.dimensions)


def sentences_of(documents: Sequence[Text]) -> list[Text]:
    """Return the documents and their sentences, each once; a sentence has its document's id."""
    found: dict[str, Text] = {}
    for document in documents:
        found.setdefault(document.text, document)
        for part in _SENTENCE_ENDS.split(document.text):
            if len(part) >= FEWEST_LETTERS or (part and not part.isascii()):
                found.setdefault(part, Text(document.id, part))
    return list(found.values())


def in_collection(texts: Sequence[str], given: Material) -> set[str]:
    """Return those of `texts` that equal a document of the collection, a sentence or a query."""
    own = {_words(text.text) for text in sentences_of([*given.documents, *given.queries])}
    return {text for text in texts if _words(text) in own}


def own_texts(given: Material) -> list[Text]:
    """Return the documents and their sentences, without those that are queries, which judge."""
    queries = {_words(query.text) for query in given.queries}
    return [text for text in sentences_of(given.fitted) if _words(text.text) not in queries]


def _words(text: str) -> str:
    """Return the words of a text: texts that differ in case and punctuation alone are equal."""
    return " ".join(_WORD.findall(text.casefold())) or text


class Words(NamedTuple):
    """The vocabulary settings of a student."""

    pieces: Sequence[str]
    most: int = MAX_WORDS  # frequent words added to the pieces

    def tokens(self, texts: Sequence[str]) -> list[str]:
        """Build the vocabulary for these texts."""
        return vocabulary(self.pieces, words_of(texts), self.most, FEWEST_OF_A_WORD)


async def general_start(
    teacher: Teacher,
    words: Words,
    texts: Sequence[str],
    licences: Sequence[str],
    progress: Progress = SILENT,
    work: Path | None = None,
) -> Start:
    """Train on general texts, with rows that start from single tokens.

    The trained network is kept in `work`, the folder of one teacher.
    """
    from deployments.tools.student_training import Network, general_recipe

    tokens, recipe = words.tokens(texts), general_recipe(len(texts))
    made = tokenizer(tokens)
    identity = "\0".join([repr(recipe), str(teacher.space), *tokens, *texts])
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    kept = None if work is None else work / f"general-{digest}.pt"
    if kept is not None and kept.exists():
        network = Network.load(kept)
    else:
        network, bags = await _rows(teacher, words, made, tokens, texts)
        targets = await teacher.queries(texts)
        network.solve_head(bags, targets)
        progress.expect(recipe.epochs * len(texts))
        network.train_on(bags, targets, recipe, progress.done)
        if kept is not None:
            network.save(kept)
    return Start(made, network, len(texts), Counter(licences))


def start_of(student: Student) -> Start:
    """Start from an existing student."""
    from deployments.tools.student_training import Network

    about = student.about
    network = Network.of_student(student)
    return Start(student.tokenizer, network, about.general_texts, about.licences)


async def _rows(
    teacher: Teacher, words: Words, made: Tokenizer, tokens: Sequence[str], texts: Sequence[str]
) -> "tuple[Network, Bags]":
    """Build a network that starts from the teacher's vectors of the tokens.

    A piece that continues a word has no meaning alone. It starts from words of the texts that
    contain it or, if there are none, from the mean of all whole tokens.
    """
    from deployments.tools.student_training import Network, bags_of

    with_it = examples(words.pieces, words_of(texts), EXAMPLES)
    whole = [token for token in tokens if not token.startswith(PREFIX)]
    asked = list(dict.fromkeys([*whole, *(word for some in with_it.values() for word in some)]))
    known: dict[str, Vectors] = dict(zip(asked, await teacher.queries(asked), strict=True))

    def mean(some: Sequence[str]) -> Vectors:
        made: Vectors = np.mean([known[word] for word in some], axis=0)
        return made

    rows = {token: known[token] for token in whole}
    rows |= {token: mean(some) for token, some in with_it.items()}
    middle = mean(whole)
    bags = bags_of(made, texts)
    return Network.of_teacher(np.stack([rows.get(token, middle) for token in tokens]), bags), bags


class Distilled(NamedTuple):
    """A student, and the CPU seconds of its training on all texts."""

    student: Student
    training_s: float


async def distil_general(teacher: Teacher, start: Start) -> Distilled:
    """Return the general student as it is: not fitted to a collection, and not judged on one."""
    return Distilled(_export(teacher, start, start.network, 0), 0.0)


async def distil_own(
    teacher: Teacher,
    given: Material,
    start: Start | None,
    words: Words,
    epochs: int | None,
    progress: Progress = SILENT,
) -> Distilled:
    """Fit a student to a collection and judge it on that; without `start`, from single tokens.

    `epochs` 0 judges the student of `start` as it is. Raises AlignError if there is too little to
    judge with.
    """
    from deployments.tools.student_training import OWN, OWN_ALONE

    check_documents([document.text for document in given.documents])
    own = own_texts(given)
    if not own:
        raise AlignError("all documents are queries too, which leaves no text to fit on")
    texts = [text.text for text in own]
    targets = await teacher.queries(texts)
    documents = await teacher.documents([document.text for document in given.documents])
    queries = [query.text for query in given.queries]
    found = nearest(await teacher.queries(queries), documents)
    relevant = relevant_places(given, found)
    recipe = OWN_ALONE if start is None else OWN
    if epochs is not None:
        recipe = recipe._replace(epochs=epochs)
    if start is None and recipe.epochs == 0:
        raise AlignError("a student without general texts needs epochs on your own")

    async def fitted_on(rows: Indices) -> Student:
        if start is None or recipe.epochs:
            some = [texts[row] for row in rows]
            network, made = await _fitted(
                teacher, start, words, some, targets[rows], recipe, progress.done
            )
        else:
            network, made = start.network, start.tokenizer
        base = start or Start(made, network, 0, {})
        return _export(
            teacher,
            base._replace(tokenizer=made),
            network,
            len(rows) if recipe.epochs else 0,
        )

    split = folds_of(given, relevant) if recipe.epochs else []
    keeps = [not_in(own, given.documents, left_out(relevant, rows)) for rows in split]
    if not all(map(len, keeps)):
        raise AlignError("a fold leaves no text to fit on; give more documents")
    progress.expect(recipe.epochs * (len(own) + sum(map(len, keeps))))
    began = time.process_time()
    whole = await fitted_on(np.arange(len(own)))
    training_s = time.process_time() - began
    in_fit = nearest(whole.encode(queries), documents)
    unseen, parts = in_fit.copy(), [np.empty(0)]
    for rows, keep in zip(split, keeps, strict=True):
        student = await fitted_on(keep)
        unseen[rows] = nearest(student.encode([queries[row] for row in rows]), documents)
        rest = np.setdiff1d(np.arange(len(own)), keep)[: OVERLAP_SENTENCES // len(split)]
        parts.append(_overlaps(student, texts, targets, rest, documents))
    shared = np.concatenate(parts)
    if not len(shared):
        places = np.linspace(0, len(own) - 1, min(len(own), OVERLAP_SENTENCES), dtype=np.int64)
        shared = _overlaps(whole, texts, targets, np.unique(places), documents)
    proof = prove(
        "neighbours" if given.judgements is None else "judgements",
        in_fit,
        unseen,
        found,
        relevant,
        rows_by_language(queries),
    )
    about = replace(whole.about, overlap=float(shared.mean()), proof=proof)
    return Distilled(replace(whole, about=about), training_s)


async def _fitted(
    teacher: Teacher,
    start: Start | None,
    words: Words,
    texts: Sequence[str],
    targets: Vectors,
    recipe: "Recipe",
    done: Callable[[int], object],
) -> "tuple[Network, Tokenizer]":
    """Train a network on these texts, from a copy of the start or from single tokens."""
    from deployments.tools.student_training import bags_of

    if start is None:
        tokens = words.tokens(texts)
        made = tokenizer(tokens)
        network, bags = await _rows(teacher, words, made, tokens, texts)
        network.solve_head(bags, targets)
    else:
        made, network = start.tokenizer, start.network.copy()
        bags = bags_of(made, texts)
    network.train_on(bags, targets, recipe, done)
    return network, made


def _overlaps(
    student: Student, texts: Sequence[str], targets: Vectors, rows: Indices, documents: Vectors
) -> np.ndarray:
    """Share of the teacher's first ten that the student also finds, for each of these texts."""
    if not len(rows):
        return np.empty(0)
    made = student.encode([texts[row] for row in rows])
    return overlap(nearest(made, documents, TOP), nearest(targets[rows], documents, TOP))


def _export(teacher: Teacher, start: Start, network: "Network", own_texts: int) -> Student:
    about = About(
        teacher.space,
        teacher.fingerprint,
        start.tokenizer.get_vocab_size(),
        start.general_texts,
        own_texts,
        dict(start.licences),
    )
    return network.student(about, start.tokenizer)
