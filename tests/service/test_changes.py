"""Photos are added, replaced and removed over HTTP: seen by searches once the job is done, and not before a commit."""

import errno
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.cli.main import run
from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import Index
from ctxdeploy.service import ServiceConfig
from ctxdeploy.service.photo_files import PhotoFiles

WRITABLE = ServiceConfig(writable=True, refresh_seconds=3600.0)
# Left out of the archive and asked for: the page of text is of a scene that it does not hold otherwise.
SCENE = "chelsea"


@pytest.fixture
def lacking(own_album):
    """The album without one scene, whose files are taken away."""
    names = [f"{part}/{SCENE}.jpg" for part in ("first", "second")]
    with PhotoIndex.open(own_album.archive, writable=True) as index:
        assert index.remove(names) == 2
    for name in names:
        (own_album.photos / name).unlink()
    return own_album


def ended(client, reply) -> dict:
    """The job of a reply, once it has ended."""
    assert reply.status_code == 202, reply.text
    where = reply.headers["location"]
    assert where == f"/v1/jobs/{reply.json()['id']}"
    for _ in range(3000):
        job = client.get(where).json()
        if job["state"] in ("done", "failed"):
            return job
        threading.Event().wait(0.1)
    raise AssertionError("the job does not end")


def put(client, name: str, data: bytes, query: str = ""):
    url = quote(name.encode("utf-8", "surrogateescape"), safe="/")
    return client.put(f"/v1/photos/{url}{query}", content=data, headers={"Content-Type": "image/jpeg"})


def found(client, data: bytes, top: int = 3) -> dict[str, float]:
    results = client.post(f"/v1/search?top={top}", content=data).json()["results"]
    return {result["name"]: result["score"] for result in results}


def view(album, part: str = "first") -> bytes:
    return (album.photos / f"{part}/{SCENE}.jpg").read_bytes()


