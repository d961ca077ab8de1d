"""
Pods of 9.4 kB: one of the fixtures, with settings added until it is as large as a usual one.

What decoding takes goes by the number of JSON objects in it too: they are about 200, most of them in managedFields.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

from tests.cgroups import tree_maker
from tests.pods.pods import read_object

SIZE = 9_400
_VALUE = "https://settings.shop.svc.cluster.example:8443/api/v2/tenants/eu-central/values?of=carts"
NAMESPACE = "shop"


def make_pod(number: int, node: str) -> dict[str, Any]:
    """uid and container id are those of the `number`th pod of tree_maker.make_node()."""
    pod = copy.deepcopy(_template())
    container_id = f"containerd://{tree_maker.CONTAINER_ID % (1000 * number)}"
    pod["metadata"] |= {"name": f"cart-6c8f9d7b54-{number:05d}", "namespace": NAMESPACE}
    pod["metadata"]["uid"] = tree_maker.UID % number
    pod["spec"]["nodeName"] = node
    (status,) = pod["status"]["containerStatuses"]
    status["containerID"] = container_id
    return pod


def container_name() -> str:
    return str(_template()["spec"]["containers"][0]["name"])


@cache
def _template() -> dict[str, Any]:
    pod: dict[str, Any] = read_object("deployment")
    (container,) = pod["spec"]["containers"]
    fields: dict[str, object] = {}
    manager = {"manager": "kubectl", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1"}
    pod["metadata"]["managedFields"].append({**manager, "fieldsV1": {"f:spec": {"f:containers": {"f:env": fields}}}})
    while size_of(pod) < SIZE:
        name = f"SETTING_{len(fields)}"
        container["env"].append({"name": name, "value": _VALUE})
        fields[f'k:{{"name":"{name}"}}'] = {".": {}, "f:name": {}, "f:value": {}}
    return pod


def size_of(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":")))
