"""Brings the catalogues of the pages' words up to what the pages say; run by `make words`.

New texts get an empty translation, texts that nothing says any more are dropped, and translations
stay. A text that changed is a new one: nothing is guessed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po, write_po

WEB = Path(__file__).resolve().parent.parent / "service" / "web"
LOCALE = WEB / "locale"
KEYWORDS = {
    "_": None,
    "gettext": None,
    "pgettext": ((1, "c"), 2),
    "ngettext": (1, 2),
    "markup": None,
    "lazy": None,
    "nlazy": (1, 2),
    "word": None,
    "nword": (1, 2),
}
COMMENT_TAGS = ("Translators:",)
WIDTH = 100
HEADER = """\
# The words of Resight's pages. The English texts are the keys; `make words` brings this file up to
# what the pages say, docs/translating.md says how to write in it."""


def extracted() -> Catalog:
    """Every text that templates, Python and JavaScript of the pages say, and where."""
    with (LOCALE / "mapping.cfg").open(encoding="utf-8") as file:
        methods, options = parse_mapping_cfg(file)
    found = Catalog()
    for name, _line, message, comments, context in extract_from_dir(
        WEB, methods, options, KEYWORDS, COMMENT_TAGS, strip_comment_tags=True
    ):
        # Files only: lines move with every change, and would hide what a change says.
        found.add(message, None, [(f"service/web/{name}", None)], (), comments, context=context)
    return found


def po_files() -> dict[str, Path]:
    """The catalogue of each language but English, which is the key."""
    return {path.parent.parent.name: path for path in sorted(LOCALE.glob("*/LC_MESSAGES/*.po"))}


def read(language: str, path: Path) -> Catalog:
    """A catalogue as it lies on the disk."""
    with path.open("rb") as file:
        return read_po(file, locale=language, domain="resight")


def written_back(catalogue: Catalog, path: Path) -> None:
    """Writes a catalogue in the order in which the pages' files are sorted."""
    with path.open("wb") as file:
        write_po(
            file,
            catalogue,
            width=WIDTH,
            sort_by_file=True,
            ignore_obsolete=True,
            include_lineno=False,
        )


def main() -> int:
    """Updates every catalogue; a language on the command line is begun."""
    found = extracted()
    for language in sys.argv[1:]:
        path = LOCALE / language / "LC_MESSAGES" / "resight.po"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = Catalog(
                locale=language,
                header_comment=HEADER,
                project="Resight",
                version="0.1",
                msgid_bugs_address="none",
                last_translator="none",
                language_team=language,
                fuzzy=False,
            )
            written_back(begun, path)
    for language, path in po_files().items():
        catalogue = read(language, path)
        catalogue.update(found, no_fuzzy_matching=True, update_creation_date=False)
        written_back(catalogue, path)
        missing = sum(1 for one in catalogue if one.id and not _translated(one.string))
        print(f"{language}: {len(catalogue)} texts, {missing} without a translation")
    return 0


def _translated(string: str | tuple[str, ...] | list[str] | None) -> bool:
    return all(string) if isinstance(string, tuple | list) else bool(string)


if __name__ == "__main__":
    raise SystemExit(main())
