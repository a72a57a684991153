# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent with another time of day: python3 shifted_clock.py AGENT ARGUMENTS, in the place of python3 AGENT ARGUMENTS.

The file "clock" beside this package says by how many seconds. The real clock is the whole machine's, Linux's time
namespaces have no time of day, and libfaketime 0.9.10 bends sleeps too, which a clock that is set does not.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

CLOCK = Path(__file__).parents[1] / "clock"
_true_time = time.time

time.time = lambda: _true_time() + float(CLOCK.read_text())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
