# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Private to ansible-core, but the same in 2.19 to 2.22, and the only way to another module's defaults.
from ansible.executor.module_common import _apply_action_arg_defaults
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.hostseal.secrets.plugins.module_utils._model import (
    HostsealError,
    Mount,
    check_name,
    shorten,
    volume_name,
)
from ansible_collections.hostseal.secrets.plugins.modules import container
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, plain

DRIVER = "hostseal"
MOUNT_ACTION = "hostseal.secrets.mount"
DOCKER_CONTAINER = "community.docker.docker_container"
DOCKER_VOLUME_INFO = "community.docker.docker_volume_info"
# Ours alone. name and state are docker_container's.
OWN_OPTIONS = frozenset(container.ARGUMENT_SPEC) - {"name", "state"}
# What `secrets` has when it is a mount by name.
NAMED = {
    "environment": {"type": "str", "required": True},
    "mount": {"type": "str", "required": True},
    "target": {"type": "str", "default": container.DEFAULT_TARGET},
}
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# How community.docker's modules reach the engine, with the aliases.
CONNECTION_OPTIONS = frozenset(
    (
        "docker_host", "docker_url",
        "tls_hostname",
        "api_version", "docker_api_version",
        "timeout",
        "ca_path", "ca_cert", "tls_ca_cert", "cacert_path",
        "client_cert", "tls_client_cert", "cert_path",
        "client_key", "tls_client_key", "key_path",
        "tls",
        "use_ssh_client",
        "validate_certs", "tls_verify",
    )
)  # fmt: skip


@dataclass(frozen=True)
class _Secrets:
    """What the container is to see: a mount that the host has, or, with `own`, one of its own."""

    volume: str
    target: str  # the directory in the container
    own: dict[str, Any] | None = None  # arguments for hostseal.secrets.mount
    files: dict[str, str] | None = None  # of its own: the file of each secret


