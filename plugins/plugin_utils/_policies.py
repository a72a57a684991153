# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The policies of an environment's Transit keys: who declares, who delivers, who rotates.

Paths are exact, so that a name which begins alike is another one. The denials are for tokens that have other policies
too: for a path the most specific rule of all policies decides, and of equal ones a denial.
https://openbao.org/docs/concepts/policies/
"""

from __future__ import annotations

import re

KINDS = ("writer", "deployer", "rotator")

_OWN_TOKEN = (
    ("auth/token/lookup-self", "read"),
    ("auth/token/renew-self", "update"),
    ("auth/token/revoke-self", "update"),
)
_PURPOSES = {
    "writer": "declares and rotates secrets, and opens none",
    "deployer": "opens secrets and signs envelopes, and declares none",
    "rotator": "adds key versions and re-encrypts under them, and opens none",
}


def policy_name(prefix: str, key: str, kind: str) -> str:
    """The name of a policy, and of the role that has it."""
    return f"{prefix}{key}-{kind}"


def policy_text(engine: str, key: str, kind: str) -> str:
    """The policy of KIND for the keys KEY, KEY-sign and KEY-hmac of the Transit engine at the path ENGINE."""
    allowed = {
        "writer": ((f"{engine}/encrypt/{key}", "update"), (f"{engine}/hmac/{key}-hmac/sha2-256", "update")),
        "deployer": (
            (f"{engine}/decrypt/{key}", "update"),
            (f"{engine}/sign/{key}-sign", "update"),
            (f"{engine}/keys/{key}-sign", "read"),
        ),
        "rotator": ((f"{engine}/rewrap/{key}", "update"), (f"{engine}/keys/{key}/rotate", "update")),
    }[kind]
    # "+" is more specific than "*": it outweighs another policy's "+".
    denied = (f"{engine}/keys/*", f"{engine}/keys/+", f"{engine}/keys/+/*", "sys/*")
    rules = [*allowed, *_OWN_TOKEN, *((path, "deny") for path in denied)]
    blocks = [f'path "{path}" {{\n  capabilities = ["{capability}"]\n}}\n' for path, capability in rules]
    return f"# hostseal: {_PURPOSES[kind]}. Key {key} of the Transit engine at {engine}.\n" + "".join(blocks)


def engine_of(text: str) -> str | None:
    """The path of the engine that a policy of ours is about; None when TEXT is none of ours."""
    found = re.match(r"# hostseal: .* of the Transit engine at (\S+)\.\n", text)
    return found[1] if found else None
