# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The localkey backend: what key files may look like, what ciphertexts are bound to, and what a crash leaves."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import (
    Binding,
    KeyPlace,
    localkey,
    open_backend,
)
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.localkey import LocalKey

from tests.unit.builders import collect, in_processes

PASSWORD = Binding("prod", "password", 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def key(directory: Path) -> Path:
    """A good key file."""
    assert localkey.create(directory, "prod")
    return directory / "prod.jwks"


def _content(key: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(key.read_text(encoding="ascii"))
    return content


def _replace(key: Path, text: str | bytes) -> None:
    key.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_new_key(directory: Path, key: Path) -> None:
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert key.stat().st_mode & 0o7777 == 0o600
    assert localkey.versions(directory, "prod") == [1]
    kinds = [(jwk["kty"], jwk.get("alg") or jwk.get("crv") or jwk["kid"]) for jwk in _content(key)["keys"]]
    assert kinds == [("oct", "A256GCM"), ("oct", "fingerprint-root"), ("OKP", "Ed25519")]
    before = key.read_bytes()
    assert not localkey.create(directory, "prod")
    assert key.read_bytes() == before
    assert [path.name for path in directory.iterdir()] == ["prod.jwks"]


def test_mode_of_a_new_key_does_not_depend_on_the_umask(directory: Path) -> None:
    old = os.umask(0)
    try:
        localkey.create(directory, "prod")
    finally:
        os.umask(old)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "prod.jwks").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["../x", "", "a.b", "a/b", "x" * 64, "a\0"])
def test_bad_key_name(directory: Path, name: str) -> None:
    for act in (localkey.create, localkey.rotate, localkey.versions, LocalKey):
        with pytest.raises(HostsealError, match="key name"):
            act(directory, name)
    assert not directory.exists()


@pytest.mark.parametrize("value", [b"", b"x", b"aGVsbG8=", bytes(range(256)), b"\xff" * (1 << 20)], ids=len)
@pytest.mark.usefixtures("key")
def test_round_trip(directory: Path, value: bytes) -> None:
    backend = LocalKey(directory, "prod")
    [text] = backend.encrypt([(PASSWORD, value)])
    assert text.startswith("localkey:v1:")
    assert backend.decrypt([(PASSWORD, text)]) == [value]
    [again] = backend.encrypt([(PASSWORD, value)])
    assert again != text


@pytest.mark.usefixtures("key")
def test_batches_keep_their_order(directory: Path) -> None:
    backend = LocalKey(directory, "prod")
    items = [(Binding("prod", f"s{number}", number), str(number).encode()) for number in range(1, 300)]
    texts = backend.encrypt(items)
    assert len(set(texts)) == len(items)
    assert backend.decrypt([(binding, text) for (binding, _value), text in zip(items, texts, strict=True)]) == [
        value for _binding, value in items
    ]


@pytest.mark.parametrize(
    "elsewhere",
    [
        Binding("staging", "password", 1),
        Binding("prod", "passwor", 1),
        Binding("prod", "password", 2),
        Binding("prod", "password", 0),
        Binding('prod","password', "password", 1),
    ],
)
@pytest.mark.usefixtures("key")
def test_moved_ciphertext_does_not_open(directory: Path, elsewhere: Binding) -> None:
    backend = LocalKey(directory, "prod")
    [text] = backend.encrypt([(PASSWORD, b"hunter2")])
    with pytest.raises(HostsealError, match="does not open with key file .* edited or moved") as caught:
        backend.decrypt([(elsewhere, text)])
    assert str(elsewhere) in str(caught.value)


