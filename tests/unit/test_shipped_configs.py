"""The config files that we ship, and the page that explains every key."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic_core import PydanticUndefined

from deployments.launch.serve_config import check
from router import (
    collection_config,
    config,
    engine_config,
    key_config,
    model_config,
    rerank_config,
    routing_config,
)
from router.config import RouterArgs
from router.domain import Curve
from router.engine_config import EngineSection, Section
from router.models import memory_bytes
from router.profile import load_profile
from router.resources import bookings

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "extra").glob("*.yaml")])
GIB = 2**30


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    return data


def models_of(name: str) -> dict[str, model_config.ModelConfig]:
    return dict(RouterArgs.model_validate(load(name)["applications"][0]["args"]).native)


def rerankers_of(name: str) -> dict[str, rerank_config.RerankerConfig]:
    return dict(RouterArgs.model_validate(load(name)["applications"][0]["args"]).rerankers)


def actor_options(name: str) -> dict[str, dict[str, float]]:
    return {
        d["name"]: d.get("ray_actor_options", {})
        for d in load(name)["applications"][0]["deployments"]
    }


@pytest.mark.parametrize(
    "path",
    [
        # The check reads the heads of its weights.
        pytest.param(path, marks=pytest.mark.models if path.name == "local.yaml" else ())
        for path in SHIPPED
    ],
    ids=lambda path: path.name,
)
def test_every_shipped_config_passes_the_check(path: Path) -> None:
    assert check(path) == []


def test_the_engine_arguments_that_the_docs_name_pass_the_check(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text().split("\n## Engine arguments for cards\n")[1]
    (block,) = re.findall(r"```yaml\n(.*?)```", page.split("\n## ")[0], re.DOTALL)
    data, named = load("qwen3.yaml"), yaml.safe_load(block)["args"]
    for model in data["applications"][0]["args"]["models"].values():
        model["engine"]["args"] |= named
    path = tmp_path / "named.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    assert check(path) == []
    args = RouterArgs.model_validate(data["applications"][0]["args"])
    for one in args.models.values():
        assert isinstance(one.engine, engine_config.VllmEngineConfig)
        assert one.engine.args.items() >= named.items()


def test_memory_is_what_a_profile_measured_else_what_the_config_says() -> None:
    args = load("local.yaml")["applications"][0]["args"]
    del args["models"]["minilm-student"], args["collections"]  # no replica of its own
    for model in args["models"].values():
        model["memory_bytes"] = 1
    del args["models"]["wordllama-256"]["profile"]
    found = memory_bytes(RouterArgs.model_validate(args | {"base_dir": str(ROOT)}))
    assert found.pop("wordllama-256") == 1
    assert all(0.2 * GIB < (held or 0) < 4 * GIB for held in found.values()), found


def of_card(card: str) -> dict[str, Curve]:
    profiles = json.loads((ROOT / "configs" / "profiles" / f"{card}.json").read_text())
    return {name: load_profile(profiles, name) for name in models_of("qwen3.yaml")}


@pytest.mark.parametrize("card", ["h100", "h200"])
def test_the_profiles_of_a_card_are_of_the_models_that_qwen3_yaml_serves_and_larger_ones_are_slower(
    card: str,
) -> None:
    slopes = [curve.s_per_token for curve in of_card(card).values()]
    assert slopes == sorted(slopes)


def test_the_curves_of_qwen3_yaml_are_those_of_an_h200() -> None:
    measured = of_card("h200")
    for name, model in models_of("qwen3.yaml").items():
        assert model.curve is not None
        assert model.curve.s_per_token == pytest.approx(measured[name].s_per_token, rel=0.01)
        assert model.curve.base_s == pytest.approx(measured[name].base_s, rel=0.02)


def test_local_models_and_router_fit_on_two_cores() -> None:
    options = actor_options("local.yaml")
    assert options.keys() == {"router", *models_of("local.yaml")}
    assert (
        sum(each.get("num_cpus", 1.0) for each in options.values()) <= 2.0
    )  # 1 is what Serve books for a replica


def test_qwen3_queries_read_as_the_model_card_says() -> None:
    for name in ("qwen3.yaml", "qwen3-one-gpu.yaml"):
        for model in models_of(name).values():
            prompt = model.prompts.query.replace(
                "{instruction}", model.prompts.instruction
            ).replace("{text}", "why?")
            assert prompt == (
                "Instruct: Given a web search query, retrieve relevant passages that answer the "
                "query\nQuery:why?"
            )
            assert model.prompts.document == "{text}"
            assert model.prompts.default == "document"


def test_both_qwen3_configs_describe_the_same_models() -> None:
    own = {"engine", "devices"}
    for of in (models_of, rerankers_of):
        many, one = of("qwen3.yaml"), of("qwen3-one-gpu.yaml")
        own |= {"cold_start_s"} if of is rerankers_of else set()
        assert {name: model.model_dump(exclude=own) for name, model in many.items()} == {
            name: model.model_dump(exclude=own) for name, model in one.items()
        }


JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
RERANKERS = {
    "qwen3-reranker-0.6b": ("Qwen/Qwen3-Reranker-0.6B", "e61197ed45024b0ed8a2d74b80b4d909f1255473"),
    "qwen3-reranker-4b": ("Qwen/Qwen3-Reranker-4B", "22e683669bc0f0bd69640a1354a6d0aebcfeede5"),
}


@pytest.mark.parametrize(
    "name",
    ["qwen3.yaml", "qwen3-cluster.yaml", "qwen3-one-gpu.yaml", "extra/qwen3-rerankers.yaml"],
)
def test_every_qwen3_reranker_is_pinned_and_reads_as_its_card_says(name: str) -> None:
    found = rerankers_of(name)
    assert list(found) == list(RERANKERS)
    for id, one in found.items():
        assert isinstance(one.engine, engine_config.VllmEngineConfig)
        source, revision = RERANKERS[id]
        assert (one.engine.source, one.tokenizer, one.revision) == (source, source, revision)
        assert one.pinned(source) == revision
        assert one.template == JUDGE
        assert one.instruction.startswith("Given a web search query, retrieve relevant")
        assert one.engine.args["hf_overrides"] == {
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        }
        assert not one.required, "embeddings are served without it"


@pytest.mark.parametrize("name", ["qwen3.yaml", "qwen3-cluster.yaml", "qwen3-one-gpu.yaml"])
def test_the_models_of_the_default_tiers_run_before_the_first_request(name: str) -> None:
    application = load(name)["applications"][0]
    args = RouterArgs.model_validate(application["args"])
    running = {one.deployment for one in bookings(args, application) if one.replicas}
    assert args.tiers[args.routing.default_tier] in running
    assert args.rerank_tiers[args.rerank_routing.default_tier] in running


def test_all_qwen3_models_fit_on_one_card() -> None:
    parameters = {
        "qwen3-embedding-0.6b": 595_776_512,
        "qwen3-embedding-4b": 4_021_774_336,
        "qwen3-embedding-8b": 7_567_295_488,
        "qwen3-reranker-0.6b": 595_776_512,
        "qwen3-reranker-4b": 4_021_774_336,
    }
    kv_bytes_per_token = {
        "qwen3-embedding-0.6b": 114_688,
        "qwen3-embedding-4b": 147_456,
        "qwen3-embedding-8b": 147_456,
        "qwen3-reranker-0.6b": 114_688,
        "qwen3-reranker-4b": 147_456,
    }
    models: dict[str, model_config.ModelConfig] = models_of("qwen3-one-gpu.yaml")
    models, used = models | rerankers_of("qwen3-one-gpu.yaml"), 0.0
    for name, model in models.items():
        assert isinstance(model.engine, engine_config.VllmEngineConfig)
        kv_cache = model.engine.args["kv_cache_memory_bytes"]
        needed = 2 * parameters[name] + kv_cache + 2 * GIB
        longest = model.max_tokens * kv_bytes_per_token[name]
        assert kv_cache >= longest, f"{name}: no room for its longest text"
        assert needed <= 1.05 * model.engine.args["gpu_memory_utilization"] * 79 * GIB
        used += needed
    assert used <= 75 * GIB
    assert sum(model.engine.args["gpu_memory_utilization"] for model in models.values()) < 1  # type: ignore[union-attr]
    shares = [each.get("num_gpus", 0.0) for each in actor_options("qwen3-one-gpu.yaml").values()]
    assert sum(shares) == pytest.approx(1.0)
    assert sum(model.devices for model in models.values()) == pytest.approx(1.0)


HEADINGS: dict[str, type[Section]] = {
    "args": config.RouterArgs,
    "args.models.ID": model_config.ModelConfig,
    "args.models.ID.quality.long": model_config.LongTextsConfig,
    "args.models.ID.matryoshka": model_config.MatryoshkaRange,
    "args.models.ID.fingerprint": model_config.FingerprintConfig,
    "args.models.ID.fingerprint.card": model_config.CardExample,
    "args.models.ID.prompts": model_config.Prompts,
    "args.models.ID.curve": model_config.CurveConfig,
    "args.rerankers.ID.fingerprint": rerank_config.ScoreFingerprintConfig,
    "kind: vllm": engine_config.VllmEngineConfig,
    "kind: transformers": engine_config.TransformersEngineConfig,
    "kind: static": engine_config.StaticEngineConfig,
    "kind: callable": engine_config.CallableEngineConfig,
    "kind: remote": engine_config.RemoteEngineConfig,
    "kind: student": engine_config.StudentEngineConfig,
    "kind: fake": engine_config.FakeEngineConfig,
    "args.collections.NAME": collection_config.CollectionConfig,
    "args.routing": routing_config.RoutingConfig,
    "args.routing.rules": routing_config.Rule,
    "args.routing.rules.when": routing_config.When,
    "args.compare": routing_config.Compare,
    "args.compare.shadow": routing_config.Shadow,
    "args.compare.canary": routing_config.Canary,
    "args.limits": config.Limits,
    "args.cache": config.Cache,
    "args.decision_log": config.DecisionLogConfig,
    "args.batches": config.Batches,
    "args.keys.NAME": key_config.KeyConfig,
    "args.keys.NAME.defaults": key_config.KeyDefaults,
    "args.cors": config.Cors,
    "autoscaling_policy.policy_kwargs": config.Autoscaling,
}


def default_of(section: type[Section], name: str) -> str:
    """The default of a key as the page writes it."""
    field = section.model_fields[name]
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    return "see below" if isinstance(value, Section) else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_page_lists_every_key_with_its_default(heading: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    part = re.split(r"^#+ ", page.split(f"# {heading}\n", 1)[1], flags=re.MULTILINE)[0]
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in part.splitlines()
        if row.startswith("| `")
    ]
    section = HEADINGS[heading]
    assert {row[0].strip("`"): row[2] for row in rows} == {
        name: default_of(section, name) for name in section.model_fields
    }


def test_the_page_lists_what_a_reranker_has_beside_or_other_than_a_model() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    part = re.split(r"^#+ ", page.split("# args.rerankers.ID\n", 1)[1], flags=re.MULTILINE)[0]
    rows = [row.split("|") for row in part.splitlines() if row.startswith("| `")]
    own = rerank_config.RerankerConfig
    same = {"dimensions", "matryoshka", "prompts"}  # refused
    assert {row[1].strip(" `"): row[3].strip() for row in rows} == {
        name: default_of(own, name)
        for name, field in own.model_fields.items()
        if name not in same
        and field is not model_config.ModelConfig.model_fields.get(name)
        and repr(field) != repr(model_config.ModelConfig.model_fields.get(name))
    }


def test_the_page_of_reranking_lists_what_a_remote_reranker_has_beside_a_remote_model() -> None:
    page = (ROOT / "docs" / "reranking.md").read_text()
    rows = [row.split("|") for row in page.split("**`remote`**")[1].splitlines() if "| `" in row]
    own = rerank_config.RemoteRerankEngineConfig
    assert {row[1].strip(" `"): row[3].strip() for row in rows[:2]} == {
        name: default_of(own, name)
        for name in own.model_fields
        if name not in engine_config.RemoteEngineConfig.model_fields
    }


def test_the_page_has_a_part_for_every_section() -> None:
    engines = set(get_args(get_args(engine_config.EngineConfig)[0]))
    shown = {section for heading, section in HEADINGS.items() if heading.startswith("kind: ")}
    assert shown == engines
    of_configs = {one for one in Section.__subclasses__() if ".sim." not in one.__module__}
    assert set(HEADINGS.values()) - shown == of_configs - {EngineSection}


# As the model cards print them, each to four places; the texts are those of all three cards.
CARDS = {
    "Qwen/Qwen3-Embedding-0.6B": [[0.7646, 0.1414], [0.1355, 0.6000]],
    "Qwen/Qwen3-Embedding-4B": [[0.7534, 0.1147], [0.0320, 0.6258]],
    "Qwen/Qwen3-Embedding-8B": [[0.7493, 0.0751], [0.0880, 0.6318]],
}
OF_QWEN3 = ["qwen3.yaml", "qwen3-cluster.yaml", "qwen3-one-gpu.yaml", "extra/harrier-0.6b.yaml"]


@pytest.mark.parametrize("name", OF_QWEN3)
def test_every_qwen3_model_is_pinned_and_proves_itself_by_its_card(name: str) -> None:
    models = {
        model.engine.source: model
        for model in models_of(name).values()
        if model.engine.kind == "vllm" and model.engine.source in CARDS
    }
    assert models
    for source, model in models.items():
        assert model.fingerprint is not None
        card = model.fingerprint.card
        assert card is not None
        assert [list(row) for row in card.similarities] == CARDS[source]
        assert card.queries == ("What is the capital of China?", "Explain gravity")
        assert card.documents == (
            "The capital of China is Beijing.",
            "Gravity is a force that attracts two bodies towards each other. It gives weight to "
            "physical objects and is responsible for the movement of planets around the sun.",
        )
        assert (card.tolerance, card.pooling) == (0.01, "last")
        assert card.query_prompt == (
            "Instruct: Given a web search query, retrieve relevant passages that answer the "
            "query\nQuery:"
        )
        assert model.revision is not None
        assert model.pinned(model.tokenizer or "") == model.revision
    assert len({model.revision for model in models.values()}) == len(models)
