#!/usr/bin/env bash
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# ansible-test sanity, on a copy: it wants a real folder at ansible_collections/hostseal/secrets and sees no other
# collection than those beside it. Arguments go to ansible-test. HOSTSEAL_VENV: another virtual environment than
# build/venv; HOSTSEAL_TARGETS: the Pythons of hosts, "3.9@/usr/bin/python3.9 …", instead of that environment's own.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=${HOSTSEAL_VENV:-$PWD/build/venv}
tree=build/sanity/ansible_collections
copy=$tree/hostseal/secrets
rm -rf "$tree"
mkdir -p "$copy"
cp -r build/collections/ansible_collections/. "$tree"
tests/rig/worktree.sh | tar --null --files-from=- -cf - | tar -xf - -C "$copy"
# In a git-ignored folder ansible-test would see no file at all.
git -C "$copy" init --quiet

# ansible-test keeps its virtual environments and pip's bootstrap script under HOME.
HOME=$PWD/build/home
mkdir -p "$HOME/.ansible/test/cache"
for version in 24_2 25_2; do cp tests/rig/get_pip.py "$HOME/.ansible/test/cache/get_pip_$version.py"; done

PATH=$venv/bin:$PATH
python=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
where=(--local --python "$python")
if [ -n "${HOSTSEAL_TARGETS:-}" ]; then
    where=(--controller "origin:python=$python@$venv/bin/python")
    for target in $HOSTSEAL_TARGETS; do
        where+=(--target-python "$target")
        # Some tests look for an interpreter by its name, and would find one of pyenv's shims.
        PATH=$(dirname "${target#*@}"):$PATH
    done
    PATH=$venv/bin:$PATH
fi
unset PYTHONPATH ANSIBLE_COLLECTIONS_PATH
log=$PWD/build/sanity/log
cd "$copy"
ansible-test sanity "${where[@]}" --color no "$@" 2>&1 | tee "$log"
if grep -q 'All targets skipped' "$log"; then
    echo 'sanity: ansible-test found nothing to test' >&2
    exit 1
fi
