# ---- What follows is the same for every plan; the names in capitals stand above. ----

import contextlib
import contextvars
import functools
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# True while `accumulate` traces a loss: its mapped axes are then no longer there to be named.
_mapped = contextvars.ContextVar("mpopt_mapped", default=False)


class PlanError(Exception):
    """The plan cannot be applied here; one sentence says why."""


def initialize():
    """
    Joins the processes of all hosts, one a host; call it before anything else of JAX. Address and index come from
    JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID, which run.sh sets, or from what JAX finds by itself (Slurm, MPI).
    """
    if HOSTS == 1:
        return
    index = os.environ.get("JAX_PROCESS_ID")
    if index is None:
        jax.distributed.initialize()
    else:
        address = os.environ.get("JAX_COORDINATOR_ADDRESS")
        if not address:
            raise PlanError("Expected host:port of the first host in JAX_COORDINATOR_ADDRESS but found nothing.")
        jax.distributed.initialize(coordinator_address=address, num_processes=HOSTS, process_id=int(index))
    if jax.process_count() != HOSTS:
        raise PlanError(f"Expected {HOSTS} processes, one a host, but found {jax.process_count()}.")


@functools.cache
def make_mesh():
    """The plan's mesh: device i of all, by process and then by number, is rank i of the plan."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) != math.prod(MESH_SHAPE):
        shape = " x ".join(map(str, MESH_SHAPE))
        raise PlanError(f"Expected {math.prod(MESH_SHAPE)} devices ({shape}) for this plan but found {len(devices)}.")
    held = [device.process_index for device in devices]
    for process in set(held):
        if HOSTS > 1 and held.count(process) != DEVICES_PER_HOST:
            raise PlanError(f"Expected {DEVICES_PER_HOST} devices a process but found {held.count(process)} on {process}.")
    return Mesh(np.array(devices).reshape(MESH_SHAPE), MESH_AXES)


def axes_size(axes):
    """Devices along a mesh axis or a tuple of them."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(MESH_SHAPE[MESH_AXES.index(name)] for name in names)


def _join(*parts):
    """Several mesh axes over one dimension, in the form of a PartitionSpec."""
    names = tuple(name for part in parts for name in ((part,) if isinstance(part, str) else part or ()))
    return names[0] if len(names) == 1 else names or None


def path_name(path):
    """A leaf's path in a tree as `a/b/kernel`; strings may have dots. `value` of flax.nnx at the end is left out."""
    if not isinstance(path, str):
        path = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return re.sub(r"/value$", "", path.replace(".", "/"))


