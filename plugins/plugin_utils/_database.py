# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a store is and how it is reached: locations, TLS, passwords, and the engines' differences."""

from __future__ import annotations

import importlib
import ipaddress
import os
import ssl
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ..module_utils._model import HostsealError
from ._paths import implicit_path

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool, StaticPool
except ImportError:  # told by Action: documentation is read without it
    pass

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

# How long a run waits for another one that is writing.
WAIT_SECONDS = 60
# How long one may do nothing in the middle of a transaction, before the server takes it for dead.
_IDLE_SECONDS = 600
_CONNECT_SECONDS = 10


class _Driver(NamedTuple):
    module: str
    package: str
    options: tuple[str, ...]
    tls: str


_DRIVERS = {
    "mysql+pymysql": _Driver(
        "pymysql",
        "PyMySQL",
        (
            "connect_timeout",
            "ssl_ca",
            "ssl_capath",
            "ssl_cert",
            "ssl_check_hostname",
            "ssl_disabled",
            "ssl_key",
            "unix_socket",
        ),
        "ssl_ca=/PATH/ca.pem, or ssl_disabled=true",
    ),
    "postgresql+psycopg": _Driver(
        "psycopg",
        "psycopg[binary]",
        (
            "connect_timeout",
            "host",
            "port",
            "sslcert",
            "sslcrl",
            "sslkey",
            "sslmode",
            "sslrootcert",
            "target_session_attrs",
        ),
        "sslmode=verify-full&sslrootcert=/PATH/ca.pem, or sslmode=disable",
    ),
}


def locate(location: str | None, password: str | None) -> sa.URL:
    """The URL of LOCATION, a path or a URL without a password; None is the default path."""
    if location and "://" in location:
        url = _parsed(location)
        if url.drivername in _DRIVERS:
            return _server(url, password)
        if url.drivername == "file":
            return _folder(location)
        if url.drivername != "sqlite":
            known = ", ".join(f"{name}://" for name in _DRIVERS)
            raise HostsealError(
                f"a store of kind {url.drivername!r} is not supported: use a path, sqlite:///PATH, file:///FOLDER, {known}"
            )
        path = Path(url.database or "")
    elif location:
        path = Path(location)
    else:
        path = implicit_path("XDG_DATA_HOME", ".local/share", "store.db", "store", "HOSTSEAL_STORE")
    path = Path(os.path.expanduser(path))
    if not path.is_absolute() or "\0" in str(path):
        raise HostsealError(f"store {str(path)!r} is not an absolute path")
    return sa.URL.create("sqlite", database=str(path))


def label(url: sa.URL) -> str:
    """What messages call the store."""
    if url.drivername == "sqlite":
        return url.database or ":memory:"
    if url.drivername == "file":
        return f"file://{url.database}"
    return sa.URL.create(url.drivername, url.username, None, url.host, url.port, url.database).render_as_string()


def without_password(location: str) -> str:
    """LOCATION as it may be shown. A password does not belong there, and is refused, but it may have been written."""
    if "://" not in location or not ("@" in location or "?" in location):
        return location
    try:
        url = _parsed(location)
    except HostsealError:
        return "VALUE_THAT_IS_NO_URL"
    hidden = {name: "***" for name in url.query if "pass" in name}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def open_engine(url: sa.URL, create: bool, read_only: bool) -> tuple[sa.Engine, bool]:
    """An engine for URL, and whether there is a database. A missing SQLite file is made with CREATE, else it is an
    empty database in memory."""
    if url.drivername == "sqlite":
        return _sqlite(url, create, read_only)
    return _server_engine(url, read_only), True


# A folder


def _folder(location: str) -> sa.URL:
    """The URL with the folder as database, and the query state."""
    parts = urlsplit(location)
    query = parse_qs(parts.query, keep_blank_values=True)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
        raise HostsealError("the option store is a file:// URL without an absolute path: write file:///FOLDER")
    if query.keys() - {"state"} or len(query.get("state", [""])) != 1 or parts.fragment:
        raise HostsealError("the option store has something else after its folder than ?state=/PATH")
    paths = [unquote(parts.path), *query.get("state", [])]
    if any("\0" in path or not os.path.isabs(path) for path in paths):
        raise HostsealError("the option store is a file:// URL with a path that is not absolute")
    folder, *state = (os.path.normpath("/" + path.lstrip("/")) for path in paths)
    return sa.URL.create("file", database=folder, query={"state": state[0]} if state else {})


