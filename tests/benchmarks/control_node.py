# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node does alone: declare many secrets, seal for many hosts."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelopes
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.module_utils._model import Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import HostRecord
from ansible_collections.hostseal.secrets.plugins.plugin_utils._sealing import plan
from ansible_collections.hostseal.secrets.plugins.plugin_utils._sealing import seal as seal_plans
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.benchmarks.places import ENVIRONMENT, ControlNode, Places, local_play, mount, task
from tests.benchmarks.rows import Row

MOUNTS = 5
SECRETS = 10


def declare(places: Places) -> Iterator[Row]:
    """One task with a list of values, against ansible-vault."""
    count = places.sizes.declared
    control = places.control("declare")
    control.declare_environment()
    items = [{"name": f"s{number}", "value": os.urandom(16).hex()} for number in range(count)]
    play = [local_play(task("secret", environment=ENVIRONMENT, secrets=items))]
    first = control.play(play)
    again = control.play(play)
    if (first.changed("secret"), again.changed("secret")) != (1, 0):
        raise AssertionError("the first run must change something, the second nothing")
    values = {f"d{number}": os.urandom(16).hex().encode() for number in range(count)}
    began = time.process_time()
    control.declare(values)
    core = time.process_time() - began
    vault = statistics.median(_vaulted(places.sizes.vaulted)) * count
    yield Row(
        what=f"declare {count:,} secrets in one task",
        measured=f"{first.seconds:.1f} s for the whole ansible-playbook run ({first.cpu_seconds:.1f} s of processor time;"
        f" the work itself is {core:.1f} s); run again, nothing to change: {again.seconds:.1f} s",
        instead=f"ansible-vault encrypts each value: {vault:.0f} s"
        f" (its library without its command; median of {places.sizes.vaulted}, times {count:,})",
        ratio=first.seconds / vault,
        target="10 s or less",
        met=first.seconds <= 10,
        numbers={
            "playbook_s": first.seconds,
            "playbook_cpu_s": first.cpu_seconds,
            "task_s": first.task_seconds("secret"),
            "playbook_again_s": again.seconds,
            "core_s": core,
            "ansible_vault_s": vault,
            "backend_calls": dict(first.backend_calls()),
            "vault_requests": first.vault_requests(),
        },
    )
    requests = first.vault_requests() / count * 10_000
    yield Row(
        what="requests to declare them",
        measured=f"{sum(first.backend_calls().values())} calls of the backend (localkey); in batches of 249 they would"
        f" be {requests:.0f} requests per 10,000",
        instead="one request per secret: 10,000",
        ratio=requests / 10_000,
        target="100 or fewer per 10,000 with Vault",
        met=requests <= 100,
    )


def _vaulted(count: int) -> list[float]:
    """Seconds for each value."""
    vault = VaultLib([("default", VaultSecret(os.urandom(16).hex().encode()))])
    taken = []
    for _number in range(count):
        value = os.urandom(16).hex()
        began = time.monotonic()
        vault.encrypt(value)
        taken.append(time.monotonic() - began)
    return taken


