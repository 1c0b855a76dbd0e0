"""Meshes and shardings: an array's dimension is cut by the product of the mesh axes that its entry names, in order."""


class PartitionSpec(tuple):
    def __new__(cls, *entries):
        return super().__new__(cls, entries)


class Mesh:
    def __init__(self, devices, axis_names):
        self.grid, self.axis_names = devices, tuple(axis_names)
        self.shape = dict(zip(axis_names, devices.shape))

    def coordinates(self):
        for number, device in enumerate(self.grid.items):
            at, rest = {}, number
            for name in reversed(self.axis_names):
                rest, at[name] = divmod(rest, self.shape[name])
            yield device, at


class NamedSharding:
    def __init__(self, mesh, spec):
        named = [name for entry in spec for name in ((entry,) if isinstance(entry, str) else entry or ())]
        assert len(set(named)) == len(named), f"{spec} names an axis twice"
        assert set(named) <= set(mesh.axis_names), f"{spec} names an axis that the mesh lacks"
        self.mesh, self.spec = mesh, spec

    def devices_indices_map(self, shape):
        assert len(self.spec) <= len(shape), (self.spec, shape)
        places = {}
        for device, at in self.mesh.coordinates():
            index = []
            for size, entry in zip(shape, (*self.spec, *[None] * len(shape))):
                parts, part = 1, 0
                for name in (entry,) if isinstance(entry, str) else entry or ():
                    parts, part = parts * self.mesh.shape[name], part * self.mesh.shape[name] + at[name]
                assert size % parts == 0, f"{size} does not divide over {parts}"
                index.append(slice(part * size // parts, (part + 1) * size // parts))
            places[device] = tuple(index)
        return places
