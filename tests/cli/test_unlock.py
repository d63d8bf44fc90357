"""Who writes an archive is shown, and a writer of another machine that is gone gives way by hand."""

import os
import socket
from dataclasses import replace
from pathlib import Path

from ctxdeploy.index import Index
from ctxdeploy.index.storage.holder import Holder


def test_the_lease_is_shown_and_broken(call, archive, tmp_path: Path) -> None:
    with Index.open(archive, writable=True):
        writer = call("info", archive, "--json").json[0]["writer"]
        assert (writer["host"], writer["process"]) == (socket.gethostname(), os.getpid())
        for command in ("info", "verify"):
            assert f"being written by process {os.getpid()} on {socket.gethostname()}" in call(command, archive).out
        refused = call("unlock", archive)
        assert refused.code == 15 and f"process {os.getpid()} on" in refused.err
    assert call("info", archive, "--json").json[0]["writer"] is None
    assert "nobody writes it" in call("unlock", archive).out
    number = max(int(path.name) for path in (archive / "lease").iterdir())
    for as_json in (False, True):
        number += 1
        place = archive / "lease" / str(number)
        place.mkdir()
        far = replace(
            Holder.here(), host="far", boot="another", machine="another", process=12, command="ctxdeploy index"
        )
        (place / "owner").write_bytes(far.encode())
        assert call("verify", archive, "--json").json[0]["writer"]["host"] == "far"
        result = call("unlock", archive, *(["--json"] if as_json else []))
        if as_json:
            assert result.json[0]["writer"]["process"] == 12
        else:
            assert "taken from process 12 on far (ctxdeploy index, since " in result.out
        assert not place.exists()
        number += 1
    Index.open(archive, writable=True).close()
    assert call("unlock", tmp_path).code == 15
