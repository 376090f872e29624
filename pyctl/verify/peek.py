"""What stands in kernel text right now, read past djprobes, through /proc/kcore."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyctl.errors import OracleError, RemoteCommandError
from pyctl.transport import Transport, bootstrap

SCRIPT = "pyctl.verify.remote.peek"
SHARED = ("pyctl.verify.remote.kerneltext",)


def peek(transport: Transport, addresses: Sequence[int], length: int = 1) -> list[bytes]:
    """``length`` bytes at each address of a host's kernel. Needs root, and no lockdown."""
    argv = bootstrap.command("djp-peek", str(length), json.dumps(list(addresses)))
    try:
        done = transport.run(argv, input=bootstrap.bundle(SCRIPT, SHARED))
    except RemoteCommandError as error:
        raise OracleError(
            f"{transport.host}: can't read kernel memory\n"
            f"{error.stderr.decode(errors='replace').strip()}",
            hint="it needs root there, /proc/kcore, and no kernel lockdown",
        ) from error
    return [bytes.fromhex(text) for text in json.loads(done.stdout)]
