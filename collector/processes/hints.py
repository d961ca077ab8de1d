r"""
The memory flags in a command line and an environment, by an allow-list.

Passwords and tokens stand in the same places. So nothing is kept but a flag whose name is in these tables and whose
value is a number of bounded length, or one of a few words.
"""

from __future__ import annotations

import re

MAX_HINTS = 16

_SIZE = r"\d{1,15}[kKmMgGtT]?"
_PERCENT = r"\d{1,3}(?:\.\d{1,6})?"
_COUNT = r"\d{1,5}"

_JVM = re.compile(
    rf"""
    -Xm[nsx]{_SIZE} | -Xss{_SIZE}
    | -XX: (?: MaxRAM | MaxHeapSize | InitialHeapSize | MaxDirectMemorySize | MaxMetaspaceSize | ReservedCodeCacheSize
             | CompressedClassSpaceSize | ThreadStackSize ) = {_SIZE}
    | -XX: (?: Max | Min | Initial ) RAMPercentage = {_PERCENT}
    | -XX: [+-] UseContainerSupport
    """,
    re.VERBOSE | re.ASCII,
)
# V8 takes "_" for "-", and the value as the next argument too.
_V8_NAME = re.compile(r"--max[-_](?P<space>old|semi)[-_]space[-_]size(?:=(?P<size>\d{1,9}))?", re.ASCII)
_WORKERS = re.compile(r"(?:-w|--workers|-p|--processes)(?:=?(?P<count>\d{1,5}))?", re.ASCII)
_FORKING_SERVER = re.compile(r"gunicorn|uwsgi|uvicorn")
_RUNTIMES = {
    "java": re.compile(r"java"),
    "node": re.compile(r"node|nodejs"),
    "python": re.compile(r"python(?:\d(?:\.\d{1,2})?)?", re.ASCII),
}

_VARIABLES = {
    "GOMEMLIMIT": re.compile(r"\d{1,19}(?:[KMGT]i)?B?|off", re.ASCII),
    "GOGC": re.compile(r"\d{1,6}|off", re.ASCII),
    "WEB_CONCURRENCY": re.compile(_COUNT, re.ASCII),
    "MALLOC_ARENA_MAX": re.compile(_COUNT, re.ASCII),
    "DOTNET_GCHeapHardLimit": re.compile(r"(?:0x)?[0-9A-Fa-f]{1,16}"),
    "DOTNET_GCHeapHardLimitPercent": re.compile(r"(?:0x)?[0-9A-Fa-f]{1,3}"),
}
_OPTION_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "NODE_OPTIONS", "GUNICORN_CMD_ARGS")
# One search instead of a comparison for each of what may be thousands of variables.
_VARIABLE = re.compile(
    rb"(?:\A|\0)(?P<name>"
    + b"|".join(name.encode() for name in [*_VARIABLES, *_OPTION_VARIABLES])
    + rb")=(?P<value>[^\0]*)"
)


def memory_hints(cmdline: bytes, environ: bytes) -> tuple[str, ...]:
    """
    `runtime=java`, `-Xmx512m`, `--max-old-space-size=4096`, `GOMEMLIMIT=400MiB`, `JAVA_TOOL_OPTIONS: -Xmx1g`, ...

    cmdline, environ: as /proc/PID has them, cut or empty where they could not be read. A runtime is told only where the
    executable's name proves it.
    """
    arguments = [argument.decode("ascii", "replace") for argument in cmdline.split(b"\0")]
    hints = [*_runtime(arguments), *_flags(arguments, workers=_is_forking_server(arguments)), *_variables(environ)]
    return tuple(dict.fromkeys(hints))[:MAX_HINTS]


def _runtime(arguments: list[str]) -> list[str]:
    name = _base(arguments[0])
    return [f"runtime={runtime}" for runtime, pattern in _RUNTIMES.items() if pattern.fullmatch(name)]


def _is_forking_server(arguments: list[str]) -> bool:
    """`gunicorn ...`, `python3 /usr/bin/gunicorn ...`, `python -m gunicorn ...`."""
    return any(_FORKING_SERVER.fullmatch(_base(argument)) for argument in arguments[:3])


def _base(argument: str) -> str:
    return argument.rpartition("/")[2]


def _flags(arguments: list[str], *, workers: bool) -> list[str]:
    flags = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "-jar":
            break  # what stands behind is the program's, not the JVM's
        if _JVM.fullmatch(argument):
            flags.append(argument)
        elif match := _V8_NAME.fullmatch(argument):
            size = match["size"] or following
            if re.fullmatch(r"\d{1,9}", size, re.ASCII):
                flags.append(f"--max-{match['space']}-space-size={size}")
        elif workers and (match := _WORKERS.fullmatch(argument)):
            count = match["count"] or following
            if re.fullmatch(_COUNT, count, re.ASCII):
                flags.append(f"--workers={count}")
    return flags


def _variables(environ: bytes) -> list[str]:
    hints = []
    for match in _VARIABLE.finditer(environ):
        name, value = match["name"].decode(), match["value"].decode("ascii", "replace")
        pattern = _VARIABLES.get(name)
        if pattern is None:
            flags = _flags(value.split(), workers=name == "GUNICORN_CMD_ARGS")
            hints += [f"{name}: {flag}" for flag in flags]
        elif pattern.fullmatch(value):
            hints.append(f"{name}={value}")
    return hints
