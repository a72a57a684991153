#!/usr/bin/env bash
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What Galaxy checks when a collection is published, on the tarball of the files as they are. HOSTSEAL_VENV has
# galaxy-importer; every line that it logs as a warning or an error is a finding.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=build/importer
rm -rf "$folder"
mkdir -p "$folder/source"
tests/rig/worktree.sh | tar --null --files-from=- -cf - | tar -xf - -C "$folder/source"
PATH=$HOSTSEAL_VENV/bin:$PATH
ansible-galaxy collection build --output-path "$folder" "$folder/source" >/dev/null
log=$PWD/$folder/log
cd "$folder"
unset ANSIBLE_COLLECTIONS_PATH PYTHONPATH
python -m galaxy_importer.main ./*.tar.gz 2>&1 | tee "$log"
# Galaxy lints without other collections, and can't know the modules of awx.awx, which this playbook alone uses. `make lint`
# checks it with awx.awx.
known="^WARNING: playbooks/awx_setup\.yml:[0-9:]+ syntax-check\[unknown-module\]: couldn't resolve module/action 'awx\.awx\."
if grep -E '^(WARNING|ERROR)' "$log" | grep -vE "$known" >/dev/null; then
    echo 'importer: the lines above that begin with WARNING or ERROR are findings' >&2
    exit 1
fi
