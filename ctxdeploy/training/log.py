"""Figures of a training run as CSV, one line every so many steps."""

import csv
import io
from pathlib import Path

from ctxdeploy.core.files import storing, write_text


class CsvLog:
    """A CSV file that grows by lines; a run that continues first drops the lines beyond its state.

    Args:
        path: the file.
        columns: names; the first is the step.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._path, self._columns = path, columns

    def rewind(self, step: int) -> None:
        """Keep the lines up to a step, or begin the file.

        Raises:
            StorageError: the file cannot be written.
        """
        kept = [row for row in self.rows() if int(row[self._columns[0]]) <= step]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_text(self._path, buffer.getvalue())

    def append(self, *values: float | str) -> None:
        """Add a line.

        Raises:
            StorageError: the file cannot be written.
        """
        line = ",".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
        with storing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def has_other_columns(self) -> bool:
        """Tell whether there is a file with columns other than these."""
        if not self._path.exists():
            return False
        with self._path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), None) != list(self._columns)

    def rows(self) -> list[dict[str, str]]:
        """Return the lines there are; a last one that a crash cut off is left out."""
        if not self._path.exists():
            return []
        with self._path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole)))
        return [row for row in rows if set(row) == set(self._columns) and row[self._columns[0]].isdigit()]
