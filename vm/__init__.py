"""Disposable guests: images, kernel matrix, QEMU.

    from vm.machine import Machine

    with Machine.boot("bookworm-cloud") as guest:
        print(guest.ssh, guest.release)

Library code prints nothing; what takes time is told to a progress callback.
"""
