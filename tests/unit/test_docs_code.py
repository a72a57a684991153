# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No code in the documentation that nobody runs; and the reader of it does not overlook any."""

from __future__ import annotations

from pathlib import Path

from tests.docs_code import Block, Command, blocks, links, matches, pages
from tests.rig.paths import ROOT

PAGE = """\
<!-- not run: needs a
cluster -->
```sh
kubectl get pods
```

Words.

```console
$ ls -l \\
    here
total 0
# reboot
```

A [link](there.md#part), ![a picture](images/x.svg), [elsewhere](https://example.com).

```python
print()
```

```yaml
# a/b.yml
x: 1
```

```{toctree}
other
```

    indented
"""


def _page(tmp_path: Path) -> list[Block]:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return blocks(path)


def test_finds_each_kind_of_block(tmp_path: Path) -> None:
    shell, console, python, file, indented = _page(tmp_path)
    assert (shell.where, shell.reason, shell.complaint()) == ("page.md:3", "needs a cluster", "")
    assert console.commands() == [Command(False, "ls -l \\\n    here", ("total 0",)), Command(True, "reboot", ())]
    assert (file.file, file.complaint(), console.file) == ("a/b.yml", "", "")
    assert "page.md:18: `python` is neither run nor marked" in python.complaint()
    assert "neither run nor marked" in indented.complaint()


def test_yaml_is_plays_tasks_or_a_file() -> None:
    task = Block("x", "yaml", "- ansible.builtin.ping:\n", "")
    assert task.plays()[0]["tasks"] == [{"ansible.builtin.ping": None}]
    assert Block("x", "yaml", "- hosts: all\n", "").plays() == [{"hosts": "all"}]
    assert "needs `# FILE.yml`" in Block("x", "yaml", "a: 1\n", "").complaint()


def test_output_is_compared_in_order_with_gaps() -> None:
    printed = "ok=3  changed=1  failed=0\nversion 2\n"
    assert matches(("ok=3 … failed=0", "version 2"), printed)
    assert not matches(("version 2", "ok=3"), printed)
    assert not matches(("changed=0",), printed)


def test_links_within_the_documentation_lead_somewhere(tmp_path: Path) -> None:
    _page(tmp_path)
    assert links(tmp_path / "page.md") == ["there.md#part", "images/x.svg", "https://example.com"]
    found = [(ROOT / page, link) for page in ["README.md", *pages()] for link in links(ROOT / page)]
    local = [(page, link) for page, link in found if not link.startswith(("https:", "#"))]
    assert [(page.name, link) for page, link in local if not (page.parent / link.partition("#")[0]).exists()] == []


def test_every_block_of_the_documentation_is_run_or_says_why_not() -> None:
    complaints = [block.complaint() for page in pages() for block in blocks(ROOT / page)]
    assert [complaint for complaint in complaints if complaint] == []
