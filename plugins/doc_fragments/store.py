# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  store:
    description:
      - Where ciphertext and records are kept, as an absolute path of an SQLite file or C(sqlite:///PATH), or as the
        URL of a database on a server, C(mysql+pymysql://USER@HOST/DATABASE) (MariaDB 10.6, MySQL 8.0 or newer) or
        C(postgresql+psycopg://USER@HOST/DATABASE) (PostgreSQL 14 or newer), or as a folder for Git, C(file:///FOLDER).
      - In a folder there is one file for each environment, host and secret, to be committed. Envelopes, receipts and the
        audit log are of this machine alone, in a file below C($XDG_STATE_HOME/hostseal) (C(~/.local/state/hostseal) if
        that variable is not set), or in the one that C(file:///FOLDER?state=/PATH) names.
      - The database on a server must be there and be empty at first. Its user needs all rights in it; for modules
        whose name ends with C(_info), and to read a file, the right to read is enough.
      - A server on another machine must be known by its certificate, C(?ssl_ca=/PATH/ca.pem) with MariaDB and MySQL,
        C(?sslmode=verify-full&sslrootcert=/PATH/ca.pem) with PostgreSQL, or the URL has to say C(ssl_disabled=true) or
        C(sslmode=disable). Other parameters of the drivers for TLS, C(connect_timeout), and for PostgreSQL several
        C(host) with C(target_session_attrs) are passed through.
      - If not set, the environment variable E(HOSTSEAL_STORE) is used, else
        C($XDG_DATA_HOME/hostseal/store.db) (C(~/.local/share) if that variable is not set).
      - In an AWX job or execution environment it must be set, because the default would die with the job.
    type: str
  store_password:
    description:
      - The password of the database's user. It must not be in O(store), which is shown.
      - If not set, the environment variable E(HOSTSEAL_STORE_PASSWORD) is used.
    type: str
  store_password_file:
    description:
      - A file on the control node that holds the password.
      - If not set, the environment variable E(HOSTSEAL_STORE_PASSWORD_FILE) is used. What the task says outweighs what
        the environment has, and of two in the same place O(store_password) counts.
    type: path
requirements:
  - SQLAlchemy >= 2.0 and jwcrypto >= 1.5 on the control node
  - PyMySQL >= 1.2 for MariaDB and MySQL, psycopg >= 3.1 for PostgreSQL, on the control node
"""
