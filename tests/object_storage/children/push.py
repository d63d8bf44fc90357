"""Publishes an archive; the server may kill it."""

import sys
from pathlib import Path

from ctxdeploy.core.progress import Display
from ctxdeploy.object_storage.push import push
from ctxdeploy.object_storage.stores import open_objects

push(Path(sys.argv[1]), open_objects(sys.argv[2]), Display(quiet=True))
