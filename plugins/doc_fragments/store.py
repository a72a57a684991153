# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  store:
    description:
      - Where ciphertext and records are kept, as an absolute path of an SQLite file or as C(sqlite:///PATH).
      - If not set, the environment variable E(HOSTSEAL_STORE) is used, else
        C($XDG_DATA_HOME/hostseal/store.db) (C(~/.local/share) if that variable is not set).
      - In an AWX job or execution environment it must be set, because the default would die with the job.
    type: str
requirements:
  - SQLAlchemy >= 2.0 and jwcrypto >= 1.5 on the control node
"""
