"""Owns what a folder or table of photos means: it is read into a plan before anything is stored.

Three layouts are known: a folder per individual, the CSV of wildlife-datasets, and the CSV of the
Happywhale contests. Ids stay the text that they are. Planning lists every problem at once; nothing
is decoded and no database is touched.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from indexer.archive import Skip, escapes, is_system_file

Box = tuple[int, int, int, int]


class Layout(StrEnum):
    """How individuals and photos are told apart in a source."""

    FOLDERS = "folders"
    WILDLIFE = "wildlife"
    HAPPYWHALE = "happywhale"


class ImportPlanError(Exception):
    """The source as a whole cannot be planned.

    `code` is one of `not_found`, `not_a_source`, `not_a_table`, `unknown_columns`,
    `several_tables`, `no_individuals`, `no_rows`; `detail` is a sentence with the next step.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ImportEntry:
    """One photo, or one animal in it, as the source describes it."""

    name: str
    """How the source calls the file; what skips and progress show."""
    path: Path
    """Where the file lies; of an object only the last part, its name, means anything."""
    individual: str | None
    """None: the source does not know who this is."""
    location: str | None = None
    """URI where the bytes are to stay; None: they are copied into the store."""
    taxon: str | None = None
    box_px: Box | None = None
    viewpoint: str | None = None
    encounter: str | None = None
    """Scoped identifier of the encounter (see `encounter_id`), if the source gives one."""
    started_at: datetime | None = None
    """The earliest time that the source gives for the encounter, else for this photo."""
    source_ref: str | None = None


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would do. `total` inputs = `entries` to try + `skips` already refused.

    `warnings` tell of details that were left out or guessed while the photo itself is kept.
    """

    source: str
    root: Path | str
    """The folder, or the URI of the prefix."""
    layout: Layout
    entries: tuple[ImportEntry, ...]
    skips: tuple[Skip, ...]
    warnings: tuple[Skip, ...]

    @property
    def total(self) -> int:
        return len(self.entries) + len(self.skips)

    @property
    def individuals(self) -> int:
        """How many different names the entries carry, upper and lower case counted as one."""
        return len({entry.individual.lower() for entry in self.entries if entry.individual})


def plan_import(
    path: Path, layout: Layout | str | None = None, *, source: str | None = None
) -> ImportPlan:
    """Read what lies at `path` (a folder or a CSV) into a plan.

    Without `layout` it is recognised: the one CSV with known columns, else a folder per individual.
    `source` names where the photos come from and scopes encounter numbers; by default the name of
    the folder, so that a second run of the same import finds its encounters again.

    Raises:
        ImportPlanError: the source as a whole makes no sense.
        ValueError: `layout` is not one of the three.
    """
    wanted = None if layout is None else Layout(layout)
    if not path.exists():
        raise ImportPlanError("not_found", f"There is nothing at {path}. Check the path.")
    path = path.resolve()
    root = path if path.is_dir() else path.parent
    name = source or root.name or "import"
    if wanted is Layout.FOLDERS:
        return _plan_folders(root, name, ()) if path.is_dir() else _refuse_file(path)
    if path.is_file():
        return plan_table(_read_table(path), wanted, name, _files_below(root))
    return _plan_folder_or_table(root, wanted, name)


def encounter_id(source: str, individual: str | None, encounter: str) -> str:
    """The identifier under which an encounter of a source is kept.

    It is scoped by source and by individual: many sources number the encounters of each animal from
    1, and joining two animals' "1" would be wrong, while parting a real group only loses the group.
    """
    parts = (source, individual or "unknown", encounter)
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def _refuse_file(path: Path) -> ImportPlan:
    raise ImportPlanError(
        "not_a_source", f"{path.name} is a file; the layout `folders` needs a folder."
    )


# --- tables -----------------------------------------------------------------------------------

_ENCODINGS: Final = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig"))
_DELIMITERS: Final = (",", ";", "\t")
_BLANK: Final = frozenset({"", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "None"})
_UNKNOWN: Final = frozenset({"unknown", "____", "new_whale", "new_individual"})
_PHOTO_FOLDERS: Final = ("", "train_images", "images")
_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_MAX_ID_LENGTH: Final = 200
_DIGIT: Final = re.compile(r"\d")
_SPREADSHEET_NUMBER: Final = re.compile(r"\d[.,]\d+E\+?\d+")
_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "ref": ("image_id",),
    "taxon": ("species", "taxon"),
    "box": ("bbox",),
    "date": ("date", "timestamp", "datetime"),
    "viewpoint": ("orientation", "viewpoint", "position"),
    "encounter": ("encounter", "encounter_id"),
}
_REQUIRED: Final[dict[Layout, dict[str, tuple[str, ...]]]] = {
    Layout.WILDLIFE: {"path": ("path",), "identity": ("identity",)},
    Layout.HAPPYWHALE: {"path": ("image",), "identity": ("individual_id", "id")},
}


Locate = Callable[[str], tuple[Path, str | None] | Skip]
"""What a table means by a photo's name: its path and location, as in an entry."""


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV that was read: its file name, the place it lies in, its header in lower case."""

    name: str
    root: Path | str
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """Line number where the row ends, and its cells."""
    warnings: tuple[Skip, ...]

    def layout(self) -> Layout | None:
        return next((layout for layout in _REQUIRED if not self.missing(layout)), None)

    def missing(self, layout: Layout) -> list[str]:
        needed = _REQUIRED[layout].values()
        return [names[0] for names in needed if not any(name in self.header for name in names)]


def _read_table(path: Path) -> Table:
    return parse_table(path.name, path.parent, path.read_bytes())


def parse_table(name: str, root: Path | str, data: bytes) -> Table:
    """Raises:
    ImportPlanError: `not_a_source` or `not_a_table`.
    """
    if data[:4] == b"PK\x03\x04":
        raise ImportPlanError(
            "not_a_source", f"{name} is an archive. Unpack it and import the folder."
        )
    text, warnings = _decode_text(name, data)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        rows = [(lines.line_num, tuple(cell.strip() for cell in row)) for row in lines]
    except csv.Error as error:
        raise ImportPlanError(
            "not_a_table", f"{name}, line {lines.line_num}: {error}. Save it as plain CSV."
        ) from error
    rows = [(line, row) for line, row in rows if any(row)]
    header = tuple(cell.lower() for cell in rows[0][1]) if rows else ()
    return Table(name, root, header, tuple(rows[1:]), warnings)


def _decode_text(name: str, data: bytes) -> tuple[str, tuple[Skip, ...]]:
    encoding = next(encoding for mark, encoding in _ENCODINGS if data.startswith(mark))
    try:
        return data.decode(encoding), ()
    except UnicodeDecodeError as error:
        warning = Skip(
            name,
            "encoding_guessed",
            f"Byte {error.start} is not {encoding}; the table was read as Windows-1252. "
            f"Save it as UTF-8 if names look wrong.",
        )
        return data.decode("cp1252", errors="replace"), (warning,)


def _delimiter(text: str) -> str:
    """The delimiter that splits the first line into the most cells."""
    first = text.lstrip("\r\n").split("\n", 1)[0]
    return max(_DELIMITERS, key=first.count)


def _plan_folder_or_table(root: Path, wanted: Layout | None, source: str) -> ImportPlan:
    tables = [_read_table(path) for path in sorted(root.glob("*.csv")) if path.is_file()]
    fitting, ignored = choose_table(tables, wanted, root)
    if fitting is not None:
        return plan_table(fitting, wanted, source, _files_below(root))
    return _plan_folders(root, source, ignored)


def choose_table(
    tables: Sequence[Table], wanted: Layout | None, root: Path | str
) -> tuple[Table | None, tuple[Skip, ...]]:
    """The one table of known columns, or else a warning for each table that is none.

    Raises:
        ImportPlanError: `several_tables`, or `unknown_columns` where one was `wanted`.
    """
    if wanted is not None:
        fitting = [table for table in tables if not table.missing(wanted)]
    else:
        fitting = [table for table in tables if table.layout() is not None]
    if len(fitting) > 1:
        names = ", ".join(table.name for table in fitting)
        raise ImportPlanError(
            "several_tables", f"{root} holds several tables: {names}. Name the one to import."
        )
    if fitting:
        return fitting[0], ()
    if wanted is not None:
        raise ImportPlanError(
            "unknown_columns",
            f"No CSV in {root} has the columns of {wanted} ({_needed(wanted)}). "
            f"Give the path of the table itself.",
        )
    ignored = tuple(
        Skip(
            table.name,
            "table_ignored",
            f"Its columns ({', '.join(table.header)}) are those of no known layout, so a folder "
            f"per individual was assumed.",
        )
        for table in tables
    )
    return None, ignored


def _needed(layout: Layout) -> str:
    return ", ".join("|".join(names) for names in _REQUIRED[layout].values())


def plan_table(table: Table, wanted: Layout | None, source: str, locate: Locate) -> ImportPlan:
    """Raises:
    ImportPlanError: `unknown_columns` or `no_rows`.
    """
    layout = wanted or table.layout()
    if layout is None or table.missing(layout):
        choices = "; ".join(f"{one}: {_needed(one)}" for one in ([layout] if layout else _REQUIRED))
        raise ImportPlanError(
            "unknown_columns",
            f"{table.name} has the columns {', '.join(table.header) or '(none)'}. "
            f"Needed are {choices}.",
        )
    if not table.rows:
        raise ImportPlanError("no_rows", f"{table.name} has a header and no rows.")
    reader = _RowReader(table, layout, source, locate)
    entries: list[ImportEntry] = []
    skips: list[Skip] = []
    for line, cells in table.rows:
        outcome = reader.read(line, cells)
        if isinstance(outcome, Skip):
            skips.append(outcome)
        else:
            entries.append(outcome)
    warnings = table.warnings + tuple(reader.warnings)
    return ImportPlan(source, table.root, layout, _with_starts(entries), tuple(skips), warnings)


def _with_starts(entries: Iterable[ImportEntry]) -> tuple[ImportEntry, ...]:
    """Entries that share an encounter get its earliest time."""
    entries = tuple(entries)
    starts: dict[str, datetime] = {}
    for entry in entries:
        if entry.encounter and entry.started_at:
            known = starts.get(entry.encounter, entry.started_at)
            starts[entry.encounter] = min(known, entry.started_at)
    return tuple(
        replace(entry, started_at=starts.get(entry.encounter)) if entry.encounter else entry
        for entry in entries
    )


class _RowReader:
    """Reads the rows of one table; collects warnings as it goes."""

    def __init__(self, table: Table, layout: Layout, source: str, locate: Locate) -> None:
        self.warnings: list[Skip] = []
        self._locate = locate
        self._source = source
        self._width = len(table.header)
        columns = _COLUMNS | _REQUIRED[layout]
        self._index = {
            field: table.header.index(name)
            for field, names in columns.items()
            for name in [next((n for n in names if n in table.header), None)]
            if name is not None
        }

    def read(self, line: int, cells: tuple[str, ...]) -> ImportEntry | Skip:
        name = self._cell(cells, "path") or f"line {line}"
        problem = self._problem(line, name, cells)
        if problem is not None:
            return problem
        found = self._locate(name)
        if isinstance(found, Skip):
            return replace(found, detail=f"Line {line}: {found.detail}")
        box = _parse_box(self._cell(cells, "box"))
        if isinstance(box, str):
            return Skip(name, "bad_box", f"Line {line}: {box}")
        individual = self._individual(line, name, cells)
        when, day = self._when(line, name, cells)
        path, location = found
        return ImportEntry(
            name=name,
            path=path,
            individual=individual,
            location=location,
            taxon=self._cell(cells, "taxon"),
            box_px=box,
            viewpoint=known_name(self._cell(cells, "viewpoint")),
            encounter=self._encounter(cells, individual, day),
            started_at=when,
            source_ref=self._cell(cells, "ref") or name,
        )

    def _cell(self, cells: tuple[str, ...], field: str) -> str | None:
        at = self._index.get(field)
        text = cells[at] if at is not None and at < len(cells) else ""
        return None if text in _BLANK else text

    def _problem(self, line: int, name: str, cells: tuple[str, ...]) -> Skip | None:
        extra = [cell for cell in cells[self._width :] if cell]
        if extra or len(cells) <= max(self._index["path"], self._index["identity"]):
            return Skip(
                name,
                "bad_row",
                f"Line {line} has {len(cells)} cells, the header has {self._width}. "
                f"Quote cells that hold the separator.",
            )
        if not all(storable(cell) for cell in cells):
            return Skip(name, "bad_text", f"Line {line} holds characters that cannot be stored.")
        ids = (self._cell(cells, "identity"), self._cell(cells, "encounter"))
        if any(len(text) > _MAX_ID_LENGTH for text in ids if text):
            return Skip(
                name, "bad_text", f"Line {line} has an id of more than {_MAX_ID_LENGTH} characters."
            )
        if self._cell(cells, "path") is None:
            return Skip(name, "missing_path", f"Line {line} names no photo.")
        return None

    def _individual(self, line: int, name: str, cells: tuple[str, ...]) -> str | None:
        identity = self._cell(cells, "identity")
        if identity is None:
            self._warn(name, "blank_identity", f"Line {line} names nobody: kept as unknown.")
            return None
        if _SPREADSHEET_NUMBER.fullmatch(identity):
            self._warn(
                name,
                "spreadsheet_number",
                f"Line {line}: {identity!r} looks like an id that a spreadsheet turned into a "
                f"number. It is kept as it is; check the table.",
            )
        return known_name(identity)

    def _when(
        self, line: int, name: str, cells: tuple[str, ...]
    ) -> tuple[datetime | None, str | None]:
        """The time in UTC (a clock without a zone is read as UTC), and the day as written."""
        text = self._cell(cells, "date")
        if text is None:
            return None, None
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            self._warn(
                name,
                "bad_date",
                f"Line {line}: {text!r} is no date of the form 2024-05-31 or 2024-05-31 14:05:00; "
                f"the photo is kept without it.",
            )
            return None, None
        zoned = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return zoned.astimezone(UTC), when.date().isoformat()

    def _encounter(
        self, cells: tuple[str, ...], individual: str | None, day: str | None
    ) -> str | None:
        given = self._cell(cells, "encounter")
        if given is not None:
            return encounter_id(self._source, individual, given)
        return day_encounter(self._source, individual, day)

    def _warn(self, name: str, code: str, detail: str) -> None:
        self.warnings.append(Skip(name, code, detail))


def known_name(text: str | None) -> str | None:
    return None if text is None or text.lower() in _UNKNOWN else text


def day_encounter(source: str, individual: str | None, day: str | None) -> str | None:
    """One individual on one day is one encounter; nothing follows for an unknown animal."""
    if individual is None or day is None:
        return None
    return encounter_id(source, individual, f"day {day}")


def _parse_box(text: str | None) -> Box | str | None:
    """`[x, y, w, h]` in pixels, rounded outwards to whole ones; a sentence if it is none."""
    if text is None:
        return None
    if not _DIGIT.search(text) and "nan" in text.lower():
        return None
    numbers = [float(number) for number in _NUMBER.findall(text)]
    rest = _NUMBER.sub("", text).strip("[]() ,;\t")
    if len(numbers) != 4 or rest.strip(" ,;") or max(map(abs, numbers)) > 1e6:
        return f"{text!r} is no box [x, y, width, height] in pixels."
    x, y, w, h = numbers
    if w <= 0 or h <= 0:
        return f"The box {text!r} is empty: width and height must be above 0."
    left, top = int(x // 1), int(y // 1)
    return left, top, int(-(-(x + w) // 1)) - left, int(-(-(y + h) // 1)) - top


def _files_below(root: Path) -> Locate:
    def locate(name: str) -> tuple[Path, str | None] | Skip:
        if escapes(name):
            return outside(root, name)
        for spelling in spellings(name):
            path = root / spelling
            if _is_file(path):
                return (path, None) if path.resolve().is_relative_to(root) else outside(root, name)
        return missing(root, name)

    return locate


def spellings(name: str) -> Iterator[str]:
    """Where a photo that a table names may lie: beside it, in `train_images/` or in `images/`."""
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in _PHOTO_FOLDERS:
            yield f"{folder}/{spelling}" if folder else spelling


def missing(root: Path | str, name: str) -> Skip:
    return Skip(name, "file_missing", f"There is no file {name!r} under {root}.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system allows
        return False


def outside(root: Path | str, name: str) -> Skip:
    return Skip(name, "outside_folder", f"{name!r} lies outside {root}; it was not read.")


def storable(text: str) -> bool:
    """PostgreSQL stores any text but NUL and lone surrogates (undecodable file names)."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- folders ----------------------------------------------------------------------------------


