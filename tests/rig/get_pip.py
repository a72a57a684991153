# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for the bootstrap script that ansible-test would download: the interpreter's own ensurepip, then pip.

ansible-test calls it with pip's packages and options as arguments, in the virtual environment that it made.
"""

from __future__ import annotations

import subprocess
import sys

# In a child process: ensurepip run in this one leaves its own wheel on sys.path.
subprocess.run([sys.executable, "-m", "ensurepip", "--upgrade", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
packages = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
if packages:
    subprocess.run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *packages], check=True)