@pytest.mark.usefixtures("key")
def test_edited_ciphertext_does_not_open(directory: Path) -> None:
    backend = LocalKey(directory, "prod")
    [text] = backend.encrypt([(PASSWORD, b"hunter2")])
    prefix, _colon, payload = text.rpartition(":")
    sealed = base64.b64decode(payload)
    for place in range(len(sealed)):
        damaged = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(HostsealError, match="does not open"):
            backend.decrypt([(PASSWORD, f"{prefix}:{base64.b64encode(damaged).decode()}")])
    for length in range(len(sealed)):
        with pytest.raises(HostsealError, match="does not open|not one of the localkey backend"):
            backend.decrypt([(PASSWORD, f"{prefix}:{base64.b64encode(sealed[:length]).decode()}")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "vault:v1:AAAA",
        "localkey:v0:AAAA",
        "localkey:v01:AAAA",
        "localkey:v1:",
        "localkey:v1:A A=",
        "localkey:v-1:AAAA",
        "localkey:v1:AAAA\n",
        "LOCALKEY:v1:AAAA",
        "localkey:v1:=",
        "localkey:v9999999999:AAAA",
        "localkey:v１:AAAA",
    ],
)
@pytest.mark.usefixtures("key")
def test_ciphertext_that_is_none(directory: Path, text: str) -> None:
    with pytest.raises(HostsealError, match="secret 'password' version 1 of environment 'prod': the stored ciphertext"):
        LocalKey(directory, "prod").decrypt([(PASSWORD, text)])


@pytest.mark.usefixtures("key")
def test_one_bad_item_fails_the_batch(directory: Path) -> None:
    backend = LocalKey(directory, "prod")
    [good] = backend.encrypt([(PASSWORD, b"hunter2")])
    with pytest.raises(HostsealError, match="secret 'other'"):
        backend.decrypt([(PASSWORD, good), (Binding("prod", "other", 1), good)])


@pytest.mark.usefixtures("key")
def test_another_key_opens_nothing(directory: Path) -> None:
    [text] = LocalKey(directory, "prod").encrypt([(PASSWORD, b"hunter2")])
    localkey.create(directory, "staging")
    with pytest.raises(HostsealError, match="it is another key"):
        LocalKey(directory, "staging").decrypt([(PASSWORD, text)])


def test_rotated_key_opens_what_older_ones_sealed(directory: Path, key: Path) -> None:
    old = LocalKey(directory, "prod")
    [before] = old.encrypt([(PASSWORD, b"hunter2")])
    label = old.fingerprint([(PASSWORD, b"hunter2")])
    assert localkey.rotate(directory, "prod") == 2
    assert localkey.rotate(directory, "prod") == 3
    assert localkey.versions(directory, "prod") == [1, 2, 3]
    new = LocalKey(directory, "prod")
    [after] = new.encrypt([(PASSWORD, b"hunter2")])
    assert after.startswith("localkey:v3:")
    assert new.decrypt([(PASSWORD, before), (PASSWORD, after)]) == [b"hunter2"] * 2
    assert new.fingerprint([(PASSWORD, b"hunter2")]) == label
    assert new.verification_keys()[0].thumbprint() == old.verification_keys()[0].thumbprint()
    with pytest.raises(HostsealError, match="encrypted under version 3, which key file .* does not have"):
        old.decrypt([(PASSWORD, after)])
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("key")
def test_version_of_a_ciphertext_cannot_be_edited(directory: Path) -> None:
    [text] = LocalKey(directory, "prod").encrypt([(PASSWORD, b"hunter2")])
    localkey.rotate(directory, "prod")
    with pytest.raises(HostsealError, match="does not open"):
        LocalKey(directory, "prod").decrypt([(PASSWORD, text.replace(":v1:", ":v2:"))])


@pytest.mark.usefixtures("key")
def test_fingerprint_tells_equal_values_of_one_secret_and_nothing_else(directory: Path) -> None:
    backend = LocalKey(directory, "prod")
    same = backend.fingerprint([(Binding("prod", "a", 1), b"x"), (Binding("prod", "a", 9), b"x")])
    assert same[0] == same[1]
    localkey.create(directory, "staging")
    others = [
        *backend.fingerprint(
            [(Binding("prod", "a", 1), b"y"), (Binding("prod", "b", 1), b"x"), (Binding("stag", "a", 1), b"x")]
        ),
        *LocalKey(directory, "staging").fingerprint([(Binding("prod", "a", 1), b"x")]),
    ]
    assert len({same[0], *others}) == 5


