# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import posixpath
from typing import Any

# Private to ansible-core, but the same in 2.19 to 2.22, and the only way to another module's defaults.
from ansible.executor.module_common import _apply_action_arg_defaults
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.hostseal.secrets.plugins.module_utils._model import (
    HostsealError,
    check_name,
    shorten,
    volume_name,
)
from ansible_collections.hostseal.secrets.plugins.modules import container
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, plain

DRIVER = "hostseal"
DOCKER_CONTAINER = "community.docker.docker_container"
DOCKER_VOLUME_INFO = "community.docker.docker_volume_info"
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


class ActionModule(Action):
    """Run docker_container with the mount of the secrets among its mounts."""

    _requires_connection = True

    def _options(self) -> dict[str, Any]:
        """Check `secrets`; docker_container knows and checks all others itself."""
        secrets = plain(self._given.get("secrets"))
        if secrets is not None and not isinstance(secrets, dict):
            raise HostsealError("secrets is not a dictionary with environment and mount")
        given = {} if secrets is None else {"secrets": secrets}
        outcome = ArgumentSpecValidator(container.ARGUMENT_SPEC).validate(given)
        if outcome.error_messages:
            raise HostsealError(outcome.errors.msg)
        return dict(outcome.validated_parameters)

    def work(self, options: dict[str, Any]) -> Result:
        given = {key: value for key, value in self._given.items() if key != "secrets"}
        arguments = _apply_action_arg_defaults(DOCKER_CONTAINER, self._task, given, self._templar)
        if options["secrets"] and plain(arguments.get("state")) != "absent":
            volume, target = _place(options["secrets"])
            _refuse_taken_target(arguments, target)
            self._check_volume(volume, arguments)
            arguments["mounts"] = [*(arguments.get("mounts") or []), _mount(volume, target)]
        return self._execute_module(module_name=DOCKER_CONTAINER, module_args=arguments, task_vars=self.task_vars)

    def _check_volume(self, volume: str, arguments: dict[str, Any]) -> None:
        """Refuse before docker_container removes a container that it then can't make anew."""
        connection = {key: value for key, value in arguments.items() if key in CONNECTION_OPTIONS}
        found = self.run_on_host(DOCKER_VOLUME_INFO, {"name": volume, **connection})
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


def _place(secrets: dict[str, str]) -> tuple[str, str]:
    """The volume and its directory in the container."""
    volume = volume_name(check_name("environment", secrets["environment"]), check_name("mount", secrets["mount"]))
    target = secrets["target"]
    if not target.startswith("/") or _normal(target) != target or target == "/":
        raise HostsealError(
            f"secrets: target {shorten(target)} is not an absolute directory below /, without '..' and '/' at its end"
        )
    return volume, target


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
