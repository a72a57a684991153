# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Transit engine that is ready for use, and what works with it: sessions, backends, a store, tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelope
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _declaring, _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import KeyPlace
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.vault import VaultTransit
from ansible_collections.hostseal.secrets.plugins.plugin_utils._policies import KINDS
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment, HostRecord
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession

from tests.integration.control.conftest import Control, Task, task
from tests.integration.vault.setting_up import set_up
from tests.rig.openbao import OpenBao


class Transit:
    """The engine at MOUNT, set up for the environments NAMES as the module does it."""

    def __init__(self, bao: OpenBao, mount: str, *names: str, **options: Any) -> None:
        self.bao = bao
        self.mount = mount
        for name in names or ("prod",):
            set_up(bao, mount, name, **options)

    def policies(self, *kinds: str, name: str = "prod") -> list[str]:
        """The policies of these kinds, of all without any."""
        return [f"{self.mount}-{name}-{kind}" for kind in kinds or KINDS]

    def token(self, *kinds: str, name: str = "prod", **settings: Any) -> str:
        """A token with these policies alone."""
        made = self.bao.client().auth.token.create(
            policies=self.policies(*kinds, name=name), no_default_policy=True, **settings
        )
        return str(made["auth"]["client_token"])

    def options(self, **given: Any) -> dict[str, Any]:
        """Options of a connection, with a token that may do all that the three policies allow."""
        found = {"url": self.bao.url, "ca_cert": self.bao.ca_cert, **given}
        return found if "token" in found or "auth_method" in found else {**found, "token": self.token()}

    @contextmanager
    def session(self, **given: Any) -> Iterator[VaultSession]:
        """A session with these options."""
        session = VaultSession(self.options(**given))
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def backend(self, name: str = "prod", signing_kid: str | None = None, **given: Any) -> Iterator[VaultTransit]:
        """The backend of an environment."""
        with self.session(**given) as session:
            yield VaultTransit(session, KeyPlace("vault", name, self.mount, signing_kid))

    def paths(self, since: int) -> list[str]:
        """What the server was asked since then: operation and path, the mount's name replaced."""
        seen = [entry["request"] for entry in self.bao.requests(since=since)]
        return [f"{one['operation']} {one['path']}".replace(f" {self.mount}/", " MOUNT/") for one in seen]

    # -- without Ansible ----------------------------------------------------------------------------------------

    def declare_environment(self, path: Path, name: str = "prod") -> Environment:
        """What the module environment does, in a store at PATH."""
        with self.backend(name) as backend:
            environment = _migrating.new_record(name, "vault", name, self.mount, backend)
        with Store(str(path), True) as store, store.transaction() as transaction:
            transaction.add_environment(environment)
        return environment

    def declare(self, path: Path, values: Mapping[str, bytes | str], name: str = "prod", **given: Any) -> None:
        """What the module secret does."""
        asked = [
            _declaring.Declaration.from_options(
                {"name": key, "value": value, "state": "present", "on_difference": "rotate"}
            )
            for key, value in values.items()
        ]
        with (
            Store(str(path), False) as store,
            store.transaction() as transaction,
            self.backend(name, **given) as backend,
        ):
            _declaring.declare(transaction, name, lambda: backend, asked, False)

    def enrol(self, path: Path, hosts: Sequence[str], name: str = "prod") -> None:
        """Hosts that exist by their keys alone."""
        with (
            self.backend(name) as backend,
            Store(str(path), False) as store,
            store.transaction() as transaction,
        ):
            kid = backend.verification_keys()[0].thumbprint()
            keys = [_jose.load_host_key(_jose.new_host_key().export_public()) for _host in hosts]
            covered = [
                _jose.signing_input(envelope.HOST_RECORD, kid, envelope.host_record(name, host, key))
                for host, key in zip(hosts, keys, strict=True)
            ]
            for host, key, text, signature in zip(hosts, keys, covered, backend.sign(covered), strict=True):
                record = _jose.attach_signature(text, signature)
                transaction.put_host(HostRecord(name, host, key.thumbprint(), record))

    # -- by ansible-playbook ------------------------------------------------------------------------------------

    def environment(self, name: str = "prod", key: str = "prod", /, **given: Any) -> Task:
        """A task that declares an environment, named after it; it logs in and reads the public key."""
        return task(name, "environment", name=name, key=key, backend="vault", engine_mount_point=self.mount, **given)


def store_bytes(control: Control) -> bytes:
    """All that the store is."""
    return control.place.path.read_bytes()


def defaults(**options: Any) -> dict[str, Any]:
    """A play's options that give every task of ours these."""
    return {"play": {"module_defaults": {"group/hostseal.secrets.hostseal": options}}}


def as_json(path: Path, value: Any) -> str:
    """VALUE in a file of variables."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)
