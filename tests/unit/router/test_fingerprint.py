import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.fingerprint import FORMAT, TEXTS, Fingerprint, Probe, load, make, save

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "fingerprints"
IDS = np.array([101, 7592, 102], np.int32)
PROBES = [Probe(TEXTS[0], "query", IDS, None), Probe(TEXTS[2], "document", IDS[:2], None)]
PROMPTED = [Probe(TEXTS[0], "query", None, "query: " + TEXTS[0])]


def vectors(rows: int = 2, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((rows, 96)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def saved(made: Fingerprint, folder: Path) -> Fingerprint:
    save(made, folder / "f.json")
    return load(folder / "f.json")


@pytest.mark.parametrize("probes", [PROBES, PROMPTED], ids=["token ids", "text"])
def test_a_fingerprint_reads_back_with_the_same_digest(tmp_path: Path, probes: list[Probe]) -> None:
    made = make("m", probes, vectors(len(probes)))
    again = saved(made, tmp_path)
    assert again.digest == made.digest
    assert [probe.text for probe in again.probes] == [probe.text for probe in probes]
    assert again.mismatch(vectors(len(probes)), 0.999999) is None  # 16 bits cost nothing


def test_the_digest_follows_the_vectors_and_the_ids_but_not_the_name() -> None:
    digest = make("m", PROBES, vectors()).digest
    assert make("other name", PROBES, vectors()).digest == digest
    assert make("m", PROBES, vectors(seed=1)).digest != digest
    assert make("m", [PROBES[0], PROBES[1]._replace(ids=IDS)], vectors()).digest != digest


def test_other_vectors_are_named_with_their_text_and_cosine() -> None:
    stored, made = make("m", PROBES, vectors()), vectors()
    made[1] = -made[1]
    said = stored.mismatch(made, 0.999)
    assert said is not None
    assert "m: its vector of '今天天气很好" in said
    assert "cosine -1.0000" in said
    assert "0.999 is the least" in said


@pytest.mark.parametrize("cosine", [0.9985, 0.9995])
def test_the_tolerance_is_where_it_says(cosine: float) -> None:
    stored = make("m", PROMPTED, vectors(1))
    own, other = vectors(1), vectors(1, seed=1)
    other -= (other @ own.T) * own
    other /= np.linalg.norm(other)
    made = (cosine * own + np.sqrt(1 - cosine**2) * other).astype(np.float32)
    assert (stored.mismatch(made, 0.999) is None) == (cosine > 0.999)


def test_vectors_that_are_not_numbers_never_pass() -> None:
    made = vectors()
    made[0, 0] = np.nan
    assert "cosine nan" in str(make("m", PROBES, vectors()).mismatch(made, 0.0001))


def test_another_size_never_passes() -> None:
    assert "64 dimensions" in str(make("m", PROBES, vectors()).mismatch(vectors()[:, :64], 0.999))


@pytest.mark.parametrize(
    ("probe", "ids", "prompted", "said"),
    [
        (PROBES[0], IDS, None, None),
        (PROBES[0], IDS[:2], None, "its prompt, instruction or tokenizer changed"),
        (PROBES[0], IDS + 1, None, "its prompt, instruction or tokenizer changed"),
        (PROBES[0], None, "text", "made with token ids"),
        (PROMPTED[0], None, "query: " + TEXTS[0], None),
        (PROMPTED[0], None, TEXTS[0], "its prompt, instruction or tokenizer changed"),
        (PROMPTED[0], IDS, None, "made with text"),
    ],
    ids=[
        "same ids",
        "fewer ids",
        "other ids",
        "text for ids",
        "same text",
        "no prompt",
        "ids for text",
    ],
)
def test_what_the_router_reads_must_be_what_was_read(
    probe: Probe, ids: Any, prompted: str | None, said: str | None
) -> None:
    wrong = make("m", [probe], vectors(1)).misread(probe, ids, prompted)
    assert wrong is None if said is None else said in str(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "x"}',
        f'{{"format": "{FORMAT}", "model": "m", "dimensions": 8, "probes": []}}',
    ],
    ids=["empty", "a list", "no format", "other format", "no probes"],
)
def test_what_is_not_a_fingerprint_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json is not a fingerprint"):
        load(tmp_path / "bad.json")


def test_a_probe_is_decomposed_so_that_composing_is_proved() -> None:
    assert any(unicodedata.normalize("NFC", text) != text for text in TEXTS)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_fingerprints_have_every_text(path: Path) -> None:
    probes = load(path).probes
    assert {probe.text for probe in probes} == set(TEXTS)


def test_a_fingerprint_with_fewer_texts_still_loads(tmp_path: Path) -> None:
    assert len(saved(make("m", PROBES, vectors()), tmp_path).probes) == 2 < len(TEXTS)
