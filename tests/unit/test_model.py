# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import posixpath
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _model as model
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount
from hypothesis import given
from hypothesis import strategies as st

KINDS = ("environment", "mount", "secret", "key", "host", "owner", "role")
BAD_NAMES = ["../x", "", "x" * 300, "a\0b", "a\nb", "a\n", "..data", ".", "..", "a/b", "a b", "ä", "-x", "a\\b", "１"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name_is_refused_and_named(kind: str, name: str) -> None:
    with pytest.raises(HostsealError, match=f"^{kind} name") as caught:
        model.check_name(kind, name)
    assert "\0" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [None, 7, True, 1.5, b"a", ["a"], {"a": 1}])
def test_name_that_is_no_string_is_refused(value: object) -> None:
    with pytest.raises(HostsealError, match="is missing|is not a string"):
        model.check_name("secret", value)


@pytest.mark.parametrize("kind", ["environment", "key"])
def test_dot_in_the_name_of_an_environment_or_key_is_refused(kind: str) -> None:
    with pytest.raises(HostsealError, match=f"{kind} name 'pr.od' is not allowed"):
        model.check_name(kind, "pr.od")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("environment", "prod-eu_1"),
        ("mount", "web.v2"),
        ("secret", "_internal"),
        ("secret", "tls.key"),
        ("host", "db1.example.com"),
        ("host", "2001:db8::1"),
        ("host", "ops@db1"),
        ("owner", "role.web"),
        ("key", "prod"),
        ("role", "web-2"),
    ],
)
def test_good_name_is_returned(kind: str, name: str) -> None:
    assert model.check_name(kind, name) == name


@pytest.mark.parametrize(("kind", "longest"), [("environment", 63), ("mount", 128), ("secret", 255), ("host", 253)])
def test_longest_name(kind: str, longest: int) -> None:
    assert model.check_name(kind, "a" * longest)
    with pytest.raises(HostsealError, match=f"has {longest + 1} characters, at most {longest}"):
        model.check_name(kind, "a" * (longest + 1))


@given(st.text())
def test_accepted_name_is_one_harmless_path_component(name: str) -> None:
    for kind in KINDS:
        try:
            model.check_name(kind, name)
        except HostsealError:
            continue
        assert name
        assert not name.startswith(("/", "-", ".."))
        assert "/" not in name
        assert name.isascii()
        assert name.isprintable()


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][\w.-]{0,99}", fullmatch=True),
)
def test_volume_name_parts_again(environment: str, mount: str) -> None:
    if not mount.isascii():
        return
    assert model.split_volume(model.volume_name(environment, mount)) == (environment, mount)


@pytest.mark.parametrize(
    "name", ["prod", "", ".db", "prod.", "pr od.db", "prod./db", "prod...", "../prod.db", "prod.db\n"]
)
def test_volume_that_is_none_of_ours(name: str) -> None:
    with pytest.raises(HostsealError):
        model.split_volume(name)


BAD_TARGETS = [
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "..data",
    "..data/x",
    "a/..2026",
    ".",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "",
    "a\0b",
    "a\nb",
    "\x7f",
    "\ud800",
    "x" * 256,
    "/".join(["x" * 200] * 6),
    None,
    5,
    b"a",
]


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_bad_target_is_refused(target: object) -> None:
    with pytest.raises(HostsealError, match="^target ") as caught:
        model.check_target(target)
    assert "\0" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "target", ["a", "a/b/c", ".hidden", "a..b", "a/.b", "tls.key", "schlüssel", "with space", "x" * 255]
)
def test_good_target(target: str) -> None:
    assert model.check_target(target) == target


