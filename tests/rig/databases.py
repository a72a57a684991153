# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real MariaDB and PostgreSQL servers: plain processes of an unprivileged user on loopback, with TLS, in a directory
of their own. They end with the process that started them."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import pymysql

from tests.rig import certificates
from tests.rig.engine import RigError
from tests.rig.loopback import free_port

START_SECONDS = 60
STOP_SECONDS = 30
USER = "hostseal"
READER = "hostseal_reader"
PASSWORD = "p@ss:w/rd %41"  # what a URL would have to quote
_numbers = itertools.count(1)


class DatabaseServer:
    """One server. kill() and start() are a crash and a return with the same data and port."""

    drivername = ""
    client_tls = ""
    # What takes the audit log's protection away.
    unprotect: tuple[str, ...] = ()
    _without_checks = ""

    def __init__(self) -> None:
        self.port = free_port()
        # Short, for the socket's sake, and not below a home that only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="hsdb.", dir="/tmp"))
        ca = certificates.authority(self.folder)
        certificates.issue(ca, self.folder, "server", "localhost")
        self.ca_cert = self.folder / "ca.pem"
        self.password_file = self.folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n", encoding="ascii")
        # The servers refuse to run as root.
        self._account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self.folder.chmod(0o755)
        for path in [self.folder, *self.folder.iterdir()]:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DatabaseServer:
        try:
            self._initialise()
            self.start()
            self._add_users()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._as_account("setpriv", "--pdeathsig", "KILL", *self._command()),
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except (pymysql.MySQLError, psycopg.Error):
                if self._process.poll() is not None or time.monotonic() > end:
                    text = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
                    raise RigError(f"{type(self).__name__} does not answer:\n{text[-3000:]}") from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """A crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """What a restart for maintenance does: connections are ended at once."""
        self._end(self._stop_signal())

    def remove(self) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """The name of an empty database of USER, which READER may read."""
        raise NotImplementedError

    def url(self, database: str, user: str = USER) -> str:
        """A URL without a password."""
        return f"{self.drivername}://{user}@localhost:{self.port}/{database}?{self.client_tls.format(self.ca_cert)}"

    def execute(self, statement: str, arguments: Sequence[Any] = (), database: str = "") -> list[Any]:
        """Run a statement of the administrator; its rows."""
        with self._cursor(database) as cursor:
            cursor.execute(statement, tuple(arguments) or None)
            return list(cursor.fetchall()) if cursor.description else []

    def edit(self, statement: str, arguments: Sequence[Any], database: str) -> int:
        """The same with neither foreign keys nor triggers in the way; how many rows were changed."""
        with self._cursor(database) as cursor:
            cursor.execute(self._without_checks)
            cursor.execute(statement, tuple(arguments) or None)
            return int(cursor.rowcount)

    def _cursor(self, database: str) -> contextlib.AbstractContextManager[Any]:
        raise NotImplementedError

    def dump(self, database: str) -> bytes:
        """All of a database, by the server's own tool."""
        return self.tool(self._dump_command(database))

    def tool(self, command: Sequence[str], given: bytes = b"") -> bytes:
        """What one of the server's tools prints."""
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            check=False,
            timeout=120,
            env={**os.environ, **self.environment()},
        )
        if done.returncode:
            raise RigError(f"{command[0]}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout

    def login(self) -> list[str]:
        """Arguments that bring the server's tools to it, as USER."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What lets the server's tools in, as USER."""
        raise NotImplementedError

    def _as_account(self, *command: str) -> list[str]:
        if os.getuid():
            return list(command)
        ids = ["--reuid", str(self._account.pw_uid), "--regid", str(self._account.pw_gid), "--clear-groups"]
        # Twice setpriv: the signal of a parent's death is forgotten with a change of user.
        return ["setpriv", *ids, "--", *command]

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            self._as_account(*command), capture_output=True, check=False, timeout=120, cwd=self.folder
        )
        if done.returncode:
            raise RigError(f"{command[0]}: {(done.stdout + done.stderr).decode(errors='replace')[-3000:]}")

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(STOP_SECONDS)
        self._process = None
        # PostgreSQL's processes outlive the one that was killed by a moment, in which no other one can start.
        end = time.monotonic() + STOP_SECONDS
        while self._has_processes():
            if time.monotonic() > end:
                raise RigError(f"processes of {type(self).__name__} do not end")
            time.sleep(0.01)

    def _has_processes(self) -> bool:
        """Whether a process works in the server's folder."""
        for place in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if place.readlink().is_relative_to(self.folder):
                    return True
        return False

    def _initialise(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _add_users(self) -> None:
        raise NotImplementedError

    def _stop_signal(self) -> int:
        raise NotImplementedError

    def _dump_command(self, database: str) -> list[str]:
        raise NotImplementedError


class MariaDB(DatabaseServer):
    """With a binary log, as servers with replicas have it."""

    drivername = "mysql+pymysql"
    client_tls = "ssl_ca={}"
    unprotect = ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete")
    _without_checks = "SET foreign_key_checks = 0"

    def _initialise(self) -> None:
        self._run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.folder}/data",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def _command(self) -> list[str]:
        return [
            "/usr/sbin/mariadbd",
            "--no-defaults",
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--ssl-ca={self.folder}/ca.pem",
            f"--ssl-cert={self.folder}/server.pem",
            f"--ssl-key={self.folder}/server-key.pem",
            "--log-bin",
            "--log-bin-trust-function-creators=1",
            "--max-allowed-packet=64M",
            # A kill of the process loses nothing that is in the page cache.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=64M",
            "--skip-name-resolve",
        ]

    def _add_users(self) -> None:
        for user in (USER, READER):
            self.execute(f"CREATE USER {user}@'%%' IDENTIFIED BY %s REQUIRE SSL", [PASSWORD])

    def new_database(self) -> str:
        name = f"t{os.getpid()}_{next(_numbers)}"
        # Of another character set than the tables: theirs must be their own.
        self.execute(f"CREATE DATABASE {name} CHARACTER SET latin1")
        self.execute(f"GRANT ALL ON {name}.* TO {USER}")
        self.execute(f"GRANT SELECT ON {name}.* TO {READER}")
        return name

    @contextlib.contextmanager
    def _cursor(self, database: str) -> Iterator[Any]:
        with (
            contextlib.closing(
                pymysql.connect(
                    unix_socket=f"{self.folder}/socket",
                    user="root",
                    database=database or None,
                    autocommit=True,
                    sql_mode="ANSI,STRICT_ALL_TABLES",
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def environment(self) -> dict[str, str]:
        return {"MYSQL_PWD": PASSWORD}

    def login(self) -> list[str]:
        return ["-h", "localhost", "--protocol=tcp", f"-P{self.port}", f"-u{USER}", f"--ssl-ca={self.ca_cert}"]

    def _dump_command(self, database: str) -> list[str]:
        return ["mariadb-dump", *self.login(), "--single-transaction", "--triggers", database]

    def _stop_signal(self) -> int:
        return signal.SIGTERM


class PostgreSQL(DatabaseServer):
    """It lets nobody in by TCP without TLS and a password."""

    drivername = "postgresql+psycopg"
    client_tls = "sslmode=verify-full&sslrootcert={}"
    unprotect = ("DROP TRIGGER audit_append_only ON audit",)
    _without_checks = "SET session_replication_role = replica"

    @staticmethod
    def _binary(name: str) -> str:
        # Debian keeps the server's programs apart, by version.
        found = shutil.which(name) or next(
            (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
        )
        if found is None:
            raise RigError(f"{name} is not installed")
        return os.path.realpath(found)

    def _initialise(self) -> None:
        self._run(
            self._binary("initdb"),
            "--no-sync",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            f"--pgdata={self.folder}/data",
        )
        (self.folder / "data" / "pg_hba.conf").write_text(
            "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n", encoding="ascii"
        )

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "ssl": "on",
            "ssl_cert_file": self.folder / "server.pem",
            "ssl_key_file": self.folder / "server-key.pem",
            # A kill of the process loses nothing that is in the page cache.
            "fsync": "off",
            "shared_buffers": "32MB",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return [self._binary("postgres"), "-D", f"{self.folder}/data", *options]

    def _add_users(self) -> None:
        for user in (USER, READER):
            self.execute(f"CREATE USER {user} PASSWORD '{PASSWORD}'")
        # Tests add tables as the administrator; a dump is USER's.
        self.execute(f"GRANT pg_read_all_data TO {USER}")

    def new_database(self) -> str:
        name = f"t{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER}")
        self.execute(f"ALTER DEFAULT PRIVILEGES FOR USER {USER} GRANT SELECT ON TABLES TO {READER}", database=name)
        return name

    @contextlib.contextmanager
    def _cursor(self, database: str) -> Iterator[Any]:
        with psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database or "postgres", autocommit=True
        ) as connection:
            yield connection.cursor()

    def environment(self) -> dict[str, str]:
        return {"PGPASSWORD": PASSWORD, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.ca_cert)}

    def login(self) -> list[str]:
        return ["-h", "localhost", f"-p{self.port}", f"-U{USER}"]

    def _dump_command(self, database: str) -> list[str]:
        return ["pg_dump", *self.login(), "--no-owner", "--no-privileges", database]

    def _stop_signal(self) -> int:
        # A fast shutdown.
        return signal.SIGINT


ENGINES = {"mariadb": MariaDB, "postgresql": PostgreSQL}


@contextlib.contextmanager
def running(engine: str) -> Iterator[MariaDB | PostgreSQL]:
    """A server of ENGINE while the context lasts."""
    with ENGINES[engine]() as server:
        yield server  # type: ignore[misc]
