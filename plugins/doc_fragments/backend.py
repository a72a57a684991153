# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  key_path:
    description:
      - Directory of the local key files, on the control node.
      - If not set, the environment variables E(HOSTSEAL_KEY_PATH) and E(ENC_KEY_PATH) are used, in this order,
        else C($XDG_CONFIG_HOME/hostseal/keys) (C(~/.config) if that variable is not set).
      - In an AWX job or execution environment it must be set, because the default would die with the job.
      - The directory has mode 0700 and the files in it 0600; anything looser and symbolic links are refused.
    type: path
"""
