"""cluster.yaml and configs/kuberay.yaml: accepted by what reads them, with room for every replica
of configs/qwen3.yaml.
"""

import copy
import json
import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import ray
import yaml
from jsonschema import Draft7Validator

from deployments.launch.environment import files_for
from deployments.launch.serve_config import check
from router.cli import main
from router.config import Limits

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests" / "data" / "rayservice-v1.json"
CLUSTER, KUBERAY, QWEN3, TYPED = (
    ROOT / "cluster.yaml",
    ROOT / "configs" / "kuberay.yaml",
    ROOT / "configs" / "qwen3.yaml",
    ROOT / "configs" / "qwen3-cluster.yaml",
)
CHECK_NODE = ROOT / "configs" / "check-node.sh"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICE_PORT = 8000


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def serve_config() -> Any:
    return yaml.safe_load(load(KUBERAY)["spec"]["serveConfigV2"])


def replicas() -> dict[str, tuple[dict[str, float], int]]:
    """What a replica of each deployment of configs/qwen3-cluster.yaml occupies, in Ray's names, and
    how many there may be.
    """
    found = {}
    for deployment in load(TYPED)["applications"][0]["deployments"]:
        options = deployment["ray_actor_options"]
        needs = {"CPU": options["num_cpus"]}
        if gpus := options.get("num_gpus"):
            needs |= {"GPU": gpus, f"accelerator_type:{options['accelerator_type']}": 0.001}
        found[deployment["name"]] = needs, deployment["autoscaling_config"]["max_replicas"]
    return found


def rooms(resources: dict[str, float], needs: dict[str, float]) -> int:
    """Replicas that fit on one node."""
    return int(min(resources.get(name, 0) / amount for name, amount in needs.items()))


def test_ray_up_accepts_the_cluster_file() -> None:
    assert check(CLUSTER) == []


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("max_worker", 3, "max_worker"),
        ("head_node_type", "other", "head_node_type"),
        ("cluster_name", "", "cluster_name: required"),
    ],
)
def test_a_cluster_file_that_ray_up_would_refuse_is_refused(
    tmp_path: Path, place: str, value: Any, sentence: str
) -> None:
    data = load(CLUSTER) | {place: value}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(data))
    assert sentence in " ".join(check(path))


def test_a_node_type_whose_resources_the_cloud_would_be_asked_for_is_refused(
    tmp_path: Path,
) -> None:
    data = load(CLUSTER)
    del data["available_node_types"]["qwen3-4b"]["resources"]
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(data))
    assert any(
        problem.startswith("available_node_types.qwen3-4b.resources: write them")
        for problem in check(path)
    )


def with_image(tmp_path: Path, **changes: Any) -> Path:
    data = load(CLUSTER)
    config = data["available_node_types"]["qwen3-4b"]["node_config"]
    for key, value in changes.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("latest_dlami", "Ray's image of Ubuntu 18.04"),
        ("ami-0271ce88f6c03e149", "Ray's image of Ubuntu 18.04"),
        (None, "is missing"),
        ("ami-REPLACE_ME", "is no id of an image"),
    ],
)
def test_an_image_that_cannot_install_vllm_is_refused(
    tmp_path: Path, image: str | None, why: str
) -> None:
    (problem,) = check(with_image(tmp_path, ImageId=image))
    assert problem.startswith("available_node_types.qwen3-4b.node_config.ImageId: ")
    assert why in problem
    assert "aws ssm get-parameter --region" in problem


def test_rays_own_image_is_still_the_one_that_is_refused() -> None:
    aws = Path(ray.__file__).parent / "autoscaler" / "_private" / "aws"
    source = (aws / "config.py").read_text()
    assert re.search(r'^DEFAULT_AMI_NAME = ".*Ubuntu 18\.04', source, re.M)


def test_a_launch_template_may_name_the_image(tmp_path: Path) -> None:
    template = {"LaunchTemplateName": "gpu", "Version": "1"}
    assert check(with_image(tmp_path, ImageId=None, LaunchTemplate=template)) == []


def node(
    tmp_path: Path, driver: str | None = "595.91.07", glibc: str = "2.39", gpu: bool = True
) -> dict[str, str]:
    """A machine as configs/check-node.sh sees it: its programs and its PCI bus are files here."""
    (tmp_path / "pci" / "0000:31:00.0").mkdir(parents=True)
    (tmp_path / "pci" / "0000:31:00.0" / "vendor").write_text("0x10de" if gpu else "0x8086")
    programs = {"getconf": f"echo glibc {glibc}", "cc": "true", "python": f"echo {tmp_path}"}
    if driver is not None:
        programs["nvidia-smi"] = f"echo {driver}"
    (tmp_path / "bin").mkdir()
    for name, does in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o700)
    for name in ("cat", "grep", "head", "cut", "sort", "printf"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "Python.h").write_text("")
    return {"PATH": str(tmp_path / "bin"), "PCI": str(tmp_path / "pci")}


