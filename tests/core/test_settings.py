"""Settings that are given from Python, where nothing but their class looks at what they are."""

from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.query import QueryConfig
from ctxdeploy.runtime import BackendConfig, ExtractorConfig
from ctxdeploy.runtime.config import DecodeLimits, RemoteConfig


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        (IndexingConfig, {"words": 1.5}, "--words 1.5 is not a whole number"),
        (IndexingConfig, {"words": "64"}, "--words '64' is not a whole number"),
        (IndexingConfig, {"training_photos": None}, "--training-photos None is not a whole number"),
        (IndexingConfig, {"seed": True}, "seed True is not a whole number"),
        (IndexingConfig, {"sync": "no"}, "--sync 'no' is not true or false"),
        (IndexingConfig, {"geometry": 1}, "--geometry 1 is not one of none, positions, codes, descriptors"),
        (IndexingConfig, {"commit_seconds": "10"}, "--commit-seconds '10' is not a number"),
        (QueryConfig, {"top": 2.5}, "--top 2.5 is not a whole number"),
        (QueryConfig, {"alpha": "3"}, "--alpha '3' is not a number"),
        (QueryConfig, {"idf": 0}, "--idf 0 is not true or false"),
        (ExtractorConfig, {"workers": 2.0}, "--workers 2.0 is not a whole number"),
        (ExtractorConfig, {"memory_limit": "4GB"}, "--memory-limit '4GB' is not a whole number"),
        (DecodeLimits, {"max_pixels": 1e6}, "--max-pixels 1000000.0 is not a whole number"),
        (RemoteConfig, {"attempts": None}, "attempts None is not a whole number"),
        (BackendConfig, {"threads": "2"}, "--threads '2' is not a whole number"),
        (BackendConfig, {"name": None}, "None is not a text"),
    ],
)
def test_a_value_of_another_type_is_said(config: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**values)


def test_numbers_of_numpy_are_numbers() -> None:
    assert IndexingConfig(words=np.int64(64), commit_seconds=np.float32(1)).words == 64  # type: ignore[arg-type]
    assert QueryConfig(top=np.uint8(3), alpha=2, idf=None).top == 3  # type: ignore[arg-type]
