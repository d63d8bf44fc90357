"""Files of the DELF library, as its protocol buffers are written, and with bytes changed."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.delf_files import read_datum, read_local
from ctxdeploy.core.errors import ConfigError


@pytest.fixture(scope="module")
def writer(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("delf_files")


@pytest.fixture
def features() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return {
        "vectors": random.standard_normal((5, 40)).astype(np.float32),
        "places": random.random((5, 2)).astype(np.float32) * 500,
        "scales": np.array([1, 0.5, 2, 4, 1], np.float32),
        "strengths": np.array([120, 300, 150, 300, 99], np.float32),
    }


def test_arrays(writer: ModuleType, tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    for packed in (True, False):
        (tmp_path / "a.datum").write_bytes(writer.datum(array, packed=packed))
        np.testing.assert_array_equal(read_datum(tmp_path / "a.datum"), array)


def test_descriptors_come_strongest_first(writer: ModuleType, features: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.delf"
    path.write_bytes(writer.features(**features))
    found = read_local(path)
    order = [1, 3, 2, 0, 4]  # of equally strong ones the first
    np.testing.assert_array_equal(found.vectors, features["vectors"][order])
    np.testing.assert_array_equal(found.positions, features["places"][order])
    np.testing.assert_array_equal(found.scales, 1 / features["scales"][order])
    np.testing.assert_allclose(found.attention, features["strengths"][order] / 300, rtol=1e-6)


def test_a_photo_without_descriptors(tmp_path: Path) -> None:
    (tmp_path / "a.delf").write_bytes(b"")
    assert len(read_local(tmp_path / "a.delf")) == 0


def test_what_is_wrong_is_said(writer: ModuleType, features: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.delf"
    with pytest.raises(ConfigError, match=r"a\.delf cannot be read: No such file"):
        read_local(path)
    path.write_bytes(b"no descriptors at all")
    with pytest.raises(ConfigError, match=r"does not hold descriptors as the DELF library writes them"):
        read_local(path)
    path.write_bytes(writer.features(**{**features, "scales": np.zeros(5, np.float32)}))
    with pytest.raises(ConfigError, match="a scale that is not positive"):
        read_local(path)
    path.write_bytes(writer.features(**features) + writer.features(**{**features, "vectors": np.ones((5, 8))}))
    with pytest.raises(ConfigError, match="descriptor 6 is missing or of another size"):
        read_local(path)
    whole = writer.datum(np.ones((2, 3), np.float32))
    path.write_bytes(whole.replace(bytes([2, 3]), bytes([2, 4]), 1))
    with pytest.raises(ConfigError, match=r"6 numbers, but its shape is \[2, 4\]"):
        read_datum(path)


def test_changed_bytes_give_an_answer(writer: ModuleType, features: Any, tmp_path: Path) -> None:
    whole = writer.features(**features)
    random = np.random.default_rng(5)
    path = tmp_path / "a.delf"
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(2):
            content[random.integers(len(content))] = random.integers(256)
        path.write_bytes(content[: random.integers(len(content) + 1)])
        for read in (read_local, read_datum):
            try:
                read(path)
            except ConfigError as error:
                assert "a.delf" in str(error)
