# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one adapter between Ansible and the core: arguments in, plain types, one error boundary, nothing secret out."""

from __future__ import annotations

import datetime
import difflib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import AnsibleValidationErrorMultiple, UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import HAS_JWCRYPTO
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name, shorten
from ansible_collections.hostseal.secrets.plugins.module_utils._options import VAULT
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Actor
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import (
    Backend,
    KeyPlace,
    open_backend,
)
from ansible_collections.hostseal.secrets.plugins.plugin_utils._database import without_password
from ansible_collections.hostseal.secrets.plugins.plugin_utils._paths import file_text
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment
from ansible_collections.hostseal.secrets.plugins.plugin_utils._schema import HAS_SQLALCHEMY
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

if TYPE_CHECKING:
    from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession

Result = dict[str, Any]

VAULT_VARIABLES = {*VAULT, "engine_mount_point"}
_MASK = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"


class Action(ActionBase):
    """A task of ours. Subclasses give ARGUMENT_SPEC and work()."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False
    _supports_diff = True

    ARGUMENT_SPEC: dict[str, Any] = {}
    CONSTRAINTS: dict[str, Any] = {}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Result:
        """Validate, work, and turn every trouble into a message of our own."""
        self._given = self._take_arguments()
        result: Result = super().run(tmp, task_vars)
        self.task_vars: dict[str, Any] = task_vars or {}
        self._session: VaultSession | None = None
        try:
            _check_libraries()
            options = self._options()
            result.update(self.work(options))
        except HostsealError as error:
            result.update(failed=True, msg=str(error))
        except AnsibleError:
            # Of a nested task or the connection: Ansible's words about its own work.
            raise
        except Exception as error:
            # A library's text may quote a value: only the kind of error and the place are told.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
            result.update(
                failed=True,
                msg=f"unexpected {type(error).__name__} at {where}; details are withheld, they could hold a secret",
            )
        finally:
            if self._session is not None:
                self._session.close()
        if self._loops_over_secrets():
            # Ansible adds the loop's item to the result, and prints it; our own message is safe to print.
            result["_ansible_no_log"] = True
            if result.get("failed"):
                Display().error(f"{self._task.action}: {result['msg']}")
        return result

    def work(self, options: dict[str, Any]) -> Result:
        """What the task does with its checked options: the result's additions."""
        raise NotImplementedError

    def _loops_over_secrets(self) -> bool:
        return self._task.loop is not None and bool(_secret_values(self._given, self.ARGUMENT_SPEC))

    def _take_arguments(self) -> Mapping[str, Any]:
        """The task's arguments. Callback plugins are told them after the task: values are taken out of there first."""
        # Kept at the task, which is still the same one when `until` runs it again with another plugin object.
        given: Mapping[str, Any] = getattr(self._task, "_hostseal_arguments", self._task.args)
        if self.ARGUMENT_SPEC:  # else they are options of another module
            self._task._hostseal_arguments = given
            self._task.args = _masked(given, self.ARGUMENT_SPEC)
        return given

    @property
    def check(self) -> bool:
        """Whether this is check mode."""
        return bool(self._task.check_mode)

    def host_name(self, given: str | None) -> str:
        """The host that a task is about: the given name, else the delegated host's, else the inventory's."""
        name = given or self._task.delegate_to or self.task_vars.get("inventory_hostname")
        return check_name("host", plain(name))

    def open_store(self, options: Mapping[str, Any], create: bool = False, read_only: bool = False) -> Store:
        """The store of the options. Only with CREATE, and never in check mode, one is made where there is none.

        With READ_ONLY nothing is locked, and the right to read is enough.
        """
        actor = Actor.of(self._awx_variables())
        store = Store(options["store"], create and not self.check, actor, store_password(options), read_only)
        if not store.exists and not (create or self.check):
            raise HostsealError(
                f"store {store.label} does not exist: declare an environment first with hostseal.secrets.environment,"
                " or check the option store and HOSTSEAL_STORE"
            )
        return store

    def _awx_variables(self) -> dict[str, Any]:
        names = ("awx_job_id", "tower_job_id", "awx_user_name", "tower_user_name")
        return {name: plain(self.task_vars[name]) for name in names if name in self.task_vars}

    def open_backend(self, environment: Environment, options: Mapping[str, Any]) -> Backend:
        """The backend of an environment."""
        place = KeyPlace(
            environment.backend, environment.key_name, environment.engine_mount_point, environment.signing_kid
        )
        return self.open_place(place, options)

    def open_place(self, place: KeyPlace, options: Mapping[str, Any]) -> Backend:
        """The backend with the keys at PLACE."""
        return open_backend(place, options.get("key_path"), lambda: self.vault(options))

    def vault(self, options: Mapping[str, Any]) -> VaultSession:
        """The task's session with Vault: one login, however many backends it serves."""
        if self._session is None:
            # hvac takes a third of a second to load.
            from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession

            self._session = VaultSession(options)
            if not options["validate_certs"]:
                self._display.warning(
                    f"validate_certs is false: who stands between here and {self._session.address} can read everything"
                )
        return self._session

    def progress(self, text: str) -> None:
        """A line for whoever waits."""
        self._display.display(text)

    def run_on_host(self, module: str, arguments: dict[str, Any]) -> Result:
        """Run a module on the host; HostsealError with its own words when it fails."""
        result: Result = self._execute_module(module_name=module, module_args=arguments, task_vars=self.task_vars)
        if result.get("failed") or result.get("unreachable"):
            raise HostsealError(
                str(result.get("msg") or result.get("module_stderr") or "the module failed without a message")
            )
        return result

    def _variables(self) -> dict[str, Any]:
        """Vault options from the variables that community.hashi_vault reads."""
        found = {}
        for name in VAULT_VARIABLES & self.ARGUMENT_SPEC.keys():
            value = self.task_vars.get(f"ansible_hashi_vault_{name}")
            if name == "url" and value is None:
                value = self.task_vars.get("ansible_hashi_vault_addr")
            if value is not None:
                found[name] = self._templar.template(value)
        return found

    @staticmethod
    def first_error(errors: AnsibleValidationErrorMultiple) -> str:
        """The first error. A misspelt option comes before what is missing because of it, with what is like it."""
        misspelt = next((error for error in errors if isinstance(error, UnsupportedError)), None)
        if misspelt is None:
            return str(errors.msg)
        message = str(misspelt.msg)
        unknown, _dot, supported = message.partition(". Supported parameters include: ")
        first = unknown.partition(", ")[0]
        # Aliases stand in brackets behind an option.
        names = [name.partition(" ")[0] for name in supported.rstrip(".").split(", ")]
        alike = difflib.get_close_matches(first.rpartition(".")[2], names, n=1)
        return f"unsupported option: {unknown}. Is {alike[0]} meant?" if alike else f"unsupported option: {message}"

    def _options(self) -> dict[str, Any]:
        arguments = {key: plain(value) for key, value in {**self._variables(), **self._given}.items()}
        hidden = _secret_values(arguments, self.ARGUMENT_SPEC)
        for where, value in hidden:
            if not isinstance(value, str):
                kind = "date" if isinstance(value, datetime.date) else type(value).__name__
                raise HostsealError(
                    f"option {where} is of type {kind}, not a string: quote it, YAML may have changed it already"
                )
        # A leading underscore marks what an action plugin hands to its module, no option of a playbook.
        options = {name: option for name, option in self.ARGUMENT_SPEC.items() if not name.startswith("_")}
        outcome = ArgumentSpecValidator(options, **self.CONSTRAINTS).validate(arguments)
        if outcome.error_messages:
            message = self.first_error(outcome.errors)
            if any(value and value in message for _where, value in hidden):
                message = "an option is not valid; the message would show a secret's value and is withheld"
            raise HostsealError(message)
        validated = dict(outcome.validated_parameters)
        for name in ("secret_id", "password", "jwt", "store_password"):
            if arguments.get(f"{name}_file") and not arguments.get(name):
                # What the task says outweighs what the environment has.
                validated[name] = None
        return validated


