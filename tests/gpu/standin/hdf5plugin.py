"""Stands for the package hdf5plugin, of which the stages need no more than the number of the filter zstd.

They write and read the chunks directly, past HDF5's filters. The files are the same.
"""


def Zstd(clevel: int) -> dict[str, object]:
    """What ``create_dataset`` takes for the filter, though HDF5 does not have it here."""
    return {"compression": 32015, "compression_opts": (clevel,), "allow_unknown_filter": True}
