"""People over HTTP: who asks, their name, password and keys; for admins everybody's accounts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy.orm import Session

from db.errors import Conflict
from db.queries import people
from db.queries.access import ApiKeyRow
from db.queries.people import AccountRow
from db.types import Role
from indexer.etags import etag_of, require_etag
from indexer.once import Asked, once
from service import accounts
from service.api import api_router
from service.api.encounters import IfMatch
from service.api.individuals import IdempotencyKey
from service.deps import (
    Admin,
    AppState,
    Caller,
    Db,
    Principal,
    State,
    Viewer,
    address_of,
    caller_of,
    state_of,
)
from service.schemas import Strict
from service.sign_in import COOKIE

router = api_router("people")

Name = Annotated[str, Field(max_length=200, description="Stands beside the person's decisions.")]
Password = Annotated[SecretStr, Field(max_length=accounts.LONGEST_PASSWORD)]
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]


class MeOut(BaseModel):
    """Who asks. `account_id` and `login` are null for a program's key and for the local user before
    a name was given."""

    name: str
    role: Role
    account_id: int | None
    login: str | None
    how: str = Field(description="How the service knows: `key`, `cookie`, or `local`.")
    has_password: bool
    csrf: str | None = Field(
        description="For pages: what a change sends in X-CSRF-Token while the cookie says who asks."
    )


class EditMe(Strict):
    """`PATCH /v1/me`."""

    name: Name | None = None
    password: Password | None = Field(None, description="Signs out every other browser.")
    current_password: Password | None = Field(None, description="Needed with `password`.")


class PersonOut(BaseModel):
    """An account."""

    id: int
    login: str
    name: str
    role: Role
    has_password: bool
    is_local: bool
    created_at: datetime
    disabled_at: datetime | None


class PeopleOut(BaseModel):
    """Everybody, by name."""

    items: list[PersonOut]


class NewPerson(Strict):
    """`POST /v1/people`."""

    login: str = Field(max_length=64)
    name: Name
    role: Role = Role.VIEWER
    password: Password | None = Field(
        None, description="Without one the person signs in with personal keys alone."
    )


class EditPerson(Strict):
    """`PATCH /v1/people/{account_id}`: what is given changes, all or nothing."""

    name: Name | None = None
    role: Role | None = None
    disabled: bool | None = Field(None, description="True signs the person out everywhere.")
    password: Password | None = Field(None, description="Signs the person out everywhere.")


class NewKey(Strict):
    """`POST /v1/me/keys`."""

    name: str = Field(max_length=80, description="Where it will be used.")
    role: Role | None = Field(None, description="Without it all that the caller may do.")
    days: int | None = Field(None, ge=1, le=3650, description="Until it expires; null: never.")


class KeyOut(BaseModel):
    """A personal key, without the key itself."""

    id: int
    name: str
    prefix: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyMade(KeyOut):
    """`key` is shown this once."""

    key: str


class KeysOut(BaseModel):
    """A person's keys, revoked ones too, oldest first."""

    items: list[KeyOut]


# ---------------------------------------------------------------------------------------- oneself


@router.get("/v1/me", summary="Who asks, and what they may do")
def read_me(request: Request, _: Viewer, session: Db) -> MeOut:
    """As the key, the cookie or the loopback address tells."""
    caller = caller_of(request)
    row = own_account(session, caller) if caller.principal.account_id is not None else None
    return _me(caller, row)


@router.patch("/v1/me", summary="Change one's own name or password")
def edit_me(request: Request, _: Viewer, state: State, body: EditMe) -> MeOut:
    """On loopback before anybody has an account it names the local user."""
    caller = caller_of(request)
    if body.password is not None:
        present = body.current_password.get_secret_value() if body.current_password else ""
        change_own_password(request, present, body.password.get_secret_value())
    if body.name is not None:
        return _me(caller, rename_caller(state, caller, body.name))
    with state.runtime.sessions() as session:
        return read_me(request, caller.principal, session)


def rename_caller(state: AppState, caller: Caller, name: str | None) -> AccountRow:
    """The caller's name from now on; None: the local user does not tell one.

    Raises:
        Conflict: the name is somebody else's; a program's key has no account.
        Invalid: the name cannot be one.
    """
    with state.runtime.sessions.begin() as session:
        if caller.how == "local":
            row = accounts.name_local(session, name)
        else:
            account = own_account(session, caller)
            row = accounts.rename(session, caller.principal.actor, account.id, name or "")
    state.household.forget()
    return row


def change_own_password(request: Request, present: str, wanted: str) -> AccountRow:
    """Raises what `SignIns.change_password` raises; `no_account` as `own_account`."""
    state, caller = state_of(request), caller_of(request)
    with state.runtime.sessions() as session:
        row = own_account(session, caller)
    return state.sign_ins.change_password(
        caller.principal.actor,
        row,
        present,
        wanted,
        address=address_of(request),
        stay=request.cookies.get(COOKIE, ""),
    )


@router.get("/v1/me/keys", summary="One's own personal keys")
def list_my_keys(request: Request, _: Viewer, session: Db) -> KeysOut:
    """The keys themselves are not stored."""
    row = own_account(session, caller_of(request))
    return KeysOut(items=[key_out(key) for key in people.keys_of(session, row.id)])


@router.post("/v1/me/keys", status_code=201, summary="Make a personal key")
def make_my_key(request: Request, _: Viewer, state: State, body: NewKey) -> KeyMade:
    """What is done with it is done in one's name. It is shown this once, so an Idempotency-Key is
    not kept for it: the second time the name is taken."""
    key, secret = make_own_key(state, caller_of(request), body.name, body.role, body.days)
    return KeyMade(key=secret, **key_out(key).model_dump())