def store_password(options: Mapping[str, Any]) -> str | None:
    """The password of the store's user."""
    path = options["store_password_file"]
    if options["store_password"] or not path:
        password: str | None = options["store_password"]
        return password
    return file_text("store_password_file", path).rstrip("\r\n")


def _check_libraries() -> None:
    missing = [name for name, there in (("jwcrypto", HAS_JWCRYPTO), ("SQLAlchemy", HAS_SQLALCHEMY)) if not there]
    if missing:
        raise HostsealError(
            f"the Python of ansible-core on the control node, {sys.executable}, lacks {' and '.join(missing)}:"
            f" '{sys.executable} -m pip install {' '.join(missing)}', or add it to the execution environment"
        )


def _secret_values(arguments: Any, spec: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What was given to options that are marked no_log, at any depth, and to which."""
    if isinstance(arguments, (list, tuple)):
        return [value for item in arguments for value in _secret_values(item, spec)]
    if not isinstance(arguments, Mapping):
        return []
    found = []
    for name, option in spec.items():
        given = arguments.get(name)
        if given is not None and option.get("no_log"):
            of = arguments.get("name")
            found.append((f"{name} of {shorten(of)}" if isinstance(of, str) else name, given))
        elif "options" in option:
            found += _secret_values(given, option["options"])
    return found


def _masked(arguments: Any, spec: Mapping[str, Any]) -> Any:
    """ARGUMENTS without what secret options hold, nor misspelt ones."""
    if isinstance(arguments, (list, tuple)):
        return [_masked(item, spec) for item in arguments]
    if not isinstance(arguments, Mapping):
        return _MASK
    shown = {}
    for name, given in arguments.items():
        option = spec.get(name)
        location = plain(given) if name in ("store", "copy_to") else None
        if option is None or option.get("no_log"):
            shown[name] = _MASK
        elif location is not None:
            shown[name] = without_password(location) if isinstance(location, str) else _MASK
        else:
            shown[name] = _masked(given, option["options"]) if "options" in option else given
    return shown


def iso(milliseconds: int) -> str:
    """A time since the epoch as ISO 8601 in UTC."""
    return datetime.datetime.fromtimestamp(milliseconds // 1000, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(value: Any) -> Any:
    """VALUE in built-in types: Ansible passes tagged subclasses, and vaulted text that is decrypted on use."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, datetime.date):
        # Not as text, which may be another one than was written: a secret's value is refused for it.
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return "".join(str(value))