def _rule(path):
    """The tensor-parallel placement of a parameter's last dimensions, None where no rule names its module."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    return None


def tensor_spec(path, shape=None):
    """
    Entries for the dimensions of a parameter, tensor parallelism alone. Rules count from the last dimension, so that
    layers or experts stacked in front of it change nothing.
    """
    name = path_name(path)
    rule = _rule(name)
    tensor = axes_size(tuple(axis for axis in MESH_AXES if axis == "tensor"))
    if rule is None:
        if tensor > 1 and (shape is None or len(shape) > 1):
            raise PlanError(f"Expected a parameter of a module that the plan names but found {name!r}.")
        rule = ()
    dimensions = len(rule) if shape is None else len(shape)
    if dimensions < len(rule):
        raise PlanError(f"Expected at least {len(rule)} dimensions of {name!r} but found {dimensions}.")
    entries = [None] * (dimensions - len(rule)) + list(rule)
    for size, axes in zip(shape or (), entries):
        if axes and size % axes_size(axes):
            raise PlanError(f"Expected a multiple of {axes_size(axes)} ({axes}) in {name!r} but found {size}.")
    return entries


def _with_state_axes(entries, shape=None):
    """
    Puts the axes of ZeRO on one of the last two dimensions: a free one before the tensor axis's, the larger first.
    Where neither divides, a parameter stays whole over them; one that takes room is refused.
    """
    shards = axes_size(STATE_AXES)
    last = range(max(0, len(entries) - 2), len(entries))
    for at in sorted(last, key=lambda at: (entries[at] is not None, -shape[at] if shape else at)):
        if shape is None or shape[at] % (axes_size(entries[at]) * shards) == 0:
            entries[at] = _join(entries[at], STATE_AXES)
            return entries
    if shape and math.prod(shape) >= 1 << 20:
        raise PlanError(f"Expected a dimension that {shards} ranks of ZeRO divide but found shape {tuple(shape)}.")
    return entries


def parameter_spec(path, shape=None):
    """PartitionSpec of a parameter: tensor parallelism, and under ZeRO-3 the axes of ZeRO."""
    entries = tensor_spec(path, shape)
    return PartitionSpec(*(_with_state_axes(entries, shape) if ZERO == 3 and STATE_AXES else entries))


def state_spec(path, shape=None):
    """PartitionSpec of what the optimizer keeps of a parameter (master weights, moments): sharded from ZeRO-1 on."""
    entries = tensor_spec(path, shape)
    return PartitionSpec(*(_with_state_axes(entries, shape) if STATE_AXES else entries))


def param_sharding(path, shape=None):
    return NamedSharding(make_mesh(), parameter_spec(path, shape))


def state_sharding(path, shape=None):
    return NamedSharding(make_mesh(), state_spec(path, shape))


def gradient_sharding(path, shape=None):
    """Of gradients that are summed over all replicas: each rank needs those whose state it updates."""
    return state_sharding(path, shape)


def _over_leaves(sharding):
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, leaf: sharding(path, leaf.shape), tree)


# Shardings of a whole tree, of arrays or of jax.eval_shape: for in_shardings and out_shardings of jax.jit.
param_shardings = _over_leaves(param_sharding)
state_shardings = _over_leaves(state_sharding)


def _place(leaf, sharding):
    if HOSTS == 1:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def shard_params(tree):
    """Places parameters that every host holds whole. Large models: jit the initialisation with param_shardings."""
    return jax.tree.map(_place, tree, param_shardings(tree))


def shard_state(tree):
    """Places an optimizer's state whose leaves lie under the paths of their parameters."""
    return jax.tree.map(_place, tree, state_shardings(tree))


def to_params(master):
    """Master weights in the type and the places of parameters; inside jit this is the gather of ZeRO-1 and 2."""
    cast = jax.tree.map(lambda leaf: leaf.astype(PARAMETER_DTYPE), master)
    return jax.lax.with_sharding_constraint(cast, param_shardings(cast))


def gather(tree, path=""):
    """
    Parameters where they are used, whole over the axes of ZeRO-3; on the way back their gradients are summed there
    before they are cut into shards. `path` is what stands in front of the tree's own paths: call it inside a block (and
    inside `remat`), so that one block at a time is gathered.
    """
    if ZERO < 2 or not STATE_AXES:
        return tree

    def whole(at, leaf):
        entries = tensor_spec(f"{path_name(path)}/{path_name(at)}", leaf.shape)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(make_mesh(), PartitionSpec(*entries)))

    return jax.tree_util.tree_map_with_path(whole, tree)


def activation_spec(kind):
    if kind not in ACTIVATIONS:
        raise PlanError(f"Expected one of {', '.join(ACTIVATIONS)} but found {kind!r}.")
    return PartitionSpec(*ACTIVATIONS[kind])


def activation_sharding(kind):
    """Of activations over all replicas: `tokens`, `residual`, `heads`, `features` or `logits`."""
    return NamedSharding(make_mesh(), activation_spec(kind))


