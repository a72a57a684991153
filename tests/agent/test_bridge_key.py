# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module bridge_key, without a host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.modules.bridge_key import ensure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc/bridge.key"


def run(path: Path, rotate: bool = False, check: bool = False) -> tuple[bool, dict[str, str] | None]:
    result = ensure(str(path), rotate, check)
    return result["changed"], result["public_key"]


def test_a_key_is_made_once_and_rotated_on_demand(path: Path) -> None:
    assert run(path, check=True) == (True, None)
    assert not path.parent.exists()
    changed, public = run(path)
    assert changed
    assert public is not None
    assert set(public) == {"kty", "crv", "x", "kid"}
    private = _jose.load_signing_key(path.read_text(), private=True)
    assert public == private.export_public(as_dict=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert run(path) == run(path, check=True) == (False, public)
    assert run(path, rotate=True, check=True) == (True, None)
    assert path.read_bytes() == before
    changed, rotated = run(path, rotate=True)
    assert changed
    assert rotated != public
    assert run(path) == (False, rotated)
    assert os.listdir(path.parent) == ["bridge.key"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.chmod(0o640), "has mode 0640"),
        (lambda path: os.chown(path, 65534, 65534), "belongs to uid 65534"),
        (lambda path: path.write_text("{}"), "is damaged"),
        (lambda path: path.write_text(_jose.new_host_key().export_private()), "is damaged"),
        (lambda path: path.write_text(_jose.new_signing_key().export_public()), "is damaged"),
    ],
)
def test_a_key_that_is_not_to_be_trusted_is_never_overwritten(path: Path, spoil: object, words: str) -> None:
    run(path)
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes()
    for rotate in (False, True):
        with pytest.raises(HostsealError, match=words) as error:
            run(path, rotate=rotate)
        assert "vault_bridge" in str(error.value)
    assert path.read_bytes() == before
