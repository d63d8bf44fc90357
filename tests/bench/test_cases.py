"""Another configuration that takes turns with the main one."""

import pytest

from ctxdeploy.bench.cases import label_of_against, parse_against
from ctxdeploy.core.errors import ConfigError


def test_another_configuration_is_parsed_or_refused() -> None:
    found = parse_against("backend=openvino, threads=2", ("backend", "threads"))
    assert found == {"backend": "openvino", "threads": 2}
    assert label_of_against(found) == "against backend openvino, threads 2"
    for text in ("", "threads", "threads=", "threads=0", "threads=x", "colour=red", "threads=1,threads=2"):
        with pytest.raises(ConfigError, match="--against"):
            parse_against(text, ("backend", "threads"))
