"""Ways to a host: this machine, SSH, and a fake that records."""

from pyctl.transport.base import DEFAULT_TIMEOUT, Completed, Process, Transport
from pyctl.transport.local import LocalTransport
from pyctl.transport.recording import Asked, RecordingTransport, ScriptedProcess
from pyctl.transport.ssh import HostKeys, SshTransport

__all__ = [
    "DEFAULT_TIMEOUT",
    "Asked",
    "Completed",
    "HostKeys",
    "LocalTransport",
    "Process",
    "RecordingTransport",
    "ScriptedProcess",
    "SshTransport",
    "Transport",
]
