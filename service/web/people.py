"""Pages of people: one's own name, password and keys, and everybody for admins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid, NotFound
from db.queries import people
from db.queries.access import ApiKeyRow
from db.queries.people import AccountRow
from db.types import Role
from service import accounts
from service.api import people as api
from service.deps import (
    Admin,
    AppState,
    Db,
    Principal,
    State,
    Viewer,
    address_of,
    caller_of,
    state_of,
)
from service.errors import Problem, problem_of
from service.sign_in import COOKIE, local_path
from service.web.me import MAY, ROLES, initials
from service.web.pages import PageRoute, render
from service.web.sign_in import keep_signed_in
from service.web.told import told
from service.web.words import gettext

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Text = Annotated[str, Form(max_length=200)]
Secret = Annotated[str, Form(max_length=accounts.LONGEST_PASSWORD)]
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Refused = Conflict | Invalid | NotFound | Problem
REFUSED = (Conflict, Invalid, NotFound, Problem)


@dataclass(frozen=True, slots=True)
class PersonView:
    """A row of the list. `me`: the reader's own, which has no buttons to lose oneself with."""

    id: int
    login: str
    name: str
    initials: str
    role: Role
    role_word: str
    with_what: str
    since: datetime
    disabled_at: datetime | None
    me: bool


@dataclass(frozen=True, slots=True)
class KeyView:
    id: int
    name: str
    prefix: str
    role_word: str
    since: datetime
    expires_at: datetime | None
    state: str
    valid: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A secret that is shown this once, and for whom or what it is."""

    title: str
    hint: str
    secret: str


# ------------------------------------------------------------------------------------- oneself


@router.get("/people/me")
def me_page(request: Request, _: Viewer, session: Db) -> Response:
    """One's own name, password and keys."""
    return _me_page(request, session)


@router.post("/people/me/name")
def rename_me(
    request: Request, _: Viewer, state: State, name: Text = "", skip: Text = "", back: Text = ""
) -> Response:
    """One's name from now on; the local user may skip the question, which is not asked again."""
    try:
        api.rename_caller(state, caller_of(request), None if skip else name)
    except REFUSED as error:
        return _me_again(request, "name", error, name=name)
    return RedirectResponse(local_path(back or "/people/me"), status_code=303)


@router.post("/people/me/password")
def change_password(
    request: Request, _: Viewer, present: Secret = "", wanted: Secret = "", again: Secret = ""
) -> Response:
    """One's new password; every other browser is signed out."""
    try:
        if wanted != again:
            raise Invalid(
                "password_differs", gettext("The new password is not the same both times.")
            )
        api.change_own_password(request, present, wanted)
    except REFUSED as error:
        return _me_again(request, "password", error)
    return RedirectResponse("/people/me?done=password", status_code=303)


@router.post("/people/me/keys")
def make_key(
    request: Request,
    _: Viewer,
    state: State,
    name: Text = "",
    role: Text = "",
    days: Text = "",
) -> Response:
    """A personal key, shown this once."""
    try:
        lasting = int(days) if days else None
        key, secret = api.make_own_key(
            state, caller_of(request), name, Role(role) if role else None, lasting
        )
    except ValueError:
        return _me_again(
            request, "keys", Invalid("invalid", gettext("Choose from the lists.")), label=name
        )
    except REFUSED as error:
        return _me_again(request, "keys", error, label=name)
    shown = Shown(
        gettext("The key “%(name)s”", name=accounts.label_of(key)),
        gettext("Copy it now: it is shown this once. Programs send it as a Bearer token."),
        secret,
    )
    with state.runtime.sessions() as session:
        return _me_page(request, session, status=201, shown=shown)


@router.post("/people/me/keys/{key_id}/revoke")
def revoke_key(key_id: Id, request: Request, _: Viewer, state: State) -> Response:
    """A personal key stops working."""
    api.revoke_own_key(state, caller_of(request), key_id)
    return RedirectResponse("/people/me#keys", status_code=303)


