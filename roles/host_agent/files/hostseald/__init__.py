# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hostseald: keeps a host's envelopes and serves them to Docker as volumes."""

from __future__ import annotations

VERSION = "0.1.0"
