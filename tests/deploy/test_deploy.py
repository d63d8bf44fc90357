"""The files of ``deploy/`` and the Containerfile: what can be checked of them where nothing can be built or started.

The tools are those of the extra ``deploy``, and systemd's own.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ctxdeploy
from ctxdeploy.cli.options import configured
from ctxdeploy.service import ServiceConfig

ROOT = Path(__file__).parents[2]
DEPLOY, CHART = ROOT / "deploy", ROOT / "deploy" / "helm" / "ctxdeploy"
KEY = "0123456789abcdef0123456789abcdef"
# Every part of the chart is in one of these.
VALUES: dict[str, dict[str, Any]] = {
    "least": {"keys": {"read": [KEY]}},
    "existing": {"keys": {"existingSecret": "mine"}, "archive": {"existingClaim": "photos", "subPath": ""}},
    "everything": {
        "keys": {"read": [KEY, KEY[::-1]]},
        "photos": {"existingClaim": "originals", "mountPath": "/data/photos"},
        "autoscaling": {"enabled": True},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "archive": {"storageClassName": "nfs"},
        "processor": "x86-64-v4",
        "extraArgs": ["--batch-size", "4"],
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "photos", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "podAnnotations": {"a": "b"},
    },
}


def tool(name: str) -> str:
    """Return a program of the environment or of the system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install '.[deploy]'")
    return found


def words_after(text: str, instruction: str) -> list[str]:
    """Return the list of an instruction of the Containerfile."""
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", text, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


