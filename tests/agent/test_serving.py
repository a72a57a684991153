# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Docker's side of a real agent process: what containers get, and what they don't."""

from __future__ import annotations

import stat
import subprocess
import time

import pytest

from tests.agent.harness import Environment, RunningAgent


def test_first_mount_decrypts_and_last_unmount_wipes(agent: RunningAgent, prod: Environment) -> None:
    receipt = agent.deliver(
        prod.envelope(files={"db_password|999|33|0400": b"\x00\xff s3cret\n", "tls/server.key": b"K" * 4097})
    )
    assert receipt["changed"]
    assert receipt["live"] is False
    assert list(agent.volumes.iterdir()) == []

    folder = agent.mount()
    password = folder / "db_password"
    assert password.read_bytes() == b"\x00\xff s3cret\n"
    assert (folder / "tls/server.key").read_bytes() == b"K" * 4097
    details = password.stat()
    assert (details.st_uid, details.st_gid, stat.S_IMODE(details.st_mode)) == (999, 33, 0o400)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("..")) == ["db_password", "tls"]

    agent.mount(user="b" * 64)
    agent.unmount()
    assert password.exists()
    agent.unmount(user="b" * 64)
    assert list(agent.volumes.iterdir()) == []


def test_one_id_counts_as_often_as_it_mounts(agent: RunningAgent, prod: Environment) -> None:
    """`docker cp` from a running container mounts and unmounts with the container's ID."""
    agent.deliver(prod.envelope())
    folder = agent.mount()
    agent.mount()
    agent.unmount()
    assert (folder / "db_password").read_bytes() == b"s3cret"
    agent.unmount()
    assert not folder.exists()


def test_an_unknown_mount_is_refused_with_a_reason(agent: RunningAgent, prod: Environment) -> None:
    for call in ("Create", "Mount"):
        text = agent.plugin(f"VolumeDriver.{call}", Name="prod.web", ID="a" * 64)["Err"]
        assert '"prod.web"' in text
        assert '"db1"' in text
        assert "hostseal.secrets.mount" in text
    assert agent.plugin("VolumeDriver.Get", Name="prod.web") == {"Err": "no such volume"}
    assert agent.plugin("VolumeDriver.Remove", Name="prod.web") == {"Err": ""}
    assert agent.status()["mounts"] == []
    del prod


def test_listing_and_removing(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope(version=7))
    assert agent.plugin("Plugin.Activate") == {"Implements": ["VolumeDriver"]}
    assert agent.plugin("VolumeDriver.Capabilities") == {"Capabilities": {"Scope": "local"}}
    place = str(agent.published / "prod.db")
    assert agent.plugin("VolumeDriver.Create", Name="prod.db") == {"Err": ""}
    assert agent.plugin("VolumeDriver.Remove", Name="prod.db") == {"Err": ""}
    assert agent.plugin("VolumeDriver.List")["Volumes"] == [{"Name": "prod.db", "Mountpoint": place}]
    assert agent.plugin("VolumeDriver.Path", Name="prod.db") == {"Mountpoint": place, "Err": ""}
    volume = agent.plugin("VolumeDriver.Get", Name="prod.db")["Volume"]
    assert volume["Mountpoint"] == place
    assert volume["Status"] == {"versions": {"db_password": 7}, "issued_at": prod.issued_at, "expires_at": None}
    assert "no options" in agent.plugin("VolumeDriver.Create", Name="prod.db", Opts={"size": "1m"})["Err"]


def test_an_update_is_seen_as_a_set_by_running_containers(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope(files={"key": b"1", "cert": b"1", "gone/x": b"1"}))
    folder = agent.mount()
    inode = folder.stat().st_ino
    receipt = agent.deliver(prod.envelope(files={"key": b"2", "cert": b"2", "new": b"2"}))
    assert (receipt["live"], receipt["users"]) == (True, 1)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("..")} == {
        "key": b"2",
        "cert": b"2",
        "new": b"2",
    }
    assert folder.stat().st_ino == inode
    time.sleep(1.2)
    assert len([path for path in folder.iterdir() if path.name.startswith("..")]) == 2


