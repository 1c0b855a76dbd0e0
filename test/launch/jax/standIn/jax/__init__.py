"""Stands in for JAX where it is not installed: devices, meshes and where arrays lie, no computation."""

from . import numpy, sharding  # noqa: F401

_devices = []


class Device:
    def __init__(self, number, process):
        self.id, self.process_index = number, process


def pretend(count, per_process):
    # Not in order, so that the order of ranks is the module's doing.
    _devices[:] = [Device(i, i // per_process) for i in range(count)][::-1]


def devices():
    return _devices


class _Unused:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


lax = tree_util = tree = distributed = _Unused()
