# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: ciphertext and records in an SQL database, and the transactions on them.

Nothing in it is in clear and nothing in it is trusted: values are bound to their place by the backend, host records and
key sets are signed, envelopes are verified by the host. What a person who may write here can do is to take rows away,
to bring back an older copy of the whole, and to have an unchanged mount delivered again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..module_utils._model import HostsealError
from ._audit import Actor
from ._database import empty_engine, label, locate, open_engine
from ._database_errors import TransientError, explain
from ._folder import Folder
from ._schema import HAS_SQLALCHEMY, SCHEMA, lock, prepare
from ._transaction import Transaction

if HAS_SQLALCHEMY:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

# How long trouble that may pass is waited for: a server that restarts, a standby that takes over.
_PATIENCE_SECONDS = 20
_T = TypeVar("_T")


class Store:
    """A database of ours, checked. Open it after the fork and close it before the task ends."""

    def __init__(
        self,
        location: str | None,
        create: bool,
        actor: Actor | None = None,
        password: str | None = None,
        read_only: bool = False,
    ) -> None:
        """LOCATION is a path or a database URL. With CREATE false, what is not there is an empty store in memory.

        `found` is the schema version that it had, None when it was made.

        ACTOR is who the audit log names. With READ_ONLY transactions only read, what was there at their beginning.
        """
        self._actor = actor or Actor.of({})
        self._read_only = read_only
        url = locate(location, password)
        self.label = self._place = label(url)
        self._folder = Folder(url, self.label, create) if url.drivername == "file" else None
        if self._folder is None:
            self._engine, self.exists = open_engine(url, create, read_only)
        elif self._folder.exists:
            self._engine, self.exists = self._folder.open_state(read_only), True
            self._place = self._folder.place
        else:
            self._folder = None
            self._engine, self.exists = empty_engine(), False
        patience = _Patience()
        while not patience.is_over:
            with patience, self._errors(), self._engine.connect() as connection, connection.begin():
                makes = create or not self.exists or self._folder is not None
                self.found, now = prepare(connection, self._place, makes, read_only)
                if self._folder is not None:
                    self._folder.adopt(connection, self.found is None)
                    self.found = None if self._folder.is_new else self.found or SCHEMA
        if now is None:
            self._engine.dispose()
            if url.drivername == "sqlite":
                raise HostsealError(f"{self.label} is empty, not a hostseal store")
            # An empty database on a server is what a missing file is.
            self.exists = False
            self._engine = empty_engine()
            with self._engine.connect() as connection, connection.begin():
                prepare(connection, self.label, create=True, read_only=False)

    @property
    def keeps_deliveries_apart(self) -> bool:
        """Whether envelopes, receipts and the audit log are of this machine, and the rest is shared by Git."""
        return self._folder is not None

    def close(self) -> None:
        """Give the connection back."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, alone: a second writer waits until this one is through.

        That is what keeps numbers and issue times from being given twice and the audit log a chain, with every engine.
        """
        folder = self._folder
        with contextlib.ExitStack() as stack:
            if folder is not None and not self._read_only:
                stack.enter_context(folder.lock())
                stack.callback(folder.discard)
            connection, whole = self._begin()
            stack.enter_context(self._errors())
            stack.enter_context(connection)
            with whole:
                yield (
                    Transaction(connection, self.label, self._actor)
                    if folder is None
                    else folder.transaction(connection, self._actor, self._read_only)
                )
                if folder is not None and not self._read_only:
                    folder.stage(connection)
                with self._errors(committing=not self._read_only):
                    whole.commit()
            if folder is not None:
                folder.publish(connection)

    def run(self, work: Callable[[Transaction], _T]) -> _T:
        """What WORK returns, done in a transaction, and again in another one when the first came to nothing.

        Deadlocks and lost connections undo all of a transaction, unless it is at its very end: then that is told.
        """
        patience = _Patience()
        while True:
            with patience, self.transaction() as transaction:
                return work(transaction)

    def _begin(self) -> tuple[sa.Connection, sa.RootTransaction]:
        """A connection in a transaction that has the lock; a server that is away for a moment is waited for."""
        patience = _Patience()
        while True:
            with patience, contextlib.ExitStack() as undo, self._errors():
                connection = undo.enter_context(self._engine.connect())
                whole = connection.begin()
                if not self._read_only and lock(connection) != SCHEMA:
                    raise HostsealError(f"store {self.label} was upgraded by another run: upgrade this collection")
                undo.pop_all()
                return connection, whole

    @contextlib.contextmanager
    def _errors(self, committing: bool = False) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise explain(error, self._place, committing) from None


class _Patience:
    """A context that forgives, after a pause, trouble that may pass; not for ever. is_over when there was none."""

    def __init__(self) -> None:
        self.is_over = False
        self._end = time.monotonic() + _PATIENCE_SECONDS
        self._pause = 0.1

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        self.is_over = error is None
        if not isinstance(error, TransientError) or time.monotonic() + self._pause > self._end:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, 2)
        return True