@pytest.mark.usefixtures("key")
def test_signatures_are_of_the_published_key(directory: Path) -> None:
    backend = LocalKey(directory, "prod")
    [public] = backend.verification_keys()
    assert "d" not in public.export_public(as_dict=True)
    assert not public.has_private
    for payload, signature in zip([b"a", b"b"], backend.sign([b"a", b"b"]), strict=True):
        assert len(signature) == 64
        public.get_op_key("verify").verify(signature, payload)


# Files that are not as they should be


def _loose_file(key: Path) -> None:
    key.chmod(0o640)


def _loose_for_others(key: Path) -> None:
    key.chmod(0o604)


def _loose_directory(key: Path) -> None:
    key.parent.chmod(0o750)


def _symlink(key: Path) -> None:
    key.rename(key.parent / "elsewhere")
    key.symlink_to("elsewhere")


def _dangling_symlink(key: Path) -> None:
    key.unlink()
    key.symlink_to("nowhere")


def _fifo(key: Path) -> None:
    key.unlink()
    os.mkfifo(key, 0o600)


def _directory(key: Path) -> None:
    key.unlink()
    key.mkdir(0o700)


def _foreign(key: Path) -> None:
    os.chown(key, 12345, -1)


def _foreign_directory(key: Path) -> None:
    os.chown(key.parent, 12345, -1)


def _empty(key: Path) -> None:
    _replace(key, "")


def _of_another_name(key: Path) -> None:
    localkey.create(key.parent, "staging")
    os.replace(key.parent / "staging.jwks", key)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_loose_file, "has mode 0640, others may use it"),
        (_loose_for_others, "has mode 0604, others may use it"),
        (_loose_directory, "key directory .* has mode 0750"),
        (_symlink, "is a symbolic link"),
        (_dangling_symlink, "is a symbolic link"),
        (_fifo, "is not a regular file"),
        (_directory, "is not a regular file|can't be read"),
        (_foreign, "belongs to user 12345"),
        (_foreign_directory, "key directory .* belongs to user 12345"),
        (_empty, "is truncated or malformed"),
        (_of_another_name, "is truncated or malformed"),
    ],
)
def test_bad_key_file_is_refused_and_left_alone(key: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(key)
    before = sorted((path.name, path.lstat().st_mode, path.lstat().st_ino) for path in key.parent.iterdir())
    for act in (LocalKey, localkey.create, localkey.rotate, localkey.versions):
        with pytest.raises(HostsealError, match=reason):
            act(key.parent, "prod")
    assert before == sorted((path.name, path.lstat().st_mode, path.lstat().st_ino) for path in key.parent.iterdir())


def test_truncated_at_any_length_is_refused(key: Path) -> None:
    text = key.read_bytes()
    for length in range(0, len(text), 7):
        _replace(key, text[:length])
        with pytest.raises(HostsealError, match="is truncated or malformed: restore it from your backup"):
            LocalKey(key.parent, "prod")


def _drop(place: int) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["keys"].pop(place)


@pytest.mark.parametrize(
    "edit",
    [
        _drop(0),
        _drop(1),
        _drop(2),
        lambda content: content.update(format=2),
        lambda content: content.update(name="other"),
        lambda content: content.pop("name"),
        lambda content: content.update(keys={}),
        lambda content: content.update(keys=None),
        lambda content: content["keys"].append(5),
        lambda content: content["keys"].append({"kty": "RSA"}),
        lambda content: content["keys"][0].update(k="AAAA"),
        lambda content: content["keys"][0].update(k=5),
        lambda content: content["keys"][0].update(kid="0"),
        lambda content: content["keys"][0].update(kid="x"),
        lambda content: content["keys"][0].update(alg="A128GCM"),
        lambda content: content["keys"][1].update(k=""),
        lambda content: content["keys"][2].update(crv="X25519"),
        lambda content: content["keys"][2].update(d="AAAA"),
    ],
)
def test_malformed_key_file_is_refused_without_a_word_of_it(
    key: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    content = _content(key)
    parts = [jwk[part] for jwk in content["keys"] for part in ("k", "d") if part in jwk]
    edit(content)
    _replace(key, json.dumps(content))
    with pytest.raises(HostsealError, match="is truncated or malformed") as caught:
        LocalKey(key.parent, "prod")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not any(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("text", ["null", "[]", "5", "[" * 100_000, b"\xff\xfe", "NaN"])
def test_key_file_that_is_no_object(key: Path, text: str | bytes) -> None:
    _replace(key, text)
    with pytest.raises(HostsealError, match="is truncated or malformed"):
        LocalKey(key.parent, "prod")


@pytest.mark.usefixtures("key")
def test_missing_key(directory: Path) -> None:
    with pytest.raises(HostsealError, match=r"other\.jwks does not exist: make the key"):
        LocalKey(directory, "other")
    with pytest.raises(HostsealError, match="does not exist"):
        localkey.rotate(directory, "other")
    with pytest.raises(HostsealError, match="key directory .* does not exist"):
        LocalKey(directory / "nowhere", "prod")
    assert localkey.versions(directory / "nowhere", "prod") == []


def test_key_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostsealError, match="key directory .*can't be made|is not a directory"):
        localkey.create(tmp_path / "file" / "keys", "prod")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostsealError, match="is not a directory"):
        localkey.create(tmp_path / "pipe", "prod")


def test_one_key_file_of_any_name_is_read_and_never_changed(directory: Path, key: Path, tmp_path: Path) -> None:
    """As AWX puts it among other files of a job."""
    [text] = LocalKey(directory, "prod").encrypt([(PASSWORD, b"x")])
    file = tmp_path / "tmpk3y"
    file.write_bytes(key.read_bytes())
    file.chmod(0o600)
    tmp_path.chmod(0o755)
    assert LocalKey(file, "prod").decrypt([(PASSWORD, text)]) == [b"x"]
    assert localkey.versions(file, "prod") == [1]
    assert not localkey.create(file, "prod")
    for change in (lambda: localkey.rotate(file, "prod"), lambda: localkey.retire(file, "prod", 1)):
        with pytest.raises(HostsealError, match="tmpk3y is one key file, which is never changed"):
            change()
    with pytest.raises(HostsealError, match="tmpk3y is not the one of the key 'staging'"):
        LocalKey(file, "staging")
    with pytest.raises(HostsealError, match="tmpk3y is not the one of the key 'staging'"):
        localkey.create(file, "staging")
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(HostsealError, match="link is a symbolic link"):
        LocalKey(tmp_path / "link", "prod")
    file.chmod(0o640)
    with pytest.raises(HostsealError, match="has mode 0640"):
        LocalKey(file, "prod")
    file.chmod(0o600)
    file.write_text("not a key")
    with pytest.raises(HostsealError, match="truncated or malformed"):
        LocalKey(file, "prod")
    assert file.read_text() == "not a key"


def test_relative_key_directory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would be another one from every directory that a playbook is started in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostsealError, match="key_path 'keys' is not an absolute path"):
        localkey.key_directory("keys")


