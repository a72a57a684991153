# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the playbook hostseal.secrets.report, read as a browser reads it."""

from __future__ import annotations

import datetime
import itertools
import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hostseal.secrets.plugins.filter import report

from tests.page import Page

Item = dict[str, Any]
NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
HOUR_MS = 3_600_000


def mount(name: str, secrets: dict[str, int], environment: str = "prod", **other: Any) -> Item:
    """A mount as agent_info tells of it."""
    return {
        "volume": f"{environment}.{name}",
        "environment": environment,
        "mount": name,
        "issued_at": NOW_MS - HOUR_MS,
        "expires_at": None,
        "valid": True,
        "reason": None,
        "secrets": [{"name": source, "version": version} for source, version in secrets.items()],
        "live": True,
        "users": 1,
        "last_change": None,
        "containers": [f"{name}-1"],
        **other,
    }


def agent(name: str, *mounts: Item, problems: tuple[str, ...] = ()) -> Item:
    """The answer of a host."""
    about = {"installed": True, "version": "0.1.0", "host": name}
    about |= {"tmpfs": {"ok": True, "noswap": True, "size": 1 << 26, "free": 1 << 25, "reason": None}}
    return {"name": name, "agent": about, "mounts": list(mounts), "problems": list(problems)}


def secret(name: str, version: int | None, *delivered: tuple[str, str, int], age: int = 90) -> Item:
    """A secret as secret_info tells of it; DELIVERED are host, mount and version."""
    return {
        "name": name,
        "version": version,
        "versions": [{"version": version, "created_at": "2026-11-22T11:58:30Z", "age": age}] if version else [],
        "delivered": [
            {"host": host, "mount": place, "version": number, "delivered_at": "2026-11-22T11:59:00Z"}
            for host, place, number in delivered
        ],
        "published": [],
    }


def prod(*secrets: Item) -> list[Item]:
    """The result of secret_info for one environment."""
    return [{"item": {"name": "prod"}, "secrets": list(secrets)}]


def record(number: int, action: str, host: str = "web1", result: str = "ok", user: str = "alice") -> Item:
    """A record of the audit log."""
    about = {"environment": "prod", "mount": "web", "secrets": [{"name": "token", "version": 1}], "job": None}
    return {**about, "number": number, "at": f"2026-11-22T11:00:{number:02}Z", "user": user, "action": action} | {
        "host": host,
        "result": result,
    }


def log(*records: Item, intact: bool = True) -> Item:
    """The result of audit_info."""
    return {"records": list(records), "intact": intact, "broken_at": None if intact else 7}


def gather(
    agents: dict[str, Item], environments: list[Item], audit: Item | None = None, declared: Item | None = None
) -> Item:
    """What the page shows."""
    return report.gather(agents, environments, audit or log(), declared or {}, NOW)


def page(*arguments: Any, **options: Any) -> Page:
    """The page, read."""
    return Page(report.render(gather(*arguments, **options)))


def full() -> tuple[dict[str, Item], list[Item], Item, Item]:
    """Something in every table."""
    agents = {
        "web1": agent("web1", mount("web", {"token": 1}, expires_at=NOW_MS + HOUR_MS), problems=("disk is odd",)),
        "web2": {"name": "web2", "unreachable": True, "msg": "no route"},
    }
    secrets = prod(secret("token", 2, ("web1", "web", 1), ("web2", "web", 2)), secret("other", 1))
    return agents, secrets, log(record(1, "mount.delivered")), {}