def test_add_find_replace_remove(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    before = client.get("/v1/archives/album").json()
    assert before["writable"] and "new/cat.jpg" not in found(client, album.query())

    job = ended(client, put(client, "new/cat.jpg", view(album)))
    assert (job["state"], job["kind"], job["photos"], job["failures"], job["remarks"]) == ("done", "add", 1, [], [])
    assert job["archive_state"] > before["state"]
    after = client.get("/v1/archives/album").json()
    assert after["photos"] == before["photos"] + 1 and after["state"] == job["archive_state"]
    assert next(iter(found(client, album.query()))) == "new/cat.jpg"
    assert (lacking.photos / "new/cat.jpg").read_bytes() == view(album)
    assert client.get("/v1/originals/new/cat.jpg").content == view(album)
    facts = client.get("/v1/photos/new/cat.jpg").json()
    assert facts["file"]["size"] == len(view(album)) and facts["state"] == job["archive_state"]

    score = found(client, album.query())["new/cat.jpg"]
    coffee = (lacking.photos / "first/coffee.jpg").read_bytes()
    assert ended(client, put(client, "new/cat.jpg", coffee))["failures"] == []
    assert found(client, album.query()).get("new/cat.jpg", 0.0) < score / 2
    assert (lacking.photos / "new/cat.jpg").read_bytes() == coffee
    assert client.get("/v1/archives/album").json()["photos"] == before["photos"] + 1

    job = ended(client, client.delete("/v1/photos/new/cat.jpg"))
    assert (job["state"], job["kind"], job["failures"]) == ("done", "remove", [])
    assert client.get("/v1/photos/new/cat.jpg").status_code == 404
    assert "new/cat.jpg" not in found(client, coffee) and (lacking.photos / "new/cat.jpg").exists()
    assert client.delete("/v1/photos/new/cat.jpg").status_code == 404
    listed = client.get("/v1/jobs").json()["jobs"]
    assert [one["kind"] for one in listed] == ["remove", "add", "add"]


def test_a_later_run_of_index_takes_the_stored_photo_for_what_it_is(connect, lacking, album, capfd) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    ended(client, put(client, "new/cat.jpg", view(album)))
    assert run(["index", str(lacking.photos), "-o", str(lacking.archive), "--dry-run", "--sync"]) == 0
    out = "".join(capfd.readouterr())
    assert "0 to add, 0 to replace, 16 unchanged, 0 gone" in out


def test_what_is_not_stored_is_kept_by_a_later_run(connect, lacking, album, capfd) -> None:
    config = ServiceConfig(writable=True, store_photos=False)
    client = connect(lacking.archive, config=config)
    job = ended(client, put(client, "an id without ending", view(album)))
    assert job["state"] == "done" and job["remarks"] == []
    assert not (lacking.photos / "an id without ending").exists()
    assert client.get("/v1/originals/an id without ending").status_code == 404
    assert client.delete("/v1/photos/an id without ending?file=true").status_code == 403
    assert run(["index", str(lacking.photos), "-o", str(lacking.archive), "--sync"]) == 0
    with PhotoIndex.open(lacking.archive) as index:
        assert "an id without ending" in index


def test_the_file_goes_too_where_that_is_said(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    ended(client, put(client, "new/cat.jpg", view(album)))
    job = ended(client, client.delete("/v1/photos/new/cat.jpg?file=true"))
    assert job["remarks"] == [] and not (lacking.photos / "new/cat.jpg").exists()
    ended(client, put(client, "new/cat.jpg", view(album)))
    (lacking.photos / "new/cat.jpg").write_bytes(b"somebody has edited it")
    job = ended(client, client.delete("/v1/photos/new/cat.jpg?file=true"))
    assert "another one than was indexed" in job["remarks"][0] and (lacking.photos / "new/cat.jpg").exists()


def test_several_photos_in_one_commit_and_those_that_cannot_be_read(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    good, torn = view(album), view(album, "second")[:3000]
    files = [("photo", (name, data)) for name, data in (("a.jpg", good), ("b.jpg", torn), ("c.jpg", good))]
    before = client.get("/v1/archives/album").json()["state"]
    job = ended(client, client.post("/v1/photos?folder=many/", files=files))
    assert (job["state"], job["photos"]) == ("done", 3)
    (failure,) = job["failures"]
    assert failure["name"] == "many/b.jpg" and "truncated" in failure["reason"] and "/" not in failure["reason"]
    assert sorted(path.name for path in (lacking.photos / "many").iterdir()) == ["a.jpg", "c.jpg"]
    assert {"many/a.jpg", "many/c.jpg"} <= set(found(client, album.query()))
    with PhotoIndex.open(lacking.archive) as index:
        assert index.failures() == []
    assert job["archive_state"] == client.get("/v1/archives/album").json()["state"] > before


def test_a_photo_that_cannot_be_read_replaces_nothing(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    name = "first/coffee.jpg"
    before = (lacking.photos / name).read_bytes()
    job = ended(client, put(client, name, view(album)[:3000]))
    assert job["state"] == "done" and job["failures"][0]["name"] == name
    assert (lacking.photos / name).read_bytes() == before and name in found(client, before)


def test_a_file_that_is_not_the_archives_is_never_replaced(connect, lacking, album) -> None:
    (lacking.photos / "notes.jpg").write_bytes(b"not indexed")
    client = connect(lacking.archive, config=WRITABLE)
    reply = put(client, "notes.jpg", view(album))
    assert reply.status_code == 409 and reply.json()["code"] == "FileExists"
    assert (lacking.photos / "notes.jpg").read_bytes() == b"not indexed"


def test_a_file_that_comes_between_is_not_replaced(connect, lacking, album, monkeypatch) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    real = PhotoFiles.store

    def store(self, name, data, *, replace):
        (lacking.photos / name).write_bytes(b"just now")
        return real(self, name, data, replace=replace)

    monkeypatch.setattr(PhotoFiles, "store", store)
    job = ended(client, put(client, "race.jpg", view(album)))
    assert job["failures"][0]["reason"] == "there is a file of this name, and the archive holds no such photo"
    assert (lacking.photos / "race.jpg").read_bytes() == b"just now"
    assert client.get("/v1/photos/race.jpg").status_code == 404


def test_a_folder_that_is_a_link_is_not_written_to(connect, lacking, album, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (lacking.photos / "linked").symlink_to(tmp_path / "elsewhere")
    client = connect(lacking.archive, config=WRITABLE)
    job = ended(client, put(client, "linked/cat.jpg", view(album)))
    assert job["state"] == "done" and "no picture is kept" in job["remarks"][0]
    assert list((tmp_path / "elsewhere").iterdir()) == [] and "linked/cat.jpg" in found(client, album.query())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(connect, lacking, album) -> None:
    lacking.photos.chmod(0o500)
    client = connect(lacking.archive, config=WRITABLE)
    job = ended(client, put(client, "cat.jpg", view(album)))
    lacking.photos.chmod(0o700)
    assert job["state"] == "done" and "no picture is kept" in job["remarks"][0]


def test_a_folder_on_a_read_only_disk_leaves_the_photo_without_a_picture(connect, lacking, album, monkeypatch) -> None:
    def refused(self, name, data, *, replace):
        raise StorageError(f"{lacking.photos / name} cannot be written: Read-only file system") from OSError(
            errno.EROFS, os.strerror(errno.EROFS)
        )

    monkeypatch.setattr(PhotoFiles, "store", refused)
    client = connect(lacking.archive, config=WRITABLE)
    job = ended(client, put(client, "cat.jpg", view(album)))
    assert job["state"] == "done" and job["remarks"][0].startswith("cat.jpg: no picture is kept")
    assert job["code"] is None and str(lacking.photos) not in job["remarks"][0]
    assert "cat.jpg" in found(client, album.query())


def test_where_the_folder_is_not_known(connect, lacking, album) -> None:
    (lacking.archive / "origin.json").unlink()
    client = connect(lacking.archive, config=WRITABLE)
    job = ended(client, put(client, "any name", view(album)))
    assert job["state"] == "done" and "folder of the archive's photos is not known" in job["remarks"][0]
    assert "any name" in found(client, album.query())


@pytest.mark.parametrize(
    "name",
    ["a.txt", ".hidden.jpg", "a/.b/c.jpg", "a//b.jpg", "%2Fetc/x.jpg", "a%00.jpg", "a%0Ab.jpg", "x" * 300 + ".jpg"],
)
def test_names_that_are_refused(connect, lacking, album, name: str) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    before = sorted(lacking.photos.rglob("*"))
    reply = client.put(f"/v1/photos/{name}", content=view(album))
    # No route has a line end in it.
    assert reply.status_code == (404 if "%0A" in name else 422), reply.text
    assert sorted(lacking.photos.rglob("*")) == before


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a/./b.jpg"])
def test_names_that_lead_out_are_refused(connect, lacking, album, name: str) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    reply = client.put(f"/v1/photos/{quote(name, safe='')}", content=view(album))
    assert reply.status_code == 422 and not (lacking.photos.parent / "x.jpg").exists()
    reply = client.post("/v1/photos", files=[("photo", (name, view(album)))])
    assert reply.status_code == 422 and not (lacking.photos.parent / "x.jpg").exists()


def test_odd_names_are_kept_as_they_were_sent(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    for name in ("e\u0301.jpg", "é.jpg", "caf\udce9.jpg", "<i>&'\".jpg"):
        job = ended(client, put(client, name, view(album)))
        assert job["state"] == "done" and job["remarks"] == [], job
        with PhotoIndex.open(lacking.archive) as index:
            assert name in index
    assert {"é.jpg", "e\u0301.jpg"} <= set(client.get("/v1/photos").json()["photos"])


def test_what_is_not_writable(connect, album) -> None:
    client = connect(album.archive)
    for reply in (put(client, "a.jpg", b"x"), client.delete("/v1/photos/first/coffee.jpg"), client.post("/v1/photos")):
        assert reply.status_code == 403 and reply.json()["code"] == "NotWritable"


def test_jobs_that_there_are_not(client) -> None:
    assert client.get("/v1/jobs/nonsense").status_code == 404
    assert client.get("/v1/jobs?limit=0").status_code == 422


def test_a_name_twice(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    files = [("photo", ("a.jpg", view(album)))] * 2
    assert client.post("/v1/photos", files=files).status_code == 422


def test_another_process_holds_the_lock(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    with Index.open(lacking.archive, writable=True) as other:
        reply = put(client, "cat.jpg", view(album))
        threading.Event().wait(1.0)
        assert client.get(reply.headers["location"]).json()["state"] == "waiting"
        other.remove("first/coffee.jpg")
    job = ended(client, reply)
    assert job["state"] == "done" and "cat.jpg" in found(client, album.query())
    assert client.get("/v1/photos/first/coffee.jpg").status_code == 404
    Index.open(lacking.archive, writable=True).close()  # idle: others may write


def test_another_process_holds_the_lock_for_too_long(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=ServiceConfig(writable=True, write_timeout=0.5))
    with Index.open(lacking.archive, writable=True):
        job = ended(client, put(client, "cat.jpg", view(album)))
    assert job["state"] == "failed" and "is being written by process" in job["reason"]
    assert job["failures"] == [{"name": "cat.jpg", "reason": job["reason"]}]
    assert str(lacking.archive) not in job["reason"] and not (lacking.photos / "cat.jpg").exists()


def test_too_much_waits(connect, lacking, album) -> None:
    config = ServiceConfig(writable=True, max_jobs=2, max_job_bytes=3 * len(view(album)))
    client = connect(lacking.archive, config=config)
    with Index.open(lacking.archive, writable=True):
        replies = [put(client, f"{n}.jpg", view(album)) for n in range(3)]
        assert [reply.status_code for reply in replies] == [202, 202, 429]
        assert replies[-1].json()["code"] == "JobsFull" and int(replies[-1].headers["retry-after"]) > 0
    assert [ended(client, reply)["state"] for reply in replies[:2]] == ["done", "done"]
    assert put(client, "3.jpg", view(album)).status_code == 202


def test_many_at_once_and_the_last_of_a_name_counts(connect, lacking, album) -> None:
    """Jobs that wait go into few commits, in their order."""
    client = connect(lacking.archive, config=WRITABLE)
    coffee = (lacking.photos / "first/coffee.jpg").read_bytes()
    with Index.open(lacking.archive, writable=True):
        replies = [put(client, f"n{n}.jpg", view(album)) for n in range(6)]
        replies += [put(client, "n0.jpg", coffee), client.delete("/v1/photos/n1.jpg"), put(client, "n2.jpg", coffee)]
    jobs = [ended(client, reply) for reply in replies]
    assert {job["state"] for job in jobs} == {"done"} and len({job["archive_state"] for job in jobs}) <= 3
    hits = found(client, album.query(), top=20)
    best = sorted(hits, key=lambda name: -hits[name])[:3]
    assert sorted(best) == ["n3.jpg", "n4.jpg", "n5.jpg"]
    assert client.get("/v1/photos/n1.jpg").status_code == 404


def test_a_commit_that_fails_leaves_nothing(connect, lacking, album, full_disk, monkeypatch) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    before = client.get("/v1/archives/album").json()
    real = Index.commit

    def failing(self):
        raise StorageError(f"{lacking.archive} cannot be written: No space left on device")

    monkeypatch.setattr(Index, "commit", failing)
    job = ended(client, put(client, "cat.jpg", view(album)))
    assert job["state"] == "failed" and "No space left" in job["reason"] and str(lacking.archive) not in job["reason"]
    assert not (lacking.photos / "cat.jpg").exists()
    assert client.get("/v1/archives/album").json() == before
    monkeypatch.setattr(Index, "commit", real)
    assert ended(client, put(client, "dog.jpg", view(album)))["state"] == "done"
    assert client.get("/v1/photos/cat.jpg").status_code == 404  # nothing of the failed job went along


def test_accepted_jobs_are_done_before_the_end(connect, lacking, album) -> None:
    client = connect(lacking.archive, config=WRITABLE)
    with Index.open(lacking.archive, writable=True):
        assert put(client, "cat.jpg", view(album)).status_code == 202
    client.app.state.service.close()
    with PhotoIndex.open(lacking.archive) as index:
        assert "cat.jpg" in index


def test_jobs_that_cannot_be_done_before_the_end_are_logged(connect, lacking, album, caplog) -> None:
    client = connect(lacking.archive, config=ServiceConfig(writable=True, grace_seconds=0.5))
    with Index.open(lacking.archive, writable=True):
        job = put(client, "cat.jpg", view(album)).json()
        client.app.state.service.close()
    assert job["id"] in caplog.text and "was not done" in caplog.text


@pytest.mark.slow
def test_a_service_that_is_killed_leaves_a_whole_archive(start, lacking, album, tmp_path) -> None:
    """kill -9 at moments of a job; started again, it goes on."""
    import httpx

    random = np.random.default_rng(0)
    accepted = 0
    for number in range(2):
        served = start(lacking.archive, "--writable")
        for n in range(4):
            reply = httpx.put(f"{served.url}/v1/photos/k{number}/{n}.jpg", content=view(album), timeout=60)
            accepted += reply.status_code == 202
        threading.Event().wait(float(random.uniform(0.0, 1.5)))
        served.end(9)
        with PhotoIndex.open(lacking.archive) as index:
            names = set(index.names())
            assert {hit.name for hit in index.search(album.queries / "coffee.jpg")}
        assert Index.problems(lacking.archive) == []
        for name in names - {"any"}:
            if name.startswith("k"):
                assert (lacking.photos / name).read_bytes() == view(album)
    assert accepted == 8
    served = start(lacking.archive, "--writable")
    reply = httpx.put(f"{served.url}/v1/photos/last.jpg", content=view(album), timeout=60)
    job = f"{served.url}{reply.headers['location']}"
    while httpx.get(job, timeout=60).json()["state"] not in ("done", "failed"):
        threading.Event().wait(0.1)
    assert httpx.get(job, timeout=60).json()["state"] == "done"
    assert served.end() == 0
    report = shutil.copytree(lacking.archive, tmp_path / "copy")
    assert Index.problems(Path(report)) == []
