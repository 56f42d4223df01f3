"""English names of languages."""

from collections.abc import Sequence

_LANGUAGES = {
    "en": "English", "zh": "Chinese", "de": "German", "fr": "French", "es": "Spanish",
    "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "pl": "Polish", "ru": "Russian", "uk": "Ukrainian", "tr": "Turkish",
    "ar": "Arabic", "he": "Hebrew",
    "fa": "Persian", "hi": "Hindi", "ja": "Japanese", "ko": "Korean", "vi": "Vietnamese",
    "th": "Thai", "id": "Indonesian",
    "sv": "Swedish", "da": "Danish", "no": "Norwegian", "fi": "Finnish", "cs": "Czech",
    "el": "Greek", "hu": "Hungarian",
}  # fmt: skip


def language(code: str) -> str:
    """Return a language's English name, or its code."""
    return _LANGUAGES.get(code, code)


def names_of(codes: Sequence[str]) -> str:
    """Join the names of languages as in a sentence."""
    words = [language(code) for code in codes]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
