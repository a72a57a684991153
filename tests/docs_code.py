# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The code blocks of README.md and docs/*.md, as what a reader does with them.

* ```console: commands behind `$ ` are the control node's, those behind `# ` root's on the host. A line that ends in a
  backslash goes on. Other lines are output; … stands for anything.
* A block whose first line is `# NAME` with a known ending is that file, in the reader's directory.
* Other ```yaml blocks are plays, or tasks for the host.
* ```text is no code.

A comment `<!-- not run: REASON -->` right before a block says that no test can run it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from tests.rig.paths import ROOT

_FILE = re.compile(r"# ([\w./-]+\.(?:yml|yaml|ini|cfg|json))\n")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command: whose it is, and what it has to print."""

    on_host: bool
    text: str
    output: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A block of LANGUAGE in the line LINE of a page; REASON says why it is not run."""

    where: str
    language: str
    text: str
    reason: str

    @property
    def is_code(self) -> bool:
        """Whether somebody can do something with it here."""
        return not self.reason and self.language != "text"

    @property
    def file(self) -> str:
        """The file that it is, or nothing."""
        found = _FILE.match(self.text)
        return found.group(1) if found and self.language != "console" else ""

    def plays(self) -> list[dict[str, Any]]:
        """A list of plays or tasks as plays."""
        listed: list[dict[str, Any]] = yaml.safe_load(self.text)
        if "hosts" in listed[0] or "ansible.builtin.import_playbook" in listed[0]:
            return listed
        return [{"hosts": "docker_hosts", "gather_facts": False, "tasks": listed}]

    def commands(self) -> list[Command]:
        """The commands of a console block, in their order."""
        found: list[Command] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if line.startswith(("$ ", "# ")):
                command = line[2:]
                while command.endswith("\\"):
                    command += "\n" + next(lines)
                found.append(Command(line[0] == "#", command, ()))
            else:
                if not found:
                    raise ValueError(f"{self.where}: output before any command")
                last = found[-1]
                found[-1] = Command(last.on_host, last.text, (*last.output, line))
        return found

    def complaint(self) -> str:
        """Why nobody would know what to do with it; empty when it is run or says why not."""
        if not self.is_code or self.file:
            return ""
        if self.language == "console":
            return "" if self.commands() else f"{self.where}: a console without a command"
        if self.language != "yaml":
            return f"{self.where}: `{self.language}` is neither run nor marked `<!-- not run: REASON -->`"
        if not isinstance(yaml.safe_load(self.text), list):
            return f"{self.where}: YAML that is no list needs `# FILE.yml` as its first line"
        return ""


def pages() -> list[str]:
    """The pages with code, relative to the checkout."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found if blocks(path)]


def blocks(path: Path) -> list[Block]:
    """The code blocks of one Markdown file; directives of MyST are none."""
    found: list[Block] = []
    reason = ""
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block") and not token.info.startswith("{"):
            where = f"{path.name}:{(token.map or [0])[0] + 1}"
            found.append(Block(where, token.info.strip(), token.content, reason))
        marked = _NOT_RUN.fullmatch(token.content) if token.type == "html_block" else None
        reason = " ".join(marked.group(1).split()) if marked else ""
    return found


def links(path: Path) -> list[str]:
    """What one Markdown file links to, and its images."""
    found: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8")):
        for child in token.children or []:
            found += [str(child.attrs[key]) for key in ("href", "src") if key in child.attrs]
    return found


def matches(output: tuple[str, ...], printed: str) -> bool:
    """Whether the lines of OUTPUT are in what was PRINTED, in their order, with … for anything."""
    position = 0
    for line in output:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\s*…\s*", line.strip()))
        found = re.compile(pattern).search(printed, position)
        if not found:
            return False
        position = found.end()
    return True