@router.post("/people/me/sign-out-others")
def sign_out_others(request: Request, principal: Viewer, state: State) -> Response:
    """Every other browser of one's own is signed out."""
    caller = caller_of(request)
    with state.runtime.sessions.begin() as session:
        row = api.own_account(session, caller)
        accounts.sign_out_others(session, principal.actor, row, request.cookies.get(COOKIE))
    return RedirectResponse("/people/me?done=browsers", status_code=303)


def _me_again(request: Request, part: str, error: Refused, **typed: str) -> Response:
    """The page once more, with what was typed and what is wrong with it."""
    problem = problem_of(error)
    with state_of(request).runtime.sessions() as session:
        return _me_page(
            request,
            session,
            status=problem.status,
            wrong={part: told(problem.detail)},
            typed=typed,
        )


def _me_page(
    request: Request,
    session: Session,
    *,
    status: int = 200,
    shown: Shown | None = None,
    wrong: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    caller = caller_of(request)
    principal = caller.principal
    account = people.get_account(session, principal.account_id) if principal.account_id else None
    person = account if account and not account.is_local else None
    keys = [_key(key) for key in people.keys_of(session, person.id)] if person else []
    return render(
        request,
        "me.html",
        status=status,
        here="people",
        local=caller.how == "local",
        program=caller.how == "key" and account is None,
        account=person,
        given_name="" if caller.nameless else (account.name if account else principal.name),
        role_word=str(ROLES[principal.role]),
        may_word=str(MAY[principal.role]),
        roles=[one for one in _roles() if principal.may(one[0])],
        keys=keys,
        browsers=people.count_sign_ins(session, person.id) if person else 0,
        shown=shown,
        wrong={"name": None, "password": None, "keys": None} | (wrong or {}),
        typed={"name": "", "label": ""} | (typed or {}),
        done=request.query_params.get("done", ""),
        shortest=accounts.SHORTEST_PASSWORD,
    )


def _key(row: ApiKeyRow) -> KeyView:
    out_of_date = row.expires_at is not None and row.expires_at <= datetime.now(
        row.expires_at.tzinfo
    )
    if row.revoked_at:
        state = gettext("revoked")
    elif out_of_date:
        state = gettext("expired")
    else:
        state = gettext("valid")
    return KeyView(
        id=row.id,
        name=accounts.label_of(row),
        prefix=row.prefix,
        role_word=str(ROLES[row.role]),
        since=row.created_at,
        expires_at=row.expires_at,
        state=state,
        valid=row.revoked_at is None and not out_of_date,
    )


# -------------------------------------------------------------------------------------- others


@router.get("/people")
def people_page(request: Request, _: Admin, session: Db) -> Response:
    """Everybody, and the form for one more."""
    return _people_page(request, session)


@router.post("/people")
def add_person(
    request: Request,
    principal: Admin,
    state: State,
    login: Text = "",
    name: Text = "",
    role: Text = "viewer",
    password: Secret = "",
) -> Response:
    """One more person. Without a password one is made, and shown this once; the first person, who
    is whoever sits here, chooses one and is signed in with it."""
    typed = {"login": login, "name": name, "role": role}
    first = not state.household.look().people
    try:
        if first and not password:
            raise Invalid(
                "password_weak", gettext("Choose a password; you sign in with it from now on.")
            )
        secret = password or accounts.make_password()
        with state.runtime.sessions.begin() as session:
            row = accounts.add_person(
                session,
                principal.actor,
                state.sign_ins.passwords,
                login=login,
                name=name,
                role=Role.ADMIN if first else _role(role),
                password=secret,
            )
    except REFUSED as error:
        return _people_again(request, "add", error, typed)
    state.household.forget()
    if first:
        response = RedirectResponse("/people", status_code=303)
        keep_signed_in(
            request, response, state.sign_ins.with_password(login, secret, address_of(request))
        )
        return response
    if password:
        return RedirectResponse("/people", status_code=303)
    return _with_secret(request, state, row, secret)


@router.post("/people/{account_id}/role")
def change_role(
    account_id: Id, request: Request, principal: Admin, state: State, role: Text = ""
) -> Response:
    """What a person may do from the next request on."""
    try:
        with state.runtime.sessions.begin() as session:
            accounts.set_role(session, principal.actor, account_id, _role(role))
    except REFUSED as error:
        return _people_again(request, str(account_id), error)
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{account_id}/disable")
def disable(account_id: Id, request: Request, principal: Admin, state: State) -> Response:
    """Signs a person out everywhere and lets nobody in as them."""
    return _set_disabled(request, principal, state, account_id, disabled=True)


@router.post("/people/{account_id}/enable")
def enable(account_id: Id, request: Request, principal: Admin, state: State) -> Response:
    """Lets a person in again."""
    return _set_disabled(request, principal, state, account_id, disabled=False)


def _set_disabled(
    request: Request, principal: Principal, state: AppState, account_id: int, *, disabled: bool
) -> Response:
    try:
        with state.runtime.sessions.begin() as session:
            accounts.set_disabled(session, principal.actor, account_id, disabled)
    except REFUSED as error:
        return _people_again(request, str(account_id), error)
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{account_id}/password")
def give_password(account_id: Id, request: Request, principal: Admin, state: State) -> Response:
    """A new password for somebody who has forgotten theirs, shown this once."""
    secret = accounts.make_password()
    try:
        with state.runtime.sessions.begin() as session:
            row = accounts.set_password(
                session, principal.actor, state.sign_ins.passwords, account_id, secret
            )
    except REFUSED as error:
        return _people_again(request, str(account_id), error)
    return _with_secret(request, state, row, secret)


def _role(text: str) -> Role:
    if text not in list(Role):
        raise Invalid("invalid", gettext("Choose a role from the list."))
    return Role(text)


def _with_secret(request: Request, state: AppState, row: AccountRow, secret: str) -> Response:
    shown = Shown(
        gettext("%(name)s signs in as %(login)s", name=row.name, login=row.login),
        gettext("Hand this password over now: it is shown this once. Ask them to change it."),
        secret,
    )
    with state.runtime.sessions() as session:
        return _people_page(request, session, status=201, shown=shown)


def _people_again(
    request: Request, part: str, error: Refused, typed: dict[str, str] | None = None
) -> Response:
    problem = problem_of(error)
    with state_of(request).runtime.sessions() as session:
        wrong = {part: told(problem.detail)}
        return _people_page(request, session, status=problem.status, wrong=wrong, typed=typed)


def _people_page(
    request: Request,
    session: Session,
    *,
    status: int = 200,
    shown: Shown | None = None,
    wrong: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    principal = caller_of(request).principal
    first = not people.anybody(session)
    rows = [] if first else people.list_accounts(session)
    local = people.local_account(session) if first else None
    suggested = local.name if local and local.name != accounts.CLI.principal else ""
    given: dict[str, Any] = {"login": "", "name": suggested, "role": Role.REVIEWER.value}
    return render(
        request,
        "people.html",
        status=status,
        here="people",
        first=first,
        people=[_person(row, principal.account_id) for row in rows],
        roles=_roles(),
        shown=shown,
        wrong={"add": None} | (wrong or {}),
        typed=given | (typed or {}),
        shortest=accounts.SHORTEST_PASSWORD,
    )


def _roles() -> list[tuple[Role, str, str]]:
    """Each role, its word, and what it may do beside what those before it may."""
    return [(role, str(ROLES[role]), str(MAY[role])) for role in Role]


def _person(row: AccountRow, me: int | None) -> PersonView:
    return PersonView(
        id=row.id,
        login=row.login,
        name=row.name,
        initials=initials(row.name),
        role=row.role,
        role_word=str(ROLES[row.role]),
        with_what=gettext("password") if row.has_password else gettext("keys only"),
        since=row.created_at,
        disabled_at=row.disabled_at,
        me=row.id == me,
    )
