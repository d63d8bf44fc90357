"""The process: from its start to its end."""

import signal
from typing import Any

import httpx
import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0(start: Any, album: Any, number: signal.Signals) -> None:
    served = start(album.archive)
    assert httpx.get(f"{served.url}/livez").json() == {"status": "alive"}
    assert served.end(number) == 0
    assert all(" GET /livez 200 " in line or " GET /readyz " in line for line in served.log if line), served.log
