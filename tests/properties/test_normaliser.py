"""What the fast way of a tokenizer takes for granted, for every character."""

import unicodedata

import tokenizers


def test_no_character_is_newer_to_the_normaliser_than_to_python() -> None:
    """What Python finds normalised skips the normaliser, so Python must move and join all that the
    normaliser does.
    """
    normalise = tokenizers.normalizers.NFC().normalize_str
    # No version of Unicode has characters in planes 4 to 13; 15 and 16 are private.
    for code in (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000)):
        character = chr(code)
        for text in (character, f"{character}\u0334", f"a{character}\u0301", f"\u1100{character}"):
            if unicodedata.is_normalized("NFC", text):
                assert normalise(text) == text, hex(code)
