"""Archives as they are served: their facts, names and folders; and they move on with others' commits."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy import IndexedPhoto, PhotoIndex
from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.index import Aggregated, Codebook, Index
from ctxdeploy.service import ArchivePlace, Archives, Service, ServiceConfig

NEVER = ServiceConfig(refresh_seconds=3600.0)
SOON = ServiceConfig(refresh_seconds=0.05)


def until(holds) -> None:
    """Return when something holds; it has minutes."""
    for _ in range(3000):
        if holds():
            return
        threading.Event().wait(0.1)
    raise AssertionError("it never holds")


def test_facts(client, album, index) -> None:
    (facts,) = client.get("/v1/archives").json()["archives"]
    assert facts == client.get("/v1/archives/album").json()
    with index.reading() as held:
        state, model = held.state.manifest.number, held.source.model
    assert facts["name"] == "album" and facts["photos"] == len(index) and facts["state"] == state
    assert facts["model"]["id"] == model and facts["bytes"] > 0
    assert (facts["local"], facts["geometry"], facts["global"]) == (True, "codes", None)
    assert (facts["writable"], facts["pictures"], facts["stale"]) == (False, "folder", False)
    assert facts["batch_size"] == 1
    assert str(album.archive.parent) not in str(facts)
    assert client.get("/v1/archives/nothing").status_code == 404


def test_names_and_folders(client, album, index) -> None:
    names = sorted(index.names())
    reply = client.get("/v1/photos").json()
    assert reply["photos"] == names and reply["next"] is None and reply["count"] == len(names)
    found, after = [], ""
    while after is not None:
        page = client.get("/v1/photos", params={"limit": 3, "after": after}).json()
        found, after = found + page["photos"], page["next"]
    assert found == names
    assert client.get("/v1/photos?prefix=first/c").json()["photos"] == [n for n in names if n.startswith("first/c")]
    folders = client.get("/v1/folders").json()["folders"]
    assert folders == [{"name": "first/", "photos": 8}, {"name": "odd/", "photos": 1}, {"name": "second/", "photos": 8}]
    assert client.get("/v1/folders?prefix=first/").json()["folders"] == []
    assert client.get("/v1/photos?limit=0").status_code == client.get("/v1/photos?strange=1").status_code == 422


def test_facts_of_a_photo(client, album, index) -> None:
    facts = client.get("/v1/photos/first/chelsea.jpg").json()
    path = album.photos / "first/chelsea.jpg"
    assert facts["name"] == "first/chelsea.jpg" and facts["file"]["size"] == path.stat().st_size
    assert facts["file"]["modified"].startswith("20") and facts["features"] > 100
    from PIL import Image

    with Image.open(path) as image:
        assert facts["size"] == list(image.size)


def test_commits_of_others_appear(connect, own_album) -> None:
    client = connect(own_album.archive, config=SOON)
    before = client.get("/v1/archives/album").json()
    with PhotoIndex.open(own_album.archive, writable=True) as other:
        other.remove(["first/coffee.jpg"])
    until(lambda: client.get("/v1/archives/album").json()["photos"] == before["photos"] - 1)
    assert client.get("/v1/photos/first/coffee.jpg").status_code == 404
    assert "first/coffee.jpg" not in client.get("/v1/photos").json()["photos"]
    answer = client.post("/v1/search", content=own_album.query("coffee")).json()
    assert "first/coffee.jpg" not in [result["name"] for result in answer["results"]]


def test_another_archive_in_its_place_is_answered_from(connect, own_album, tmp_path) -> None:
    """A link that leads to a new archive of the same number, as a deployment switches it."""
    other = tmp_path / "other.ctxindex"
    with PhotoIndex.create(other) as made:
        made.add([("new", own_album.photos / "first/coffee.jpg")])
    with PhotoIndex.open(own_album.archive) as opened, PhotoIndex.open(other) as made:
        assert len(opened) != len(made)
    link, newer = tmp_path / "live.ctxindex", tmp_path / "newer"
    link.symlink_to(own_album.archive)
    client = connect(link, config=SOON)
    newer.symlink_to(other)
    newer.rename(link)
    name = client.get("/v1/archives").json()["archives"][0]["name"]
    until(lambda: client.get("/v1/archives").json()["archives"][0]["photos"] == 1)
    assert client.get(f"/v1/photos?archive={name}").json()["photos"] == ["new"]


def test_what_cannot_be_read_leaves_the_last_whole_state(own_album, caplog) -> None:
    archives = Archives([own_album.archive], NEVER)
    served = archives.named(None)
    sound = (own_album.archive / "CURRENT").read_bytes()
    (own_album.archive / "CURRENT").write_text("nonsense\n")
    assert not served.look() and served.stale is not None
    assert not served.look()
    assert caplog.text.count("its last whole state") == 1  # said once
    assert len(served.photos) == 17 and served.facts(writable=False)["stale"]
    moved = own_album.archive.rename(own_album.archive.with_name("moved"))
    assert not served.look() and len(served.names()) == 17
    moved.rename(own_album.archive)
    (own_album.archive / "CURRENT").write_bytes(sound)
    assert not served.look() and served.stale is None
    with PhotoIndex.open(own_album.archive, writable=True) as other:
        other.remove(["first/coffee.jpg"])
    assert served.look() and len(served.photos) == len(served.names()) == 16
    archives.close()


def test_archives_of_one_model_share_its_network(own_album, tmp_path) -> None:
    twin = Path(shutil.copytree(own_album.archive, tmp_path / "twin.ctxindex"))
    archives = Archives([own_album.archive, twin], NEVER)
    for served in archives:
        archives.load(served)
    first, second = archives
    assert first.extractor is second.extractor is not None
    photo = own_album.query()
    assert [hit.name for hit in first.photos.search(photo)] == [hit.name for hit in second.photos.search(photo)]
    archives.close()


def test_an_archive_without_a_network_is_asked_before_it_is_ready_too(tmp_path, monkeypatch) -> None:
    """Its first search would wait for the judgement, and its first list for all names."""
    path, words = tmp_path / "bare.ctxindex", np.arange(8, dtype=np.int32)
    random = np.random.default_rng(0)
    with Index.create(path, Codebook.from_centroids(random.normal(size=(16, 128)).astype(np.float32))) as index:
        for number in range(20):
            codes = random.integers(0, 1 << 64, (8, 2), dtype=np.uint64)
            index.add_aggregated(f"{number:02d}", Aggregated(words=words, codes=codes))
    service = Service(Archives([path], NEVER), NEVER)
    (served,) = service.archives
    search, asked = served.photos.search_many, []

    def noted(photos, config):
        asked.extend(photos)
        return search(photos, config)

    monkeypatch.setattr(served.photos, "search_many", noted)
    service.prepare()
    assert service.readiness.is_prepared and service.readiness.failure is None
    assert asked == [IndexedPhoto(name="00")] * 2 and served._names is not None
    service.close()


def test_names_of_archives(own_album, tmp_path) -> None:
    (tmp_path / "below").mkdir()
    twin = Path(shutil.copytree(own_album.archive, tmp_path / "below" / "album.ctxindex"))
    with pytest.raises(
        ConfigError, match=r"both called album: give them names in a file: --config FILE, .*\[archives\]"
    ):
        Archives([own_album.archive, twin], NEVER)
    link = tmp_path / "link.ctxindex"
    link.symlink_to(own_album.archive)
    for again in (own_album.archive, tmp_path / "below" / ".." / "album.ctxindex"):
        with pytest.raises(ConfigError, match=r"is named twice: name it once$"):
            Archives([own_album.archive, again], NEVER)
    both = [own_album.archive, ArchivePlace(path=twin, name="twin")]
    archives = Archives(both, NEVER)
    assert [served.name for served in archives] == ["album", "twin"]
    archives.close()
    with pytest.raises(ArchiveError, match=r"^there is no .*nothing: make an archive with  ctxdeploy index DIR -o "):
        Archives([tmp_path / "nothing"], NEVER)
    with pytest.raises(ArchiveError, match=r"is not an archive"):
        Archives([own_album.photos], NEVER)


def test_nobody_is_dropped_while_states_come_and_go(own_album) -> None:
    """Eight threads ask, one commits, one looks: every answer is whole, and of one state."""
    archives = Archives([own_album.archive], ServiceConfig(refresh_seconds=0.01))
    served = archives.named(None)
    name, ended = "first/chelsea.jpg", threading.Event()
    sizes: dict[int, int] = {}

    def ask() -> int:
        asked = 0
        while not ended.is_set():
            with served.photos.reading() as index:
                number, count = index.state.manifest.number, len(index)
                hits = index.search(name, top=50)
                assert len({hit.name for hit in hits}) == len(hits) <= count == len(list(index.names()))
            assert sizes.get(number, count) == count
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(ask) for _ in range(8)]
        try:
            for victim in [f"second/{scene}.jpg" for scene in ("astronaut", "coffee", "rocket", "coins", "camera")]:
                with Index.open(own_album.archive, writable=True) as writer:
                    writer.remove(victim)
                    writer.commit()
                    number = writer.state.manifest.number
                    sizes[number] = len(writer)
                until(lambda number=number: served.photos.state == number)
        finally:
            ended.set()
        assert all(one.result() > 0 for one in asking)
    archives.close()


def test_a_folder_whose_name_is_no_text_is_served_under_one(connect, own_album) -> None:
    odd = own_album.archive.rename(own_album.archive.with_name("caf\udce9.ctxindex"))
    client = connect(odd, prepare=False)
    client.app.state.service.readiness.done()
    (name,) = [facts["name"] for facts in client.get("/v1/archives").json()["archives"]]
    assert name == "caf\ufffd"
    assert (
        client.get(f"/v1/archives/{name}").status_code
        == client.get("/v1/photos", params={"archive": name}).status_code
        == 200
    )
    assert f'ctxdeploy_archive_photos{{archive="{name}"}} 17.0' in client.get("/metrics").text


def test_an_archive_that_is_removed_is_answered_from_and_not_written(connect, own_album) -> None:
    client = connect(own_album.archive, config=ServiceConfig(writable=True, refresh_seconds=0.05))
    shutil.rmtree(own_album.archive)
    until(lambda: client.get("/v1/archives/album").json()["stale"])
    assert client.post("/v1/search", content=own_album.query()).json()["results"][0]["name"]
    assert client.get("/v1/search?indexed=first/coffee.jpg&verify=2").status_code == 200
    assert len(client.get("/v1/photos").json()["photos"]) == 17
    for reply in (
        client.put("/v1/photos/new.jpg", content=own_album.query()),
        client.delete("/v1/photos/first/coffee.jpg"),
        client.post("/v1/photos", files=[("photo", ("new.jpg", own_album.query()))]),
    ):
        assert (reply.status_code, reply.json()["code"]) == (503, "ArchiveError")
        assert reply.json()["detail"] == "album is not there any more: nothing can be written to it"
    assert client.get("/v1/originals/first/coffee.jpg").status_code == 404  # where the photos are stood in it
    assert client.get("/readyz").status_code == 200


def test_where_the_photos_are_may_be_damaged(connect, own_album, caplog) -> None:
    """Pictures are gone then, and searches are refused with what to do; their folder is still told to nobody."""
    client = connect(own_album.archive, config=ServiceConfig(refresh_seconds=0.05))
    (own_album.archive / "origin.json").write_text("nonsense")
    (facts,) = client.get("/v1/archives").json()["archives"]
    assert facts["pictures"] == "none" and not facts["stale"]
    answer = client.post("/v1/search", content=own_album.query())
    assert (answer.status_code, answer.json()["code"]) == (503, "ArchiveError")
    assert answer.json()["detail"] == "album/origin.json is damaged: remove it and run  ctxdeploy index  again"
    assert client.get("/v1/originals/first/coffee.jpg").json()["code"] == "NoPictures"
    refused = client.post("/v1/search", content=b"no photo")
    assert refused.status_code == 415
    assert caplog.text.count("where its photos are cannot be read") == 1
    told = client.app.state.service.problem(ArchiveError(f"{own_album.photos}/first/x.jpg is damaged")).detail
    assert told == "the folder of the photos/first/x.jpg is damaged"