def _plan_folders(root: Path, source: str, warnings: tuple[Skip, ...]) -> ImportPlan:
    entries: list[ImportEntry] = []
    skips: list[Skip] = []
    noted = list(warnings)
    for individual in sorted(path for path in root.iterdir() if path.is_dir()):
        before = len(entries) + len(skips)
        for outcome in _walk(root, individual):
            if isinstance(outcome, Skip):
                skips.append(outcome)
            else:
                entries.append(outcome)
        if len(entries) + len(skips) == before:
            noted.append(Skip(individual.name, "empty_folder", "The folder holds no photos."))
    if not entries:
        raise no_individuals(root)
    tables = {warning.entry for warning in warnings}
    loose = sorted(path for path in root.iterdir() if not path.is_dir())
    skips.extend(_loose(path) for path in loose if path.name not in tables)
    return ImportPlan(source, root, Layout.FOLDERS, tuple(entries), tuple(skips), tuple(noted))


def no_individuals(root: Path | str) -> ImportPlanError:
    return ImportPlanError(
        "no_individuals",
        f"{root} holds neither a table with known columns nor a folder per individual with "
        f"photos in it. Put the photos of each animal into a folder with its name.",
    )


def _loose(path: Path) -> Skip:
    return loose(_printable(path.name))


def loose(name: str) -> Skip:
    """A file that lies in no folder."""
    if is_system_file(name):
        return Skip(name, "system_file", "Left by an operating system; no photo.")
    return Skip(name, "no_individual", "It lies in no individual's folder.")