def constrain(x, kind):
    """Holds an activation to its place in the plan, inside `accumulate` or outside of it."""
    spec = activation_spec(kind)
    if _mapped.get():
        gone = set(MAPPED_AXES)
        names = ((entry,) if isinstance(entry, str) else entry or () for entry in spec)
        spec = PartitionSpec(*(_join(tuple(name for name in entry if name not in gone)) for entry in names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(make_mesh(), spec))


def batch_sharding():
    """Of the global batch [sequences, ...]: every rank reads its own sequences, in the order of the ranks."""
    return NamedSharding(make_mesh(), PartitionSpec(_join(MAPPED_AXES, BATCH_AXES)))


def shard_batch(tree):
    """Places a global batch that every host holds whole."""
    return jax.tree.map(lambda leaf: _place(leaf, batch_sharding()), tree)


def remat(block, layer=None):
    """
    A block as the plan recomputes it: whole, or not at all. Where the plan recomputes its first layers alone it asks
    for the number of the layer; layers under one scan then need a scan for each group.
    """
    if REMAT_LAYERS and layer is None and REMAT != "full":
        raise PlanError(f"Expected the number of the layer, because the plan recomputes the first {REMAT_LAYERS}.")
    whole = REMAT == "full" or (layer is not None and layer < REMAT_LAYERS)
    return jax.checkpoint(block) if whole else block


def remat_attention(attention, layer=None):
    """The core of attention, from queries, keys and values to its output, as the plan recomputes it."""
    whole = layer is not None and layer < REMAT_LAYERS
    return jax.checkpoint(attention) if REMAT == "selective" and not whole else attention


@contextlib.contextmanager
def _tracing():
    token = _mapped.set(True)
    try:
        yield
    finally:
        _mapped.reset(token)


def accumulate(loss_fn):
    """
    (params, batch) -> (loss, gradients), for the global batch, inside jit. `loss_fn(params, batch)` is the mean over
    one micro-batch of MICRO_BATCH sequences a rank; MICRO_BATCHES of them follow each other on every rank. Replicas sum
    their gradients once a step (ZeRO-0 and 1, and between groups), sharded ones with every micro-batch (ZeRO-2 and 3).
    """
    replicas, ranks = axes_size(MAPPED_AXES), axes_size(BATCH_AXES)

    def split(leaf):
        if leaf.shape[0] != GLOBAL_BATCH:
            raise PlanError(f"Expected {GLOBAL_BATCH} sequences in the batch but found {leaf.shape[0]}.")
        rest = leaf.shape[1:]
        leaf = leaf.reshape(replicas, ranks, MICRO_BATCHES, MICRO_BATCH, *rest)
        leaf = jnp.moveaxis(leaf, 2, 1).reshape(replicas, MICRO_BATCHES, ranks * MICRO_BATCH, *rest)
        spec = PartitionSpec(_join(MAPPED_AXES), None, _join(BATCH_AXES))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(make_mesh(), spec))

    def hold(gradients):
        return jax.lax.with_sharding_constraint(gradients, state_shardings(gradients)) if ZERO > 1 else gradients

    def one_replica(params, batch):
        def step(sums, micro):
            loss, gradients = jax.value_and_grad(loss_fn)(params, micro)
            added = jax.tree.map(lambda total, part: total + part.astype(total.dtype), sums[1], gradients)
            return (sums[0] + loss, hold(added)), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, GRADIENT_DTYPE), params)
        return jax.lax.scan(step, (jnp.zeros((), jnp.float32), hold(zeros)), batch)[0]

    def run(params, batch):
        parts = jax.tree.map(split, batch)
        with _tracing():
            if MAPPED_AXES:
                each = jax.vmap(functools.partial(one_replica, params), spmd_axis_name=MAPPED_AXES)
                loss, gradients = jax.tree.map(lambda leaf: leaf.sum(0), each(parts))
            else:
                loss, gradients = one_replica(params, jax.tree.map(lambda leaf: leaf[0], parts))
        count = replicas * MICRO_BATCHES
        gradients = jax.tree.map(lambda leaf: leaf / count, gradients)
        return loss / count, jax.lax.with_sharding_constraint(gradients, state_shardings(gradients))

    return run
