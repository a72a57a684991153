# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation tells its reader to do works, page by page, on one host."""

from __future__ import annotations

import pytest

from tests.docs_code import blocks, pages
from tests.rig.paths import ROOT

from .conftest import BEFORE, Reader

# In the order in which one may read them: later pages build on what the first ones made.
ORDER = [
    "docs/tutorial-localkey.md",
    "README.md",
    "docs/launch.md",
    "docs/operations.md",
    "docs/git.md",
    "docs/migrate-ansible-vault.md",
    "docs/migrate-swarm.md",
    "docs/migrate-rancher.md",
    "docs/awx.md",
    "docs/backends.md",
    "docs/tutorial-vault.md",
]


def test_no_page_is_left_out() -> None:
    assert {page for page in pages() for block in blocks(ROOT / page) if block.is_code} == set(ORDER)


# The others take long, or say the same in other words.
SHORT = ("docs/tutorial-localkey.md", "README.md", "docs/launch.md", "docs/tutorial-vault.md")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page in SHORT else pytest.mark.thorough) for page in ORDER]
)
def test_page(reader: Reader, page: str) -> None:
    on_host, here = BEFORE.get(page, ("", ""))
    if on_host:
        reader.host.sh(on_host)
    if here:
        reader.shell(here.replace("/dev/shm/", f"{reader.directory}/"))
    if page in ("docs/backends.md", "docs/tutorial-vault.md"):
        reader.be_administrator_of_vault()
    for block in blocks(ROOT / page):
        if block.is_code:
            reader.do(block)
