"""What of the image can be tested without building it; scripts/image builds and starts it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from collector import __version__
from tests.deploy.chart import ROOT


def bill() -> Any:
    command = [sys.executable, str(ROOT / "deploy/sbom.py")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="the bill lists Debian's packages")
def test_the_bill_names_everything_once_with_its_version() -> None:
    document = bill()
    assert document["metadata"]["component"]["purl"] == f"pkg:pypi/oom-collector@{__version__}"
    components = {each["bom-ref"]: each for each in document["components"]}
    assert len(components) == len(document["components"])
    assert {dependency["ref"] for dependency in document["dependencies"]} == {
        document["metadata"]["component"]["bom-ref"]
    }
    assert set(document["dependencies"][0]["dependsOn"]) == set(components)
    locked = re.findall(r"^([a-z0-9-]+)==([^ ]+) (?!;)", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    assert {f"pkg:pypi/{name}@{version}" for name, version in locked} <= components.keys()
    assert any(ref.startswith("pkg:deb/debian/libc6@") for ref in components)
    assert bill() == document


def test_the_default_base_is_an_exact_version() -> None:
    [base] = re.findall(r"^ARG BASE=(.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    assert re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == ["${BASE}", "${BASE}"]


def test_the_image_s_labels_have_this_version() -> None:
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
