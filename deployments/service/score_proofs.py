"""Check the fingerprints of rerankers against how the router reads their pairs."""

from collections.abc import Sequence

from deployments.service.pairs import PairPreparer
from deployments.service.prepare import Preparer
from router.config import RouterArgs
from router.model_config import resolve_path
from router.rerank_config import RerankerConfig
from router.rerank_schema import RerankRequest
from router.schema import EmbeddingsRequest
from router.score_fingerprint import PAIRS, PairProbe, load
from router.strict import ConfigError


def check_scores_reading(args: RouterArgs, preparer: Preparer) -> None:
    """Check the router's half of each reranker's fingerprint. Raises ConfigError naming the models
    that would be read wrongly.
    """
    problems = []
    for name, one in args.rerankers.items():
        if one.fingerprint is None:
            continue
        where = f"rerankers.{name}.fingerprint"
        try:
            stored = load(resolve_path(one.fingerprint.file, args.base_dir))
        except (OSError, ValueError) as error:
            problems.append(f"{where}: {error}")
            continue
        if stored.model != name:
            problems.append(f"{where}: {one.fingerprint.file} is of {stored.model}, not of {name}")
            continue
        pairs = [(probe.query, probe.document) for probe in stored.probes]
        if (wrong := stored.misread(pair_probes(preparer, name, one, pairs))) is not None:
            problems.append(f"{where}: {wrong} ({one.fingerprint.file})")
    if problems:
        raise ConfigError(problems)


def pair_probes(
    preparer: Preparer,
    name: str,
    reranker: RerankerConfig,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> list[PairProbe]:
    """Pairs as the router sends them to this reranker."""
    probes = []
    for query, document in pairs:
        request = RerankRequest(query, EmbeddingsRequest((document,), None, side="document"))
        own = PairPreparer(preparer, {name: reranker}, request)
        read = own.prepare([document], "document", None, [name])[name]
        ids = None if read.ids is None else read.ids[0]
        probes.append(
            PairProbe(query, document, ids, None if read.texts is None else read.texts[0])
        )
    return probes
