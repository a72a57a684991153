# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who this host is: its name and its private key, handed over by systemd's LoadCredential=."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from jwcrypto.jwk import JWK

from ._envelope import load_host_key
from ._model import HostsealError, check_name


@dataclass(frozen=True)
class Host:
    """The key stays out of repr."""

    name: str
    key: JWK

    def __repr__(self) -> str:
        return f"Host({self.name!r})"

    @property
    def kid(self) -> str:
        return str(self.key.thumbprint())


def load_host(folder: str) -> Host:
    """Read host.json and host.key from FOLDER; HostsealError says what is wrong with them."""
    try:
        with open(os.path.join(folder, "host.json"), encoding="utf-8") as file:
            name = check_name("host", json.load(file)["host"])
        with open(os.path.join(folder, "host.key"), encoding="utf-8") as file:
            return Host(name, load_host_key(file.read(), private=True))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostsealError(
            f"the host's identity can't be read ({type(error).__name__}): run hostseal.secrets.host_identity"
        ) from None
