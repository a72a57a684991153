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
