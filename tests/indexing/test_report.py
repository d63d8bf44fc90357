"""Which stage limits a run."""

import json

import pytest

from ctxdeploy.core.types import StageSeconds
from ctxdeploy.indexing.report import StageTimes
from ctxdeploy.runtime import ExtractionStatistics


@pytest.mark.parametrize(
    ("times", "limit", "said"),
    [
        ({"network": 9.0, "waiting": 1.0, "decode": 20.0}, "network", "the network takes most of the time"),
        ({"network": 2.0, "waiting": 7.0, "decode": 20.0, "read": 1.0}, "decode", "decoded"),
        ({"network": 2.0, "waiting": 7.0, "decode": 2.0, "read": 100.0}, "read", "--read-threads"),
        ({"network": 2.0, "blocked": 7.0, "assign": 8.0, "write": 1.0}, "assign", "--words"),
        ({"network": 2.0, "blocked": 7.0, "assign": 1.0, "write": 8.0}, "write", "--commit-seconds"),
    ],
)
def test_the_longest_wait_names_the_stage(times: dict[str, float], limit: str, said: str) -> None:
    stages = StageTimes(**times)
    assert stages.limit == limit
    assert said in stages.advice(2)
    assert json.loads(json.dumps(stages.metadata()))["limit"] == limit


def test_seconds_of_the_extraction_are_taken_over() -> None:
    stages = StageTimes(assign=3.0)
    seconds = StageSeconds(read=1.0, decode=2.0, network=5.0)
    stages.take(ExtractionStatistics(seconds=seconds, waiting=4.0), StageTimes(network=0.5))
    assert stages == StageTimes(read=1.0, decode=2.0, waiting=4.0, network=5.5, assign=3.0)


def test_what_is_advised_depends_on_what_runs() -> None:
    decode = StageTimes(waiting=1.0)
    assert "--workers 2" in decode.advice(1)
    assert "--draft" in decode.advice(512)
