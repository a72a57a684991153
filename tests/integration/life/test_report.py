# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""hostseal.secrets.report about two hosts: all is well, a secret is rotated, a host is down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page import Page

from .conftest import Life, LifeFactory, Run

ENVIRONMENT = "show"
VOLUME = f"{ENVIRONMENT}.web"


@pytest.fixture(scope="module")
def life(pair: LifeFactory) -> Iterator[Life]:
    """Both hosts with a mount of two secrets, and a container that uses it."""
    made = pair(ENVIRONMENT)
    names = ("password", "token")
    made.declare(
        hostseal_secrets=[{"environment": ENVIRONMENT, "name": name, "generate": {"length": 32}} for name in names],
        hostseal_mounts=[{"environment": ENVIRONMENT, "name": "web", "secrets": [{"source": name} for name in names]}],
    )
    made.set_up()
    for host in made.hosts:
        host.start("show-web", "--restart", "always", volume=VOLUME)
    yield made
    for host in made.hosts:
        host.remove("show-web")


def _report(life: Life, *arguments: str) -> tuple[Run, str]:
    """The run, and the page."""
    path = life.directory / "page.html"
    run = life.book("report", *arguments, hostseal_report=str(path)).ok()
    assert path.stat().st_mode & 0o777 == 0o600
    return run, path.read_text(encoding="utf-8")


def _states(page: Page, head: str) -> dict[str, str]:
    """State by host of the rows of this environment's mounts, or of the hosts."""
    return {row["Host"]: row["State"] for row in page.rows(head) if row.get("Mount", VOLUME) == VOLUME}


def test_page_of_two_hosts(life: Life) -> None:
    loose = life.directory / "page.html"
    loose.write_text("older", encoding="utf-8")
    loose.chmod(0o644)
    run, text = _report(life, "-vvv", "--diff")
    values = [host.docker("exec", "show-web", "cat", "/run/secrets/token").stdout for host in life.hosts]
    assert len(set(values)) == 1
    assert len(values[0]) == 32
    assert values[0] not in text + run.output
    page = Page(text)
    names = [host.host.name for host in life.hosts]
    assert _states(page, "Mount") == dict.fromkeys(names, "ok")
    assert [row for row in page.rows("What") if row["What"] in (ENVIRONMENT, VOLUME)] == []
    secrets = {row["Secret"]: row for row in page.rows("Secret")}
    assert {(name, row["State"], row["Version"], row["Hosts"]) for name, row in secrets.items()} == {
        ("password", "ok", "1", "2"),
        ("token", "ok", "1", "2"),
    }
    for name in names:
        assert f"show-web on {name}" in secrets["token"]["Containers"]
    assert {row["What"] for row in page.rows("Time")} >= {"secret.created", "host.enrolled", "mount.delivered"}


def test_two_pages_differ_in_times_alone(life: Life) -> None:
    def timeless(text: str) -> str:
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[^\"<]*", "TIME", text)
        text = re.sub(r'data-sort="\d+"><time [^>]*>\d+ \w+<', "AGE", text)
        # The memory that is free.
        return re.sub(r'data-sort="\d+"><span class="short">[0-9.]+ of', "FREE", text)

    first = (life.directory / "page.html").read_text(encoding="utf-8")
    # Without a name it is in the present directory.
    life.book("report").ok()
    default = life.directory / "hostseal-report.html"
    assert default.stat().st_mode & 0o777 == 0o600
    second = default.read_text(encoding="utf-8")
    assert timeless(first) == timeless(second)


def test_check_mode_writes_nothing(life: Life) -> None:
    path = life.directory / "checked.html"
    run = life.book("report", "--check", hostseal_report=str(path)).ok()
    assert sum(run.changed.values()) == 1
    assert not path.exists()


def test_limit_leaves_the_other_host_as_it_confirmed(life: Life) -> None:
    first, second = (host.host.name for host in life.hosts)
    page = Page(_report(life, "--limit", first)[1])
    assert _states(page, "Host")[second] == "not asked"
    assert _states(page, "Mount") == {first: "ok", second: "unconfirmed"}


def test_store_that_is_not_there_is_an_error_and_leaves_the_last_page(life: Life) -> None:
    path = life.directory / "page.html"
    before = path.read_text(encoding="utf-8")
    run = life.book("report", hostseal_report=str(path), hostseal_store=str(life.directory / "nowhere.db"))
    assert "does not exist" in run.failed("Read the audit log")
    assert path.read_text(encoding="utf-8") == before
    assert not Path(life.directory / "nowhere.db").exists()


def test_rotated_secret_and_a_host_that_is_down(life: Life) -> None:
    first, second = life.hosts
    life.task("secret", name="token", generate={}, state="rotated")
    second.host.power_cut(wait=False)
    try:
        page = Page(_report(life)[1])
    finally:
        second.host.power_on()
    assert _states(page, "Host") == {first.host.name: "attention", second.host.name: "unreachable"}
    assert _states(page, "Mount") == dict.fromkeys((first.host.name, second.host.name), "behind")
    told = {row["What"]: row for row in page.rows("What")}
    assert told[second.host.name]["State"] == "unreachable"
    assert told[VOLUME]["State"] == "behind"
    assert "Secrets: token." in told[VOLUME]["Why"]
    secrets = {row["Secret"]: row["State"] for row in page.rows("Secret")}
    assert secrets == {"token": "behind", "password": "unconfirmed"}
    assert next(iter(page.rows("What")))["State"] == "unreachable"
