"""
A bill of materials of the image it runs in, to stdout: CycloneDX 1.6 in JSON.

Standard library only. No time and no random number: the same image has the same bill.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from urllib.parse import quote

ROOT = "oom-collector"


def main() -> None:
    found = {normalized(each): each for each in distributions()}
    application = python_component(found.pop(ROOT)) | {"type": "application"}
    components = [python_component(found[name]) for name in sorted(found)]
    components += [interpreter(), *debian_components()]
    references = sorted(component["bom-ref"] for component in components)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": application},
        "components": components,
        "dependencies": [{"ref": application["bom-ref"], "dependsOn": references}],
    }
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True) + "\n")


def normalized(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.name).lower()


def python_component(distribution: Distribution) -> dict[str, object]:
    component = library(
        f"pkg:pypi/{normalized(distribution)}@{distribution.version}", distribution.name, distribution.version
    )
    metadata = distribution.metadata
    # License-Expression is an SPDX expression; the older License field may be anything, the whole text too.
    if expression := metadata.get("License-Expression"):
        component["licenses"] = [{"expression": expression}]
    elif (name := metadata.get("License", "").strip()) and "\n" not in name:
        component["licenses"] = [{"license": {"name": name}}]
    return component


def interpreter() -> dict[str, object]:
    version = platform.python_version()
    return library(f"pkg:generic/python@{version}", "python", version)


def debian_components() -> list[dict[str, object]]:
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    components = []
    for line in sorted(listed.splitlines()):
        status, name, version, architecture = line.split("\t")
        if status.startswith("ii"):
            purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}"
            components.append(library(purl, name, version))
    return components


def library(purl: str, name: str, version: str) -> dict[str, object]:
    return {"type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version}


if __name__ == "__main__":
    main()