@pytest.mark.parametrize("on_remove", ["wipe", "keep"])
def test_removal_of_a_live_mount(agent: RunningAgent, prod: Environment, on_remove: str) -> None:
    agent.deliver(prod.envelope(options={"on_remove": on_remove}))
    folder = agent.mount()
    assert agent.control("DELETE", "/v1/mounts/prod.db") == (200, {"changed": True})
    assert agent.control("DELETE", "/v1/mounts/prod.db") == (200, {"changed": False})
    assert (folder / "db_password").exists() == (on_remove == "keep")
    assert folder.exists()
    assert "no mount" in agent.refused_mount()
    # Docker asks before it unmounts, and would not unmount what is not there.
    assert agent.plugin("VolumeDriver.Get", Name="prod.db")["Volume"]["Status"] == {"removed": True}
    agent.unmount()
    assert not folder.exists()
    assert agent.plugin("VolumeDriver.Get", Name="prod.db") == {"Err": "no such volume"}


def test_a_mount_that_comes_back_reaches_the_container_that_still_runs(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    folder = agent.mount()
    agent.control("DELETE", "/v1/mounts/prod.db")
    assert agent.deliver(prod.envelope(files={"db_password": b"new"}))["live"]
    assert (folder / "db_password").read_bytes() == b"new"


def test_wipe_forgets_everything(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    folder = agent.mount()
    assert agent.control("POST", "/v1/wipe") == (200, {"changed": True})
    assert list(folder.iterdir()) == []
    status = agent.status()
    assert (status["mounts"], status["environments"], status["marks"]) == ([], {}, {})
    assert [path for path in agent.state.rglob("*") if path.is_file()] == []


def test_no_tmpfs_no_secret(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    agent.unmount_tmpfs()
    assert "not a tmpfs" in agent.refused_mount()
    assert not agent.status()["tmpfs"]["ok"]
    assert list(agent.volumes.iterdir()) == []
    agent.mount_tmpfs()
    assert (agent.mount() / "db_password").exists()


def test_a_view_that_docker_does_not_see_is_refused(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    agent.unmount_tmpfs()
    agent.mount_tmpfs()
    agent.control("GET", "/v1/status")
    subprocess.run(["umount", agent.published], check=True)
    agent._mounted.remove(agent.published)
    assert "not a view" in agent.refused_mount()


def test_a_full_tmpfs_refuses_and_leaves_the_good_one(bare: RunningAgent) -> None:
    bare.unmount_tmpfs()
    bare.mount_tmpfs(size="100k")
    bare.start()
    prod = Environment(host_key=bare.host_key)
    bare.pin(prod)
    bare.deliver(prod.envelope(files={"small": b"1"}))
    folder = bare.mount()
    reason = bare.refused(prod.envelope(files={"small": b"2", "large": b"x" * 200_000}))
    assert "No space left" in reason
    assert (folder / "small").read_bytes() == b"1"
    assert bare.status()["mounts"][0]["secrets"][0]["name"] == "small"
    bare.deliver(prod.envelope("big", {"large": b"x" * 200_000}), "prod.big")
    assert "No space left" in bare.refused_mount("prod.big")
    assert not (bare.volumes / "prod.big").exists()
    bare.unmount()
    assert list(bare.volumes.iterdir()) == []


def test_owners_where_docker_remaps_users(bare: RunningAgent) -> None:
    bare.arguments = ["--uid-offset", "100000", "--gid-offset", "200000"]
    bare.start()
    prod = Environment(host_key=bare.host_key)
    bare.pin(prod)
    bare.deliver(prod.envelope(files={"a": b"1", "b|999|33": b"2"}))
    folder = bare.mount()
    owners = [((folder / name).stat().st_uid, (folder / name).stat().st_gid) for name in ("a", "b")]
    assert owners == [(100_000, 200_000), (100_999, 200_033)]
    bare.deliver(prod.envelope("far", {"a|4294967000": b"1"}), "prod.far")
    assert "outside Docker's user namespace" in bare.refused_mount("prod.far")
    assert not (bare.volumes / "prod.far").exists()