def test_unknown_backend(directory: Path) -> None:
    with pytest.raises(HostsealError, match="backend 'vautl' is not known"):
        open_backend(KeyPlace("vautl", "prod"), str(directory), None)


# Other versions


def test_retired_versions_are_gone_and_the_rest_is_as_it_was(directory: Path, key: Path) -> None:
    for _time in range(3):
        localkey.rotate(directory, "prod")
    texts = {}
    for oldest in (1, 2, 3, 4):
        texts[oldest] = LocalKey(directory, "prod").encrypt([(PASSWORD, b"x")])[0].replace(":v4:", f":v{oldest}:")
    before = _content(key)
    assert localkey.retire(directory, "prod", 1) == []
    assert _content(key) == before
    assert localkey.retire(directory, "prod", 3) == [1, 2]
    after = _content(key)
    assert after["keys"] == [jwk for jwk in before["keys"] if jwk.get("kid") not in ("1", "2")]
    assert len(after["keys"]) == 4
    for gone in (jwk for jwk in before["keys"] if jwk.get("kid") in ("1", "2")):
        assert gone["k"] not in key.read_text(encoding="ascii")
    assert [path.name for path in directory.iterdir()] == ["prod.jwks"]
    assert key.stat().st_mode & 0o777 == 0o600
    assert localkey.versions(directory, "prod") == [3, 4]
    backend = LocalKey(directory, "prod")
    assert backend.decrypt([(PASSWORD, texts[4])]) == [b"x"]
    with pytest.raises(HostsealError, match=r"under version 2, which key file .*prod\.jwks does not have"):
        backend.decrypt([(PASSWORD, texts[2])])
    assert localkey.retire(directory, "prod", 3) == []
    # Numbers are never given out twice.
    assert localkey.rotate(directory, "prod") == 5


