"""File input and output: one operation is a pwrite and a pread of one block, and after
every ``fsync_every`` of them an fsync, on an unlinked file in ``directory``."""

from __future__ import annotations

import os
import tempfile

from pyctl.workloads.remote.common import Turn, Work, main


class FileIo(Work):
    """Parameters: directory, size and block (bytes), fsync_every (0: never)."""

    def set_up(self) -> dict[str, object]:
        """Make the file; it has no name, so it can't be left behind."""
        self.block = os.urandom(self.parameters["block"])
        self.blocks = max(1, self.parameters["size"] // len(self.block))
        self.fd, name = tempfile.mkstemp(prefix="djp-fileio-", dir=self.parameters["directory"])
        os.unlink(name)  # noqa: PTH108
        os.ftruncate(self.fd, self.blocks * len(self.block))
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """Write and read back block after block."""
        every = self.parameters["fsync_every"]
        fd, block, size = self.fd, self.block, len(self.block)
        done = syncs = 0
        while turn.more(done):
            offset = (done % self.blocks) * size
            os.pwrite(fd, block, offset)
            os.pread(fd, size, offset)
            done += 1
            if every and done % every == 0:
                os.fsync(fd)
                syncs += 1
        return {"pwrite": done, "pread": done, "fsync": syncs, "bytes": done * size * 2}


if __name__ == "__main__":
    main(FileIo)
