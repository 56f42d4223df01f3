"""Student vocabularies: a limited set of whole lower-cased words, and WordPiece for the rest.

A student is a bag of tokens and cannot combine the pieces of a word, so frequent words are tokens
of their own. A Chinese character is a word. Matching is greedy from the left, so a word of the
vocabulary is always matched whole.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

UNKNOWN = "[UNK]"
PREFIX = "##"
MAX_WORD_LETTERS = 40
_NORMALIZER = normalizers.BertNormalizer(lowercase=True)
_WORDS = pre_tokenizers.BertPreTokenizer()


def words_of(texts: Iterable[str]) -> Counter[str]:
    """Count the words of the texts, as a student reads them."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = _NORMALIZER.normalize_str(text)
        counts.update(word for word, _ in _WORDS.pre_tokenize_str(normal))
    return counts


def wordpieces(file: Path) -> list[str]:
    """Read the tokens of a WordPiece `tokenizer.json`, without its special ones.

    Raises ValueError for any other tokenizer.
    """
    loaded = orjson.loads(file.read_bytes())
    if loaded["model"].get("type", "WordPiece") != "WordPiece":
        raise ValueError(f"{file} is not a WordPiece tokenizer; name one with --vocabulary")
    special = {token["content"] for token in loaded.get("added_tokens", ())}
    ordered = sorted(loaded["model"]["vocab"].items(), key=lambda item: item[1])
    return [token for token, _ in ordered if token not in special and not _is_reserved(token)]


def _is_reserved(token: str) -> bool:
    return token.startswith("[") and token.endswith("]") and len(token) > 2


def vocabulary(pieces: Sequence[str], counts: Counter[str], words: int, fewest: int) -> list[str]:
    """Return `pieces` and the `words` most frequent words that occur at least `fewest` times."""
    known = set(pieces)
    more = [
        word
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if count >= fewest and word not in known and len(word) <= MAX_WORD_LETTERS
    ]
    return [*pieces, *more[:words]]


def examples(pieces: Sequence[str], counts: Counter[str], count: int) -> dict[str, list[str]]:
    """Find up to `count` words for each piece that continues a word.

    Words of few pieces come first, then frequent words.
    """
    known = set(pieces)
    words = [word for word, _ in counts.most_common() if word not in known]
    read = [
        encoding.tokens
        for encoding in tokenizer(pieces).encode_batch(words, add_special_tokens=False)
    ]
    found: dict[str, list[str]] = {}
    for word, tokens in sorted(zip(words, read, strict=True), key=lambda pair: len(pair[1])):
        for token in dict.fromkeys(tokens):
            if token.startswith(PREFIX) and len(has := found.setdefault(token, [])) < count:
                has.append(word)
    return found


def tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """Build a WordPiece tokenizer over these tokens; the unknown token comes first."""
    ids = {token: place for place, token in enumerate([UNKNOWN, *tokens])}
    made = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100))
    made.normalizer = _NORMALIZER
    made.pre_tokenizer = _WORDS
    made.decoder = decoders.WordPiece()
    return made