@pytest.mark.usefixtures("key")
def test_newest_version_is_not_retired(directory: Path) -> None:
    localkey.rotate(directory, "prod")
    with pytest.raises(HostsealError, match="key 'prod' has no version 3: the newest is 2"):
        localkey.retire(directory, "prod", 3)
    assert localkey.retire(directory, "prod", 2) == [1]
    assert localkey.versions(directory, "prod") == [2]


@pytest.mark.usefixtures("key")
def test_rewrapping_keeps_value_and_binding(directory: Path) -> None:
    items = [(Binding("prod", f"s{number}", number), b"x" * number) for number in range(1, 4)]
    texts = LocalKey(directory, "prod").encrypt(items)
    localkey.rotate(directory, "prod")
    backend = LocalKey(directory, "prod")
    bindings = [binding for binding, _value in items]
    again = backend.rewrap(list(zip(bindings, texts, strict=True)))
    assert all(text.startswith("localkey:v2:") for text in again)
    assert backend.decrypt(list(zip(bindings, again, strict=True))) == [value for _binding, value in items]
    with pytest.raises(HostsealError, match="does not open"):
        backend.decrypt([(bindings[0], again[1])])
    with pytest.raises(HostsealError, match="does not open"):
        backend.rewrap([(bindings[0], texts[1])])


# Many at once, and crashes


def test_twenty_first_runs_at_once_make_one_key(directory: Path) -> None:
    made = collect(20, lambda _number: [localkey.create(directory, "prod")])
    assert sorted(made) == [False] * 19 + [True]
    assert localkey.versions(directory, "prod") == [1]


@pytest.mark.usefixtures("key")
def test_rotations_at_once_lose_none(directory: Path) -> None:
    assert in_processes(12, lambda _number: localkey.rotate(directory, "prod")) == [0] * 12
    assert localkey.versions(directory, "prod") == list(range(1, 14))


def retire_first(directory: Path, name: str) -> list[int]:
    return localkey.retire(directory, name, 2)


@pytest.mark.parametrize("crash_at", ["open", "fsync", "replace"])
@pytest.mark.parametrize("act", [localkey.create, localkey.rotate, retire_first])
def test_crash_leaves_the_old_or_the_new_key(
    directory: Path, crash_at: str, act: Callable[[Path, str], object]
) -> None:
    directory.mkdir(0o700)
    if act is not localkey.create:
        localkey.create(directory, "prod")
    if act is retire_first:
        localkey.rotate(directory, "prod")
    before = localkey.versions(directory, "prod")

    def crash(_number: int) -> None:
        real = os.open

        def open_and_die(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            descriptor = real(path, flags, *rest, **more)
            if flags & os.O_CREAT:
                os._exit(99)
            return descriptor

        if crash_at == "open":
            os.open = open_and_die
        else:
            setattr(os, crash_at, lambda *_arguments: os._exit(99))
        act(directory, "prod")

    assert in_processes(1, crash) == [99]
    assert localkey.versions(directory, "prod") == before
    # The next run mends it.
    act(directory, "prod")
    after = localkey.versions(directory, "prod")
    assert after == ([2] if act is retire_first else [*before, len(before) + 1])
    assert [path.name for path in directory.iterdir()] == ["prod.jwks"]
    assert (directory / "prod.jwks").stat().st_mode & 0o777 == 0o600


def test_failing_write_keeps_the_old_key(directory: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = key.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostsealError, match="can't be written: No space left on device"):
        localkey.rotate(directory, "prod")
    assert key.read_bytes() == before
    assert [path.name for path in directory.iterdir()] == ["prod.jwks"]
