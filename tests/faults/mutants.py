# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents that are broken on purpose: a harness that does not find them is worth nothing.

Each is a list of changes to the agent's sources: file -> (text, what comes instead).
"""

from __future__ import annotations

Changes = dict[str, list[tuple[str, str]]]

MUTANTS: dict[str, Changes] = {
    # The files of a swap are seen one by one.
    "publish-early": {
        "_volumes.py": [
            (
                '        generation = os.path.join(folder, "..writing")\n        _remove_tree(generation)\n',
                "        generation = complete\n        if self.current(volume) is not None:\n"
                "            os.mkdir(complete, 0o755)\n            self.publish(volume, issued_at)\n",
            ),
            ("            os.rename(generation, complete)\n", ""),
        ]
    },
    # An Unmount wipes whoever else has come meanwhile: no lock, and a count that is read before.
    "wipe-without-lock": {
        "_mounts.py": [
            (
                "        with self._lock(volume):\n            known = self._users.drop(volume, user)\n"
                "            left = self._users.total(volume)\n            if not left:\n"
                "                self._empty(volume)\n",
                "        known = self._users.drop(volume, user)\n        left = self._users.total(volume)\n"
                "        if not left:\n            __import__('time').sleep(1)\n            self._empty(volume)\n",
            )
        ]
    },
    # Nothing finishes what a crash cut off.
    "no-mending": {"_mounts.py": [("                self._mend(volume)\n", "                pass\n")]},
    # The last Unmount leaves the files.
    "no-wipe": {
        "_mounts.py": [
            (
                "            left = self._users.total(volume)\n            if not left:\n"
                "                self._empty(volume)\n"
                '        self._audit.write("unmount"',
                '            left = self._users.total(volume)\n        self._audit.write("unmount"',
            )
        ]
    },
    # An envelope is written over the one before.
    "torn-envelope": {
        "_files.py": [
            ('    return os.path.join(folder, f".{name}")\n', "    return path\n"),
        ]
    },
}
