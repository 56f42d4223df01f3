"""Check the fingerprints of a config against how the router reads their texts."""

from deployments.service.prepare import Prepared, Preparer
from router.config import RouterArgs
from router.fingerprint import TEXTS, CardProof, Fingerprint, ModelProof, Probe, load_of
from router.model_config import CardExample
from router.schema import Side
from router.strict import ConfigError


def check_reading(args: RouterArgs, preparer: Preparer) -> dict[str, ModelProof]:
    """Check the router's half of each model's fingerprint, and return the fingerprints. Raises
    ConfigError naming the models that would be read wrongly.
    """
    fingerprints: dict[str, ModelProof] = {}
    problems = []
    for name, model in args.models.items():
        if model.fingerprint is None:
            continue
        if model.fingerprint.card is not None:  # the config compared its prompt already
            fingerprints[name] = CardProof(name, model.fingerprint.card, model.revision)
            continue
        where = f"models.{name}.fingerprint"
        try:
            stored = fingerprints[name] = load_of(model.fingerprint, args.base_dir)
        except (OSError, ValueError) as error:
            problems.append(f"{where}: {error}")
            continue
        names = {name, (model.space_of or "").rpartition("/")[0]}  # the same weights elsewhere
        if stored.model not in names or stored.vectors.shape[1] != model.dimensions:
            problems.append(
                f"{where}: {model.fingerprint.file} is of "
                f"{stored.model}/{stored.vectors.shape[1]}, "
                f"not of {name}/{model.dimensions}"
            )
            continue
        if (wrong := _misread(preparer, name, stored, model.max_tokens)) is not None:
            problems.append(f"{where}: {wrong} ({model.fingerprint.file})")
    if problems:
        raise ConfigError(problems)
    return fingerprints


def _misread(preparer: Preparer, name: str, stored: Fingerprint, max_tokens: int) -> str | None:
    """Return one sentence about the first text and side that the router does not read as stored.

    A side without a probe must read as the other one, unless it has too many tokens for a probe.
    """
    for (text, side), row in stored.row_of.items():
        read, probe = _read(preparer, name, text, side), stored.probes[row]
        if probe.side != side and read.counts[0] > max_tokens:
            continue
        now = _probe(text, side, read)
        wrong = stored.misread(probe._replace(side=side), now.ids, now.prompted)
        if wrong is not None:
            return wrong
    return None


def probes_of(preparer: Preparer, name: str, max_tokens: int) -> list[Probe]:
    """The texts of a new fingerprint as the router sends them to this model; with both sides of
    the prompt where they differ.
    """
    probes: list[Probe] = []
    for text in TEXTS:
        seen: list[bytes] = []
        sides: tuple[Side, Side] = ("query", "document")
        for side in sides:
            read = _read(preparer, name, text, side)
            if read.counts[0] > max_tokens or read.digests[0] in seen:
                continue
            seen.append(read.digests[0])
            probes.append(_probe(text, side, read))
    return probes


def probes_of_card(preparer: Preparer, name: str, card: CardExample) -> list[Probe]:
    """The card's queries, then its documents, as the router sends them to this model."""
    sides: list[tuple[Side, tuple[str, ...]]] = [
        ("query", card.queries),
        ("document", card.documents),
    ]
    return [
        _probe(text, side, _read(preparer, name, text, side, card.instruction))
        for side, texts in sides
        for text in texts
    ]


def _probe(text: str, side: Side, read: Prepared) -> Probe:
    ids, prompted = (
        None if read.ids is None else read.ids[0],
        None if read.texts is None else read.texts[0],
    )
    return Probe(text, side, ids, prompted)


def _read(
    preparer: Preparer, name: str, text: str, side: Side, instruction: str | None = None
) -> Prepared:
    return preparer.prepare([text], side, instruction, [name])[name]
