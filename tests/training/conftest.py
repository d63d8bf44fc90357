"""A small set of photos of landmarks: views of scikit-image's photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo

SCENES = ("astronaut", "coffee", "rocket", "hubble_deep_field", "stereo_motorcycle", "coins")


@pytest.fixture(scope="session")
def landmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of six folders with three photos each, at most 160 pixels."""
    folder = tmp_path_factory.mktemp("landmarks")
    random = np.random.default_rng(0)
    for scene in SCENES:
        (folder / scene).mkdir()
        for number in range(3):
            view = make_view(sample_photo(scene), random, ViewConfig(longest=160))
            Image.fromarray(np.asarray(view)).save(folder / scene / f"{scene}_{number}.png")
    return folder