@given(st.text(st.sampled_from("a./\\~$\0\n-_é"), max_size=12) | st.text(max_size=20))
def test_accepted_target_never_climbs_out(target: str) -> None:
    try:
        model.check_target(target)
    except HostsealError:
        return
    assert posixpath.normpath(target) == target
    assert posixpath.normpath(posixpath.join("/run/secrets", target)) == "/run/secrets/" + target
    assert not any(part.startswith("..") for part in target.split("/"))
    assert "\0" not in target


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (["a", "a"], "'a' is used twice"),
        (["a", "a/b"], "'a' would be a file and, for 'a/b', a directory"),
        (["a/b/c", "x", "a"], "'a' would be a file"),
        (["a/b/c", "a/b"], "'a/b' would be a file"),
    ],
)
def test_colliding_targets(targets: list[str], reason: str) -> None:
    with pytest.raises(HostsealError, match=reason):
        model.check_targets(targets)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), max_size=6))
def test_accepted_targets_can_all_be_written(targets: list[str]) -> None:
    try:
        model.check_targets(targets)
    except HostsealError:
        collides = len(set(targets)) < len(targets) or any(
            one != two and two.startswith(one + "/") for one in targets for two in targets
        )
        assert collides
        return
    files: set[str] = set()
    directories: set[str] = set()
    for target in targets:
        files.add(target)
        parts = target.split("/")
        directories |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    assert len(files) == len(targets)
    assert not files & directories


@pytest.mark.parametrize(
    "value",
    ["abc", -1, 2**32, 2**32 - 1, "4294967295", True, False, "0x10", "", "-1", "+1", " 1", "１", 1.0, None, "root", []],
)
def test_bad_id(value: object) -> None:
    with pytest.raises(HostsealError, match="^uid "):
        model.check_id("uid", value)


@pytest.mark.parametrize(
    ("value", "number"), [(0, 0), ("0", 0), (999, 999), ("999", 999), (2**32 - 2, 2**32 - 2), ("0010", 10)]
)
def test_good_id(value: object, number: int) -> None:
    assert model.check_id("gid", value) == number


@pytest.mark.parametrize(
    "value",
    [
        "0999",
        "rw",
        "4755",
        "04755",
        "1777",
        "u+r",
        "",
        "44",
        "0o444",
        "-444",
        "444\n",
        " 444",
        "４４４",
        None,
        True,
        4.44,
        [],
        "0000444",
    ],
)
def test_bad_mode(value: object) -> None:
    with pytest.raises(HostsealError, match="is not three octal digits"):
        model.check_mode(value)


@pytest.mark.parametrize(
    ("value", "understood", "advice"),
    [
        (444, "0674", '"0674"'),
        (292, "0444", '"0444"'),
        (0, "0000", '"0000"'),
        (0o4755, "04755", '"0755"'),
        (-1, "07777", '"0777"'),
    ],
)
def test_mode_as_a_number_says_what_was_understood(value: int, understood: str, advice: str) -> None:
    with pytest.raises(HostsealError) as caught:
        model.check_mode(value)
    assert f"mode {value} is a number, which would be {understood} in octal" in str(caught.value)
    assert f"mode: {advice}" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "mode"), [("444", 0o444), ("0444", 0o444), ("00400", 0o400), ("0640", 0o640), ("000", 0)]
)
def test_good_mode(value: str, mode: int) -> None:
    assert model.check_mode(value) == mode
    assert model.check_mode(model.mode_text(mode)) == mode


@given(st.integers(0, 0o777))
def test_mode_text_is_read_back(mode: int) -> None:
    assert model.check_mode(model.mode_text(mode)) == mode


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90d", 7776000),
        ("12h", 43200),
        ("30m", 1800),
        ("10s", 10),
        ("2w", 1209600),
        ("15", 15),
        (15, 15),
        (0, 0),
        (" 5m ", 300),
    ],
)
def test_duration(value: object, seconds: int) -> None:
    assert model.check_duration("splay", value) == seconds


@pytest.mark.parametrize(
    "value", ["", "d", "1y", "-1", -1, "1.5h", 1.5, True, None, "1 d", "1h30m", "1" * 10, "１d", [], "1D"]
)
def test_bad_duration(value: object) -> None:
    with pytest.raises(HostsealError, match="splay .* is not a duration"):
        model.check_duration("splay", value)