def seal(places: Places) -> Iterator[Row]:
    """One task for many enrolled hosts, against openssl; and the same for fewer hosts."""
    control = places.control("seal")
    control.declare_environment()
    control.declare({f"s{number}": os.urandom(32) for number in range(MOUNTS * SECRETS)})
    most = max(places.sizes.sealed_hosts)
    names = [f"h{number}" for number in range(most)]
    enrol(*control.open(), names)
    mounts = [
        mount(f"m{number}", [f"s{number * SECRETS + which}" for which in range(SECRETS)]) for number in range(MOUNTS)
    ]
    core = {}
    for count in places.sizes.sealed_hosts:
        core[count] = _seal_directly(control, [(name, one) for name in names[:count] for one in mounts])

    # Other secrets than so far, so that everything is sealed anew.
    control.declare({f"s{number}": os.urandom(32) for number in range(MOUNTS * SECRETS)})
    options = [{"name": one.name, "secrets": [{"source": entry.source} for entry in one.entries]} for one in mounts]
    play = [local_play(task("seal", environment=ENVIRONMENT, hosts=names, mounts=options))]
    whole = control.play(play)
    again = control.play(play)
    if (whole.changed("seal"), again.changed("seal")) != (1, 0):
        raise AssertionError("the first run must seal, the second nothing")
    openssl = statistics.median(_openssl(places, control)) * most * MOUNTS
    yield Row(
        what=f"seal for {most:,} hosts x {MOUNTS} mounts x {SECRETS} secrets",
        measured=f"{whole.seconds:.1f} s for the whole ansible-playbook run ({whole.cpu_seconds:.1f} s of processor time;"
        f" the work itself is {core[most]:.1f} s); run again, nothing to change: {again.seconds:.1f} s",
        instead=f"openssl cms encrypts to the host and signs, once per mount and host: {openssl:.0f} s on one core"
        f" (median of {places.sizes.openssl_envelopes}, times {most * MOUNTS:,})",
        ratio=whole.seconds / openssl,
        target="15 s or less on 2 cores",
        met=whole.seconds <= 15,
        numbers={
            "playbook_s": whole.seconds,
            "playbook_cpu_s": whole.cpu_seconds,
            "task_s": whole.task_seconds("seal"),
            "playbook_again_s": again.seconds,
            "core_s": core,
            "openssl_s": openssl,
            "backend_calls": dict(whole.backend_calls()),
            "vault_requests": whole.vault_requests(),
        },
    )
    per_envelope = {count: seconds / count / MOUNTS * 1000 for count, seconds in core.items()}
    growth = max(per_envelope.values()) / min(per_envelope.values())
    yield Row(
        what="is sealing linear in envelopes?",
        measured="processor time: "
        + ", ".join(f"{ms:.2f} ms per envelope for {count:,} hosts" for count, ms in per_envelope.items()),
        instead="",
        ratio=growth,
        target="linear: the dearest is at most 1.3 times the cheapest",
        met=growth <= 1.3,
        numbers={"ms_per_envelope": per_envelope},
    )


def _seal_directly(control: ControlNode, wanted: list[tuple[str, Mount]]) -> float:
    """Seconds of processor time to seal by a direct call; what the store has sealed already is sealed anew too."""
    store, backend = control.open()
    with store:
        began = time.process_time()
        seal_plans(store, lambda _environment: backend, plan(store, wanted))
        return time.process_time() - began


def enrol(store: Store, backend: Backend, names: list[str]) -> None:
    """Enrol hosts that exist by their keys alone."""
    kid = backend.verification_keys()[0].thumbprint()
    with store, store.transaction() as transaction:
        for name in names:
            key = _jose.load_host_key(_jose.new_host_key().export_public())
            payload = envelopes.host_record(ENVIRONMENT, name, key)
            covered = _jose.signing_input(envelopes.HOST_RECORD, kid, payload)
            record = _jose.attach_signature(covered, backend.sign([covered])[0])
            transaction.put_host(HostRecord(ENVIRONMENT, name, key.thumbprint(), record))


def _openssl(places: Places, control: ControlNode) -> list[float]:
    """Seconds for each envelope: RFC 5652 messages, ECDH on P-256 with AES-256-GCM, signed with ECDSA."""
    folder: Path = control.store_path.parent
    key, certificate, plain, sealed = (str(folder / name) for name in ("key.pem", "cert.pem", "plain", "sealed"))
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    _run([*request, "-subj", "/CN=bench", "-keyout", key, "-out", certificate])
    encrypt = ["openssl", "cms", "-encrypt", "-aes-256-gcm", "-binary", "-outform", "DER"]
    sign = ["openssl", "cms", "-sign", "-nodetach", "-binary", "-outform", "DER", "-signer", certificate]
    Path(plain).write_bytes(os.urandom(SECRETS * 48))
    taken = []
    for _number in range(places.sizes.openssl_envelopes):
        began = time.monotonic()
        _run([*encrypt, "-in", plain, "-out", sealed, certificate])
        _run([*sign, "-inkey", key, "-in", sealed, "-out", f"{sealed}.cms"])
        taken.append(time.monotonic() - began)
    return taken


def _run(argv: list[Any]) -> None:
    subprocess.run(argv, check=True, capture_output=True)
