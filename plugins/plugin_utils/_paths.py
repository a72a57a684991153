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
    if any(name in os.environ for name in _JOB_VARIABLES) or _is_execution_environment():
        raise HostsealError(
            f"this is an AWX job or an execution environment, where a default path would be lost with the job"
            f" and the next one would begin anew: set the option {option} or {environment}"
        )
    return base_directory(variable, fallback) / leaf


def base_directory(variable: str, fallback: str) -> Path:
    """Our place below the XDG base directory of VARIABLE."""
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / fallback) / "hostseal"


def ends_with_the_job(path: Path) -> bool:
    """Whether PATH is in the folder of an AWX job or of ansible-runner, a copy that is deleted with the job.

    https://docs.ansible.com/projects/runner/en/stable/intro/#runner-input-directory-hierarchy
    """
    folders = [Path(os.environ["AWX_PRIVATE_DATA_DIR"])] if os.environ.get("AWX_PRIVATE_DATA_DIR") else []
    if os.environ.get("AWX_ISOLATED_DATA_DIR"):
        # PRIVATE_DATA_DIR/artifacts/JOB
        folders.append(Path(os.environ["AWX_ISOLATED_DATA_DIR"]).parent.parent)
    if _is_execution_environment():
        folders.append(Path("/runner"))
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _is_execution_environment() -> bool:
    return Path("/run/.containerenv").exists() and Path("/runner").is_dir()


def file_text(what: str, path: str) -> str:
    """What the file holds that the option WHAT names."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise HostsealError(f"{what} {path} can't be read on the control node: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HostsealError(f"{what} {path} is not text") from None