@pytest.mark.parametrize(
    ("web1", "secrets", "pins", "state"),
    [
        (agent("web1", mount("web", {"token": 2})), [secret("token", 2, ("web1", "web", 2))], (), "ok"),
        (agent("web1", mount("web", {"token": 1})), [secret("token", 2, ("web1", "web", 1))], (), "behind"),
        (agent("web1", mount("web", {"token": 1})), [secret("token", 2, ("web1", "web", 1))], (1,), "pinned"),
        (agent("web1", mount("web", {"token": 1})), [secret("token", 2, ("web1", "web", 1))], (3,), "behind"),
        (agent("web1", mount("web", {"token": 1})), [secret("token", 2, ("web1", "web", 2))], (), "drift"),
        (agent("web1", mount("web", {"token": 2})), [secret("token", 2)], (), "drift"),
        (agent("web1", mount("web", {"token": 2})), [secret("token", None, ("web1", "web", 2))], (), "deleted"),
        (agent("web1"), [secret("token", 2, ("web1", "web", 2))], (), "missing"),
        (agent("web1"), [secret("token", 2)], (2,), "not delivered"),
        (
            agent("web1", mount("web", {"token": 2}, valid=False)),
            [secret("token", 2, ("web1", "web", 2))],
            (),
            "unusable",
        ),
        (
            agent("web1", mount("web", {"token": 2}, live=False)),
            [secret("token", 2, ("web1", "web", 2))],
            (),
            "files gone",
        ),
        # A quarter of its time: 20 minutes after an hour, and a little more.
        (
            agent("web1", mount("web", {"token": 2}, expires_at=NOW_MS + HOUR_MS // 3 - 1)),
            [secret("token", 2, ("web1", "web", 2))],
            (),
            "expires soon",
        ),
        (
            agent("web1", mount("web", {"token": 2}, expires_at=NOW_MS + HOUR_MS // 3 + 1)),
            [secret("token", 2, ("web1", "web", 2))],
            (),
            "ok",
        ),
        (
            {"name": "web1", "unreachable": True, "msg": "no route"},
            [secret("token", 2, ("web1", "web", 2))],
            (),
            "unconfirmed",
        ),
        (
            {"name": "web1", "unreachable": True, "msg": "no route"},
            [secret("token", 2, ("web1", "web", 1))],
            (),
            "behind",
        ),
    ],
)
def test_state_of_a_mount(web1: Item, secrets: list[Item], pins: tuple[int, ...], state: str) -> None:
    pinned = [{"source": "token", "version": pin} for pin in pins]
    declared = {"web1": [{"environment": "prod", "name": "web", "secrets": pinned}]} if pins else {}
    read = page({"web1": web1}, prod(*secrets), declared=declared)
    assert [row["State"] for row in read.rows("Mount")] == [state]
    told = [row["State"] for row in read.rows("What") if row["What"] == "prod.web"]
    # The agent itself speaks of what it can't use.
    assert told == (
        [state] if report.STATES[state] in ("bad", "warn") and state not in ("unusable", "files gone") else []
    )
    if state not in ("not delivered", "drift"):
        assert [row["State"] for row in read.rows("Secret")] == [state]


@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        ({"unreachable": True, "msg": "no route"}, "unreachable", "no route"),
        ({"failed": False, "msg": "permission denied"}, "failed", "permission denied"),
        ({"agent": {"installed": False}, "problems": []}, "no agent", "not installed"),
        ({}, "not asked", None),
    ],
)
def test_host_that_does_not_answer_breaks_nothing(answer: Item, state: str, text: str | None) -> None:
    read = page(
        {"web1": agent("web1", mount("web", {"token": 1})), "web2": {"name": "web2", **answer}},
        prod(secret("token", 1, ("web1", "web", 1), ("web2", "web", 1))),
    )
    assert {row["Host"]: row["State"] for row in read.rows("Host")} == {"web1": "ok", "web2": state}
    why = [row["Why"] for row in read.rows("What") if row["What"] == "web2"]
    assert not why if text is None else text in why[0]
    assert {row["Host"]: row["State"] for row in read.rows("Mount")} == {"web1": "ok", "web2": "unconfirmed"}


def test_host_outside_of_the_run_is_shown_with_what_it_confirmed() -> None:
    read = page({"web1": agent("web1")}, prod(secret("token", 1, ("far", "web", 1))))
    assert [(row["Host"], row["State"], row["Secrets"]) for row in read.rows("Host")] == [
        ("far", "not asked", "1"),
        ("web1", "ok", "0"),
    ]


def test_host_that_is_enrolled_under_another_name() -> None:
    secrets = prod(secret("token", 1, ("web1", "web", 1)))
    declared = {"web1": [{"environment": "prod", "name": "web", "secrets": [{"source": "token"}]}]}
    read = page({"10.0.0.1": agent("web1", mount("web", {"token": 1}))}, secrets, declared=declared)
    assert [row["Host"] for row in read.rows("Host")] == ["web1 (10.0.0.1)"]
    assert read.rows("What") == []


def test_environment_that_can_not_be_read_is_named() -> None:
    read = page(
        {"web1": agent("web1", mount("db", {"key": 1}, "lab"))}, [{"item": {"name": "lab"}, "msg": "not there"}]
    )
    assert [(row["What"], row["State"], row["Why"]) for row in read.rows("What")] == [
        ("lab", "unreadable", "not there")
    ]
    assert [row["State"] for row in read.rows("Mount")] == ["not read"]


def test_refusal_counts_until_a_later_delivery() -> None:
    refused = record(1, "mount.refused", result="too old")
    agents = {"web1": agent("web1")}
    told = page(agents, prod(), log(refused)).rows("What")
    assert [(row["What"], row["State"], row["Hosts"]) for row in told] == [("prod.web", "refused", "web1")]
    assert "too old" in told[0]["Why"]
    assert page(agents, prod(), log(refused, record(2, "mount.delivered", host="web2"))).rows("What") == told
    assert page(agents, prod(), log(refused, record(2, "mount.delivered"))).rows("What") == []


def test_edited_log_comes_first() -> None:
    agents, secrets, _log, _declared = full()
    first = page(agents, secrets, log(intact=False)).rows("What")[0]
    assert first["State"] == "log broken"
    assert "Record 7" in first["Why"]


def test_worst_first_in_every_table_and_numbers_in_names_count() -> None:
    agents = {f"web{number}": agent(f"web{number}") for number in (10, 9, 1)}
    agents["zeta"] = {"name": "zeta", "unreachable": True, "msg": "no route"}
    read = page(agents, prod(secret("b", 1), secret("a", 2, ("zeta", "web", 1))))
    assert [row["Host"] for row in read.rows("Host")] == ["zeta", "web1", "web9", "web10"]
    assert [row["Secret"] for row in read.rows("Secret")] == ["a", "b"]
    ranks = [list(report.STATES).index(row["State"]) for row in read.rows("What")]
    assert ranks == sorted(ranks)
    assert len(ranks) == 2


def test_nothing_to_do_is_said() -> None:
    text = report.render(gather({"web1": agent("web1")}, prod(secret("token", 1))))
    assert "Nothing. Every host has answered" in text
    assert Page(text).rows("What") == []


def test_users_versions_and_ages_of_a_secret() -> None:
    agents = {
        "web1": agent("web1", mount("web", {"token": 2}, containers=["front", "back"])),
        "web2": agent("web2", mount("web", {"token": 1})),
    }
    secrets = prod(secret("token", 2, ("web1", "web", 2), ("web2", "web", 1), age=7200))
    [row] = page(agents, secrets).rows("Secret")
    assert (row["Version"], row["Age"], row["Hosts"]) == ("2", "2 h", "2")
    assert row["Containers"] == "front on web1, back on web1, web-1 on web2"
    assert row["Where, which version"] == "web, version 1 (behind): web2web, version 2: web1"


EVIL = "<script>alert(1)</script>\"'&amp;<img src=x onerror=alert(1)>"


def test_every_name_and_message_is_escaped() -> None:
    change = {"mode": EVIL, "issued_at": 0, "at": NOW_MS, "containers": [EVIL], "reason": EVIL}
    evil = mount(EVIL, {EVIL: 1}, EVIL, containers=[EVIL], last_change=change)
    agents = {EVIL: agent(EVIL, evil, problems=(EVIL,)), "web2": {"name": "web2", "unreachable": True, "msg": EVIL}}
    environments = [
        {"item": {"name": EVIL}, "secrets": [secret(EVIL, 2, (EVIL, EVIL, 1))]},
        {"item": {"name": "x"}, "msg": EVIL},
    ]
    written = {**record(1, "mount.refused", EVIL, EVIL, EVIL), "environment": EVIL, "mount": EVIL, "job": EVIL}
    written |= {"action": EVIL, "secrets": [{"name": EVIL, "version": EVIL}]}
    refused = {**written, "number": 2, "action": "mount.refused"}
    read = page(
        agents, environments, log(written, refused), {EVIL: [{"environment": EVIL, "name": "y", "secrets": []}]}
    )
    assert [tag for tag, _attributes in read.elements].count("script") == 1
    assert "img" not in {tag for tag, _attributes in read.elements}
    assert not [name for _tag, attributes in read.elements for name in attributes if name.startswith("on")]
    assert "alert" not in "".join(read.texts["script"])
    for head in ("What", "Host", "Secret", "Mount", "Time"):
        assert any(EVIL in text for row in read.rows(head) for text in row.values()), head


def test_names_of_ansible_templates_stay_as_they_are() -> None:
    name = "{{ lookup('pipe', 'id') }}"
    assert page({name: agent(name)}, prod()).rows("Host")[0]["Host"] == name


def test_page_asks_nobody_for_anything() -> None:
    text = report.render(gather(*full()))
    read = Page(text)
    for tag, attributes in read.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "srcset", "action", "formaction", "ping", "style", "background"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    style, script = "".join(read.texts["style"]), "".join(read.texts["script"])
    assert not re.search(r"url\(|@import|https?:|//[a-z]", style)
    assert not re.search(r"fetch|XMLHttp|import\(|https?:|innerHTML|eval|cookie|localStorage", script)
    policy = next(a["content"] for _tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        f"default-src 'none'; style-src {report.csp_hash(style)}; script-src {report.csp_hash(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    # The policy stands before what it is about.
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script>")


def test_structure_for_screen_readers() -> None:
    read = page(*full())
    tags = [tag for tag, _attributes in read.elements]
    assert dict(read.elements)["html"] == {"lang": "en"}
    assert tags.count("h1") == tags.count("main") == 1
    assert len(read.captions) == len(read.tables) == tags.count("caption") == 5
    for heads, *rows in read.tables:
        assert all(attributes["scope"] == "col" for attributes, _text in heads)
        for row in rows:
            assert row[0][0]["scope"] == "row"
            assert len(row) == len(heads)
    ids = [attributes["id"] for _tag, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _tag, attributes in read.elements:
        for name in ("aria-labelledby", "for"):
            assert attributes.get(name, ids[0]) in ids
        assert (attributes.get("href") or "#" + str(ids[0]))[1:] in ids
    boxes = [attributes for _tag, attributes in read.elements if attributes.get("class") == "box"]
    assert all(box["tabindex"] == "0" and ("aria-label" in box or "aria-labelledby" in box) for box in boxes)
    # Without JavaScript there is nothing that does nothing.
    assert "button" not in tags
    assert next(a for tag, a in read.elements if tag == "form")["hidden"] is None
    # Each word for a state that is used is explained.
    explained = {text.strip() for text in read.texts["span"]} & report.STATES.keys()
    assert report.STATES.keys() - explained <= {"log broken", "unreadable"}


def test_sort_keys_are_numbers_where_the_text_is_none() -> None:
    agents, secrets, audit, declared = full()
    secrets[0]["secrets"].append(secret("old", 1, age=8 * 86400))
    read = page(agents, secrets, audit, declared)
    heads, *rows = next(table for table in read.tables if table[0][0][1] == "Secret")
    names = [text for _attributes, text in heads]
    keys = {row[0][1]: {name: cell[0].get("data-sort") for name, cell in zip(names, row, strict=True)} for row in rows}
    assert keys["old"]["Age"] == "691200"
    assert keys["token"]["Age"] == "90"
    assert keys["token"]["Expires"] == str(NOW_MS + HOUR_MS)
    assert keys["other"]["Expires"] == ""
    assert keys["token"]["State"] == str(list(report.STATES).index("behind"))
    for table in read.tables:
        for row in table[1:]:
            assert all(
                (a.get("data-sort") or "0").replace("-", "").rstrip("Z").replace("T", "").replace(":", "").isdigit()
                for a, _text in row
            )


def test_made_when_and_by_what() -> None:
    text = report.render(gather(*full()))
    assert 'Made at <time datetime="2026-11-22T12:00:00+00:00">2026-11-22 12:00</time> UTC by hostseal.secrets' in text
    assert f"hostseal.secrets {report.version()}." in text
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", report.version())


def test_page_does_not_depend_on_the_order_of_the_hosts() -> None:
    agents, secrets, audit, declared = full()
    assert report.render(gather(dict(reversed(agents.items())), secrets, audit, declared)) == report.render(
        gather(*full())
    )


def test_much_is_folded_and_few_names_stand_for_many() -> None:
    hosts = [f"web{number}" for number in range(100)]
    agents = {host: agent(host, mount("web", {"token": 1, "key": 1})) for host in hosts}
    secrets = [secret(name, 2, *((host, "web", 1) for host in hosts)) for name in ("token", "key")]
    many = [secret(f"s{number}", 1) for number in range(3000)]
    text = report.render(gather(agents, prod(*secrets, *many)))
    read = Page(text)
    assert [attributes for tag, attributes in read.elements if tag == "details"] == [{}, {"open": None}]
    # One line for a hundred hosts.
    [line] = read.rows("What")
    assert line["Hosts"].endswith("web11 and 88 more")
    assert (
        read.rows("Secret")[0]["Where, which version"]
        == "web, version 1 (behind): web0, web1, web2, web3, web4, web5 and 94 more"
    )
    assert "3002 secrets: 2 behind, 3000 unused" in text
    assert len(text) / len(read.rows("Secret")) < 800


def _colours(style: str, dark: bool) -> dict[str, str]:
    light_part, dark_part = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", dark_part if dark else light_part))


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_enough_to_read(dark: bool) -> None:
    """WCAG 2.2, success criterion 1.4.3: 4.5 to 1."""
    colours = _colours("".join(page(*full()).texts["style"]), dark)
    pairs = [*itertools.product(("text", "quiet", "link"), ("page", "raised"))]
    pairs += [(level, f"{level}-ground") for level in ("bad", "warn", "good", "info")]
    if not dark:
        # In print the grounds are left out.
        pairs += [(level, "page") for level in ("bad", "warn", "good", "info")]
    for text, ground in pairs:
        low, high = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_filter_reads_two_variables_and_no_other() -> None:
    class Variables(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            assert name in ("hostseal_seen_agent", "hostseal_host_name")
            return super().get(name, default)

        def __getitem__(self, name: str) -> Any:
            raise AssertionError(name)

    variables = Variables(hostseal_seen_agent=agent("web1"), hostseal_host_name="web1", password="marker-4711")
    filters = report.FilterModule().filters()
    text = filters["report"]({"a": variables}, ["a"], prod(), log(), {})
    assert [row["Host"] for row in Page(text).rows("Host")] == ["web1 (a)"]
    assert "marker-4711" not in text
    with pytest.raises(AnsibleFilterError, match="is not what the playbook") as caught:
        filters["report"]({"a": variables}, ["a"], prod(), {"marker-4711": 1}, {})
    assert "marker-4711" not in str(caught.value)


def test_what_is_published_is_not_taken_for_delivered() -> None:
    """Neither is it missing: the host fetches it when it will."""
    token = secret("token", 1)
    token["published"] = [
        {"host": host, "mount": "web", "version": 1, "published_at": "2026-11-22T11:59:00Z"}
        for host in ("web1", "web2")
    ]
    page = gather({"web1": agent("web1")}, prod(token))
    assert [(mount.host, mount.state) for mount in page["mounts"]] == [("web1", "published"), ("web2", "published")]
    assert page["attention"] == []
