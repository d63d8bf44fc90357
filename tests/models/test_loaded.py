"""A model in use: what is loaded for a query, and what is not."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ctxdeploy.models.loaded import LoadedModel


def test_a_network_that_is_loaded_does_not_let_queries_prepare_again() -> None:
    """Preparing takes longer than many a search."""
    bundle = SimpleNamespace(model_id="m", preprocessing=SimpleNamespace(hash="h"))
    checked, prepared = list[dict[str, str]](), list[str]()

    class Index:
        def check_source(self, **given: str) -> None:
            checked.append(given)

        @contextmanager
        def preparing(self) -> Any:
            prepared.append("once")
            yield

    extractor: Any = SimpleNamespace(bundle=bundle)
    index: Any = Index()
    loaded = LoadedModel(Path("none"), None, None, None, extractor)
    for _ in range(2):
        network = loaded.loading(index)
        assert network() is network() is extractor
    assert prepared == [] and checked == [{"model": "m", "preprocessing": "h"}] * 4
    # A network that is not there yet is loaded while the rest of a search is prepared, once for a query.
    later: Any = LoadedModel(Path("none"), None, None, None, None)
    later._bundle, later.extractor = bundle, lambda: extractor
    network = later.loading(index)
    assert network() is network() is extractor and prepared == ["once"]
