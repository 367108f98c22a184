"""Writes the pages of docs/ that are made from the program: api.md, cli.md, settings.md.

python scripts/write_docs.py            # write them
python scripts/write_docs.py --check    # exit 1 and name those that are out of date
"""

# ruff: noqa: E501 (the texts are pages, not code)

from __future__ import annotations

import argparse
import json
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

JSON over HTTP, described by [openapi.json](../openapi.json) (OpenAPI 3.1; the running service answers the same at
`/openapi.json`). Ids are text. Scores are cosines (−1…1), probabilities 0…1, times milliseconds, dates ISO 8601; a time without
a zone is read as UTC. Routes and codes below are made from the program by `make docs`.

## Who may ask

On 127.0.0.1 the service is open: whoever reaches it is `local` and may do everything. To listen wider it needs at least one key
(`resight keys create NAME --role reviewer`, shown once) and every request then carries it:

```
Authorization: Bearer rs_…
```

| role | may |
|---|---|
| viewer | read individuals, photos, stored queries, exports |
| reviewer | identify and search as well |
| curator | add individuals and photos as well |
| admin | everything: jobs, re-indexing, exports as files |

A browser may send the key as the password of HTTP Basic, with any user name. `/health` and `/ready` are open to all;
`/metrics` and `/openapi.json` follow `RESIGHT_PUBLIC_DOCS`. Requests under a foreign `Host` (421) and writing requests from a page of
another origin (403) are refused.

## Identify

```
curl -F file=@fluke.jpg -F k=5 http://127.0.0.1:8000/v1/identify
```

`file` once for each photo of one encounter. Beside it, as form fields or query parameters:

| field | meaning |
|---|---|
| `k` | how many individuals (10) |
| `taxon`, `place`, `date_from`, `date_to`, `viewpoint`, `sex`, `vitality`, `catalogue` | search only what fits; `taxon` and `viewpoint` may be repeated; an end date is included |
| `exclude_encounter` | an encounter's id, or `own`: that of the stored photo with the same bytes |
| `exclude_known` | `true`: a photo that is stored already does not find itself, nor a near-duplicate; `false`: it does; left away: it does only if its individual has no other photo, so that one just added is found |

A misspelt field is an error, never a filter that silently does nothing. The answer:

| member | meaning |
|---|---|
| `query_id` | the stored query; `GET /v1/queries/{id}` gives this answer again |
| `gate` | `state` accepted / rejected / abstained, with `score`, `threshold`, `model`, `reason` |
| `default_answer` | `status` and, when `given`, the individual with its probability and the next ranks |
| `matches` | the k nearest *individuals*: best cosine, winning annotation and photo, `supporting` photos; who was `rejected` for a known photo comes last |
| `agreement` | whether head and the first match that nobody rejected name the same individual; null when either says nothing |
| `receipt` | what was searched, what was left out and why, time per stage |
| `novelty` | the best score beside the scores of true matches: `known`, `uncertain`, `probably_new`, with the histogram |
| `known_photo` | these bytes are in the catalogue already: annotation and individual |
| `photos` | per photo: its gate, its stored id, or why it could not be read |
| `stage`, `bundle` | which model really spoke |
| `notices` | what a person should know, each with a code and a sentence |

| `default_answer.status` | when |
|---|---|
| `given` | accepted, the best slot has a name, probability at or above the minimum |
| `low_confidence` | below the minimum: no name |
| `unmapped_slot` | the head's best slot is of an individual without a name in its list; look at the matches |
| `withheld` | the gate rejected or abstained, or somebody said that these photos do not show whom the head would name |
| `unavailable` | no head is loaded |

A rejection is a result (200). After `rejected` nothing is searched; after `abstained` the matches are there for review. Where nothing was
searched, `receipt` and `novelty` are null: an empty `matches` beside a receipt means that there was nobody to find.

Several photos of an encounter are answered together: the head sees the mean of their cosines, an individual scores as high as with its
best photo, and one accepted photo is enough for the gate. A photo that cannot be read is named in `photos` and the others are
answered; when none can be read the answer is an error.

## Search

```
curl -H 'Content-Type: application/json' -d '{"annotation_id": "17", "k": 5}' http://127.0.0.1:8000/v1/search
```

`POST /v1/search` takes a stored `annotation_id`, or a `vector` with the `fingerprint` of the model that made it (see `/v1/models`). A
missing or wrong fingerprint is 422: two spaces are never compared. With it go `k`, `filters` (an object with the fields above),
`exclude_self`, `exclude_encounter`. `POST /v1/annotations/{id}/similar` is the same for one annotation, and
`GET /v1/annotations/{id}/embedding` gives its vector with its fingerprint.

