r"""
The memory flags in a command line and an environment, by an allow-list.

Passwords and tokens stand in the same places. So nothing is kept but a flag whose name is in these tables and whose
value is a number of bounded length, or one of a few words.

A flag that is not among the hints was not given, unless INCOMPLETE is.
"""

from __future__ import annotations

import re
import struct

MAX_HINTS = 16
INCOMPLETE = "flags=incomplete"
"""There may be more flags: a part could not be read, or stands in a file of its own."""
HEAD_BYTES = 4096
"""
Of an executable: its notes stand behind the program headers, in the page that the kernel reads for each exec. No disk
is asked for it.
"""

_SIZE = r"\d{1,15}[kKmMgGtT]?"
_PERCENT = r"\d{1,3}(?:\.\d{1,6})?"
_COUNT = r"\d{1,5}"

_JVM = re.compile(
    rf"""
    -Xm[nsx]{_SIZE} | -Xss{_SIZE}
    | -XX: (?: MaxRAM | MaxHeapSize | InitialHeapSize | MaxDirectMemorySize | MaxMetaspaceSize | ReservedCodeCacheSize
             | CompressedClassSpaceSize | ThreadStackSize ) = {_SIZE}
    | -XX: (?: Max | Min | Initial ) RAMPercentage = {_PERCENT}
    | -XX: MaxRAMFraction = {_COUNT}
    | -XX: [+-] UseContainerSupport
    """,
    re.VERBOSE | re.ASCII,
)
# V8 takes "_" for "-", and the value as the next argument too.
_V8_NAME = re.compile(
    r"--max[-_](?P<what>(?:old|semi)[-_]space[-_]size|heap[-_]size|old[-_]space[-_]size[-_]percentage)"
    r"(?:=(?P<size>\d{1,9}))?",
    re.ASCII,
)
# Files of more options.
_JVM_FILE = re.compile(r"@.+|-XX:(?:Flags|VMOptionsFile)=.*|-XX:\+ReadVMOptionsFile.*", re.DOTALL)
# Options of `java` that take the next argument. Any other argument without a "-" is the program, or its main class:
# what stands behind that is not the JVM's.
_JAVA_PAIR = re.compile(
    r"-cp|-classpath|--class-path|-p|--(?:upgrade-)?module-path|--(?:add|limit)-modules"
    r"|--add-(?:reads|exports|opens)|--patch-module|--enable-native-access|--source"
)
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

_ELF64_LITTLE = b"\x7fELF\x02\x01"
_PLACE = struct.Struct("<Q")
_ENTRIES = struct.Struct("<HH")
_SEGMENT = struct.Struct("<IIQQQQ")
_PT_NOTE = 4
_GO_NOTE = re.compile(rb"\x04\0\0\0....\x04\0\0\0Go\0\0", re.DOTALL)  # sizes of name and text, type, name


def memory_hints(cmdline: bytes, environ: bytes, *, head: bytes = b"", complete: bool = True) -> tuple[str, ...]:
    """
    `runtime=java`, `-Xmx512m`, `--max-old-space-size=4096`, `GOMEMLIMIT=400MiB`, `JAVA_TOOL_OPTIONS: -Xmx1g`, ...

    cmdline, environ: as /proc/PID has them; where they were cut or could not be read, `complete` is False. head: how
    the executable begins. A runtime is told only where the executable's name, or its head, proves it.
    """
    arguments = [argument.decode("ascii", "replace") for argument in cmdline.split(b"\0")]
    runtime = _runtime(arguments, head)
    options = _of_the_jvm(arguments) if runtime == "java" else arguments
    flags = [*_flags(options, workers=_is_forking_server(arguments)), *_variables(environ)]
    # Where a flag is repeated the last one counts.
    hints = [*([f"runtime={runtime}"] if runtime else []), *reversed(dict.fromkeys(reversed(flags)))]
    if runtime == "java" and any(map(_JVM_FILE.fullmatch, [*options, *_jvm_variables(environ)])):
        complete = False
    if not hints or (complete and len(hints) <= MAX_HINTS):
        return tuple(hints)
    return (*hints[: MAX_HINTS - 1], INCOMPLETE)


def _runtime(arguments: list[str], head: bytes) -> str | None:
    name = _base(arguments[0])
    for runtime, pattern in _RUNTIMES.items():
        if pattern.fullmatch(name):
            return runtime
    return "go" if is_go(head) else None


def _of_the_jvm(arguments: list[str]) -> list[str]:
    is_value = False
    for index, argument in enumerate(arguments[1:], start=1):
        if argument in ("-jar", "-m", "--module") or (not is_value and not argument.startswith(("-", "@"))):
            return arguments[:index]
        is_value = not is_value and _JAVA_PAIR.fullmatch(argument) is not None
    return arguments


def _is_forking_server(arguments: list[str]) -> bool:
    """`gunicorn ...`, `python3 /usr/bin/gunicorn ...`, `python -m gunicorn ...`."""
    return any(_FORKING_SERVER.fullmatch(_base(argument)) for argument in arguments[:3])


def _base(argument: str) -> str:
    return argument.rpartition("/")[2]


def _flags(arguments: list[str], *, workers: bool) -> list[str]:
    flags = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if _JVM.fullmatch(argument):
            flags.append(argument)
        elif match := _V8_NAME.fullmatch(argument):
            size = match["size"] or following
            if re.fullmatch(r"\d{1,9}", size, re.ASCII):
                flags.append(f"--max-{match['what'].replace('_', '-')}={size}")
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


def _jvm_variables(environ: bytes) -> list[str]:
    values = (match["value"] for match in _VARIABLE.finditer(environ) if b"JAVA" in match["name"])
    return [word for value in values for word in value.decode("ascii", "replace").split()]


def is_go(head: bytes) -> bool:
    """
    Whether an executable that begins so was made by Go's linker, which leaves a note with the build's id in it.

    It stays when the file is stripped. Without it (`-buildid=`, packed) nothing is proven.

    Source: cmd/link/internal/ld/elf.go, ELF_NOTE_BUILDINFO_NAME "Go", type 4.
    """
    if head[:6] != _ELF64_LITTLE or len(head) < 64:
        return False
    table, entry_size, count = _PLACE.unpack_from(head, 32)[0], *_ENTRIES.unpack_from(head, 54)
    for at in range(table, min(table + entry_size * count, len(head) - 55), max(entry_size, 56)):
        kind, _, begin, _, _, size = _SEGMENT.unpack_from(head, at)
        if kind == _PT_NOTE and _GO_NOTE.search(head[begin : begin + size]):
            return True
    return False
