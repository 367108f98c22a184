"""Writes the pages of docs/ that are made from the program: api.md, cli.md, settings.md.

python scripts/write_docs.py            # write them
python scripts/write_docs.py --check    # exit 1 and name those that are out of date
"""

# ruff: noqa: E501 (the texts are pages, not code)

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

DOCS = Path(__file__).resolve().parent.parent / "docs"

CLI_HEAD = """\
# Command line

One command, `resight`. Every option that has an environment variable names it; what is given on
the command line wins. What a program reads goes to standard output (`--json` where it is offered),
progress and notes go to standard error. Made from the program by `make docs`.

## Exit codes

| code | meaning |
|---|---|
"""

SETTINGS_HEAD = """\
# Settings

Every setting is an environment variable; `resight serve --help` shows those that are options as
well. They are read once, at start. Made from the program by `make docs`.

| variable | default | meaning |
|---|---|---|
"""


API_HEAD = """\
# API

JSON over HTTP under `/v1`. [`openapi.json`](../openapi.json) (OpenAPI 3.1, also at `/openapi.json`) describes every field; this
page says what it means. The routes and codes below are made from the program by `make docs`.

## Who may ask

On loopback everyone on this machine may do everything. Beyond it a key is needed: `resight keys create NAME --role ROLE`, then
`Authorization: Bearer KEY` (a browser asks for it as a password, with any user name). Roles are `viewer`, `reviewer`, `curator`,
`admin`; each may do what those before it may.

## Identifying

    curl -F file=@left.jpg -F file=@right.jpg -F k=5 -F viewpoint=left http://127.0.0.1:8000/v1/identify

All photos of one request are of one encounter. The answer, whose parts are explained in the [glossary](glossary.md):

| field | meaning |
|---|---|
| `gate` | `state` is `accepted`, `rejected` or `abstained`, with `score` and `threshold` where there are any. A rejection is an answer (200) |
| `default_answer` | `status` says what the head has to say: `given`; `low_confidence`; `unmapped_slot` (the likeliest individual has no name in the class list: look at the matches); `withheld` (the gate did not accept); `unavailable` (no head) |
| `matches` | k distinct individuals by cosine, best first: `score`, the `annotation_id` and `media_id` that won, and how many annotations are `supporting` |
| `agreement` | whether default answer and first match are the same individual; null where one is missing |
| `novelty` | where the best score lies among the scores of true matches: `verdict` is `known`, `uncertain` or `probably_new` |
| `receipt` | what was searched: `mode`, `eligible`, `scanned`, `excluded`, `truncated`, `filters`, `fingerprint`, `snapshot`, `delta`, `timings_ms` |
| `photos` | what became of each photo, in the order sent; one that cannot be read is named here and the others are answered |
| `stage`, `bundle`, `notices` | which model really spoke, and what a person should know about it |

Filters: `taxon`, `place`, `date_from`, `date_to`, `viewpoint`, `sex`, `vitality`, `catalogue`; `taxon` and `viewpoint` may be
repeated. A photo that is stored already does not find itself, and is counted in `receipt.excluded`; `exclude_encounter=own` leaves
out everything of its encounter, an encounter's id that encounter.

A vector is searched only together with the `fingerprint` of its space (`POST /v1/search`); a wrong one is refused.

## Adding

`POST /v1/individuals` (fields `name`, `taxon`, …, photos as `file`, or `query_id` of a stored query) and
`POST /v1/individuals/{id}/photos` store, name and embed in one transaction: the next request can find the individual. With an
`Idempotency-Key` a repeated request is answered as the first was.

## Compatible answers

`POST /v1/predict-single` (field `file`) and `POST /v1/predict-batch` (field `archive`, a ZIP; one result per entry, in order) answer
in the form of earlier cetacean services, also without `/v1`: `class_animal` is the **individual**, `id_animal` the **species**.

## Routes

| | |
|---|---|
"""

ERRORS_HEAD = """
## Errors

Every error is `application/problem+json` (RFC 9457) with `title`, `status`, `detail` (a sentence), `code`, `errors` (what is wrong
where, as JSON pointers) and `request_id`. A photo that cannot be read has one of the first codes; what the
catalogue refuses has a code of its own (`individual_name_taken`, 409).

| code | status |
|---|---|
"""


def cell(value: object) -> str:
    """Text that does not end a table's cell."""
    return str(value).replace("|", "\\|").replace("\n", " ").strip()


def cli_page() -> str:
    """Exit codes, then every command with its arguments and options, as `--help` shows them."""
    from service.cli.commands import app
    from service.cli.common import EXIT_MEANING

    codes = "".join(f"| {int(code)} | {text} |\n" for code, text in EXIT_MEANING.items())
    commands = "\n".join(section(["resight"], typer.main.get_command(app)))
    return CLI_HEAD + codes + "\n" + commands


def section(path: list[str], command: Any) -> Iterator[str]:
    """One command and those below it."""
    children = getattr(command, "commands", None)
    if len(path) > 1:
        yield f"{'#' * min(len(path), 3)} {' '.join(path)}\n"
        yield f"{(command.help or '').strip()}\n"
    if children:
        for name, child in children.items():
            yield from section([*path, name], child)
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = [*path, *(["[OPTIONS]"] if options else []), *(a.metavar or a.name for a in arguments)]
    yield "    " + " ".join(usage) + "\n"
    rows = [(f"`{a.metavar or a.name}`", "", a.help or "") for a in arguments]
    rows += [(names(option), default_of(option), meaning(option)) for option in options]
    if rows:
        yield "| | default | |\n|---|---|---|"
        yield "\n".join(f"| {' | '.join(map(cell, row))} |" for row in rows) + "\n"


def names(option: Any) -> str:
    shown = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return shown if option.is_flag else f"{shown} {option.metavar or ''}"


def default_of(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return option.show_default
    return "" if option.default in (None, False, (), []) or option.is_flag else str(option.default)


def meaning(option: Any) -> str:
    variable = f" (`{option.envvar}`)" if option.envvar else ""
    return (option.help or "") + variable


def settings_page() -> str:
    """Every field of `Settings`."""
    from service.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append(f"| `RESIGHT_{name.upper()}` | {default} | {cell(field.description)} |\n")
    return SETTINGS_HEAD + "".join(rows)


def api_page() -> str:
    """The head, then every route and every code of the application."""
    from service.app import create_app
    from service.errors import CODE_STATUS, HTTP_CODES, STATUS
    from service.settings import Settings

    settings = Settings.model_construct(**{n: f.default for n, f in Settings.model_fields.items()})
    routes = [
        f"| `{method.upper()} {path}` | {cell(operation.get('summary', ''))} |\n"
        for path, methods in create_app(settings).openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    codes = dict(CODE_STATUS)
    codes |= {code: status for _, status, code in STATUS}
    codes |= {code: status for status, code in HTTP_CODES.items()}
    errors = [f"| `{code}` | {status} |\n" for code, status in codes.items()]
    return API_HEAD + "".join(routes) + ERRORS_HEAD + "".join(errors)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    pages = {"api.md": api_page(), "cli.md": cli_page(), "settings.md": settings_page()}
    stale = [
        name
        for name, text in pages.items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != text
    ]
    if check:
        for name in stale:
            print(f"docs/{name} is out of date; `make docs` writes it anew.")
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(pages[name], encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    sys.exit(main())
