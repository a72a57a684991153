# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  key_path:
    description:
      - Directory of the local key files, on the control node, for the backend localkey.
      - If not set, the environment variables E(HOSTSEAL_KEY_PATH) and E(ENC_KEY_PATH) are used, in this order,
        else C($XDG_CONFIG_HOME/hostseal/keys) (C(~/.config) if that variable is not set).
      - In an AWX job or execution environment it must be set, because the default would die with the job.
      - The directory has mode 0700 and the files in it 0600; anything looser and symbolic links are refused.
      - It may also be one key file, whatever its name, as a credential of AWX gives it to a job. Its key can be used, but not
        rotated or retired.
    type: path
  url:
    description:
      - Address of Vault or OpenBao, for the backend vault.
      - Without https it must be an address of the control node itself, unless O(validate_certs=false).
      - This option and the following ones have the names of community.hashi_vault. If one is not set, the
        variable C(ansible_hashi_vault_NAME) is used, then the environment variables C(ANSIBLE_HASHI_VAULT_NAME) and
        C(VAULT_NAME). Here they are C(ansible_hashi_vault_addr), E(ANSIBLE_HASHI_VAULT_ADDR) and E(VAULT_ADDR).
    type: str
  ca_cert:
    description:
      - File of the certificate authority that the server's certificate is checked against, on the control node.
      - By default those of the system. Also E(VAULT_CACERT).
    type: path
    aliases: [cacert]
  validate_certs:
    description:
      - Check the server's certificate. Without it, whoever stands in between can read tokens and secrets.
      - E(VAULT_SKIP_VERIFY) is not looked at.
    type: bool
    default: true
  namespace:
    description: Namespace, where the server has some.
    type: str
  proxies:
    description: Proxies by scheme, for example V({"https":"http://proxy.example.com:3128"}).
    type: dict
  timeout:
    description: Seconds to wait for an answer, 30 by default. A connection is waited for 10 seconds at most.
    type: int
  retries:
    description:
      - How often a request is sent again when the server can't be reached, is sealed, has no active node, limits the rate
        or reports an error. 3 by default. The first time at once, then after half a second, and twice as long each
        time, up to 8 seconds.
      - What must not happen twice, such as a login or rotating a key, is sent again only when it was not begun.
    type: int
  auth_method:
    description: How to log in. V(token) by default. The token of any other one is revoked at the end of the task.
    type: str
    choices: [token, approle, jwt, cert, userpass]
  mount_point:
    description: Path of the auth method. By default its name.
    type: str
  token:
    description: Token, for O(auth_method=token).
    type: str
  token_path:
    description: Directory of O(token_file). By default the home directory.
    type: path
  token_file:
    description: Name of the file that has the token if O(token) is not set. C(.vault-token) by default.
    type: str
  role_id:
    description: Role ID with O(auth_method=approle), name of the role with V(jwt), and if wanted with V(cert).
    type: str
  secret_id:
    description: Secret ID, for O(auth_method=approle).
    type: str
  secret_id_file:
    description: File that has the secret ID if O(secret_id) is not set.
    type: path
  username:
    description: User name, for O(auth_method=userpass).
    type: str
  password:
    description: Password, for O(auth_method=userpass).
    type: str
  password_file:
    description: File that has the password if O(password) is not set.
    type: path
  jwt:
    description: JSON Web Token, for O(auth_method=jwt).
    type: str
  jwt_file:
    description: File that has the JSON Web Token if O(jwt) is not set.
    type: path
  cert_auth_public_key:
    description:
      - File of a client certificate in PEM, which is shown to the server with every O(auth_method).
      - Also E(VAULT_CLIENT_CERT).
    type: path
  cert_auth_private_key:
    description: File of its key in PEM, without a passphrase. Also E(VAULT_CLIENT_KEY).
    type: path
notes:
  - The backend vault needs hvac >= 2.0 on the control node.
"""