@pytest.mark.parametrize("value", ["999999999w", "999999999d"])
def test_duration_beyond_all_reason_is_refused(value: str) -> None:
    """It would overflow the times of a statement, and a host would refuse what was sealed."""
    with pytest.raises(HostsealError, match="expires_after .* more than"):
        model.check_duration("expires_after", value)


@pytest.mark.parametrize(
    ("value", "name"), [("SIGHUP", "SIGHUP"), ("hup", "SIGHUP"), ("sigusr1", "SIGUSR1"), ("TERM", "SIGTERM")]
)
def test_signal(value: str, name: str) -> None:
    assert model.check_signal(value) == name


@pytest.mark.parametrize("value", ["", "SIG", "NOPE", 1, None, True, "SIG_IGN", "HUP ", "SIGSIGHUP"])
def test_bad_signal(value: object) -> None:
    with pytest.raises(HostsealError, match="is not the name of a signal"):
        model.check_signal(value)


def _mount(**changes: Any) -> dict[str, Any]:
    return {"environment": "prod", "name": "db", "secrets": [{"source": "password"}], **changes}


def test_mount_with_defaults() -> None:
    mount = Mount.from_options(
        _mount(secrets=["password", {"source": "key", "target": "tls/key", "uid": "999", "mode": "0400"}])
    )
    assert mount.volume == "prod.db"
    assert mount.entries == (
        model.Entry("password", "password", 0, 0, 0o444, None),
        model.Entry("key", "tls/key", 999, 0, 0o400, None),
    )
    assert mount.options == model.Options()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": "a.b"}, "environment name 'a.b'"),
        ({"environment": None}, "environment name is missing"),
        ({"name": "../x"}, "mount name '../x'"),
        ({"secrets": []}, "'prod.db': it has no secrets"),
        ({"secrets": None}, "it has no secrets"),
        ({"secrets": "password"}, "it has no secrets"),
        ({"secrets": {"source": "password"}}, "it has no secrets"),
        ({"secrets": [5]}, "a secret of a mount is 5"),
        ({"secrets": [{}]}, "has no source"),
        ({"secrets": [{"source": "a", "path": "b"}]}, "unknown option 'path'"),
        ({"secrets": [{"source": "a", "version": 0}]}, "version 0 is not a version number"),
        ({"secrets": [{"source": "a", "version": True}]}, "version True"),
        ({"secrets": [{"source": "a", "version": "1"}]}, "version '1'"),
        ({"secrets": [{"source": "a", "mode": 444}]}, "secret 'a': mode 444 is a number"),
        ({"secrets": [{"source": "a", "uid": "root"}]}, "secret 'a': uid 'root' is not a number"),
        ({"secrets": [{"source": "a", "target": "../a"}]}, "secret 'a': target '../a'"),
        ({"secrets": ["a", "a"]}, "'prod.db': target 'a' is used twice"),
        ({"secrets": ["a", {"source": "b", "target": "a/b"}]}, "would be a file"),
        ({"secrets": [f"s{number}" for number in range(257)]}, "it has 257 secrets, at most 256"),
        ({"change_mode": "reload"}, "change_mode 'reload' is not one of noop, signal, restart"),
        ({"on_remove": "forget"}, "on_remove 'forget'"),
        ({"owner": "a b"}, "owner name 'a b'"),
        ({"splay": "soon"}, "splay 'soon'"),
        ({"expires_after": -1}, "expires_after -1"),
        ({"change_signal": "NOPE"}, "change_signal 'NOPE'"),
        ({"on_expiry": "forget"}, "on_expiry 'forget' is not one of keep, wipe"),
        ({"on_expiry": "wipe"}, "needs expires_after"),
        ({"on_expiry": "wipe", "expires_after": "1h", "on_remove": "keep"}, "contradict each other"),
        ({"chnage_mode": "noop"}, "unknown option 'chnage_mode'"),
        ({"secrets": [{"vault_token": "web"}]}, "vault_token 'web' is not a dictionary"),
        ({"secrets": [{"vault_token": {}}]}, "role name is missing"),
        ({"secrets": [{"vault_token": {"role": "Web"}}]}, "role name 'Web' is not allowed"),
        ({"secrets": [{"vault_token": {"role": "web."}}]}, "role name 'web.' is not allowed"),
        ({"secrets": [{"vault_token": {"role": "web", "ttl": 1}}]}, "vault_token has the unknown option 'ttl'"),
        ({"secrets": [{"vault_token": {"role": "web"}, "source": "a"}]}, "'source', which is not for it"),
        ({"secrets": [{"vault_token": {"role": "web"}, "version": 1}]}, "'version', which is not for it"),
        ({"secrets": [{"vault_token": {"role": "web"}, "mode": 444}]}, "vault_token of role 'web': mode 444"),
        ({"secrets": [{"vault_token": {"role": "web", "wrap_ttl": "4s"}}]}, "wrap_ttl 4 s is outside 5 s to 3600 s"),
        ({"secrets": [{"vault_token": {"role": "web", "wrap_ttl": "2h"}}]}, "wrap_ttl 7200 s is outside"),
        ({"secrets": [{"vault_token": {"role": "web"}}, {"vault_token": {"role": "b"}}]}, "several vault_token"),
        ({"secrets": ["vault-token", {"vault_token": {"role": "web"}}]}, "target 'vault-token' is used twice"),
        ({"environment": "Prod", "secrets": [{"vault_token": {"role": "web"}}]}, "share them with environment 'prod'"),
        ({"while_booting": "hope"}, "while_booting 'hope' is not one of refuse, wait"),
        ({"while_booting": "wait"}, "while_booting is about a vault_token or a match"),
        ({"match": "web"}, "match 'web' is not a dictionary"),
        ({"match": {}}, "match says neither image nor labels"),
        ({"match": {"image": None, "labels": {}}}, "match says neither"),
        ({"match": {"name": "web"}}, "match has the unknown option 'name'"),
        ({"match": {"image": "web; rm"}}, "image 'web; rm' is not the name of an image"),
        ({"match": {"image": 7}}, "image 7 is not the name"),
        ({"match": {"labels": ["a"]}}, "labels are not a dictionary"),
        ({"match": {"labels": {"a": 1}}}, "label 'a' has a value that is not a string: quote it"),
        ({"match": {"labels": {"": "1"}}}, "label '' is not a label's name"),
        ({"match": {"labels": {str(number): "" for number in range(65)}}}, "a dictionary of at most 64"),
    ],
)
def test_bad_mount(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(HostsealError) as caught:
        Mount.from_options(_mount(**changes))
    assert reason in str(caught.value)


def test_the_default_of_on_expiry_is_not_told() -> None:
    """What was sealed before there was the option has to keep its digest."""
    kept = Mount.from_options(_mount(expires_after="1h", on_expiry="keep")).options
    assert kept == Mount.from_options(_mount(expires_after="1h")).options
    assert "on_expiry" not in kept.as_dict()
    wiped = Mount.from_options(_mount(expires_after="1h", on_expiry="wipe")).options
    assert wiped.as_dict()["on_expiry"] == "wipe"
    assert model.Options.from_options(wiped.as_dict()) == wiped
    assert model.Options.from_options(kept.as_dict()) == kept


def test_mount_with_a_token() -> None:
    mount = Mount.from_options(_mount(secrets=["a", {"vault_token": {"role": "web"}, "source": None}]))
    assert mount.entries == (model.Entry("a", "a"),)
    assert mount.token == model.Token("web", "vault-token", 0, 0, 0o444, 60)
    assert model.token_role(mount.environment, mount.token.role) == "prod.web"
    placed = {"vault_token": {"role": "web", "wrap_ttl": "5m"}, "target": "a/token", "uid": "999", "mode": "0400"}
    alone = Mount.from_options(_mount(secrets=[placed], while_booting="wait"))
    assert (alone.entries, alone.token) == ((), model.Token("web", "a/token", 999, 0, 0o400, 300))
    assert model.Options.from_options(alone.options.as_dict()).while_booting == "wait"


def test_options_of_a_token_are_not_told_where_they_are_not_used() -> None:
    """What was sealed before there were any has to keep its digest."""
    options = Mount.from_options(_mount(while_booting="refuse", match=None)).options
    assert not {"match", "while_booting"} & options.as_dict().keys()


@pytest.mark.parametrize(
    ("match", "container", "reason"),
    [
        ({"image": "web"}, ("web", "sha256:1", {}), None),
        ({"image": "web"}, ("web:latest", "sha256:1", {}), None),
        ({"image": "web:latest"}, ("web", "sha256:1", {}), None),
        ({"image": "sha256:1"}, ("web:2", "sha256:1", {}), None),
        ({"image": "r.example.com:5000/web"}, ("r.example.com:5000/web:latest", "sha256:1", {}), None),
        ({"image": "web@sha256:ab"}, ("web@sha256:ab", "sha256:1", {}), None),
        ({"labels": {"app": "web", "tier": ""}}, ("x", "sha256:1", {"app": "web", "tier": "", "more": "1"}), None),
        ({"image": "web"}, ("web:2", "sha256:1", {}), "its image is 'web:2', not 'web'"),
        ({"image": "web"}, ("evil/web", "sha256:1", {}), "its image is 'evil/web'"),
        # Docker lists the ID where the tag has been given to another image.
        ({"image": "web"}, ("sha256:1", "sha256:1", {}), "its image is 'sha256:1', not 'web'"),
        ({"image": "web", "labels": {"app": "web"}}, ("evil", "sha256:1", {"app": "web"}), "its image is 'evil'"),
        ({"labels": {"app": "web"}}, ("x", "sha256:1", {}), "its label 'app' is not 'web'"),
        ({"labels": {"app": "web"}}, ("x", "sha256:1", {"app": "web2"}), "its label 'app' is not 'web'"),
        ({"labels": {"tier": ""}}, ("x", "sha256:1", {}), "its label 'tier' is not ''"),
    ],
)
def test_match(match: dict[str, Any], container: tuple[str, str, dict[str, str]], reason: str | None) -> None:
    made = model.Match.from_options(match)
    told = made.refusal(*container)
    assert told is None if reason is None else told and told.startswith(reason)
    assert model.Match.from_options(made.as_dict()) == made


def test_largest_mount() -> None:
    assert len(Mount.from_options(_mount(secrets=[f"s{number}" for number in range(256)])).entries) == 256


def test_mounts_of_a_list_take_the_common_environment() -> None:
    items = [{"name": "db", "secrets": ["a"]}, {"name": "web", "secrets": ["a"], "environment": "staging"}]
    assert [mount.volume for mount in Mount.list_from_options(items, "prod")] == ["prod.db", "staging.web"]
    with pytest.raises(HostsealError, match="a mount is 'db'"):
        Mount.list_from_options(["db"], "prod")
    with pytest.raises(HostsealError, match="environment name is missing"):
        Mount.list_from_options([{"name": "db", "secrets": ["a"]}], None)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("environment", "name", "secrets", "splay", "owner", "change_signal", "match", "x"), _json
        ),
    )
)
def test_mount_of_anything_is_a_mount_or_our_error(options: dict[str, Any]) -> None:
    try:
        Mount.from_options(options)
    except HostsealError as error:
        assert len(str(error)) < 600


@given(
    st.fixed_dictionaries(
        {"source": _json | st.just("a")},
        optional=dict.fromkeys(("target", "uid", "gid", "mode", "version", "x"), _json),
    )
)
def test_entry_of_anything_is_an_entry_or_our_error(options: dict[str, Any]) -> None:
    try:
        entry = model.Entry.from_options(options)
    except HostsealError:
        return
    assert 0 <= entry.mode <= 0o777
    assert 0 <= entry.uid < 2**32 - 1
