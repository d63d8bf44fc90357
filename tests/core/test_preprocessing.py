"""The preprocessing contract and its hash."""

import json
from dataclasses import replace

import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import settings_sha256
from ctxdeploy.core.types import Preprocessing


def test_hash_is_pinned() -> None:
    # Every bundle and archive holds it: a change here makes all of them refuse to work with each other.
    assert Preprocessing().metadata() == {"image_size": 1024, "draft": False, "revision": 1}
    assert Preprocessing().hash == "b8e84206c7dc11d96a7ff400df7d4d00dec300dbbca80cbdfcc82af4241d5f25"


def test_hash_tells_settings_apart_and_survives_json() -> None:
    settings = [Preprocessing(), Preprocessing(image_size=768), Preprocessing(draft=True)]
    assert len({s.hash for s in settings}) == 3
    for s in settings:
        assert Preprocessing(**json.loads(json.dumps(s.metadata()))).hash == s.hash
        assert replace(s).hash == s.hash


def test_order_of_keys_does_not_matter() -> None:
    assert settings_sha256({"a": 1, "b": [2, {"c": 3, "d": 4}]}) == settings_sha256(
        {"b": [2, {"d": 4, "c": 3}], "a": 1}
    )
    assert settings_sha256({"a": 1}) != settings_sha256({"a": 2})
    with pytest.raises(ValueError, match="Out of range float"):
        settings_sha256({"a": float("nan")})


@pytest.mark.parametrize("size", [0, 15, 16385, -1])
def test_image_size_names_its_flag(size: int) -> None:
    with pytest.raises(ConfigError, match=f"image size {size} is outside 16..16384: give another --image-size"):
        Preprocessing(image_size=size)


def test_limits_are_included() -> None:
    assert [Preprocessing(image_size=size).image_size for size in (16, 16384)] == [16, 16384]


def test_an_unknown_revision_asks_for_an_upgrade() -> None:
    with pytest.raises(ConfigError, match="revision 2 is not known here: upgrade ctxdeploy"):
        Preprocessing(revision=2)


def test_the_decoder_is_part_of_the_hash_where_it_is_not_libjpeg() -> None:
    on_gpu = Preprocessing(decoder="nvimgcodec")
    assert on_gpu.metadata() == {"image_size": 1024, "draft": False, "revision": 1, "decoder": "nvimgcodec"}
    assert on_gpu.hash != Preprocessing().hash and Preprocessing(**on_gpu.metadata()) == on_gpu
    assert on_gpu.on_cpu() == Preprocessing()
    with pytest.raises(ConfigError, match="decoder 'other' is not known here: upgrade ctxdeploy"):
        Preprocessing(decoder="other")
    with pytest.raises(ConfigError, match="--draft is libjpeg's scaling, which nvimgcodec has not"):
        Preprocessing(draft=True, decoder="nvimgcodec")
