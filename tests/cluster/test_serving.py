"""Search over shards on Ray Serve, on nodes of this machine: replicas are killed and stopped, and a node is lost."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.cluster.serving import FRONT, application, deployment_name
from ctxdeploy.cluster.serving_config import ServingConfig
from ctxdeploy.core.errors import ConfigError, MissingExtraError
from ctxdeploy.service import Archives, Service, ServiceConfig, create_app

FILE = Path(__file__).parents[2] / "deploy" / "ray-serve.yaml"
MINUTES = 300.0
STORE = 80 << 20
SCENES = ("astronaut", "coffee", "rocket", "coins")


def told(answer: httpx.Response) -> Any:
    """Return what an answer says, without what is another thing each time."""
    found = answer.json()
    found.pop("seconds", None)
    found.pop("request_id", None)
    return answer.status_code, json.dumps(found, sort_keys=True)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when a condition holds."""
    for _ in range(int(MINUTES / 0.5)):
        if condition():
            return
        threading.Event().wait(0.5)
    raise AssertionError(f"it has not come to it: {what}")


# --- what is told


def test_arguments_are_texts_or_what_yaml_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ServingConfig.of({"archive": "a.ctxindex", "parts": "4", "replicas": 2, "config": None})
    assert config == ServingConfig(archive=str(tmp_path / "a.ctxindex"), parts=4, replicas=2)
    assert [str(part) for part in config.all_parts] == ["1/4", "2/4", "3/4", "4/4"]
    assert deployment_name(config.all_parts[3]) == "part-4-of-4"
    assert ServingConfig.of({"archive": "s3://bucket/a.ctxindex"}).archive == "s3://bucket/a.ctxindex"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shards": "4"}, "there is no argument 'shards': give archive, parts, replicas, fronts, config"),
        ({"parts": "four"}, "parts=four is not a whole number"),
        ({"parts": 1.5}, "parts 1.5 is not a whole number"),
        ({"replicas": "0"}, "replicas=0 is outside 1"),
        ({"parts": "2000"}, "parts=2000 is outside 1"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServingConfig.of(arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("writable = true", "only read"),
        ('shards = "1/2"', "leave out the settings shards and shard"),
        ("max-top = 10", "no archive is named"),
    ],
)
def test_settings_that_ray_serve_has_no_use_for_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    config = ServingConfig(config=str(file))
    with pytest.raises(ConfigError, match=said):
        config.places(config.settings())


def test_without_ray_serve_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(MissingExtraError, match="ray-serve"):
        application({"archive": "a.ctxindex"})


# --- a cluster


@dataclass(kw_only=True)
class Served:
    """A cluster that serves an archive in two parts.

    Attributes:
        client: that asks it.
        cluster: the nodes.
        second: that part 2 is on, where there is one besides the first.
    """

    client: httpx.Client
    cluster: Any
    second: Any = None

    def add_second(self) -> None:
        """Start a second node."""
        self.second = self.cluster.add_node(num_cpus=2, resources={"second": 2}, object_store_memory=STORE)

    def get(self, **options: Any) -> httpx.Response:
        return self.client.get("/v1/search", params=options)

    def post(self, photo: bytes, **options: Any) -> httpx.Response:
        return self.client.post("/v1/search", content=photo, params=options)

    def ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def until_missing(self, photo: bytes, missing: list[str]) -> Any:
        """Ask until an answer lacks these parts and no others."""
        for _ in range(int(MINUTES)):
            answer = self.post(photo, top=100)
            assert answer.status_code == 200, answer.text
            if answer.json()["coverage"]["missing"] == missing:
                return answer.json()
            threading.Event().wait(0.5)
        raise AssertionError(answer.text)


def replicas(name: str) -> list[int]:
    """Return the processes of the replicas of a deployment that are below this process."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
    found, level = set[int](), {os.getpid()}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= {child for child in level if f"ServeReplica:ctxdeploy:{name}".encode() in titles.get(child, b"")}
    return sorted(found)


def end(processes: list[int]) -> None:
    """Kill processes, as a machine that loses its power does."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def serve_file(archive: Path, port: int, options: dict[str, dict[str, Any]]) -> Path:
    """Return a copy of the repository's file for Ray Serve, with options of its deployments."""
    yaml = importlib.import_module("yaml")
    settings, file = archive.parent / "serve.toml", archive.parent / "ray-serve.yaml"
    settings.write_text(f"timeout = {MINUTES}\nshard-timeout = 30\nrefresh = 0.5\n")
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    importlib.import_module("ray.serve.schema").ServeDeploySchema(**content)
    content["proxy_location"], content["http_options"] = "HeadOnly", {"host": "127.0.0.1", "port": port}
    (app,) = content["applications"]
    app["args"] |= {"archive": str(archive), "config": str(settings), "fronts": 1}
    names = [FRONT, *map(deployment_name, ServingConfig.of(app["args"]).all_parts)]
    assert [one["name"] for one in app["deployments"]] == names == list(options)
    app["deployments"] = [{"name": name, **given} for name, given in options.items()]
    file.write_text(yaml.safe_dump(content))
    return file


