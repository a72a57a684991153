# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx, as `make docs` calls it: on these pages and on the reference that antsibull-docs writes beside them."""

from __future__ import annotations

project = "hostseal.secrets"
copyright = "2026, hostseal contributors"
html_title = "hostseal.secrets"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
html_theme = "furo"
pygments_style = "ansible"
pygments_dark_style = "github-dark"
html_copy_source = False
html_show_sphinx = False
nitpicky = True
myst_heading_anchors = 3
# antsibull's style sheet has colours for a light page alone.
html_theme_options = {
    "dark_css_variables": {
        "antsibull-attribute-support-full": "#6fd08c",
        "antsibull-attribute-support-none": "#ff7b72",
        "antsibull-attribute-support-partial": "#d9c94a",
        "antsibull-narrowtable-background": "#1e2a33",
        "antsibull-option-aliases": "#6fd08c",
        "antsibull-option-default": "#7ab8ff",
        "antsibull-option-elements": "#d6a3ff",
        "antsibull-option-required": "#ff7b72",
        "antsibull-option-sample": "#7ab8ff",
        "antsibull-option-sample-header": "inherit",
        "antsibull-option-type": "#d6a3ff",
        "antsibull-option-version-added": "#6fd08c",
        "antsibull-table-background-even": "#1e2a33",
        "antsibull-table-background-header": "#1f5f87",
        "antsibull-table-background-odd": "transparent",
        "antsibull-table-border": "#4a5561",
    }
}
