"""What --codebook takes beside the files of `Codebook.save`: checkpoints of TensorFlow, as DELF-R-ASMK has them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export.crc32c import crc32c
from ctxdeploy.index import Codebook
from ctxdeploy.indexing.codebook import read_codebook
from ctxdeploy.indexing.given_codebook import open_given, own_file

CENTROIDS = np.random.default_rng(1).standard_normal((32, 16), dtype=np.float32)


@pytest.fixture
def write(load_reference: Any) -> Any:
    def write(prefix: Path, tensors: Any, **settings: Any) -> None:
        load_reference("tensor_bundle").write(prefix, tensors, crc32c=crc32c, **settings)

    return write


def test_a_folder_an_index_and_a_prefix_name_the_same_codebook(tmp_path: Path, write: Any) -> None:
    prefix = tmp_path / "k32" / "tfckpt" / "codebook"
    write(
        prefix, {"clusters": CENTROIDS, "cluster_counts": np.zeros(32, np.int64), "global_step": np.array(1, np.int64)}
    )
    expected = Codebook.from_centroids(CENTROIDS)
    for path in (tmp_path / "k32", prefix.parent, prefix, prefix.with_name("codebook.index")):
        assert open_given(path).id == expected.id and own_file(path) is None
    assert np.array_equal(read_codebook(tmp_path / "k32", 16).centroids, CENTROIDS)
    with pytest.raises(ConfigError, match="has dimension 16, the model 128"):
        read_codebook(tmp_path / "k32", 128)


@pytest.mark.parametrize(
    "settings", [{"suffix": "/.ATTRIBUTES/VARIABLE_VALUE"}, {"shards": 2}, {"rows": {"codebook": 10}}]
)
def test_the_forms_of_tensorflow_2_and_of_partitions(tmp_path: Path, write: Any, settings: Any) -> None:
    write(tmp_path / "a", {"codebook": CENTROIDS, "other": np.zeros((2, 2), np.float32)}, **settings)
    assert np.array_equal(open_given(tmp_path / "a.index").centroids, CENTROIDS)


def test_our_own_file_and_a_pickle_of_asmk_are_read_as_before(tmp_path: Path) -> None:
    codebook = Codebook.from_centroids(CENTROIDS)
    codebook.save(tmp_path / "own")
    (tmp_path / "codebook.pkl").write_bytes(
        pickle.dumps({"type": "Codebook", "params": {"index": {}, "size": 32}, "state": {"centroids": CENTROIDS}})
    )
    assert open_given(tmp_path / "own").id == open_given(tmp_path / "codebook.pkl").id == codebook.id
    assert own_file(tmp_path / "own") == tmp_path / "own" and own_file(tmp_path / "codebook.pkl") is None


def test_what_is_not_a_codebook_is_named(tmp_path: Path, write: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"must hold one checkpoint of TensorFlow \(\*\.index\), but holds none"):
        open_given(tmp_path / "empty")
    for name in ("a", "b"):
        write(tmp_path / "two" / name, {"clusters": CENTROIDS})
    with pytest.raises(ConfigError, match="has 2 of them; name the file"):
        open_given(tmp_path / "two")
    write(tmp_path / "net", {"conv/weights": np.zeros((3, 3, 1, 1), np.float32), "step": np.array(1, np.int64)})
    with pytest.raises(CheckpointError, match="it has no tensor 'clusters', but conv/weights, step"):
        open_given(tmp_path / "net.index")
    write(tmp_path / "whole", {"clusters": np.zeros((4, 4), np.int64)})
    with pytest.raises(CheckpointError, match=r"clusters is int64 of shape \[4, 4\], not words"):
        open_given(tmp_path / "whole.index")
    write(tmp_path / "nan", {"clusters": np.full((4, 4), np.nan, np.float32)})
    with pytest.raises((CheckpointError, ConfigError), match="descriptor 0 holds NaN"):
        open_given(tmp_path / "nan.index")
    data = tmp_path / "k" / "c.data-00000-of-00001"
    write(tmp_path / "k" / "c", {"clusters": CENTROIDS})
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="clusters is not what was written: copy the file again"):
        open_given(tmp_path / "k")
