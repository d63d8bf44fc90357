"""Pictures and a page of what a network sees in one photo, drawn with Pillow alone.

The numbers come from ``ctxdeploy.runtime.inspection``; ``write_inspection`` turns them into a folder.
"""

from ctxdeploy.report.inspection.folder import check_output, write_inspection

__all__ = ["check_output", "write_inspection"]
