"""The chart through Helm's own engine, and what is made from it. `python -m tests.deploy.chart` writes that anew."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Values = Mapping[str, Any]
    Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/chart"
MANIFESTS = ROOT / "deploy/manifests"
OVERLAYS = ROOT / "deploy/overlays"
README = CHART / "README.md"
MODES = ("kmsg", "syslog", "journald")
NAME = "oom-collector"


# Says who made the object; in a plain manifest it would be untrue.
_HELM_LABELS = re.compile(r"^ +(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n", re.MULTILINE)
# libyaml where PyYAML was built with it: ten times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TABLE = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- end of values -->)", re.DOTALL)
_MADE = "# Made by scripts/manifests from deploy/chart, mode {mode}.\n"
_NAMESPACE = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAME}
  labels:
    # hostPath alone is outside of the baseline, in every mode.
    pod-security.kubernetes.io/enforce: privileged
"""


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(values: Values, *, name: str = NAME, namespace: str = NAME) -> str:
    """What an installation would send, as one YAML stream. Raises HelmError where the chart or its schema refuses."""
    return _render(json.dumps(values), name, namespace)


@cache
def _render(values: str, name: str, namespace: str) -> str:
    chart().validate_schema(json.loads(values))
    files = chart().render(json.loads(values), name=name, namespace=namespace)
    texts = (text.strip() for path, text in sorted(files.items()) if path.endswith(".yaml"))
    return "---\n".join(f"{text}\n" for text in texts if text)


def objects(stream: str) -> list[Manifest]:
    return [each for each in yaml.load_all(stream, _Loader) if each]


def variants() -> dict[str, Values]:
    """The three modes, and what deploy/chart/ci holds."""
    found: dict[str, Values] = {mode: {"mode": mode} for mode in MODES}
    for path in sorted((CHART / "ci").glob("*-values.yaml")):
        found[path.name.removesuffix("-values.yaml")] = yaml.safe_load(path.read_text())
    return found


def plain(mode: str) -> str:
    """For those without Helm: with a namespace that admits the pods."""
    return _MADE.format(mode=mode) + _NAMESPACE + "---\n" + _HELM_LABELS.sub("", render({"mode": mode}))


def documented_values(text: str) -> Iterator[tuple[str, object, str]]:
    """Path, default and meaning of each value above which stands a comment that begins with "--"."""
    defaults = yaml.safe_load(text)
    path: list[str] = []
    meaning = None
    for line in text.splitlines():
        if comment := re.fullmatch(r" *# -- (.*)", line):
            meaning = comment[1]
        elif key := re.match(r"( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if meaning is not None:
                default = defaults
                for part in path:
                    default = default[part]
                yield ".".join(path), default, meaning
            meaning = None


def readme() -> str:
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for path, default, meaning in documented_values((CHART / "values.yaml").read_text()):
        shown = json.dumps(default)
        rows.append(f"| `{path}` | {f'`{shown}`' if len(shown) < 60 else 'see values.yaml'} | {meaning} |")
    table = "\n".join(rows) + "\n"
    return _TABLE.sub(lambda _: table, README.read_text())


def main() -> None:
    (CHART / "rules.yaml").write_text((ROOT / "deploy/prometheus/rules.yaml").read_text())
    for mode in MODES:
        (MANIFESTS / f"{mode}.yaml").write_text(plain(mode))
    README.write_text(readme())


if __name__ == "__main__":
    main()