@contextmanager
def serving(archive: Path, options: dict[str, dict[str, Any]], *, second: bool) -> Iterator[Served]:
    """Serve an archive with `serve run` on a head, and on a second node."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    why = "Ray Serve is not installed: pip install '.[serve,ray-serve]'"
    pytest.importorskip("ray.serve", reason=why, exc_type=ImportError)
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 4, "resources": {"first": 4}, "object_store_memory": STORE, "include_dashboard": False}
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=MINUTES)
        served = Served(client=client, cluster=Cluster(initialize_head=True, head_node_args=head))
        try:
            if second:
                served.add_second()
            run = [
                "run",
                "--non-blocking",
                "--address",
                served.cluster.address,
                str(serve_file(archive, port, options)),
            ]
            done = subprocess.run(
                [sys.executable, "-m", "ray.serve.scripts", *run], capture_output=True, text=True, timeout=MINUTES
            )
            assert done.returncode == 0, done.stderr
            wait_until(served.ready, "the front is ready")
            yield served
        finally:
            client.close()
            for node in served.cluster.list_all_nodes():
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            remembered = Path("/tmp/ray/ray_current_cluster")  # where `auto` would look for it
            if remembered.exists() and remembered.read_text().strip() == served.cluster.address:
                remembered.unlink(missing_ok=True)


@pytest.fixture
def archive(photos: Path, tmp_path: Path) -> Path:
    """Return an archive of two shards."""
    path = tmp_path / "photos.ctxindex"
    with PhotoIndex.create(path, model="ctx-small", config=IndexingConfig(geometry="codes")) as made:
        for view in range(2):
            made.add([(f"{scene}/{view}.jpg", photos / scene / f"{view}.jpg") for scene in SCENES])
    return path


@pytest.fixture
def whole(archive: Path) -> Iterator[Any]:
    """Return what asks the archive, served by one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have httpx2
        from starlette.testclient import TestClient

    config = ServiceConfig(timeout=MINUTES)
    service = Service(Archives([archive], config), config)
    service.prepare()
    assert service.readiness.failure is None
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        yield client


def scores(found: Any) -> dict[str, float]:
    return {one["name"]: one["score"] for one in found["results"]}


OPTIONS: tuple[dict[str, Any], ...] = (
    {"top": 100, "verify": 5, "matches": True, "expand": 2},
    {"top": 3, "prefix": ["coffee/", "nothing/"]},
    {"box": "20,20,160,140", "min_probability": 0.2, "expand": 0},
)


@pytest.mark.slow
def test_parts_of_an_archive_are_searched_on_ray_serve(whole: Any, archive: Path, photos: Path) -> None:
    photo = (photos / "coffee" / "2.jpg").read_bytes()
    options = {"front": {}, "part-1-of-2": {"num_replicas": 2}, "part-2-of-2": {"num_replicas": 1}}
    with serving(archive, options, second=False) as served:
        for asked in OPTIONS:
            assert told(served.post(photo, **asked)) == told(whole.post("/v1/search", content=photo, params=asked))
            if "box" not in asked:
                named = {"indexed": "rocket/1.jpg", **asked}
                assert told(served.get(**named)) == told(whole.get("/v1/search", params=named))
        unknown = {"indexed": "no such.jpg"}
        assert told(served.get(**unknown)) == told(whole.get("/v1/search", params=unknown))
        before = served.post(photo, top=100).json()

        # A commit is seen by all parts at once: each answer is of a state before it or of the one after.
        with PhotoIndex.open(archive, writable=True) as written:
            written.add([("new/1.jpg", photo), ("new/2.jpg", photo)])
            state, count = written.state, len(written)
        while (found := served.post(photo, top=100).json())["state"] != state:
            is_new = any(one["name"].startswith("new/") for one in found["results"])
            assert found["coverage"] == {
                **before["coverage"],
                **({"searched": count, "photos": count} if is_new else {}),
            }
        wait_until(lambda: whole.get("/v1/archives").json()["archives"][0]["state"] == state, "one process sees it")
        wanted = told(whole.post("/v1/search", content=photo, params={"top": 100}))
        assert told(served.post(photo, top=100)) == wanted
        assert "new/1.jpg" in wanted[1] and "new/1.jpg" not in json.dumps(before)

        # No replica of a part answers: it is left out, and the answer says so, until one does.
        (hung,) = replicas("part-2-of-2")
        os.kill(hung, signal.SIGSTOP)
        partial = served.until_missing(photo, ["2/2"])
        os.kill(hung, signal.SIGCONT)
        assert 0 < partial["coverage"]["searched"] < count and served.ready()
        assert partial["results"] and scores(partial).items() < scores(json.loads(wanted[1])).items()
        served.until_missing(photo, [])
        assert told(served.post(photo, top=100)) == wanted

        # A replica is killed: another one answers.
        first, _ = replicas("part-1-of-2")
        end([first])
        for _ in range(4):
            assert told(served.post(photo, top=100)) == wanted


@pytest.mark.long
@pytest.mark.slow
def test_a_machine_is_lost_and_another_one_takes_its_place(whole: Any, archive: Path, photos: Path) -> None:
    photo = (photos / "coffee" / "2.jpg").read_bytes()
    wanted = told(whole.post("/v1/search", content=photo, params={"top": 100}))
    nodes = {"front": "first", "part-1-of-2": "first", "part-2-of-2": "second"}
    options = {name: {"ray_actor_options": {"num_cpus": 1, "resources": {node: 1}}} for name, node in nodes.items()}
    with serving(archive, options, second=True) as served:
        assert told(served.post(photo, top=100)) == wanted
        both = replicas("part-1-of-2")
        assert len(both) == 2
        end(both[:1])
        for _ in range(4):
            assert told(served.post(photo, top=100)) == wanted
        wait_until(lambda: len(set(replicas("part-1-of-2")) - set(both[:1])) == 2, "there are two again")

        both = replicas("part-2-of-2")
        assert len(both) == 2
        served.cluster.remove_node(served.second, allow_graceful=False)
        end(both)  # they would notice it in a moment
        partial = served.until_missing(photo, ["2/2"])
        assert scores(partial).items() < scores(json.loads(wanted[1])).items()
        served.add_second()
        served.until_missing(photo, [])
        assert told(served.post(photo, top=100)) == wanted
