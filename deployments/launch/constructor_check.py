"""Run the checks of the constructors of a router and of its replicas before Ray starts.

The code is the same, but no weights are loaded, no connections opened and no files written.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from deployments import engines
from deployments.engines.base import EngineError
from deployments.ingress.auth import Access
from deployments.launch.model_check import HUB_ID, own_folder_first
from deployments.replica.identity import identity_of
from deployments.service.fingerprints import check_reading
from deployments.service.prepare import Preparer
from deployments.service.score_proofs import check_scores_reading
from deployments.service.shared_cache import open_shared
from router.config import DecisionLogConfig, RouterArgs
from router.encoder_check import load_encoders
from router.fingerprint import CardProof, ModelProof, load_of
from router.model_config import ModelConfig, resolve_path
from router.models import build_policy, curve_of, memory_bytes
from router.rerank_config import RerankerConfig
from router.spaces import Catalogue
from router.strict import ConfigError, join


def constructor_problems(args: RouterArgs, where: str) -> Iterator[str]:
    """Yield one sentence for each problem that would keep a router or a replica from starting."""
    yield from reload_problems(args, where)
    unread = set[str]()
    for name, model in args.served.items():
        for problem in _of_model(name, model, args):
            unread.add(name)
            yield join(where, f"{args.place_of(name)}: {problem}")
    readable = {
        name: model
        for name, model in args.models.items()
        if name not in unread and not _on_hub(model, args.base_dir)
    }
    part = args.model_copy(update={"models": readable})
    try:
        memory_bytes(part)
        check_reading(part, Preparer(part))
    except ConfigError as error:
        yield from (join(where, problem) for problem in error.problems)
    except (OSError, ValueError) as error:
        yield join(where, f"models: {error}")
    if not unread:
        try:
            open_shared(args, _proofs(args))
        except ConfigError as error:
            yield from (join(where, problem) for problem in error.problems)
    if args.decision_log is not None and (why := _unwritable(args.decision_log, args.base_dir)):
        yield join(where, f"decision_log.path: {why}")
    if args.batches is not None:
        folder = Path(args.base_dir or ".") / Path(args.batches.folder).expanduser()
        if why := _no_folder(folder):
            yield join(where, f"batches.folder: {why}")


def reload_problems(args: RouterArgs, where: str) -> Iterator[str]:
    """Yield the problems of the sections that can change without a restart."""
    try:
        Catalogue(args, load_encoders(args))
        build_policy(args.routing, args.tiers)
        Access(args)
    except ConfigError as error:
        yield from (join(where, problem) for problem in error.problems)
    except ValueError as error:
        yield join(where, str(error))


def _of_model(name: str, model: ModelConfig, args: RouterArgs) -> Iterable[str]:
    try:
        curve_of(name, model, args.base_dir)
        one = args.model_copy(update={"models": {name: model}})
        with own_folder_first():
            if not _on_hub(model, args.base_dir):
                Preparer(one)
            if model.engine.in_router:  # load_encoders reports problems of its file
                return []
            engine = engines.create(model, args.base_dir)
            if isinstance(model, RerankerConfig):
                if model.fingerprint is not None:
                    part = args.model_copy(update={"rerankers": {name: model}})
                    check_scores_reading(part, Preparer(one))
            elif model.fingerprint is not None and model.fingerprint.card is None:
                identity_of(engine, model.fingerprint, args.base_dir)
    except ImportError:  # the engine's package need not be installed where the check runs
        return []
    except (EngineError, OSError, ValueError) as error:
        return [str(error)]
    return []


def _proofs(args: RouterArgs) -> dict[str, ModelProof]:
    proofs: dict[str, ModelProof] = {}
    for name, model in args.models.items():
        if model.fingerprint is None:
            continue
        if model.fingerprint.card is not None:
            proofs[name] = CardProof(name, model.fingerprint.card, model.revision)
        else:
            proofs[name] = load_of(model.fingerprint, args.base_dir)
    return proofs


def _on_hub(model: ModelConfig, base_dir: str | None) -> bool:
    """Return whether the tokenizer would be downloaded, which a check does not do."""
    if model.tokenizer is None or not HUB_ID.fullmatch(model.tokenizer):
        return False
    try:
        resolve_path(model.tokenizer, base_dir)
    except FileNotFoundError:
        return True
    return False


def _unwritable(settings: DecisionLogConfig, base_dir: str | None) -> str | None:
    path = Path(base_dir or ".") / Path(settings.path).expanduser()
    if path.is_dir():
        return f"{path} is a folder; write the name of a file"
    if path.exists():
        return None if os.access(path, os.W_OK) else f"{path} may not be written"
    return _no_folder(path.parent)


def _no_folder(folder: Path) -> str | None:
    """Return why nothing can be written in a folder, which need not exist yet; None if it can."""
    found = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not found.is_dir():
        return f"{found} is a file, so no folder can be made below it"
    return None if os.access(found, os.W_OK) else f"{found} may not be written"
