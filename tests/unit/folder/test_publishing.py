# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/unit/test_publishing.py with a store in a folder."""

from tests.unit.test_publishing import *  # noqa: F403  # pylint: disable=wildcard-import,unused-wildcard-import
