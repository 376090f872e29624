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