def _walk(root: Path, folder: Path) -> Iterator[ImportEntry | Skip]:
    """Everything under one individual's folder; links to folders are named, never followed."""
    refusal = _refused_folder(root, folder)
    if refusal is not None:
        yield refusal
        return
    individual = known_name(folder.name)
    for place, subfolders, files in os.walk(folder):
        subfolders.sort()
        for name in list(subfolders):
            refusal = _refused_folder(root, Path(place, name))
            if refusal is not None:
                subfolders.remove(name)
                yield refusal
        for name in sorted(files):
            yield _photo(root, Path(place, name), individual)


def _refused_folder(root: Path, folder: Path) -> Skip | None:
    name = _printable(str(folder.relative_to(root)))
    if not storable(folder.name):
        return Skip(name, "bad_text", "The folder's name cannot be stored as text. Rename it.")
    if folder.is_symlink():
        return Skip(name, "symlink", "A link to a folder is not followed. Copy the photos here.")
    return hidden(name) if is_hidden(folder.name) else None


def is_hidden(folder: str) -> bool:
    return folder.startswith(".") or folder == "__MACOSX"


def hidden(folder: str) -> Skip:
    return Skip(folder, "system_file", "A hidden folder is not read.")


def _photo(root: Path, path: Path, individual: str | None) -> ImportEntry | Skip:
    name = str(path.relative_to(root))
    if not storable(name):
        return Skip(_printable(name), "bad_text", "Its name cannot be stored as text. Rename it.")
    if is_system_file(name):
        return Skip(name, "system_file", "Left by an operating system; no photo.")
    if not path.resolve().is_relative_to(root):
        return outside(root, name)
    if not path.is_file():
        return Skip(name, "file_missing", f"{name!r} is a broken link or no ordinary file.")
    return ImportEntry(name=name, path=path, individual=individual, source_ref=name)


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
