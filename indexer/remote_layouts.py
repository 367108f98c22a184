"""Owns imports that leave photos where they are: what lies at a URI is read into a plan.

The layouts are those of folders and tables on disk. Only names are listed and tables read; every
entry carries the URI at which its bytes stay.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from indexer.archive import Skip, escapes, is_system_file
from indexer.layouts import (
    ImportEntry,
    ImportPlan,
    ImportPlanError,
    Layout,
    Table,
    choose_table,
    hidden,
    is_hidden,
    known_name,
    loose,
    missing,
    no_individuals,
    outside,
    parse_table,
    plan_import,
    plan_table,
    spellings,
    storable,
)
from indexer.locations import Locations, file_of, require_allowed

_MAX_TABLE_BYTES: Final = 256 * 2**20


def plan_uri(
    uri: str,
    layout: Layout | str | None = None,
    *,
    allowed: Sequence[str],
    source: str | None = None,
    locations: Locations | None = None,
) -> ImportPlan:
    """Read what lies at a URI (a prefix, a folder or a CSV) into a plan; see `plan_import`.

    Raises:
        MediaError: `bad_location`, it lies under none of the `allowed` prefixes, or an object below
            it has a name that cannot be read.
        StoreUnavailable: the store does not answer or refuses us.
        ImportPlanError: the source as a whole makes no sense.
        ValueError: `layout` is not one of the three.
    """
    require_allowed(uri, allowed)
    if uri.startswith("file:"):
        plan = plan_import(file_of(uri), layout, source=source)
        stay = tuple(replace(entry, location=entry.path.as_uri()) for entry in plan.entries)
        return replace(plan, root=uri, entries=stay)
    wanted = None if layout is None else Layout(layout)
    return _Remote(uri.rstrip("/"), source, locations or Locations()).plan(wanted)


class _Remote:
    def __init__(self, uri: str, source: str | None, locations: Locations) -> None:
        self._locations = locations
        self._is_table = uri.lower().endswith(".csv")
        self._root, _, self._file = uri.rpartition("/") if self._is_table else (uri, "", "")
        self._source = source or self._root.rpartition("/")[2]
        listed = {one.name: one.size for one in locations.below(self._root)}
        self._folders = {folder for name in listed for folder in _folders_of(name)}
        # Consoles leave empty objects that stand for folders.
        self._names = [
            name for name in listed if name and (listed[name] or name not in self._folders)
        ]
        self._known = frozenset(self._names)

    def plan(self, wanted: Layout | None) -> ImportPlan:
        if not self._names or (self._is_table and self._file not in self._known):
            place = f"{self._root}/{self._file}" if self._is_table else f"{self._root}/"
            raise ImportPlanError("not_found", f"There is nothing at {place}. Check the URI.")
        if self._is_table:
            if wanted is Layout.FOLDERS:
                raise ImportPlanError(
                    "not_a_source", f"{self._file} is a file; the layout `folders` needs a prefix."
                )
            return plan_table(self._table(self._file), wanted, self._source, self._locate)
        if wanted is Layout.FOLDERS:
            return self._by_folder(())
        names = sorted(name for name in self._names if "/" not in name and _is_csv(name))
        fitting, ignored = choose_table([self._table(name) for name in names], wanted, self._root)
        if fitting is not None:
            return plan_table(fitting, wanted, self._source, self._locate)
        return self._by_folder(ignored)

    def _table(self, name: str) -> Table:
        data = self._locations.read(self._uri(name), _MAX_TABLE_BYTES)
        return parse_table(name, self._root, data)

    def _locate(self, name: str) -> tuple[Path, str | None] | Skip:
        if escapes(name):
            return outside(self._root, name)
        for spelling in spellings(name):
            key = posixpath.normpath(spelling)
            if key in self._known:
                return Path(key), self._uri(key)
        return missing(self._root, name)

    def _uri(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _by_folder(self, warnings: tuple[Skip, ...]) -> ImportPlan:
        tables = {warning.entry for warning in warnings}
        outcomes = [self._photo(name) for name in sorted(self._names) if name not in tables]
        entries = tuple(one for one in outcomes if isinstance(one, ImportEntry))
        if not entries:
            raise no_individuals(self._root)
        skips = tuple(_once(one for one in outcomes if isinstance(one, Skip)))
        return ImportPlan(self._source, self._root, Layout.FOLDERS, entries, skips, warnings)

    def _photo(self, name: str) -> ImportEntry | Skip:
        if "/" not in name:
            return loose(name)
        closed = next((one for one in _folders_of(name) if is_hidden(posixpath.basename(one))), "")
        if closed:
            return hidden(closed)
        if is_system_file(name):
            return Skip(name, "system_file", "Left by an operating system; no photo.")
        if not storable(name):
            return Skip(repr(name), "bad_text", "Its name cannot be stored as text. Rename it.")
        return ImportEntry(
            name=name,
            path=Path(name),
            individual=known_name(name.partition("/")[0]),
            location=self._uri(name),
            source_ref=name,
        )


def _is_csv(name: str) -> bool:
    return name.lower().endswith(".csv")


def _folders_of(name: str) -> Iterator[str]:
    """`a/b/c.jpg` lies in `a` and in `a/b`."""
    end = name.find("/")
    while end != -1:
        yield name[:end]
        end = name.find("/", end + 1)


def _once(skips: Iterable[Skip]) -> Iterator[Skip]:
    """A hidden folder is told once, not with each of its files."""
    seen: set[Skip] = set()
    for skip in skips:
        if skip not in seen:
            seen.add(skip)
            yield skip
