# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the errors of databases mean: their codes in our words."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from ..module_utils._model import HostsealError

try:
    from sqlalchemy.exc import DBAPIError
except ImportError:  # told by Action: documentation is read without it
    pass

if TYPE_CHECKING:
    from sqlalchemy.exc import SQLAlchemyError


class TransientError(HostsealError):
    """Trouble with a database that may be over soon. Nothing was changed."""


_NOT_CHANGED = "; nothing was changed"
_LOST = f"the connection to the server broke off{_NOT_CHANGED}"
LOCKED = f"another run has held it for over a minute{_NOT_CHANGED}"
_RIGHTS = "this user may not do that there, see the documentation of the option store"
_NO_DATABASE = "the server has no database of this name: make one, see the documentation of the option store"
_NOT_TRUSTED = "the server's certificate is not trusted, or it is for another name"
_LOGIN = "the server does not accept this user with this password"
_READ_ONLY = "the server is read-only: perhaps it is a standby"
_FULL = f"the server's disk is full{_NOT_CHANGED}"
_UNREACHABLE = "no server answers there"

_SQLITE_TROUBLE = {
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_READONLY_DIRECTORY": "its directory is read-only",
    "SQLITE_READONLY_ROLLBACK": "a run was cut off in the middle of a change: a user who may write has to open it first",
    "SQLITE_FULL": f"the disk is full{_NOT_CHANGED}",
    "SQLITE_BUSY": LOCKED,
    "SQLITE_NOTADB": "the file is not a store",
    "SQLITE_CORRUPT": "the file is damaged: restore a backup",
    "SQLITE_CANTOPEN": "the file can't be opened",
    "SQLITE_IOERR": "the disk reports an error",
}
# https://mariadb.com/kb/en/mariadb-error-code-reference/
_MYSQL_TROUBLE = {
    1021: _FULL,
    1044: _RIGHTS,
    1045: _LOGIN,
    1049: _NO_DATABASE,
    1114: _FULL,
    1142: _RIGHTS,
    1153: "the server takes less at a time (max_allowed_packet): have it set to 64M",
    1205: LOCKED,
    1290: _READ_ONLY,
    1419: (
        "the server keeps a binary log and lets only administrators make triggers: set"
        " log_bin_trust_function_creators there, or have an administrator make the store"
    ),
    1698: _LOGIN,
    1836: _READ_ONLY,
    2003: _UNREACHABLE,
}
_MYSQL_TRANSIENT = {
    1020: f"another run was faster{_NOT_CHANGED}",
    1040: "the server has too many connections",
    1053: _LOST,
    1203: "the server has too many connections of this user",
    1213: f"another run was in the way{_NOT_CHANGED}",
    1226: "the server has too many connections of this user",
    1927: _LOST,
    2006: _LOST,
    2013: _LOST,
    2055: _LOST,
    4031: _LOST,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_TROUBLE = {
    "25006": _READ_ONLY,
    "28000": _LOGIN,
    "28P01": _LOGIN,
    "3D000": _NO_DATABASE,
    "42501": _RIGHTS,
    "53100": _FULL,
    "55P03": LOCKED,
}
_POSTGRESQL_TRANSIENT = {
    "25P03": _LOST,
    "40001": f"another run was faster{_NOT_CHANGED}",
    "40P01": f"another run was in the way{_NOT_CHANGED}",
    "53300": "the server has too many connections",
    "57P01": _LOST,
    "57P02": _LOST,
    "57P03": "the server is starting or ending",
    "57P05": _LOST,
}


def explain(error: SQLAlchemyError, place: str, committing: bool) -> HostsealError:
    """ERROR in our words. The library's text may quote parameters, so only the engine's own code is told."""
    origin: Any = getattr(error, "orig", None)
    module = type(origin).__module__.partition(".")[0]
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if module == "pymysql":
        code, text, is_transient = _of_mysql(origin)
    elif module == "psycopg":
        code, text, is_transient = _of_postgresql(origin)
    else:
        code = getattr(origin, "sqlite_errorname", None) or type(origin or error).__name__
        text, is_transient = _SQLITE_TROUBLE.get(code), False
    if committing and (is_lost or text == _LOST):
        return HostsealError(
            f"store {place}: the connection to the server broke off at the very end ({code}): whether the changes are"
            " in the store is not known, wholly or not at all. Run again: what is there will be found"
        )
    message = f"store {place}: {f'{text} ({code})' if text else code}"
    return TransientError(message) if is_transient or is_lost else HostsealError(message)


def _of_mysql(origin: Any) -> tuple[str, str | None, bool]:
    number = origin.args[0] if origin.args and isinstance(origin.args[0], int) else 0
    code = f"{type(origin).__name__} {number}"
    if isinstance(getattr(origin, "original_exception", None), ssl.SSLCertVerificationError):
        return code, _NOT_TRUSTED, False
    text = _MYSQL_TROUBLE.get(number) or _MYSQL_TRANSIENT.get(number)
    # A server that restarts answers nothing for a moment.
    return code, text, number in _MYSQL_TRANSIENT or number == 2003


# No code: the server did not get so far. Its words are not repeated, but they tell one case from another.
_POSTGRESQL_WORDS = {
    "password authentication failed": _LOGIN,
    "no password supplied": _LOGIN,
    "no pg_hba.conf entry": _LOGIN,
    "certificate verify failed": _NOT_TRUSTED,
    "does not match host name": _NOT_TRUSTED,
    "root certificate": "the file of sslrootcert can't be read",
    "certificate file": "the files of sslcert and sslkey can't be read or do not belong together",
    "does not support SSL": "the server has no TLS",
    "does not exist": _NO_DATABASE,
}


def _of_postgresql(origin: Any) -> tuple[str, str | None, bool]:
    state = origin.sqlstate
    if state is None:
        known = [text for words, text in _POSTGRESQL_WORDS.items() if words in str(origin)]
        return type(origin).__name__, known[0] if known else _UNREACHABLE, not known
    text = _POSTGRESQL_TROUBLE.get(state) or _POSTGRESQL_TRANSIENT.get(state)
    return f"{type(origin).__name__} {state}", text, state in _POSTGRESQL_TRANSIENT
