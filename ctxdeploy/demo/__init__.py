"""The demo: an archive of real photos that anyone can make, and queries whose right answers are known.

The names below are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]

_HOMES = {"DemoResult": "run", "run_demo": "run"}

__getattr__, __dir__ = door(__name__, _HOMES)
