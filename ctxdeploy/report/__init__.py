"""What a person looks at: HTML pages that need no other file, drawn by the templates of ``templates/``.

    from ctxdeploy.report import write_answers

    write_answers(Path("answers.html"), answers, photos=Path("photos"), title="holiday")

The names below are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.report.answers import picture_of, write_answers
    from ctxdeploy.report.bundle import write_bundle_report
    from ctxdeploy.report.diff import diff_lines, write_diff
    from ctxdeploy.report.failures import write_failures
    from ctxdeploy.report.inspection.folder import check_inspection, write_inspection

__all__ = [
    "check_inspection",
    "diff_lines",
    "picture_of",
    "write_answers",
    "write_bundle_report",
    "write_diff",
    "write_failures",
    "write_inspection",
]

_HOMES = {
    "check_inspection": "inspection.folder",
    "diff_lines": "diff",
    "picture_of": "answers",
    "write_answers": "answers",
    "write_bundle_report": "bundle",
    "write_diff": "diff",
    "write_failures": "failures",
    "write_inspection": "inspection.folder",
}

__getattr__, __dir__ = door(__name__, _HOMES)
