# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTML page, read as a browser reads it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "input", "link", "br", "img"}


class Page(HTMLParser):
    """Elements, and the tables as lists of rows of cells; complains of tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.captions: list[str] = []
        # Table -> rows -> cells, each its attributes and its text.
        self.tables: list[list[list[tuple[dict[str, str | None], str]]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(data)
        if "caption" in self.open:
            self.captions.append(data)
        if {"td", "th"} & set(self.open):
            attributes, text = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (attributes, text + data)

    def rows(self, first_head: str) -> list[dict[str, str]]:
        """The rows of the tables that begin with this column, as column -> text."""
        found = []
        for heads, *rows in self.tables:
            names = [text for _attributes, text in heads]
            if names[0] == first_head:
                found += [dict(zip(names, (text.strip() for _a, text in row), strict=True)) for row in rows]
        return found