class ActionModule(Action):
    """Run docker_container with the mount of the secrets among its mounts."""

    _requires_connection = True

    def _options(self) -> dict[str, Any]:
        """Check our own options; docker_container knows and checks all others itself."""
        given = {key: plain(value) for key, value in self._given.items() if key in container.ARGUMENT_SPEC}
        outcome = ArgumentSpecValidator(container.ARGUMENT_SPEC).validate(given)
        if outcome.error_messages:
            raise HostsealError(outcome.errors.msg)
        return dict(outcome.validated_parameters)

    def work(self, options: dict[str, Any]) -> Result:
        if not self._shared_loader_obj.module_loader.find_plugin(DOCKER_CONTAINER):
            raise HostsealError(
                "the control node lacks the collection community.docker: 'ansible-galaxy collection install"
                " community.docker', or add it to the execution environment"
            )
        given = {key: value for key, value in self._given.items() if key not in OWN_OPTIONS}
        arguments = _apply_action_arg_defaults(DOCKER_CONTAINER, self._task, given, self._templar)
        secrets = _secrets(options, plain(arguments.get("name")))
        absent = plain(arguments.get("state")) == "absent"
        delivered: Result = {}
        if secrets and not absent:
            _refuse_taken_target(arguments, secrets.target)
            shown = options["env_from_secrets"] or {}
            variables = _variables(shown, arguments, secrets)
            if secrets.own:
                delivered = self._own_mount(secrets.own)
                if delivered.get("failed"):
                    return delivered
            else:
                self._check_volume(secrets.volume, shown, arguments)
            arguments["mounts"] = [*(arguments.get("mounts") or []), _mount(secrets.volume, secrets.target)]
            if variables:
                arguments["env"] = {**(arguments.get("env") or {}), **variables}
        result: Result = self._execute_module(
            module_name=DOCKER_CONTAINER, module_args=arguments, task_vars=self.task_vars
        )
        if secrets and secrets.own and absent and not result.get("failed"):
            # Its last user is gone now.
            delivered = self._own_mount({**secrets.own, "state": "absent"})
            if delivered.get("failed"):
                return {**delivered, "changed": bool(result.get("changed"))}
        return _joined(result, delivered)

    def _own_mount(self, arguments: dict[str, Any]) -> Result:
        """Deliver the container's own mount, or take it away, as a task of hostseal.secrets.mount would."""
        task = self._task.copy()
        task.args = _apply_action_arg_defaults(MOUNT_ACTION, task, arguments, self._templar)
        action = self._shared_loader_obj.action_loader.get(
            MOUNT_ACTION,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        result: Result = action.run(task_vars=self.task_vars)
        return result

    def _check_volume(self, volume: str, shown: dict[str, str], arguments: dict[str, Any]) -> None:
        """Refuse before docker_container removes a container that it then can't make anew."""
        connection = {key: value for key, value in arguments.items() if key in CONNECTION_OPTIONS}
        try:
            found = self.run_on_host(DOCKER_VOLUME_INFO, {"name": volume, **connection})
        except HostsealError as error:
            raise HostsealError(
                f"Docker on the host can't be asked for the volume {volume!r}: {error}. Docker and"
                " python3-requests have to be installed there, and Docker to run. Nothing was changed"
            ) from None
        if not found["exists"]:
            missing = f"the host has no volume {volume!r}: deliver the mount with hostseal.secrets.mount"
            if not self.check:
                raise HostsealError(f"{missing}. Nothing was changed")
            self._display.warning(f"{missing}; predicted as if this run did so")
        elif found["volume"]["Driver"] != DRIVER:
            raise HostsealError(
                f"the host has a Docker volume {volume!r} of the driver {found['volume']['Driver']!r}: the container"
                f" would get it instead of the secrets. Remove it with 'docker volume rm {volume}'. Nothing was changed"
            )
        else:
            names = (found["volume"].get("Status") or {}).get("versions") or {}
            _refuse_unknown_secrets(shown, names, f"mount {volume!r} of the host")


def _secrets(options: dict[str, Any], name: Any) -> _Secrets | None:
    """From the options of ours; NAME is the container's."""
    given = options["secrets"]
    if given is None:
        for option in ("env_from_secrets", "secrets_mount"):
            if options[option]:
                raise HostsealError(f"{option} is given, but there are no secrets")
        return None
    if isinstance(given, list):
        if options["environment"] is None:
            raise HostsealError("secrets is a list: the option environment has to say of which environment")
        more = dict(options["secrets_mount"] or {"target": container.DEFAULT_TARGET, "owner": "container"})
        target = _checked_target(more.pop("target"))
        own = {
            **{key: value for key, value in more.items() if value is not None},
            "environment": options["environment"],
            "name": more["name"] if more.get("name") else name,
            "secrets": [{"source": entry} if isinstance(entry, str) else entry for entry in given],
        }
        mount = Mount.from_options(own)
        # The first, where a secret has several files.
        files = {entry.source: entry.target for entry in reversed(mount.entries)}
        return _Secrets(mount.volume, target, own, files)
    if not isinstance(given, dict):
        raise HostsealError("secrets is neither a dictionary with environment and mount nor a list of secrets")
    if options["secrets_mount"]:
        raise HostsealError("secrets_mount is about a mount of the container's own: secrets is not a list")
    outcome = ArgumentSpecValidator(NAMED).validate({"environment": options["environment"], **given})
    if outcome.error_messages:
        raise HostsealError(f"secrets: {Action.first_error(outcome.errors)}")
    named = outcome.validated_parameters
    volume = volume_name(check_name("environment", named["environment"]), check_name("mount", named["mount"]))
    return _Secrets(volume, _checked_target(named["target"]))


def _checked_target(target: str) -> str:
    if not target.startswith("/") or _normal(target) != target or target == "/":
        raise HostsealError(
            f"secrets: target {shorten(target)} is not an absolute directory below /, without '..' and '/' at its end"
        )
    return target


def _variables(shown: dict[str, Any], arguments: dict[str, Any], secrets: _Secrets) -> dict[str, str]:
    """The environment variables that say where the secrets are."""
    known = plain(arguments.get("env")) or {}
    if shown and not isinstance(known, dict):
        raise HostsealError("env is not a dictionary")
    for name, secret in shown.items():
        if not VARIABLE.fullmatch(name):
            raise HostsealError(f"env_from_secrets: {shorten(name)} is not a name of an environment variable")
        check_name("secret", secret)
        taken = [variable for variable in (name, f"{name}_FILE") if variable in known]
        if taken:
            raise HostsealError(f"env_from_secrets names {name}, but env has {taken[0]} already")
    if secrets.files is not None:
        _refuse_unknown_secrets(shown, secrets.files, "the list secrets")
    files = secrets.files or {}
    return {f"{name}_FILE": f"{secrets.target}/{files.get(secret, secret)}" for name, secret in shown.items()}


def _refuse_unknown_secrets(shown: dict[str, str], names: Iterable[str], place: str) -> None:
    for variable, name in shown.items():
        if name not in names:
            has = ", ".join(sorted(names)) or "none"
            raise HostsealError(
                f"env_from_secrets: {variable} names the secret {shorten(name)}, which {place} does not have."
                f" It has: {has}. Nothing was changed"
            )


def _joined(result: Result, delivered: Result) -> Result:
    """docker_container's result, with what became of the container's own mount."""
    if not delivered:
        return result
    diffs = [each["diff"] for each in (delivered, result) if each.get("diff")]
    joined = {
        **result,
        "changed": bool(result.get("changed") or delivered["changed"]),
        "secrets_mount": delivered["mounts"][0],
    }
    if diffs:
        joined["diff"] = diffs
    return joined


def _mount(volume: str, target: str) -> dict[str, Any]:
    return {
        "type": "volume",
        "source": volume,
        "target": target,
        "read_only": True,
        # Docker would put what the image has there into the volume.
        "no_copy": True,
        # Without it, Docker would make an empty local volume where the host does not have the mount.
        "volume_driver": DRIVER,
    }


def _refuse_taken_target(arguments: dict[str, Any], target: str) -> None:
    for option in ("mounts", "volumes", "tmpfs"):
        value = plain(arguments.get(option)) or []
        if not isinstance(value, list):
            raise HostsealError(f"{option} is not a list")
        for entry in value:
            if _normal(_target(option, entry)) == target:
                raise HostsealError(
                    f"{option} already has something at {target}, where the secrets go. Nothing was changed"
                )


def _normal(path: str) -> str:
    """PATH in one spelling. POSIX, and so normpath(), gives two slashes at the beginning a meaning of their own."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _target(option: str, entry: object) -> str:
    """Where an entry of mounts, volumes (SOURCE:TARGET[:MODE], TARGET[:MODE]) or tmpfs (TARGET[:OPTIONS]) goes."""
    if option == "mounts":
        return str(entry.get("target")) if isinstance(entry, dict) else ""
    first, _colon, rest = str(entry).partition(":")
    return rest.partition(":")[0] if option == "volumes" and rest.startswith("/") else first