def make_own_key(
    state: AppState, caller: Caller, label: str, role: Role | None, days: int | None
) -> tuple[ApiKeyRow, str]:
    """A key of the caller, which may do no more than the caller may now."""
    with state.runtime.sessions.begin() as session:
        return accounts.make_key(
            session,
            caller.principal.actor,
            own_account(session, caller).id,
            label=label,
            role=role,
            may=caller.principal.role,
            days=days,
        )


@router.delete("/v1/me/keys/{key_id}", status_code=204, summary="Revoke a personal key")
def revoke_my_key(key_id: Id, request: Request, _: Viewer, state: State) -> Response:
    """It stops working with the next request, and browsers that signed in with it are signed
    out."""
    revoke_own_key(state, caller_of(request), key_id)
    return Response(status_code=204)


def revoke_own_key(state: AppState, caller: Caller, key_id: int) -> ApiKeyRow:
    """A key of the caller stops working."""
    with state.runtime.sessions.begin() as session:
        row = own_account(session, caller)
        return accounts.revoke_key(session, caller.principal.actor, row.id, key_id)


# ----------------------------------------------------------------------------------------- others


@router.get("/v1/people", summary="Everybody with an account")
def list_people(_: Admin, session: Db) -> PeopleOut:
    """The disabled too; before anybody has an account the local user, once named."""
    return PeopleOut(items=[person_out(row) for row in people.list_accounts(session)])


@router.post(
    "/v1/people", status_code=201, response_model=PersonOut, summary="Give a person an account"
)
def add_person(
    principal: Admin,
    state: State,
    body: NewPerson,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """The first account is an admin's: from then on everybody signs in, on loopback too, and
    programs need a key. It takes over what the local user of the same name has decided."""
    # The password is no part of what is digested: a fast hash of it would lie in the database.
    asked = body.model_dump(mode="json", exclude={"password"})
    password = body.password.get_secret_value() if body.password else None

    def work(session: Session) -> dict[str, object]:
        row = accounts.add_person(
            session,
            principal.actor,
            state.sign_ins.passwords,
            login=body.login,
            name=body.name,
            role=body.role,
            password=password,
        )
        return person_out(row).model_dump(mode="json")

    request = Asked.of(principal.name, idempotency_key, "person", asked)
    answer, replayed = once(state.runtime.sessions, request, work)
    state.household.forget()
    headers = {"Location": f"/v1/people/{answer['id']}", "ETag": f'"{etag_of(answer)}"'}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(answer, status_code=201, headers=headers)


@router.get("/v1/people/{account_id}", summary="One account")
def read_person(account_id: Id, response: Response, _: Admin, session: Db) -> PersonOut:
    """With the tag that an edit may name."""
    return _tagged(response, people.get_account(session, account_id))


@router.patch("/v1/people/{account_id}", summary="Change an account")
def edit_person(
    account_id: Id,
    response: Response,
    principal: Admin,
    state: State,
    body: EditPerson,
    if_match: IfMatch = None,
) -> PersonOut:
    """All or nothing. What changes holds from the person's next request on. The last admin stays
    one."""
    with state.runtime.sessions.begin() as session:
        row = people.get_account(session, account_id)
        require_etag(if_match, _tag(row), row.name)
        row = _edited(session, state, principal, account_id, body)
    state.household.forget()
    return _tagged(response, row)


def _edited(
    session: Session, state: AppState, principal: Principal, account_id: int, body: EditPerson
) -> AccountRow:
    actor = principal.actor
    if body.name is not None:
        accounts.rename(session, actor, account_id, body.name)
    if body.role is not None:
        accounts.set_role(session, actor, account_id, body.role)
    if body.disabled is not None:
        accounts.set_disabled(session, actor, account_id, body.disabled)
    if body.password is not None:
        wanted = body.password.get_secret_value()
        accounts.set_password(session, actor, state.sign_ins.passwords, account_id, wanted)
    return people.get_account(session, account_id)


# ------------------------------------------------------------------------------------- on the wire


def own_account(session: Session, caller: Caller) -> AccountRow:
    """The caller's account.

    Raises:
        Conflict: `no_account`: it is a program's key, or the local user has no name yet.
    """
    principal = caller.principal
    if principal.account_id is not None:
        return people.get_account(session, principal.account_id)
    if caller.how == "local":
        raise Conflict("no_account", "Give your name first; this belongs to a person.")
    raise Conflict(
        "no_account", f"The key {principal.name!r} is a program's; only people have accounts."
    )


def _me(caller: Caller, row: AccountRow | None) -> MeOut:
    return MeOut(
        name=row.name if row else caller.principal.name,
        role=caller.principal.role,
        account_id=row.id if row else None,
        login=row.login if row and not row.is_local else None,
        how=caller.how,
        has_password=row is not None and row.has_password,
        csrf=caller.csrf,
    )


def person_out(row: AccountRow) -> PersonOut:
    """An account on the wire."""
    return PersonOut(
        id=row.id,
        login=row.login,
        name=row.name,
        role=row.role,
        has_password=row.has_password,
        is_local=row.is_local,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _tag(row: AccountRow) -> str:
    return etag_of(person_out(row).model_dump(mode="json"))


def _tagged(response: Response, row: AccountRow) -> PersonOut:
    response.headers["ETag"] = f'"{_tag(row)}"'
    return person_out(row)


def key_out(row: ApiKeyRow) -> KeyOut:
    """A personal key on the wire, under the name that its person gave it."""
    return KeyOut(
        id=row.id,
        name=accounts.label_of(row),
        prefix=row.prefix,
        role=row.role,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