def checked(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", CHECK_NODE, *arguments], env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_a_node_that_can_run_vllm_passes_its_first_setup_command(tmp_path: Path) -> None:
    first = load(CLUSTER)["setup_commands"][0].split()
    assert first[:2] == ["sh", "~/embedding-router/configs/check-node.sh"]
    python = str(tmp_path / "bin" / "python")
    status, said = checked(node(tmp_path), python)
    assert status == 0, said
    for what in ("glibc 2.39", "NVIDIA driver 595.91.07", "C compiler", "Python.h in"):
        assert what in said


@pytest.mark.parametrize(
    ("changes", "gone", "sentence"),
    [
        ({"driver": "535.183.01"}, None, "NVIDIA driver 535.183.01: CUDA 13 needs 580 or newer"),
        ({"driver": None}, None, "NVIDIA driver missing"),
        ({"glibc": "2.27"}, None, "glibc 2.27: vLLM needs 2.28 or newer"),
        ({}, "bin/cc", "C compiler missing"),
        ({}, "Python.h", "Python.h missing in"),
    ],
    ids=["old-driver", "no-driver", "old-glibc", "no-compiler", "no-headers"],
)
def test_a_node_that_cannot_run_vllm_fails_by_name(
    tmp_path: Path, changes: dict[str, Any], gone: str | None, sentence: str
) -> None:
    environment = node(tmp_path, **changes)
    if gone is not None:
        (tmp_path / gone).unlink()
    status, said = checked(environment, str(tmp_path / "bin" / "python"))
    assert status == 1
    assert sentence in said


def test_a_node_without_a_gpu_needs_no_driver(tmp_path: Path) -> None:
    status, said = checked(node(tmp_path, driver=None, gpu=False))
    assert (status, "no NVIDIA GPU" in said) == (0, True)


def test_every_size_of_model_has_one_type_of_node_with_room_for_all_its_replicas() -> None:
    cluster = load(CLUSTER)
    types = {
        name: node
        for name, node in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }
    nodes = dict.fromkeys(types, 0.0)  # that are full at most
    for needs, most in replicas().values():
        if "GPU" in needs:
            (fitting,) = [kind for kind, node in types.items() if rooms(node["resources"], needs)]
            nodes[fitting] += most / rooms(types[fitting]["resources"], needs)
            assert types[fitting].get("min_workers", 0) == 0
    assert nodes == {name: node["max_workers"] for name, node in types.items()}
    assert cluster["max_workers"] >= sum(node["max_workers"] for node in types.values())


def test_the_head_has_no_gpu_and_room_for_the_routers() -> None:
    cluster = load(CLUSTER)
    head = cluster["available_node_types"][cluster["head_node_type"]]["resources"]
    needs, most = replicas()["router"]
    assert "GPU" not in head
    assert rooms(head, needs) >= most


def test_only_the_port_of_the_service_is_opened_and_not_to_everybody() -> None:
    (rule,) = load(CLUSTER)["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (SERVICE_PORT, SERVICE_PORT)
    assert load(QWEN3)["http_options"]["port"] == SERVICE_PORT
    assert "0.0.0.0/0" not in [each["CidrIp"] for each in rule["IpRanges"]]


def test_every_node_has_token_auth_and_the_same_switches() -> None:
    cluster = load(CLUSTER)
    (written,) = [command for command in cluster["setup_commands"] if "printf" in command]
    for setting in (
        "RAY_AUTH_MODE=token",
        "RAY_SERVE_ENABLE_HA_PROXY=1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
    ):
        assert setting in written
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert all(command.startswith(". ~/.embedding-router.sh") for command in commands)


def starts_of(config: Any) -> set[float]:
    """Take the seconds of a start out of a Serve config."""
    application = config["applications"][0]
    found = {application["autoscaling_policy"]["policy_kwargs"].pop("start_s")}
    models = [*application["args"]["models"].values(), *application["args"]["rerankers"].values()]
    return found | {one.pop("cold_start_s") for one in models if "cold_start_s" in one}


def test_haproxy_may_open_the_files_that_its_connections_need() -> None:
    cluster, manifest = load(CLUSTER), KUBERAY.read_text()
    limits = []
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (line for line in cluster[name] if "ray start" in line)
        limits += re.findall(r"ulimit -n (\d+);.* ray start", start)
    assert limits == ["65536"] * 2
    for given in (CLUSTER.read_text(), manifest):
        (connections,) = re.findall(r"HAPROXY_MAXCONN(?:=|, value: \")(\d+)", given)
        assert files_for(int(connections)) <= 65_536
    # KubeRay puts `ulimit -n 65536` in front of `ray start`, unless a pod has its own command
    assert "overwrite-container-cmd" not in manifest


def test_the_config_for_mixed_cards_is_that_of_equal_cards_with_types() -> None:
    typed, alike = load(TYPED), load(QWEN3)
    # a node of a cluster is new, a machine with equal cards runs already
    assert min(starts_of(typed)) >= 300 > max(starts_of(alike))
    types = [
        deployment["ray_actor_options"].pop("accelerator_type", None)
        for deployment in typed["applications"][0]["deployments"]
    ]
    assert typed == alike
    assert types == [None, "L4", "L40S", "H100", "L4", "L40S"]


def test_the_manifest_holds_the_typed_config_of_qwen3_and_says_the_ranks() -> None:
    inner = serve_config()
    for section in ("models", "rerankers"):
        models = inner["applications"][0]["args"][section]
        assert [model.pop("rank") for model in models.values()] == list(range(len(models)))
        assert list(models) == list(load(TYPED)["applications"][0]["args"][section])
    assert inner == load(TYPED)


def test_the_manifest_passes_our_own_check() -> None:
    assert check(KUBERAY) == []


def test_every_model_has_a_group_of_pods_with_room_for_all_its_replicas() -> None:
    groups = load(KUBERAY)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pods = dict.fromkeys((group["groupName"] for group in groups), 0.0)  # that are full at most
    for needs, most in replicas().values():
        fitting = [
            group
            for group in groups
            if rooms({key: float(value) for key, value in group["resources"].items()}, needs)
            and ("GPU" in needs) == ("GPU" in group["resources"])
        ]
        (group,) = fitting
        container = group["template"]["spec"]["containers"][0]
        resources = {key: float(value) for key, value in group["resources"].items()}
        pods[group["groupName"]] += most / rooms(resources, needs)
        assert float(container["resources"]["limits"].get("nvidia.com/gpu", 0)) == resources.get(
            "GPU", 0
        )
        assert float(container["resources"]["limits"]["cpu"]) == resources["CPU"]
    assert all(pods[group["groupName"]] <= group["maxReplicas"] for group in groups)


def pods() -> list[Any]:
    config = load(KUBERAY)["spec"]["rayClusterConfig"]
    groups = (config["headGroupSpec"], *config["workerGroupSpecs"])
    return [group["template"]["spec"] for group in groups]


def test_every_pod_has_the_volume_that_its_variables_name_and_may_write_to_it() -> None:
    for pod in pods():
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= volumes
        folders = [one["value"] for one in container["env"] if one["value"].startswith("/")]
        assert {"/cache/huggingface", "/cache/vllm", "/cache/triton"} <= set(folders)
        for folder in folders:
            assert any(folder.startswith(f"{mount}/") for mount in mounts), folder
        assert pod["securityContext"]["fsGroup"] == int(re.findall(r"--uid (\d+)", DOCKERFILE)[0])


def test_no_volume_hides_what_the_image_holds() -> None:
    filled = re.findall(r"(?:HF_HOME=|COPY \S+ )(/opt/\S+)", DOCKERFILE)
    assert filled
    for pod in pods():
        for mount in pod["containers"][0]["volumeMounts"]:
            assert not any(f"{path}/".startswith(f"{mount['mountPath']}/") for path in filled)


def test_all_pods_have_the_same_image_and_environment() -> None:
    config = load(KUBERAY)["spec"]["rayClusterConfig"]
    containers = [
        group["template"]["spec"]["containers"][0]
        for group in (config["headGroupSpec"], *config["workerGroupSpecs"])
    ]
    assert len({container["image"] for container in containers}) == 1
    assert len({json.dumps(container["env"]) for container in containers}) == 1
    assert config["authOptions"] == {"mode": "token"}
    assert all("readinessProbe" in container for container in containers[1:])


def strict(schema: Any) -> Any:
    """The CRD's schema in JSON Schema's words: closed objects, ints that may be strings, keys with
    defaults not required.
    """
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    if out.pop("x-kubernetes-int-or-string", False):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    properties = schema.get("properties")
    if isinstance(properties, dict) and schema.get("type") == "object":
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
        if isinstance(required := schema.get("required"), list):
            out["required"] = [
                name for name in required if "default" not in properties.get(name, {})
            ]
    return out


def test_the_manifest_fits_the_schema_of_rayservice() -> None:
    validator = Draft7Validator(strict(json.loads(SCHEMA.read_text())))
    manifest = load(KUBERAY)
    top = {key: manifest.pop(key) for key in ("apiVersion", "kind", "metadata")}
    assert (top["apiVersion"], top["kind"]) == ("ray.io/v1", "RayService")
    assert [
        f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(manifest)
    ] == []
    for place, key in (("rayClusterConfig", "rayVersionn"), ("upgradeStrategy", "kind")):
        typo = copy.deepcopy(manifest)
        typo["spec"][place][key] = "x"
        assert list(validator.iter_errors(typo)), f"a typo in {place} passes"


def test_the_unit_of_systemd_starts_a_command_that_there_is_and_lets_it_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((ROOT / "configs" / "systemd" / "embedding-router.service").read_text())
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "embedding-router"
    monkeypatch.chdir(ROOT)
    command = main.get_command(click.Context(main), arguments[0])
    assert command is not None
    context = command.make_context(arguments[0], arguments[1:])
    assert context.params["path"].exists()
    assert unit["Service"]["KillMode"] == "mixed"
    assert float(unit["Service"]["TimeoutStopSec"]) > Limits().request_timeout_s
