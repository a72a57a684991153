# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers that look at their secrets all the time and write down what must not be."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from .agent import until
from .world import ENVIRONMENT

SEEN = Path("/srv/faults/seen")

# Runs in busybox; "cd -P" fixes the generation, so that all names are of one. What is gone before it was read is of no
# interest when another generation is shown by then.
WATCH = r"""
note() { echo "$1" >>/seen/$NAME.bad; }
wrong() {
  now=
  cd -P /run/secrets/..data 2>/dev/null && now=$PWD
  [ "$now" != "$place" ] || note "$1"
}
try_look() {
  generation=none
  cd -P /run/secrets/..data 2>/dev/null || return
  generation=torn
  place=$PWD
  last=odd
  [ -e even ] && last=even
  for file in one two deep/three $last; do
    mount= number= target=
    { IFS=: read -r mount number target <$file; } 2>/dev/null
    if [ -z "$mount" ]; then wrong "$place has no whole $file"; return; fi
    if [ "$mount:$number:$target" != "$MOUNT:${place##*..}:$file" ]; then
      note "mixed: $file in $place has $mount:$number:$target"
    fi
  done
  [ -e /run/secrets/one ] || wrong "/run/secrets has no link to a file of $place"
  generation=${place##*..}
  [ $generation -ge $newest ] || note "went back from $newest to $generation"
  newest=$generation
}
look() {
  for try in 1 2 3 4 5 6 7 8 9; do
    try_look
    [ $generation = torn ] || return
  done
  note "saw no whole set in 9 looks"
  generation=none
}
trap 'echo >>/seen/$NAME.usr1' USR1
newest=0
look
[ $generation != none ] || { sleep 0.1; look; }
[ $generation != none ] || note "started with an empty /run/secrets"
[ "$PAUSE" != once ] || { echo "$generation" >/seen/$NAME.now; exit; }
while :; do
  [ $generation != none ] || echo >>/seen/$NAME.none
  echo "$generation" >/seen/$NAME.now
  sleep $PAUSE
  look
done
"""


def docker(*arguments: str, check: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    if check and done.returncode:
        raise RuntimeError(f"docker {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done


def arguments(mount: str, name: str, pause: str) -> list[str]:
    """Of docker run, for a container NAME that looks at MOUNT every PAUSE seconds, or once."""
    return [
        *("run", "--name", name, "--network", "none", "--stop-signal", "KILL"),
        *("-v", f"{ENVIRONMENT}.{mount}:/run/secrets:ro", "--volume-driver", "hostseal", "-v", f"{SEEN}:/seen"),
        *("-e", f"NAME={name}", "-e", f"MOUNT={mount}", "-e", f"PAUSE={pause}"),
    ]


def start(mount: str, name: str, *more: str, pause: str = "0.02") -> Watcher:
    """A container that watches from now on."""
    docker(*arguments(mount, name, pause), "-d", *more, "busybox", "sh", "-c", WATCH)
    return Watcher(mount, name)


def once(mount: str, name: str = "once") -> int:
    """Run a container that looks once, and return the generation it saw."""
    docker(*arguments(mount, name, "once"), "--rm", "busybox", "sh", "-c", WATCH)
    return Watcher(mount, name).generation()


def bad() -> list[str]:
    """What all containers wrote down so far; each line is reported once, with how often it was seen."""
    found = []
    for file in sorted(SEEN.glob("*.bad")):
        lines = Counter(file.read_text().splitlines())
        found += [f"container {file.stem}: {line} ({count} times)" for line, count in lines.items()]
        file.unlink()
    return found


def blinked() -> list[str]:
    """Containers, also ended ones, that ever saw nothing after they had seen something."""
    return [f"container {file.stem} saw an empty /run/secrets" for file in sorted(SEEN.glob("*.none"))]


def remove_all() -> None:
    """End every container on this host."""
    names = docker("ps", "--all", "--quiet").stdout.split()
    if names:
        docker("rm", "--force", *names, check=False)
    for file in SEEN.glob("*"):
        if file.suffix != ".bad":
            file.unlink()


class Watcher:
    """A container of ours."""

    def __init__(self, mount: str, name: str) -> None:
        self.mount = mount
        self.name = name

    def generation(self) -> int:
        """What it saw last, 0 for nothing."""
        try:
            generation = (SEEN / f"{self.name}.now").read_text().split()[0]
        except (OSError, IndexError):
            return 0
        return 0 if generation == "none" else int(generation)

    def forget(self) -> None:
        """What it saw before is of no interest."""
        (SEEN / f"{self.name}.now").unlink(missing_ok=True)

    def sees(self, generation: int, seconds: float = 20) -> None:
        """TimeoutError unless it sees GENERATION (0: none) in SECONDS."""
        self.forget()
        self.saw(generation, seconds)

    def saw(self, generation: int, seconds: float = 20) -> None:
        """TimeoutError unless it has seen GENERATION since it was to forget, in SECONDS."""
        now = SEEN / f"{self.name}.now"
        until(
            lambda: now.exists() and self.generation() == generation,
            seconds,
            f"container {self.name} sees {generation or 'nothing'}",
        )

    def blinked(self) -> bool:
        """Whether it ever saw nothing since the last call."""
        file = SEEN / f"{self.name}.none"
        if not file.exists():
            return False
        file.unlink()
        return True

    def signals(self) -> int:
        file = SEEN / f"{self.name}.usr1"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def remove(self) -> None:
        docker("rm", "--force", self.name)