def loaded(path: Path) -> Any:
    """Return what a YAML file says."""
    return pytest.importorskip("yaml", reason="PyYAML is not installed").safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def render() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that renders the chart by Helm itself, and returns its objects by kind."""
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: pip install '.[deploy]'")
    yaml = pytest.importorskip("yaml")

    def rendered(values: dict[str, Any]) -> dict[str, Any]:
        with helm.Chart.load(CHART) as chart:
            chart.validate_schema(values)
            files = chart.render(values, name="demo", namespace="prod")
        objects = [one for name, text in files.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text)]
        return {one["kind"]: one for one in objects if one is not None}

    return rendered


# --- the image


def test_the_containerfile_has_no_findings() -> None:
    done = subprocess.run([tool("hadolint"), ROOT / "Containerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_image_is_built_from_all_that_the_package_needs() -> None:
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {"pyproject.toml", "MANIFEST.in", project["project"]["readme"]}
    needed |= {name.partition("/")[0] for name in project["project"]["license-files"]}
    needed |= set(project["tool"]["setuptools"]["package-dir"].values())
    needed |= set((ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()) - {"include"}
    assert let_in == needed
    assert all((ROOT / name).exists() for name in let_in)
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() == lines


def test_the_image_is_warmed_up_for_the_processor_that_it_runs_on_and_runs_as_nobody() -> None:
    _, build, run = (ROOT / "Containerfile").read_text(encoding="utf-8").split("\nFROM ")
    assert "ctxdeploy warm-up" in build
    for setting in (r"CTXDEPLOY_CACHE=(\S+)", r"CTXDEPLOY_PROCESSOR=(\S+)", r"ARG PROCESSOR=(\S*)"):
        found = [re.findall(setting, stage) for stage in (build, run)]
        assert found[0] == found[1] and len(found[0]) == 1
    (user,) = re.findall(r"^USER (\d+):(\d+)$", run, re.MULTILINE)
    assert int(user[0]) > 0 and int(user[1]) > 0


# --- what they start


def commands() -> Iterator[Any]:
    """Yield the arguments of ``ctxdeploy`` in each file."""
    yield pytest.param(words_after((ROOT / "Containerfile").read_text(encoding="utf-8"), "CMD"), id="Containerfile")
    (line,) = re.findall(r"^ExecStart=\S+/ctxdeploy (.*)$", (DEPLOY / "ctxdeploy.service").read_text(), re.MULTILINE)
    yield pytest.param(shlex.split(line), id="systemd")


def served_as(words: list[str]) -> tuple[list[str], ServiceConfig]:
    """Return archives and settings that the command has from what follows ``ctxdeploy``."""
    from ctxdeploy.cli.serve import command

    assert words[0] == "serve"
    with command.make_context("serve", words[1:]) as context:
        return [str(path) for path in context.params["archives"]], configured(ServiceConfig)


@pytest.mark.parametrize("words", list(commands()))
def test_the_command_is_one_that_there_is(words: list[str]) -> None:
    archives, _ = served_as(words)
    assert archives in (["/archive"], ["/srv/photos.ctxindex"])


def test_probes_and_scrapes_ask_for_what_is_served() -> None:
    pytest.importorskip("fastapi")
    from ctxdeploy.service.app import create_app
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.service import Service

    config = ServiceConfig()
    served = set(create_app(Service(Archives([], config), config)).openapi()["paths"])
    files = (ROOT / "Containerfile", *DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.tpl"))
    texts = [path.read_text(encoding="utf-8") for path in files]
    asked = {path for text in texts for path in re.findall(r"(?<![\w.-])/(?:livez|readyz|metrics)\b", text)}
    assert asked == {"/livez", "/readyz", "/metrics"}
    assert {"/livez", "/readyz"} <= served


# --- compose


def test_compose_is_what_the_specification_allows_and_can_write_nothing() -> None:
    compose = pytest.importorskip("compose_spec", reason="compose-spec is not installed: pip install '.[deploy]'")
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    parsed = compose.PyCompose.from_yaml(re.sub(r"\$\{(\w+)[^}]*\}", r"/data/\1", text))  # as the environment fills it
    parsed.validate()
    assert parsed.service_names() == ["ctxdeploy"]
    service = loaded(DEPLOY / "compose.yaml")["services"]["ctxdeploy"]
    archives, config = served_as(service["command"])
    assert archives == [one["target"] for one in service["volumes"]][:1] and config.read_key_file is not None
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(volume["read_only"] for volume in service["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {f"/run/secrets/{name}" for name in service["secrets"]} <= set(service["command"])
    image = (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert f"\nUSER {service['user']}\n" in image
    assert service["healthcheck"]["test"] == ["CMD", *words_after(image, "    CMD")]


def test_compose_of_shards_has_a_server_for_each_part_that_its_front_asks() -> None:
    compose = pytest.importorskip("compose_spec", reason="compose-spec is not installed: pip install '.[deploy]'")
    yaml = pytest.importorskip("yaml")
    whole = loaded(DEPLOY / "compose-shards.yaml")
    filled = yaml.safe_dump({key: one for key, one in whole.items() if not key.startswith("x-")})  # merged
    parsed = compose.PyCompose.from_yaml(re.sub(r"\$\{(\w+)[^}]*\}", r"/data/\1", filled))
    parsed.validate()
    services = whole["services"]
    plain = loaded(DEPLOY / "compose.yaml")["services"]["ctxdeploy"]
    for one in services.values():
        same = ("read_only", "cap_drop", "security_opt", "user", "healthcheck", "tmpfs", "secrets")
        assert [one[key] for key in same] == [plain[key] for key in same]
        assert all(volume["read_only"] for volume in one["volumes"])
    _, front = served_as(services.pop("front")["command"])
    parts = {f"http://{name}:8000": served_as(one["command"])[1].sharding.shards for name, one in services.items()}
    asked = {url: f"{number}/2" for number, urls in enumerate(front.sharding.servers, 1) for url in urls}
    assert {url: str(part) for url, part in parts.items()} == asked
    assert front.sharding.shard_key_file == front.read_key_file


# --- Kubernetes


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: pip install '.[deploy]'")
    found = helm.lint(CHART)
    assert found["errors"] == [] and found["total_charts_linted"] == 1
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", list(VALUES))
def test_every_object_is_valid(render: Any, name: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    objects = render(VALUES[name])
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= set(objects)
    if name == "everything":
        kinds = {"Deployment", "Service", "PodDisruptionBudget", "Secret", "PersistentVolumeClaim"}
        assert set(objects) == {*kinds, "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"}
    for kind, one in objects.items():
        if kind not in ("ServiceMonitor", "PrometheusRule"):  # of the Prometheus operator, not of Kubernetes
            kubernetes.validate(one, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("name", list(VALUES))
def test_pods_are_restricted_and_start_a_command_that_there_is(render: Any, name: str) -> None:
    pod = render(VALUES[name])["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    # The profile "restricted" of the Pod Security Standards.
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]
    writable = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}
    archives, config = served_as(container["args"])
    assert pod["terminationGracePeriodSeconds"] > config.grace_seconds
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert archives == ["/archive"] and "persistentVolumeClaim" in volumes[mounts["/archive"]]
    assert str(config.read_key_file).startswith("/run/keys/") and "secret" in volumes[mounts["/run/keys"]]


def rendered_objects(values: dict[str, Any]) -> list[Any]:
    """Return all objects of the chart, of which there may be several of a kind."""
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: pip install '.[deploy]'")
    yaml = pytest.importorskip("yaml")
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="demo", namespace="prod")
    objects = (one for name, text in files.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text))
    return [one for one in objects if one is not None]


def test_search_over_shards_has_pods_for_each_part_and_a_front_that_asks_all_of_them() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    objects = rendered_objects({"keys": {"read": [KEY]}, "shards": {"parts": 3, "replicas": 2}})
    for one in objects:
        kubernetes.validate(one, kubernetes.latest_version(), strict=True)
    (front,) = (one for one in objects if one["kind"] == "Deployment")
    archives, config = served_as(front["spec"]["template"]["spec"]["containers"][0]["args"])
    assert archives == ["/archive"] and config.sharding.shards is None
    assert config.sharding.shard_key_file == config.read_key_file
    sets = {one["metadata"]["name"]: one for one in objects if one["kind"] == "StatefulSet"}
    services = {one["metadata"]["name"]: one for one in objects if one["kind"] == "Service"}
    assert len(config.sharding.servers) == len(sets) == 3
    for number, urls in enumerate(config.sharding.servers, 1):
        spec = sets[f"demo-ctxdeploy-part-{number}"]["spec"]
        name, labels = spec["serviceName"], spec["template"]["metadata"]["labels"]
        assert list(urls) == [f"http://{name}-{pod}.{name}:8000" for pod in range(spec["replicas"])]
        # The service of a part leads to its pods alone, and that of the front to none of them.
        chosen = [key for key, one in services.items() if one["spec"]["selector"].items() <= labels.items()]
        assert chosen == [name] and services[name]["spec"]["clusterIP"] == "None"
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        _, part = served_as(container["args"])
        assert str(part.sharding.shards) == f"{number}/3" and part.read_key_file == config.read_key_file
        assert pod["securityContext"] == front["spec"]["template"]["spec"]["securityContext"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")} == {
            "/tmp",
            "/dev/shm",
        }


def test_it_scales_by_the_queue_and_then_sets_no_number_of_pods(render: Any) -> None:
    objects = render(VALUES["everything"])
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "ctxdeploy_queue_length"
    assert "replicas" not in objects["Deployment"]["spec"]
    assert render(VALUES["least"])["Deployment"]["spec"]["replicas"] == 2


def test_alarms_ask_for_metrics_that_there_are_and_are_those_of_the_guide(render: Any) -> None:
    pytest.importorskip("fastapi")
    from ctxdeploy.service import Archives, Service

    config = ServiceConfig()
    service = Service(Archives([], config), config)
    counted = {f"{one.name}_total" if one.type == "counter" else one.name for one in service.metrics.registry.collect()}
    service.close()
    (group,) = render(VALUES["everything"])["PrometheusRule"]["spec"]["groups"]
    guide = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").partition("Worth an alarm")[2]
    assert len(group["rules"]) >= 4
    for rule in group["rules"]:
        (name,) = re.findall(r"ctxdeploy_\w+", rule["expr"])
        assert name in counted and name in guide, rule
        assert '{namespace="prod",service="demo-ctxdeploy"' in rule["expr"]
        assert rule["annotations"].keys() == {"summary", "description"} and rule["labels"]["severity"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"keys": {"read": ["short"]}},
        {"keys": {"read": [KEY]}, "replica": 3},
        {"keys": {"read": [KEY]}, "processor": "znver4"},
        {"keys": {"read": [KEY]}, "photos": {"mountPath": "photos"}},
    ],
)
def test_values_that_cannot_work_are_refused(render: Any, values: dict[str, Any]) -> None:
    import helm_python

    with pytest.raises(helm_python.HelmError):
        render(values)


def test_the_chart_is_of_this_version() -> None:
    assert loaded(CHART / "Chart.yaml")["appVersion"] == ctxdeploy.__version__


# --- systemd


def test_systemd_knows_every_line_of_the_unit_and_calls_it_safe(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / "ctxdeploy.service"
    text = (DEPLOY / "ctxdeploy.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/ctxdeploy/bin/ctxdeploy", "/bin/true"), encoding="utf-8")
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    if "Failed to" in done.stderr and "cgroup" in done.stderr:
        pytest.skip(f"systemd-analyze does not run here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # 0 is safest, 10 is least safe; in tenths.
    rated = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-300:]
