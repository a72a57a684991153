# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The marker hunt: the main job with markers as secrets, and then a search of every place where they must not be.

One run with each backend serves all tests. The markers named "planted" are put by hand into each place during the same run: a place
whose search does not find them is not searched at all.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import markers as markers_module
from tests.integration.playbook import ControlNode, install
from tests.integration.promises.key_holders import SECRET, LocalKeys, Tapping, VaultKeys, unbase64
from tests.markers import Collector, Finding, Markers, file_collector, process_collector
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost
from tests.rig.openbao import OpenBao

HUNTER = Path(markers_module.__file__).read_text(encoding="utf-8")
SEALED = ("password", "lines", "vaulted", "base64-looking", "file", "binary", "looped", "failing", "extra")
PLACES_ON_CONTROL = ("disk", "files", "processes", "output", "log", "callback", "registered", "facts")
PLACES_ON_HOST = (
    "disks and memory",
    "module payloads",
    "journal",
    "audit log",
    "docker inspect",
    "docker logs",
    "image layers",
    "processes",
)


class Hunt:
    """A control node on a disk of its own, a host, and what was collected while the job ran."""

    def __init__(self, directory: Path, host: ThrowawayHost, holder: LocalKeys | VaultKeys) -> None:
        self.host = host
        self.image = directory / "disk.img"
        self.disk = directory / "disk"
        self.secure = directory / "secure"  # what may hold keys: never searched
        self.holder = holder
        self.control = ControlNode(self.disk / "project", host)
        # Without pipelining there are many short calls. The docker command never loses the output of one, which
        # community.docker.docker_api does now and then on a busy machine; and its arguments are seen by all.
        (self.control.directory / "hosts.ini").write_text(
            f"[docker_hosts]\n{host.name} ansible_connection=community.docker.docker ansible_host={host.container}"
            f" ansible_docker_extra_args=--host={host.engine.address} ansible_python_interpreter=/usr/bin/python3\n",
            encoding="utf-8",
        )
        self.markers = Markers.random(*(name for name in SEALED if name not in ("base64-looking", "binary")))
        # Letters that a decoder would take: both forms of it are looked for.
        decoded = os.urandom(24)
        binary = os.urandom(24)
        self.binary = b"\x00\xff\r\n" + binary + b"\x80"
        self.markers |= Markers({"binary": binary, "base64-looking": base64.b64encode(decoded), "decoded": decoded})
        self.planted = Markers.random("planted")
        self.output = ""
        self.found: dict[str, list[Finding]] = {}
        self.read: dict[str, int] = {}
        self.facts: dict[str, Any] = {}

    @property
    def all(self) -> Markers:
        return self.markers | self.planted

    # -- the job ------------------------------------------------------------------------------------------------------

    def values(self) -> dict[str, str]:
        """The values of secrets by name, odd ones; in the shape that the playbook takes."""
        text = self.markers.text
        return {
            "password": f"{{{{ {text('password')} }}}} {{% raw 'quoted\" \\",
            "lines": f"one\n{text('lines')}\n\nfour\n",
            "vaulted": f"$ANSIBLE_VAULT;1.1;AES256\n{text('vaulted')}\n",
            "base64-looking": text("base64-looking"),
            "looped": f" {text('looped')}\t",
            "failing": text("failing"),
            # Over the limit of 1 MiB: it is refused.
            "extra": text("extra") + "x" * (1 << 20),
            **self.holder.values(),
        }

    def variables(self, ansible_vault: str) -> None:
        """The values as a vaulted file of variables, as people keep them."""
        lines = [
            f"value_{name.replace('-', '_')}: !unsafe {json.dumps(value)}" for name, value in self.values().items()
        ]
        lines.append(f"value_binary: {base64.b64encode(self.binary).decode()}")
        password = self.secure / "vault-password"
        password.write_text("not a secret of ours\n", encoding="utf-8")
        done = subprocess.run(
            [ansible_vault, "encrypt", "--vault-password-file", str(password), "--output", "-"],
            input="\n".join(lines).encode(),
            capture_output=True,
            check=True,
            env={**os.environ, "HOME": str(self.disk / "home")},
        )
        (self.control.directory / "values.yml").write_bytes(done.stdout)
        (self.secure / "value").write_bytes(b"-----BEGIN-----\n" + self.markers.value("file") + b"\n")

    def plays(self) -> list[dict[str, Any]]:
        """The main job, with what people do around it: loops, failures, registered results, facts."""
        prod = {"environment": "prod"}
        task = SECRET
        named = {name: f"{{{{ value_{name.replace('-', '_')} }}}}" for name in self.values()}
        listed = [{"name": name, "value": named[name]} for name in ("password", "lines", "vaulted", "base64-looking")]
        listed += [
            {"name": "binary", "value_base64": "{{ value_binary }}"},
            {"name": "file", "value_file": str(self.secure / "value")},
            {"name": "generated", "generate": {"length": 32}},
        ]
        failing: list[dict[str, Any]] = [
            {task: {"environment": "nowhere", "name": "x", "value": named["failing"]}},
            {task: {**prod, "name": "x", "valeu": named["failing"]}},
            {task: {**prod, "name": "x", "value": named["failing"], "state": "nonsense"}},
            {task: {**prod, "name": "password", "value": named["failing"]}},
            {task: {**prod, "name": "x", "value": [named["failing"]]}},
            {task: {**prod, "name": "x", "value": {"inner": named["failing"]}}},
            {task: {**prod, "name": "x", "value_base64": named["failing"] + "!"}},
            {task: {**prod, "name": "x", "value": named["extra"]}},
            {task: {**prod, "name": "x", "value": named["failing"], "generate": {"length": 5}}},
            {task: {**prod, "secrets": [{"name": "x", "value": named["failing"], "mode": "0400"}]}},
            {task: {**prod, "secrets": [{"value": named["failing"]}]}},
            {task: {**prod, "name": "../x", "value": named["failing"]}},
            {task: {**prod, "name": "x", "value": "{{ value_failing }}"}, "async": 10, "poll": 1},
            {
                task: {**prod, "name": "../{{ item.number }}", "value": "{{ item.value }}"},
                "loop": [{"number": 1, "value": named["failing"]}],
            },
            *self.holder.failing(named),
        ]
        declaring = [
            *self.holder.tasks(),
            {"name": "Secrets", task: {**prod, "secrets": listed}, "register": "declared"},
            {"name": "Secrets again", task: {**prod, "secrets": listed}},
            {
                "name": "Loop",
                task: {**prod, "name": "{{ item.name }}", "value": "{{ item.value }}"},
                "loop": [{"name": "looped", "value": named["looped"]}, {"name": "looped2", "value": named["looped"]}],
                "register": "looped",
            },
            # The second attempt sees the value that the first one saw.
            {
                "name": "Retried",
                task: {**prod, "name": "retried", "value": named["looped"]},
                "register": "retried",
                "until": "retried.attempts > 1",
                "retries": 2,
                "delay": 0,
            },
            *({"name": f"Failing {n}", "ignore_errors": True, **one} for n, one in enumerate(failing)),
            {"name": "Info", "hostseal.secrets.secret_info": prod, "register": "info"},
            {
                "name": "Planted in a result",
                "ansible.builtin.debug": {"msg": f"look: {self.planted.text('planted')}"},
                "register": "look",
            },
        ]
        mounts = [
            {
                **prod,
                "name": "db",
                "secrets": [{"source": name} for name in (*(item["name"] for item in listed), "looped")],
            }
        ]
        container = {
            "image": "busybox",
            "command": ["sh", "-c", "cat /run/secrets/* | wc -c; exec sleep 600"],
            "stop_signal": "KILL",
            "secrets": {**prod, "mount": "db"},
        }
        launching = [
            {
                "name": "Seal",
                "hostseal.secrets.seal": {"mounts": mounts, "hosts": [self.host.name]},
                "register": "sealed",
            },
            {"name": "Deliver", "hostseal.secrets.mount": {"mounts": mounts}, "register": "delivered"},
            {
                "name": "Fail to deliver",
                "ignore_errors": True,
                "hostseal.secrets.mount": {**prod, "name": "../x", "secrets": []},
            },
            {"name": "Launch", "hostseal.secrets.container": {"name": "app", **container}, "register": "launched"},
            {
                "name": "Rotate under a running container",
                task: {**prod, "name": "generated", "generate": {"length": 40}, "state": "rotated"},
                "delegate_to": "localhost",
            },
            {"name": "Deliver again", "hostseal.secrets.mount": {"mounts": mounts}, "register": "again"},
            {"name": "Agent", "hostseal.secrets.agent_info": {}, "register": "agent"},
            {
                "name": "Planted in a module's arguments",
                "ansible.builtin.stat": {"path": f"/nowhere/{self.planted.text('planted')}"},
            },
            {"name": "Results", "ansible.builtin.debug": {"msg": "{{ [sealed, delivered, again, launched, agent] }}"}},
            {
                "name": "Facts",
                "ansible.builtin.set_fact": {
                    "cacheable": True,
                    "kept": "{{ [sealed, delivered, launched, agent, hostvars.localhost.declared,"
                    " hostvars.localhost.info, hostvars.localhost.look,"
                    # A loop's items are the playbook's own words, which Ansible adds to the results.
                    " hostvars.localhost.looped.results | map('combine', {'item': none})] }}",
                },
            },
            {
                "name": "Registered",
                "delegate_to": "localhost",
                "ansible.builtin.copy": {
                    "content": "{{ kept | to_json }}",
                    "dest": str(self.control.directory / "registered.json"),
                    "mode": "0600",
                },
            },
        ]
        return [
            {"hosts": "localhost", "gather_facts": False, "vars_files": ["values.yml"], "tasks": declaring},
            {"hosts": "docker_hosts", "gather_facts": True, "tasks": [install("prod"), *launching]},
        ]

    def run(self) -> None:
        """Make the keys, learn them as markers, then do the job under watch."""
        project = self.control.directory
        (project / "callback_plugins").mkdir()
        shutil.copy(Path(__file__).with_name("callback_dump.py"), project / "callback_plugins/dump.py")
        (self.disk / "home").mkdir()
        (self.disk / "tmp").mkdir()
        settings = {
            "HOME": str(self.disk / "home"),
            "TMPDIR": str(self.disk / "tmp"),
            "ANSIBLE_HOME": str(self.disk / "home/.ansible"),
            "ANSIBLE_LOCAL_TEMP": str(self.disk / "home/.ansible/tmp"),
            "ANSIBLE_PIPELINING": "false",
            "ANSIBLE_KEEP_REMOTE_FILES": "true",
            "ANSIBLE_CALLBACK_PLUGINS": str(project / "callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "dump",
            "HUNT_CALLBACK": str(project / "callback.jsonl"),
            "ANSIBLE_LOG_PATH": str(project / "ansible.log"),
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(project / "facts"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.secure / "vault-password"),
            **self.holder.settings(),
        }
        self.variables(str(Path(sys.executable).with_name("ansible-vault")))
        files = file_collector(self.disk / "home", self.disk / "tmp", project)
        processes = process_collector()
        on_host = self._start_on_host("processes")
        files.start()
        processes.start()
        try:
            self._plant_what_soon_goes()
            done = self.control.run(self.plays(), "-vvvv", "--diff", **settings)
        finally:
            files.finish()
            processes.finish()
        self.output = done.stdout + done.stderr
        assert done.returncode == 0, self.markers_hidden(self.output[-6000:])
        self.facts["failed"] = self._failed_tasks()
        self._learn_keys()
        self._finish_on_host("processes on the host", on_host)
        self._plant_on_host()
        self._search_control(files, processes)
        self._search_host()

    def markers_hidden(self, text: str) -> str:
        """TEXT for a failed test."""
        found = self.markers.search_text(text, "text")
        return f"{len(found)} markers in it" if found else text

    def _failed_tasks(self) -> set[str]:
        events = map(json.loads, (self.control.directory / "callback.jsonl").read_text(encoding="utf-8").splitlines())
        return {event["task"]["name"] for event in events if event["event"] == "failed"}

    def _learn_keys(self) -> None:
        """What opens secrets becomes markers too: the backend's keys or tokens, and the host's private key."""
        private = json.loads(self.host.out("cat", "/etc/hostseal/host.key"))
        self.markers |= self.holder.markers() | Markers({"host key": unbase64(private["d"])})

    # -- planted copies -----------------------------------------------------------------------------------------------

    def _plant_what_soon_goes(self) -> None:
        planted = self.planted.text("planted")
        for folder in ("home", "tmp", "project"):
            (self.disk / folder / "soon-gone").write_text(planted, encoding="utf-8")
        short = subprocess.Popen(["sleep", "1"], env={**os.environ, "PLANTED": planted})
        self.host.run(["env", f"PLANTED={planted}", "sleep", "1"])
        short.wait()
        for folder in ("home", "tmp", "project"):
            (self.disk / folder / "soon-gone").unlink()

    def _plant_on_host(self) -> None:
        script = (
            "read -r planted; echo $planted > /var/tmp/planted; echo $planted > /run/planted; logger $planted;"
            " echo $planted >> /var/log/hostseal/audit.jsonl;"
            " docker run --detach --name planted --label planted=$planted --stop-signal KILL busybox"
            "  sh -c 'echo $0; exec sleep 600' $planted;"
            " echo $planted | docker exec --interactive app sh -c 'cat > /planted'"
        )
        self.host.run(["bash", "-euc", script], input=self.planted.text("planted") + "\n")

    # -- the search ---------------------------------------------------------------------------------------------------

    def _search_control(self, files: Collector, processes: Collector) -> None:
        project = self.control.directory
        subprocess.run(["sync", "--file-system", str(self.disk)], check=True)
        written = b"".join(_written_parts(self.image))
        self._note("disk", self.all.search_bytes(written, "the control node's disk"), len(written))
        self._note("files", files.search(self.all), len(files.pieces))
        self._note("processes", processes.search(self.all), len(processes.pieces))
        self._note("output", self.all.search_text(self.output, "-vvvv output"), len(self.output))
        for place, name in (("log", "ansible.log"), ("callback", "callback.jsonl"), ("registered", "registered.json")):
            data = (project / name).read_bytes()
            self._note(place, self.all.search_bytes(data, name), len(data))
        facts = self.all.search_tree(project / "facts")
        self._note("facts", facts.findings, facts.bytes)

    def _search_host(self) -> None:
        state = self.host.out("systemctl", "show", "--property=MainPID", "--value", "hostseald.service")
        self.facts["limits"] = self.host.out("cat", f"/proc/{state}/limits")
        self.facts["tmpfs"] = self.host.out("findmnt", "--noheadings", "--output=OPTIONS", "/run/hostseal/volumes")
        self.facts["in the container"] = {
            name: self.host.out("docker", "exec", "app", "base64", "-w0", f"/run/secrets/{name}")
            for name in ("password", "lines", "vaulted", "base64-looking", "looped", "binary", "file")
        }
        self._on_host("disks and memory", "machine", "/run/hostseal/volumes", "/run/credentials")
        self._on_host("module payloads", "tree", "~/.ansible")
        words: dict[str, str] = {
            "journal": "journalctl --all --output=export --no-pager",
            "audit log": "cat /var/log/hostseal/audit.jsonl",
            "docker inspect": "docker inspect $(docker ps -aq) $(docker volume ls -q) $(docker image ls -q);"
            " docker events --since 1h --until 0s; docker info; docker diff app",
            "docker logs": "for id in $(docker ps -aq); do docker logs $id 2>&1; done",
            "image layers": "docker commit app hunted >&2; docker save hunted; docker export app",
        }
        for place, script in words.items():
            done = self.host.engine.docker("exec", self.host.container, "bash", "-euc", script)
            self._note(place + " on the host", self.all.search_bytes(done.stdout, place), len(done.stdout))

    def _on_host(self, place: str, *arguments: str) -> None:
        self._finish_on_host(f"{place} on the host", self._start_on_host(*arguments))

    def _start_on_host(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["docker", "-H", self.host.engine.address, "exec", "--interactive", self.host.container]
        process = subprocess.Popen(
            [*command, "python3", "-I", "-c", HUNTER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin
        assert process.stdout
        process.stdin.write(self.all.dump().encode())
        process.stdin.flush()
        if arguments == ("processes",):
            assert process.stdout.readline() == b"ready\n"
        return process

    def _finish_on_host(self, place: str, process: subprocess.Popen[bytes]) -> None:
        out, _nothing = process.communicate(timeout=900)
        assert process.returncode == 0
        report = json.loads(out)
        assert report["unreadable"] == []
        self._note(place, [Finding(*finding) for finding in report["findings"]], report["files"])

    def _note(self, place: str, findings: list[Finding], read: int) -> None:
        self.found[place] = findings
        self.read[place] = read


def _written_parts(image: Path) -> Iterator[bytes]:
    """What was ever written to a sparse file."""
    with image.open("rb") as raw:
        end = 0
        while True:
            try:
                begin = os.lseek(raw.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            end = os.lseek(raw.fileno(), begin, os.SEEK_HOLE)
            yield os.pread(raw.fileno(), end - begin, begin)


@pytest.fixture(
    scope="module", params=["localkey", "vault", pytest.param("store in a folder", marks=pytest.mark.thorough)]
)
def hunt(request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hunt]:
    """The job, done once. The control node's files are on a file system that is written at once, so that a search of
    its image finds deleted files as well."""
    directory = tmp_path_factory.mktemp("hunt")
    image, disk, secure = directory / "disk.img", directory / "disk", directory / "secure"
    secure.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    disk.mkdir()
    host = ThrowawayHost(engine, f"t{os.getpid()}-hunt")
    subprocess.run(["mount", "-o", "loop,sync", str(image), str(disk)], check=True)
    try:
        with contextlib.ExitStack() as stack:
            holder: LocalKeys | VaultKeys = LocalKeys(secure)
            if request.param == "vault":
                bao = stack.enter_context(OpenBao())
                holder = VaultKeys(secure, bao, stack.enter_context(Tapping(bao)))
            made = Hunt(directory, host.start(load=("busybox",)), holder)
            if request.param == "store in a folder":
                made.control.store_url = f"file://{disk}/project/secrets?state={disk}/state.db"
            made.run()
            yield made
    finally:
        host.remove()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        image.unlink()


ALL_PLACES = (*PLACES_ON_CONTROL, *(f"{place} on the host" for place in PLACES_ON_HOST))


@pytest.mark.parametrize("place", ALL_PLACES)
def test_nothing_in_clear(hunt: Hunt, place: str) -> None:
    assert hunt.read[place] > 0
    found = [finding for finding in hunt.found[place] if finding.marker != "planted"]
    if place == "disks and memory on the host":
        # The one file that a host's own key is in; systemd hands it to the agent from here.
        found = [
            finding for finding in found if (finding.marker, finding.place) != ("host key", "/etc/hostseal/host.key")
        ]
    assert found == []


@pytest.mark.parametrize("place", ALL_PLACES)
def test_planted_copy_is_found(hunt: Hunt, place: str) -> None:
    assert {finding.marker for finding in hunt.found[place]} >= {"planted"}


def test_the_job_did_its_work(hunt: Hunt) -> None:
    read = {name: base64.b64decode(text) for name, text in hunt.facts["in the container"].items()}
    expected = {name: hunt.values()[name].encode() for name in read if name not in ("binary", "file")}
    expected |= {"binary": hunt.binary, "file": b"-----BEGIN-----\n" + hunt.markers.value("file") + b"\n"}
    assert {name for name in read if read[name] != expected[name]} == set()


def test_what_should_fail_failed(hunt: Hunt) -> None:
    number = sum(task.get("name", "").startswith("Failing ") for play in hunt.plays() for task in play["tasks"])
    assert hunt.facts["failed"] == {"Fail to deliver", *(f"Failing {one}" for one in range(number))}


def test_no_core_dumps_and_no_swap(hunt: Hunt) -> None:
    core = next(line for line in hunt.facts["limits"].splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert {"noswap", "nosuid", "nodev", "noexec"} <= set(hunt.facts["tmpfs"].split(","))
