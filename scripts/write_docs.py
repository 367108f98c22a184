"""Writes the pages of docs/ that are made from the program: cli.md, settings.md.

python scripts/write_docs.py            # write them
python scripts/write_docs.py --check    # exit 1 and name those that are out of date
"""

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


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    pages = {"cli.md": cli_page(), "settings.md": settings_page()}
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
