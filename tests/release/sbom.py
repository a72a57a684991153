# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bill of materials of a tarball, CycloneDX 1.6: the collection, and what it needs from PyPI and from Galaxy.

It brings no code of others. What it needs is named with the versions that it accepts; which one is taken, the control
node decides (https://cyclonedx.org/docs/1.6/json/).
"""

from __future__ import annotations

import datetime
import hashlib
import uuid
from pathlib import Path

import yaml
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement


def describe(source: Path, tarball: Path, timestamp: int) -> str:
    """The bill as JSON. SOURCE is the collection that TARBALL was built from; TIMESTAMP in seconds since the epoch."""
    galaxy = yaml.safe_load((source / "galaxy.yml").read_text(encoding="utf-8"))
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    collection = _collection(galaxy["namespace"], galaxy["name"], galaxy["version"])
    collection.type = ComponentType.APPLICATION
    collection.description = galaxy["description"]
    collection.licenses.update(DisjunctiveLicense(id=name) for name in galaxy["license"])
    collection.hashes.add(HashType.from_hashlib_alg("sha256", digest))
    collection.external_references.add(
        ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(galaxy["repository"]))
    )
    needed = [
        _versions(_collection(*name.split(".")), versions) for name, versions in sorted(galaxy["dependencies"].items())
    ]
    lines = (source / "meta/ee-requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            needed.append(_package(Requirement(line)))
    runtime = yaml.safe_load((source / "meta/runtime.yml").read_text(encoding="utf-8"))
    needed.append(_package(Requirement(f"ansible-core{runtime['requires_ansible']}")))
    bom = Bom(components=needed, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest))
    bom.metadata.component = collection
    bom.metadata.timestamp = datetime.datetime.fromtimestamp(timestamp, datetime.timezone.utc)
    bom.register_dependency(collection, needed)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is not None:
        raise ValueError("the bill of materials does not match CycloneDX's schema")
    return text + "\n"


def _collection(namespace: str, name: str, version: str | None = None) -> Component:
    # There is no type of package URL for collections.
    url = PackageURL("generic", f"ansible-collections/{namespace}", name, version)
    reference = f"{namespace}.{name}"
    return Component(name=reference, version=version, bom_ref=reference, purl=url)


def _package(requirement: Requirement) -> Component:
    url = PackageURL("pypi", None, requirement.name.lower())
    component = Component(name=requirement.name, bom_ref=f"pypi:{requirement.name.lower()}", purl=url)
    return _versions(component, str(requirement.specifier))


def _versions(component: Component, accepted: str) -> Component:
    component.properties.add(Property(name="hostseal:versions", value=accepted))
    return component
