# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is left of a host's mounts without some secrets, from a real store that a person may have edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hostseal.secrets.plugins.filter.declarations import rotations
from ansible_collections.hostseal.secrets.plugins.module_utils._model import Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating, _sealing
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import localkey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Receipt, now_ms
from ansible_collections.hostseal.secrets.plugins.plugin_utils._revoking import without

from tests.unit.builders import Place


@pytest.fixture
def place(prod: Place) -> Place:
    """Hosts "here" and "there", and three secrets, "a" in two versions."""
    for host in ("here", "there"):
        prod.enrol(host)
    prod.declare(*({"name": name, "value": f"{name} 1"} for name in "abc"))
    prod.declare({"name": "a", "value": "a 2", "on_difference": "rotate"})
    return prod


def _mount(*secrets: str | Mapping[str, Any], name: str = "m", **options: Any) -> Mount:
    return Mount.from_options({"environment": "prod", "name": name, "secrets": list(secrets), **options})


def _seal(place: Place, *mounts: Mount, host: str = "here", confirm: bool = True) -> None:
    """Seal, and have the host confirm it."""
    with place.store() as store:
        plans = _sealing.plan(store, [(host, mount) for mount in mounts])
        sealed = _sealing.seal(store, lambda _environment: place.backend(), plans)
        if not confirm:
            return
        with store.transaction() as transaction:
            for plan in plans:
                secrets = [{"name": version.name, "version": version.number} for version in plan.versions]
                issued_at = sealed[host, plan.mount.volume].issued_at
                place_of = ("prod", host, plan.mount.name)
                transaction.put_receipts(
                    [Receipt(*place_of, issued_at, None, plan.digest, secrets, now_ms(), plan.environment.signing_kid)]
                )


def _without(place: Place, *names: str, host: str = "here") -> tuple[list[Mount], list[str]]:
    with place.store() as store, store.transaction() as transaction:
        return without(transaction, "prod", host, names or None)


def test_the_others_stay_as_they_are(place: Place) -> None:
    pinned = {"source": "a", "target": "old/a", "uid": 5, "gid": 6, "mode": "0440", "version": 1}
    options = {"change_mode": "signal", "change_signal": "SIGUSR1", "splay": 9, "owner": "team", "expires_after": 900}
    _seal(place, _mount("a", pinned, "b", **options), _mount("b", name="alone"), _mount("c", name="other"))
    current = {"source": "a", "version": 2}
    assert _without(place, "b") == ([_mount(current, pinned, **options)], ["alone"])
    assert _without(place, "a", "b", "c") == ([], ["alone", "m", "other"])
    assert _without(place) == ([], ["alone", "m", "other"])
    assert _without(place, "nothing") == ([], [])
    assert _without(place, "b", host="there") == ([], [])


def test_the_token_stays_and_so_does_a_mount_that_has_nothing_else(place: Place) -> None:
    token = {"vault_token": {"role": "web", "wrap_ttl": "2m"}, "target": "t", "uid": 999, "mode": "0400"}
    _seal(place, _mount("a", token, match={"image": "web"}, while_booting="wait"))
    assert _without(place, "a") == ([_mount(token, match={"image": "web"}, while_booting="wait")], [])


def test_versions_are_those_that_the_host_has(place: Place) -> None:
    """A newer envelope was sealed, but the run ended before this host."""
    both = ("a", {"source": "a", "target": "first", "version": 1}, "b")
    _seal(place, _mount(*both))
    place.declare({"name": "a", "value": "a 3", "on_difference": "rotate"})
    _seal(place, _mount(*both, "c"), confirm=False)
    assert _without(place, "b") == (
        [_mount({"source": "a", "version": 2}, {"source": "a", "target": "first", "version": 1})],
        [],
    )


def test_what_was_only_sealed_may_be_on_the_host(place: Place) -> None:
    _seal(place, _mount("a", "b"), confirm=False)
    assert _without(place, "b") == ([_mount({"source": "a", "version": 2})], [])


def test_a_secret_that_was_deleted_before_is_left_out(place: Place) -> None:
    _seal(place, _mount("a", "b", "c"))
    place.declare({"name": "c", "state": "absent", "force": True})
    assert _without(place, "b") == ([_mount({"source": "a", "version": 2})], [])


def test_envelopes_under_an_earlier_signing_key_are_read(place: Place) -> None:
    _seal(place, _mount("a", "b"))
    localkey.create(place.keys, "new")
    with place.store() as store, store.transaction() as transaction:
        before = transaction.environment("prod")
        new = place.backend("new")
        after = _sealing.Environment(**{**vars(before), "key_name": "new"})
        _migrating.migrate(transaction, before, place.backend(), after, new, lambda _done, _whole: None)
    assert _without(place, "b") == ([_mount({"source": "a", "version": 2})], [])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE envelope SET text = (SELECT text FROM envelope WHERE mount = 'rich') WHERE mount = 'm'",
        "UPDATE envelope SET text = (SELECT text FROM envelope WHERE host = 'there') WHERE mount = 'm'",
        "UPDATE envelope SET text = replace(text, 'A', 'B') WHERE mount = 'm'",
    ],
    ids=["another mount's", "another host's", "damaged"],
)
def test_an_edited_store_brings_the_host_nothing_new(place: Place, statement: str) -> None:
    _seal(place, _mount("a", "b"), _mount("a", "b", "c", name="rich"))
    _seal(place, _mount("a", "b", "c"), host="there")
    place.sql(f"{statement} AND host = 'here'")
    mounts, remove = _without(place, "b")
    assert "m" in remove
    assert [mount.name for mount in mounts] == ["rich"]


# What hostseal.secrets.rotate makes of the inventory

_HOSTVARS: dict[str, dict[str, Any]] = {
    "one": {
        "hostseal_secrets": [
            {"environment": "prod", "name": "a", "generate": {}, "keep_versions": 3, "rotate_after": "1d"},
            {"environment": "prod", "name": "given", "value": "geheim"},
        ]
    },
    "two": {"hostseal_secrets_x": [{"environment": "dev", "name": "a", "generate": {"length": 9}}]},
}


def test_rotations_by_environment_without_values() -> None:
    found = rotations(_HOSTVARS, ["one", "two"], ["prod/a", "dev/a", "prod/a"])
    assert found == [
        {"environment": "prod", "secrets": [{"name": "a", "generate": {}, "keep_versions": 3}]},
        {"environment": "dev", "secrets": [{"name": "a", "generate": {"length": 9}}]},
    ]
    assert rotations(_HOSTVARS, ["one"], "prod/a") == found[:1]


@pytest.mark.parametrize("wanted", ["a", "prod/given", "dev/a", ["prod/a", "prod/b"], [], ["prod"], [7], [None]])
def test_what_has_no_generate_cannot_be_rotated(wanted: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="can't be rotated") as caught:
        rotations(_HOSTVARS, ["one"], wanted)
    assert "geheim" not in str(caught.value)
