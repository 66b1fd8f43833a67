#!/usr/bin/env python3
"""Writes a compressed copy of a library of CUDA kernels that keeps the code of one architecture: one_arch.py FROM TO.xz 90.

The code of the others is overwritten with zeros where it lies, so that every address stays and nothing but that architecture runs. A copy for
tests that travel to a machine of that kind, not for anything else.
"""
import lzma
import mmap
import struct
import sys

MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # a container of device code: magic, version, size of its header


def blank(data: mmap.mmap, keep: int) -> tuple[int, int]:
    """Overwrites code of other architectures; bytes kept and overwritten."""
    kept = gone = 0
    at = data.find(MAGIC)
    while at >= 0:
        entry, end = at + 16, at + 16 + struct.unpack_from("<Q", data, at + 8)[0]
        while entry + 64 <= end <= len(data):
            header, size = struct.unpack_from("<IQ", data, entry + 4)
            (arch,) = struct.unpack_from("<I", data, entry + 28)
            if header < 64 or size == 0 or entry + header + size > end:
                raise SystemExit(f"one_arch: no entry that this script knows at byte {entry}")
            if arch == keep:
                kept += size
            else:
                data[entry + header : entry + header + size] = bytes(size)
                gone += size
            entry += header + size
        at = data.find(MAGIC, max(end, at + 16))
    return kept, gone


def main() -> None:
    source, target, keep = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(source, "rb") as f:
        data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
        kept, gone = blank(data, keep)
        if kept == 0:
            raise SystemExit(f"one_arch: {source} has no code for sm_{keep}")
        with lzma.open(target, "wb", preset=1) as to:
            to.write(data)
    print(f"{kept >> 20} MiB of code for sm_{keep} kept, {gone >> 20} MiB of others left out")


if __name__ == "__main__":
    main()