## Individuals

```
curl -F name=Luna -F taxon='humpback whale' -F file=@a.jpg -F file=@b.jpg http://127.0.0.1:8000/v1/individuals
```

201 with `Location`. All or nothing, and the photos are embedded before the answer: the next identification can return the
individual, without any training. `query_id` takes the photos of a stored query, beside or instead of `file`. `Idempotency-Key` makes a
repeated request give the first answer (`Idempotency-Replayed: true`); the same key with another request is 422. A name that is
taken is 409, whatever its case; so is a photo that shows another individual already. Without a name it gets the next free one of the catalogue's
sequence. `change_id` in the answer can be undone.

`POST /v1/individuals/{id}/photos` adds photos. `GET /v1/individuals` lists with `limit`, `cursor`, `text`, `taxon`; follow
`next_cursor` or the `Link` header. `GET /v1/individuals/{id}` reads one with its photos.

`GET /v1/media/{id}` gives the bytes as received, as a download; `/v1/media/{id}/thumbnail?size=` and
`/v1/annotations/{id}/crop?size=` give upright JPEGs without metadata.

## Jobs

```
curl -H 'Content-Type: application/json' -d '{"kind": "evaluate"}' http://127.0.0.1:8000/v1/jobs
curl -N http://127.0.0.1:8000/v1/jobs/JOB/events
```

Work that takes longer than a request. Starting answers 202 with `Location` and `Retry-After`; a second job that would do the same is
409, with the first one in `job` and `Location`. Reading needs the role viewer, everything else admin, and is audited.

| member | meaning |
|---|---|
| `kind` | `embed_missing`, `build_snapshot`, `build_ann`, `fit_head`, `evaluate`, `export`, `calibrate`; `reindex` and `import` are started elsewhere |
| `state` | `queued`, `running`, `paused`, `cancelling`, `cancelled`, `failed`, `done` |
| `progress` | `done`, `failed`, `total`, `rate` (items/s), `eta_s`; null where there is nothing to tell yet |
| `error`, `result` | why it failed as a whole; what it found or made |
| `links` | itself, its `failures`, its `events`, and the `run` of a re-index |

`done` with `progress.failed` above zero is done with that many failures; `failures` names each item with its reason, and `retry`
runs those alone. `pause`, `resume` and `cancel` stop within one chunk; a cancelled job can be resumed.

`…/events` are server-sent events: `job` with the job's JSON whenever it changes, a comment every 15 seconds of silence, `end` when the job has
ended, `problem` when the service cannot look any more. `/v1/jobs/events` follows all jobs and has no end.

## Re-indexing

```
curl -H 'Content-Type: application/json' -d '{"model": "effb4-arcface-v2"}' http://127.0.0.1:8000/v1/reindex
```

202 with the run; what it does and how to read its report is in [Moving a catalogue to another model](reindexing.md).
`POST /v1/reindex/{id}/activate` switches; it is 422 while a photo lacks its vector or the report is below the limits, with all reasons in
`errors`, unless the body says `{"force": true}`. `POST /v1/reindex/rollback` returns to the model before, `…/abandon` gives a run up.

## For older clients

`POST /v1/predict-single` (`file`), `POST /v1/predict-batch` (`archive`, a ZIP: one result per entry, in order, a broken one as
`corrupted_image`), `GET /v1/drift-stats`, `GET /v1/export?format=json|csv&since=`, also without `/v1`. `class_animal` is the individual and
`id_animal` the species: the names are swapped, and clients rely on it. `bbox` is the whole photo and `mask` is null: no region is sought.
Where the gate abstains `is_cetacean` is null. `drift-stats` counts this process since its start.

## State

`/health`: the process is alive. `/ready`: 200 when gate, head and search can speak, else 503 with `reasons`. `/metrics`: Prometheus.
`/v1/models`: what is loaded, which spaces there are, what could not be loaded. `/v1/limits`: what a request may cost.

Photos are JPEG, PNG, WEBP, BMP or TIFF by content, whatever their name, up to 25 MiB and 50 million pixels; the pixels are counted from
the header, before anything is decoded. Photos of one encounter, entries of a ZIP and waiting requests are limited as well.

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
        plain = json.dumps(field.default) if isinstance(field.default, tuple) else field.default
        default = "" if field.default in (None, ()) else f"`{plain}`"
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
