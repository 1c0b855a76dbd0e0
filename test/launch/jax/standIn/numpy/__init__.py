"""What plan_sharding.py takes of numpy before it touches data."""


class Grid:
    def __init__(self, items):
        self.items = list(items)

    def reshape(self, shape):
        count = 1
        for size in shape:
            count *= size
        assert count == len(self.items), (shape, len(self.items))
        self.shape = tuple(shape)
        return self


def array(items):
    return Grid(items)
