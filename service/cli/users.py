"""Commands about people: accounts, their roles, passwords and personal keys; the audit trail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.common import (
    AsJson,
    DataDir,
    Exit,
    Stop,
    err,
    opened_database,
    out,
    print_json,
    settings_from,
    table,
    write_secret,
)

if TYPE_CHECKING:
    from db.types import Role

users = typer.Typer(
    help="People: who may sign in, and as what. From the first account on everybody signs in, on "
    "loopback too; programs then need a key (`resight users key`, `resight keys create`).",
    no_args_is_help=True,
)
audit = typer.Typer(help="The audit trail: who did what, each entry chained to the one before.")

Login = Annotated[str, typer.Argument(metavar="LOGIN", help="What the person signs in with.")]


@users.command("add")
def add(
    login: Login,
    name: Annotated[
        str | None,
        typer.Option(help="Stands beside the person's decisions.", show_default="the login"),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="viewer, reviewer (decides), curator (changes identities) or admin (jobs and "
            "people); each includes those before.",
            show_default="viewer; admin for the first",
        ),
    ] = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="The person signs in with personal keys alone.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Give a person an account. The password is asked for, or is the first line of standard input.
    The local user of the same name becomes this account."""
    from db.queries import people
    from db.types import Role
    from service import accounts

    wanted = _role(role) if role is not None else None
    settings = settings_from(data_dir)
    with opened_database(settings) as sessions:
        with sessions() as session:
            first = not people.anybody(session)
        password = None if no_password else _new_password()
        with sessions.begin() as session:
            row = accounts.add_person(
                session,
                accounts.CLI,
                accounts.Passwords(),
                login=login,
                name=name if name is not None else login,
                role=wanted or (Role.ADMIN if first else Role.VIEWER),
                password=password,
            )
    err.print(escape(f"{row.name} signs in as {row.login} and is {row.role}."))
    if first:
        err.print("Everybody signs in from now on, on this machine too; programs need a key.")


@users.command("list")
def list_users(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Everybody, with role and state."""
    from dataclasses import asdict

    from db.queries import people

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        rows = people.list_accounts(session)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    listed = table("login", "name", "role", "signs in with", "since", "state")
    for row in rows:
        with_what = "nothing: this machine" if row.is_local else "keys"
        listed.add_row(
            escape(row.login),
            escape(row.name),
            str(row.role),
            "password, keys" if row.has_password else with_what,
            f"{row.created_at:%Y-%m-%d}",
            f"disabled {row.disabled_at:%Y-%m-%d}" if row.disabled_at else "active",
        )
    out.print(listed)


@users.command("role")
def change_role(
    login: Login,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="viewer, reviewer, curator, admin.")],
    data_dir: DataDir = None,
) -> None:
    """Change what a person may do, from the next request on."""
    from db.queries import people
    from service import accounts

    wanted = _role(role)
    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        row = people.named_account(session, login)
        row = accounts.set_role(session, accounts.CLI, row.id, wanted)
    err.print(escape(f"{row.name} is {row.role}."))


@users.command("disable")
def disable(login: Login, data_dir: DataDir = None) -> None:
    """Sign a person out everywhere and let nobody in as them; past decisions keep the name."""
    _set_disabled(login, data_dir, disabled=True)
    err.print(escape(f"{login} is disabled."))


@users.command("enable")
def enable(login: Login, data_dir: DataDir = None) -> None:
    """Let a disabled person in again, with the same password and keys."""
    _set_disabled(login, data_dir, disabled=False)
    err.print(escape(f"{login} may sign in again."))


def _set_disabled(login: str, data_dir: Path | None, *, disabled: bool) -> None:
    from db.queries import people
    from service import accounts

    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        row = people.named_account(session, login)
        accounts.set_disabled(session, accounts.CLI, row.id, disabled)


@users.command("password")
def set_password(login: Login, data_dir: DataDir = None) -> None:
    """Give a person a new password, asked for or read from standard input; it signs them out
    everywhere."""
    from db.queries import people
    from service import accounts

    with opened_database(settings_from(data_dir)) as sessions:
        with sessions() as session:
            row = people.named_account(session, login)
        password = _new_password()
        with sessions.begin() as session:
            accounts.set_password(session, accounts.CLI, accounts.Passwords(), row.id, password)
    err.print(escape(f"{row.name} has a new password."))


@users.command("key")
def make_key(
    login: Login,
    name: Annotated[
        str, typer.Option(help="Where it will be used: a computer or a program.")
    ] = "command line",
    role: Annotated[
        str | None,
        typer.Option(help="Less than the person may do.", show_default="the person's role"),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="Days until it expires.", show_default="never"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the key into this file (mode 600) instead."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a personal key: what is done with it is done in the person's name. It is shown once;
    only its SHA-256 is stored."""
    from db.queries import people
    from service import accounts

    wanted = _role(role) if role is not None else None
    with opened_database(settings_from(data_dir)) as sessions, sessions.begin() as session:
        row = people.named_account(session, login)
        key, secret = accounts.make_key(
            session, accounts.CLI, row.id, label=name, role=wanted, days=days
        )
        if to is not None:
            write_secret(to, secret)
    told = f"The key {key.name!r} ({key.role})"
    if to is not None:
        err.print(escape(f"{told} is in {to}."))
        return
    err.print(escape(f"{told}, shown this once; send it as a Bearer token:"))
    out.print(secret, markup=False)


def _role(text: str) -> Role:
    from db.types import Role

    if text not in list(Role):
        raise Stop(f"A role is one of {', '.join(Role)}, not {text!r}.", Exit.USAGE)
    return Role(text)


def _new_password() -> str:
    """Never an argument: those are seen by every program of the machine, and kept by shells."""
    if sys.stdin.isatty():
        entered: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return entered
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Stop("Standard input holds no password; give it as the first line.", Exit.USAGE)
    return line


@audit.callback()
def about_audit() -> None:
    """The audit trail: who did what, each entry chained to the one before."""


@audit.command("verify")
def verify_audit(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Check the chain; 1 where an entry was altered or removed. Note the newest hash down
    elsewhere: it shows whether entries were cut off at the end."""
    from db.queries import records

    with opened_database(settings_from(data_dir)) as sessions, sessions() as session:
        broken = records.verify_audit(session)
        newest = records.list_audit(session, limit=1).items
    head = {"id": newest[0].id, "hash": newest[0].hash} if newest else None
    if as_json:
        print_json({"whole": not broken, "broken": broken, "newest": head})
    elif broken:
        named = ", ".join(map(str, broken[:20])) + (" …" if len(broken) > 20 else "")
        err.print(f"Altered, or following one that was altered or removed: {named}.")
    else:
        out.print("Every entry is as it was written.")
        if head is not None:
            out.print(f"newest {head['id']}  {head['hash']}")
    if broken:
        raise typer.Exit(Exit.FAILED)