# SQLite


def _sqlite(url: sa.URL, create: bool, read_only: bool) -> tuple[sa.Engine, bool]:
    path = Path(url.database or "")
    may_write = _check_file(path, create, read_only)
    if may_write is None:
        return empty_engine(), False
    # After a crash a reader has to mend the file: only who can't write opens it for reading alone.
    if not may_write:
        url = sa.URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    # hide_parameters: the library would quote them in its errors and logs.
    engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": WAIT_SECONDS})
    return _with_own_begin(engine, "BEGIN" if read_only else "BEGIN IMMEDIATE"), True


def empty_engine() -> sa.Engine:
    """A database in memory, in the place of one that is not there yet."""
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, hide_parameters=True)
    return _with_own_begin(engine, "BEGIN")


def _with_own_begin(engine: sa.Engine, begin: str) -> sa.Engine:
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling would begin too late: we say BEGIN ourselves.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _check_file(path: Path, create: bool, read_only: bool) -> bool | None:
    """Whether this user may write to the store at PATH; None when there is none, and none was to be made."""
    try:
        found = path.stat()
    except FileNotFoundError:
        if not create:
            return None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two first runs may race here; SQLite's own lock parts them afterwards.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HostsealError(f"store {path} can't be made: {error.strerror}") from None
        return True
    except OSError as error:
        raise HostsealError(f"store {path} can't be opened: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise HostsealError(f"store {path} is not a regular file")
    may_write = os.access(path, os.R_OK | os.W_OK)
    if not may_write and not (read_only and os.access(path, os.R_OK)):
        raise HostsealError(f"store {path} can't be read{'' if read_only else ' and written'} by this user")
    if found.st_size:
        with open(path, "rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise HostsealError(f"{path} is a file of something else, not a hostseal store")
    return may_write


# Servers


def _parsed(location: str) -> sa.URL:
    try:
        return sa.make_url(location)
    except (SQLAlchemyError, ValueError):
        raise HostsealError("the option store is not a path and not a database URL") from None


def _server(url: sa.URL, password: str | None) -> sa.URL:
    driver = _DRIVERS[url.drivername]
    if url.password is not None or any("pass" in name for name in url.query):
        raise HostsealError(
            "the option store has a password in its URL, where it would be shown: take it out there, change it, and"
            " give it by store_password_file, store_password or HOSTSEAL_STORE_PASSWORD"
        )
    unknown = sorted(url.query.keys() - set(driver.options))
    if unknown:
        raise HostsealError(
            f"the option store has the parameter {unknown[0]!r} in its URL, known are {', '.join(driver.options)}"
        )
    twice = next((name for name, value in url.query.items() if name != "host" and not isinstance(value, str)), None)
    if twice:
        raise HostsealError(f"the option store has the parameter {twice!r} twice in its URL")
    if not url.database:
        raise HostsealError("the option store names no database: it is what follows the host in the URL")
    timeout = url.query.get("connect_timeout", "")
    if timeout and not str(timeout).isdecimal():
        raise HostsealError("the option store has a connect_timeout in its URL that is not a number of seconds")
    if not _is_local(url) and not _decides_about_tls(url):
        raise HostsealError(
            f"store {label(url)} is on another machine, and its URL does not say how it is to be known: whoever stands"
            f" between could ask for the password. Add ?{driver.tls}"
        )
    try:
        importlib.import_module(driver.module)
    except ImportError:
        raise HostsealError(
            f"the Python of ansible-core on the control node, {sys.executable}, lacks {driver.package}, which"
            f" {url.drivername}:// needs: '{sys.executable} -m pip install {driver.package}', or add it to the"
            " execution environment"
        ) from None
    return url.set(password=password) if password else url


def _hosts(url: sa.URL) -> list[str]:
    given = url.query.get("host", ())
    hosts = [host for text in ([given] if isinstance(given, str) else given) for host in text.split(",")]
    return [url.host, *hosts] if url.host else hosts


def _is_local(url: sa.URL) -> bool:
    if url.query.get("unix_socket"):
        return True
    return all(_is_loopback(host) for host in _hosts(url))


def _is_loopback(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    # PostgreSQL's URLs may have HOST:PORT here.
    bare = host.rpartition(":")[0] if host.count(":") == 1 else host
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def _decides_about_tls(url: sa.URL) -> bool:
    return any(url.query.get(name) for name in ("ssl_ca", "ssl_capath", "ssl_disabled", "sslmode"))


def _server_engine(url: sa.URL, read_only: bool) -> sa.Engine:
    query = dict(url.query)
    arguments: dict[str, Any] = {"connect_timeout": int(str(query.pop("connect_timeout", _CONNECT_SECONDS)))}
    set_up: Callable[[DBAPIConnection], None]
    if url.drivername == "mysql+pymysql":
        arguments |= {"read_timeout": 2 * WAIT_SECONDS, "write_timeout": 2 * WAIT_SECONDS}
        arguments |= _mysql_tls(query)
        query = {name: value for name, value in query.items() if name == "unix_socket"}
        # What is read in it is of the moment after the lock.
        isolation, set_up = "REPEATABLE READ", _set_up_mysql
    else:
        # A pooler between may give each transaction another session.
        arguments |= {"prepare_threshold": None, "application_name": "hostseal.secrets"}
        isolation, set_up = "REPEATABLE READ" if read_only else "READ COMMITTED", _set_up_postgresql
    engine = sa.create_engine(
        url.set(query=query),
        hide_parameters=True,
        isolation_level=isolation,
        pool_size=1,
        max_overflow=1,
        connect_args=arguments,
    )

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: DBAPIConnection, _record: Any) -> None:
        set_up(connection)

    if url.drivername == "mysql+pymysql":
        sa.event.listen(engine, "before_cursor_execute", _refuse_large_packet)
    return engine


def _mysql_tls(query: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of PyMySQL for the parameters ssl_*: as strings it would take "false" for true."""
    for name in ("ssl_check_hostname", "ssl_disabled"):
        if query.get(name) not in (None, "true", "false"):
            raise HostsealError(f"the option store has a {name} in its URL that is not true or false")
    if query.get("ssl_disabled") == "true":
        return {"ssl_disabled": True}
    given = {name: value for name, value in query.items() if name.startswith("ssl_") and name != "ssl_disabled"}
    if not given:
        return {}
    import pymysql

    if tuple(pymysql.VERSION[:2]) < (1, 2):
        raise HostsealError(
            "PyMySQL before 1.2 goes on without TLS when the server says that it has none: upgrade it on the control node"
        )
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca"), capath=given.get("ssl_capath"))
        context.check_hostname = given.get("ssl_check_hostname") != "false"
        if "ssl_cert" in given:
            # An empty passphrase, else OpenSSL would ask whoever sits there.
            context.load_cert_chain(given["ssl_cert"], given.get("ssl_key"), password="")
    except OSError:
        raise HostsealError(
            "the option store names files by ssl_ca, ssl_cert or ssl_key that can't be read, are no PEM, do not belong"
            " together, or the key has a passphrase"
        ) from None
    return {"ssl": context}


def _set_up_mysql(connection: Any) -> None:
    with connection.cursor() as cursor:
        # Strict: a text that is too long is an error, and not cut.
        cursor.execute(
            "SET SESSION sql_mode = 'TRADITIONAL',"
            f" innodb_lock_wait_timeout = {WAIT_SECONDS}, lock_wait_timeout = {WAIT_SECONDS},"
            f" wait_timeout = {_IDLE_SECONDS}"
        )
        cursor.execute("SELECT @@max_allowed_packet")
        connection.hostseal_largest_packet = cursor.fetchone()[0]


def _set_up_postgresql(connection: Any) -> None:
    # Else it would be undone with the first transaction that is rolled back.
    connection.autocommit = True
    connection.execute(
        f"SET lock_timeout = '{WAIT_SECONDS}s'; SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'"
    )
    connection.autocommit = False


def _refuse_large_packet(
    connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
) -> None:
    """The server would break the connection off, and leave open why. PyMySQL splits what has many rows."""
    limit = connection.connection.dbapi_connection.hostseal_largest_packet  # type: ignore[union-attr]
    for row in parameters if executemany else [parameters]:
        values = row.values() if isinstance(row, Mapping) else row or ()
        size = len(statement) + sum(len(value.encode()) for value in values if isinstance(value, str))
        # Room for quoting; numbers are small.
        if size + 4096 > limit:
            raise HostsealError(
                f"the store's server takes at most {limit} bytes at a time (max_allowed_packet), {size} are to be"
                " stored: have it set to 64M. Nothing was changed"
            )
