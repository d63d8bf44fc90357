"""Hooks of mkdocs: pages from outside ``docs/`` come into the site, and links that a code host follows work there too.

A link is written relative to the file it stands in, as a code host reads it. On the site it leads to the page of that
file; to a file that has no page, say a module, it becomes plain text.
"""

import os
import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Files outside docs/ and their places in the site.
OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "ctxdeploy/models/lite-small/card.md": "lite-small.md",
    "ctxdeploy/models/ctx-small/card.md": "ctx-small.md",
}
PICTURES = sorted((ROOT / "benchmarks" / "results").glob("*.svg"))
PLACES = {**OUTSIDE, **{path.relative_to(ROOT).as_posix(): f"results/{path.name}" for path in PICTURES}}
_COPY = tempfile.TemporaryDirectory(prefix="ctxdeploy-site-")  # removed when mkdocs ends
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Copy the product into one folder with its rooms in place, which mkdocstrings reads; it does not follow links."""
    copy = Path(_COPY.name)
    ignored = shutil.ignore_patterns("__pycache__", "*.onnx", "*.pth", "*.safetensors")
    shutil.copytree(ROOT / "ctxdeploy", copy / "ctxdeploy", ignore=ignored)
    for room in ("export", "runtime", "index"):
        shutil.copytree(ROOT / room, copy / "ctxdeploy" / room, ignore=ignored)
    options: dict[str, Any] = config.plugins["mkdocstrings"].config
    options["handlers"]["python"]["paths"] = [str(copy)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside ``docs/``."""
    for place, target in PLACES.items():
        if (ROOT / place).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    sources = {target: place for place, target in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or "://" in target or target.startswith(("mailto:", "/")):
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        inside = PLACES.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
        if inside is None:
            return text if (ROOT / place).exists() else found[0]
        here = posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
        return f"{picture}[{text}]({here}{anchor})"

    return _LINK.sub(link, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Say where the site is."""
    print(f"the site is in {os.path.relpath(config.site_dir, Path.cwd())}/")
