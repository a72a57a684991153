# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files on the control node: where store and keys lie when nobody says, and what a file holds that was named.

The default is in the user's home, but never in a place that dies with a job.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..module_utils._model import HostsealError

# Set by AWX for its jobs, and by ansible-runner for everything that it starts, execution environments included.
_JOB_VARIABLES = ("AWX_HOST", "AWX_PRIVATE_DATA_DIR", "AWX_ISOLATED_DATA_DIR")


def implicit_path(variable: str, fallback: str, leaf: str, option: str, environment: str) -> Path:
    """A path below the XDG base directory of VARIABLE; an error in an AWX job or execution environment."""
    if any(name in os.environ for name in _JOB_VARIABLES) or (
        Path("/run/.containerenv").exists() and Path("/runner").is_dir()
    ):
        raise HostsealError(
            f"this is an AWX job or an execution environment, where a default path would be lost with the job"
            f" and the next one would begin anew: set the option {option} or {environment}"
        )
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / fallback) / "hostseal" / leaf


def file_text(what: str, path: str) -> str:
    """What the file holds that the option WHAT names."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise HostsealError(f"{what} {path} can't be read on the control node: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HostsealError(f"{what} {path} is not text") from None
