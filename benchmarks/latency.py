"""Where does a request with a photo spend its time? One at a time over HTTP, and the same in process, in turns.

    python benchmarks/latency.py --photos minibench/images --archive work/minibench-pairs.ctxindex   # a minute

The service runs in a thread of this process, so that both ways have the same network, the same decoding processes and
the same archive: `PhotoIndex.answer` in this thread, and a request on loopback from it. What the machine does besides
meets both. Medians of each stage, in milliseconds; `added` is what a request takes longer than its queue, extraction
and search, as `serve.py` counts it; `of_requests` is a paired difference. `decoding` says what decoding in a process of
its own costs beside decoding in the thread that asks.
"""

import argparse
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from serving.subjects import load_average

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.bench import photo_files, publish
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.query import QueryConfig
from ctxdeploy.runtime.photo import PhotoSource, WorkItem
from ctxdeploy.runtime.worker import DecodeSettings, decode_item
from ctxdeploy.runtime.worker_process import ProcessDecoder
from ctxdeploy.service import Archives, Service, ServiceConfig, create_app
from ctxdeploy.service.listening import Listener, bound_socket
from ctxdeploy.service.logs import start_log
from ctxdeploy.service.record import RequestRecord

Row = dict[str, float]


class Asked:
    """A service in a thread of this process, which is asked one photo at a time, by HTTP and without."""

    def __init__(self, archive: Path) -> None:
        config = ServiceConfig(port=0)
        self._service = Service(Archives([archive], config), config)
        self._service.prepare()
        (self._served,) = self._service.archives
        self._records: list[RequestRecord] = []
        finished = self._service.metrics.finished

        def noted(record: RequestRecord, method: str, route: str, status: int) -> None:
            finished(record, method, route, status)
            self._records.append(record)

        self._service.metrics.finished = noted  # type: ignore[method-assign]
        bound = bound_socket(config)
        self._log = start_log(config.log_format)
        self._listener = Listener(create_app(self._service), config, self._service.readiness, lambda: None)
        self._thread = threading.Thread(target=self._listener.run, kwargs={"sockets": [bound]})
        self._thread.start()
        self._connection = http.client.HTTPConnection("127.0.0.1", bound.getsockname()[1])

    def by_http(self, photo: bytes) -> Row:
        """Return the seconds of a request, by stage."""
        self._records.clear()
        cpu, since = time.process_time(), time.perf_counter()
        self._connection.request("POST", "/v1/search", photo, {"Content-Type": "application/octet-stream"})
        reply = self._connection.getresponse()
        told = json.loads(reply.read())["seconds"]
        seconds, used = time.perf_counter() - since, time.process_time() - cpu
        while not self._records:  # the answer is there before its record is closed
            time.sleep(0.0005)
        stages = self._records[0].seconds
        inside = told["queue"] + told["extract"] + told["search"]
        return {
            "whole": seconds,
            "body": stages["body"],
            **{stage: told[stage] for stage in ("queue", "extract", "search")},
            "between": told["total"] - stages["body"] - inside,
            "outside": seconds - told["total"],
            "added": seconds - inside,
            "processor": used,
        }

    def in_process(self, photo: bytes) -> Row:
        """Return the seconds of a call, by stage."""
        cpu, since = time.process_time(), time.perf_counter()
        answer = self._served.photos.answer(photo, QueryConfig())
        seconds, used = time.perf_counter() - since, time.process_time() - cpu
        stages = {"extract": answer.extract_seconds, "search": answer.search_seconds}
        return {"whole": seconds, **stages, "added": seconds - sum(stages.values()), "processor": used}

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._listener.stop()
        self._thread.join()
        self._service.close()
        self._log.stop()


def compare(archive: Path, photos: Sequence[bytes], rounds: int, pause: float) -> dict[str, Any]:
    """Return the medians of both ways, and of their differences."""
    asked = Asked(archive)
    rows: dict[str, list[Row]] = {"http": [], "in_process": []}
    try:
        for photo in photos:  # meets every shape
            asked.in_process(photo)
            asked.by_http(photo)
        for turn in range(rounds):
            for number, photo in enumerate(photos):
                ways = [("http", asked.by_http), ("in_process", asked.in_process)]
                for name, ask in ways if (turn + number) % 2 == 0 else ways[::-1]:
                    time.sleep(pause)
                    rows[name].append(ask(photo))
    finally:
        asked.close()
    found: dict[str, Any] = {name: _medians(of) for name, of in rows.items()}
    pairs = list(zip(rows["http"], rows["in_process"], strict=True))
    found["of_requests"] = _medians([{stage: one[stage] - other[stage] for stage in other} for one, other in pairs])
    return found


def decoding(photos: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Return milliseconds of decoding a photo in a process, and in this thread."""
    settings, rows = DecodeSettings(preprocessing=Preprocessing()), list[Row]()
    decoder = ProcessDecoder(settings)
    try:
        for turn in range(-1, rounds):
            for photo in photos:
                first, second = (WorkItem(source=PhotoSource(name="photo", data=photo)) for _ in range(2))
                start = time.perf_counter()
                decoder.decode(first)
                between = time.perf_counter()
                decode_item(second, settings)
                end = time.perf_counter()
                if turn >= 0:
                    row = {"process": between - start, "thread": end - between}
                    rows.append({**row, "difference": row["process"] - row["thread"]})
    finally:
        decoder.release()
    return _medians(rows)


def _medians(rows: Sequence[Row]) -> dict[str, float]:
    return {name: round(1000 * median(row[name] for row in rows), 3) for name in rows[0]}


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photos to ask with; sample photos without it")
    parser.add_argument("--archive", type=Path, help="made of all the photos where it is not there")
    parser.add_argument("--count", type=int, default=24, help="photos to ask with, spread over the folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds before each, as at half of the load")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "latency.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = photo_files(options.photos, options.count, Path(folder))
        archive = (options.archive or Path(folder) / "photos.ctxindex").absolute()
        if not archive.exists():
            with PhotoIndex.create(archive, config=IndexingConfig(geometry="codes")) as made:
                made.add(options.photos or Path(folder))
        photos = [file.read_bytes() for file in files]
        with Path(os.devnull).open("w") as nowhere:
            said, sys.stderr = sys.stderr, nowhere  # a line a request
            try:
                result = compare(archive, photos, options.rounds, options.pause)
            finally:
                sys.stderr = said
        result["decoding"] = decoding(photos, options.rounds)
    facts = {"photos": len(photos), "rounds": options.rounds, "pause_s": options.pause, "load_average": load_average()}
    told = [f"{name}, ms: {of}" for name, of in result.items()]
    publish({**facts, "ms": result}, options.output, told)


if __name__ == "__main__":
    main()
