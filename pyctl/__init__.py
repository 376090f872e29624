"""djprobes from Python: put direct jump probes on a live kernel, here or over SSH.

    from pyctl import Guest

    with Guest.boot("bookworm-cloud") as guest:
        with guest.probes() as probes:
            read = probes.add("vfs_read")
            probes.commit()
            guest.workload("fileio").run(seconds=5)
            print(read.hits, read.method)

The library prints nothing; the command ``djp`` is a thin layer over it.
"""

from pyctl.census import Census
from pyctl.control import Features, ProbeStatus, Stats
from pyctl.errors import BusyError, ControlError, DjprobesError, NotLoadedError, RefusedError
from pyctl.explanation import Explanation
from pyctl.guest import Guest
from pyctl.maps import MapEntry, MapKind
from pyctl.methods import Method, State
from pyctl.options import By, Condition, Field, Options
from pyctl.probes import CommitResult, Probe, Probes
from pyctl.quiescence import Blocker, Tunables
from pyctl.reasons import Reason

__all__ = [
    "Blocker",
    "BusyError",
    "By",
    "Census",
    "CommitResult",
    "Condition",
    "ControlError",
    "DjprobesError",
    "Explanation",
    "Features",
    "Field",
    "Guest",
    "MapEntry",
    "MapKind",
    "Method",
    "NotLoadedError",
    "Options",
    "Probe",
    "ProbeStatus",
    "Probes",
    "Reason",
    "RefusedError",
    "State",
    "Stats",
    "Tunables",
]
