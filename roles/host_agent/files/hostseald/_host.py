# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who this host is: its name and its private keys, handed over by systemd's LoadCredential=."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from jwcrypto.jwk import JWK

from ._jose import load_host_keys, thumbprint
from ._model import HostsealError, check_name


class Host:
    """KEY is the host's key. While it is being rotated, OLDER ones open what was sealed before."""

    def __init__(self, name: str, key: JWK, older: Iterable[JWK] = ()) -> None:
        self.name = name
        self.key = key
        self._older = {thumbprint(key): key for key in older}

    def __repr__(self) -> str:
        return f"Host({self.name!r})"

    @property
    def kid(self) -> str:
        return thumbprint(self.key)

    @property
    def older_kids(self) -> list[str]:
        """Thumbprints of the older keys."""
        return list(self._older)

    def keys(self) -> list[JWK]:
        """All keys, the host's own first."""
        return [self.key, *self._older.values()]

    def key_of(self, kid: str) -> JWK:
        """The key with thumbprint KID, the host's own when there is none such."""
        return self._older.get(kid, self.key)

    def forget(self, kid: str) -> None:
        """Drop an older key."""
        self._older.pop(kid, None)


def load_host(folder: str) -> Host:
    """Read host.json and host.key from FOLDER; HostsealError says what is wrong with them."""
    try:
        with open(os.path.join(folder, "host.json"), encoding="utf-8") as file:
            name = check_name("host", json.load(file)["host"])
        with open(os.path.join(folder, "host.key"), encoding="utf-8") as file:
            key, *older = load_host_keys(file.read())
            return Host(name, key, older)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostsealError(
            f"the host's identity can't be read ({type(error).__name__}): run hostseal.secrets.host_identity"
        ) from None
