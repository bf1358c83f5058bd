"""The stand-in for CuPy: does it refuse what CuPy refuses, count what CuPy waits for, and compute what NumPy computes?

Where CuPy is installed, `python tests/cuda/test_strict_device.py` writes cupy_names.txt anew.
"""

import copy
import inspect
import operator
import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import strict_device
from helpers.strict_device import NAMES_FILE, StrictArray

from rmaat_np import backend, layers, optim
from rmaat_np.cuda import kernels
from rmaat_np.ledger import cache_nbytes

xp = strict_device.module
OPERATOR = re.compile(
    r"__([ri]?(add|sub|mul|matmul|truediv|floordiv|mod|divmod|pow|and|or|xor|lshift|rshift)"
    r"|neg|pos|abs|invert|eq|ne|lt|le|gt|ge|copy|deepcopy)__"
)


def some_arrays(module):
    """The same small arrays on a module's device: x, y (3, 4) floats, mask, rows, three and zero (0-d ints)."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    host = {"x": x, "y": 1 - x, "mask": x > 4, "rows": np.array([2, 0, 2]), "three": np.array(3), "zero": np.array(0)}
    return SimpleNamespace(xp=module, **{name: module.asarray(array) for name, array in host.items()})


X, MASK, ROWS, NUMBER = np.ones((3, 4), np.float32), np.ones((3, 4), bool), np.array([2, 0]), np.array(1.0)

# What NumPy allows and CuPy, or the stand-in's stricter reading of it, refuses; `a` is from some_arrays.
REFUSED = {
    "np.asarray": lambda a: np.asarray(a.x),
    "np.array of a list": lambda a: np.array([a.x, a.x]),
    "np.float32 of 0-d": lambda a: np.float32(a.three),
    "numpy's binary ufunc": lambda a: np.add(X, a.x),
    "numpy's reduction": lambda a: np.sum(a.x),
    "numpy's concatenate": lambda a: np.concatenate([a.x, X]),
    "device + host": lambda a: a.x + X,
    "host + device": lambda a: X + a.x,
    "host 0-d * device": lambda a: NUMBER * a.x,
    "device += host": lambda a: operator.iadd(a.x, X),
    "host += device": lambda a: operator.iadd(X.copy(), a.x),
    "device + list": lambda a: a.x + [1.0, 2.0, 3.0, 4.0],
    "device @ host": lambda a: a.x @ X.T,
    "host @ device": lambda a: X.T @ a.x,
    "ufunc of a host array": lambda a: a.xp.exp(X),
    "ufunc of a list": lambda a: a.xp.exp([1.0]),
    "reduction of a host array": lambda a: a.xp.sum(X),
    "concatenate": lambda a: a.xp.concatenate([a.x, X]),
    "concatenate lists": lambda a: a.xp.concatenate([[1.0], [2.0]]),
    "where, host branch": lambda a: a.xp.where(a.mask, a.x, X),
    "where, host condition": lambda a: a.xp.where(MASK, a.x, a.y),
    "einsum": lambda a: a.xp.einsum("ij,ij->i", a.x, X),
    "linalg.norm of a host array": lambda a: a.xp.linalg.norm(X),
    "set from host": lambda a: operator.setitem(a.x, slice(None), X),
    "set from host 0-d": lambda a: operator.setitem(a.x, slice(None), NUMBER),
    "set from a list": lambda a: operator.setitem(a.x, 0, [1.0, 2.0, 3.0, 4.0]),
    "set host from device": lambda a: operator.setitem(X.copy(), slice(None), a.x),
    "host index": lambda a: a.x[ROWS],
    "host mask": lambda a: a.x[MASK],
    "list as index": lambda a: a.x[[0, 1]],
    "bool as index": lambda a: a.x[True],
    "host array at a device index": lambda a: X[a.rows],
    "out= host": lambda a: a.xp.add(a.x, a.y, out=X.copy()),
    "out= host of a reduction": lambda a: a.x.sum(axis=0, out=np.empty(4, np.float32)),
    "ufunc where=": lambda a: a.xp.add(a.x, a.y, where=a.mask, out=a.x),
    "ufunc order=": lambda a: a.xp.exp(a.x, order="C"),
    "method where=": lambda a: a.x.sum(where=a.mask),
    "max initial=": lambda a: a.x.max(initial=0.0),
    "einsum out=": lambda a: a.xp.einsum("ij->i", a.x, out=a.xp.empty(3, dtype=a.x.dtype)),
    "zeros device=": lambda a: a.xp.zeros(3, device="cpu"),
    "__index__": lambda a: operator.index(a.three),
    "slice end on the device": lambda a: a.x[: a.three],
    "shape on the device": lambda a: a.xp.zeros((a.three, 2)),
    "reshape to a device shape": lambda a: a.x.reshape(a.three, 4),
    "axis on the device": lambda a: a.x.sum(axis=a.zero),
    "pickle": lambda a: pickle.dumps(a.x),
}


@pytest.mark.parametrize("expression", REFUSED.values(), ids=REFUSED)
def test_refuses_what_cupy_refuses(expression):
    expression(some_arrays(np))  # it is the rule that forbids it, not a mistake in the expression
    on_device = some_arrays(xp)
    strict_device.reset_synchronisations()
    with pytest.raises(TypeError):
        expression(on_device)
    assert strict_device.synchronisations() == 0


@pytest.mark.parametrize("name", ["__array_interface__", "__array_struct__", "__array_namespace__", "__index__", "foo"])
def test_arrays_leak_no_attribute(name):
    with pytest.raises(AttributeError, match="CuPy has none"):
        getattr(xp.ones(3), name)


def test_other_errors_of_arrays():
    for function, argument in ((hash, xp.ones(3)), (len, xp.ones(())), (iter, xp.ones(()))):
        with pytest.raises(TypeError):
            function(argument)
    with pytest.raises(TypeError, match="5 positional"):
        xp.sum(xp.ones((2, 3)), 0, None, None, False, 1)
    with pytest.raises(ValueError, match="dtype"):
        xp.array(["text"])


COUNTED = {
    "float": (1, lambda a: float(a.three)),
    "int": (1, lambda a: int(a.three)),
    "if": (1, lambda a: 1 if a.three else 0),
    "item": (1, lambda a: a.three.item()),
    "tolist": (1, lambda a: a.x.tolist()),
    "get": (1, lambda a: a.x.get()),
    "asnumpy": (1, lambda a: a.xp.asnumpy(a.x)),
    "format": (1, lambda a: f"{a.three:3d}"),
    "repr": (1, lambda a: repr(a.x)),
    "nonzero": (1, lambda a: a.x.nonzero()),
    "where of one argument": (1, lambda a: a.xp.where(a.mask)),
    "where of three": (0, lambda a: a.xp.where(a.mask, a.x, 0.0)),
    "unique": (1, lambda a: a.xp.unique(a.rows)),
    "mask as index": (1, lambda a: a.x[a.mask]),
    "set at a mask": (1, lambda a: operator.setitem(a.x, a.mask, 0.0)),
    "device index": (0, lambda a: a.x[a.rows]),
    "iteration": (0, lambda a: list(a.x)),
    "comparison": (0, lambda a: a.xp.array_equal(a.x, a.y)),
}


@pytest.mark.parametrize(("expected", "expression"), COUNTED.values(), ids=COUNTED)
def test_counts_synchronisations(expected, expression):
    on_device = some_arrays(xp)
    strict_device.reset_synchronisations()
    expression(on_device)
    assert strict_device.synchronisations() == expected


def test_counts_uploads_and_copies():
    host = np.zeros(3)
    strict_device.reset_synchronisations()
    strict_device.reset_uploads()
    device = xp.asarray(host)
    assert (strict_device.uploads(), strict_device.synchronisations()) == (1, 0)
    host[0] = 1.0
    back = device.get()
    back[1] = 1.0
    assert device.tolist() == [0.0, 0.0, 0.0]
    assert xp.asarray(device) is device and xp.array(device) is not device
    assert xp.array([device, device]).shape == (2, 3)
    xp.zeros(3), xp.arange(3), xp.full(3, 0.5)
    assert strict_device.uploads() == 1


def test_reductions_and_full_indices_stay_on_the_device():
    a = some_arrays(xp)
    numbers = a.x.sum(), xp.max(a.x), a.x[1, 2], a.rows[0], xp.vdot(a.x, a.x), a.x.argmax(), xp.exp(0.0)
    numbers += xp.allclose(a.x, a.y), xp.count_nonzero(a.x), -a.three, xp.random.standard_normal()
    numbers += a.x.sum() * 2.0, xp.pad(a.x, 1, constant_values=2.0).max()
    for number in numbers:
        assert isinstance(number, StrictArray) and number.shape == ()


def test_promotion_follows_numpy_2():
    x, double = xp.ones(3, dtype=xp.float32), xp.ones((), dtype=xp.float64)
    for weak in (x * 2.0, 2.0 * x, x + 1, 1 - x, x**2, x / 3, xp.maximum(x, 0.0), x.sum() * 2.0):
        assert weak.dtype == np.float32
    for strong in (x * double, double * x, x * double.sum(), x * np.float64(2), np.float64(2) * x, x + xp.arange(3)):
        assert isinstance(strong, StrictArray) and strong.dtype == np.float64
    x *= double
    assert x.dtype == np.float32
    with pytest.raises(TypeError):
        xp.arange(3).__iadd__(1.5)


def test_views_share_memory_and_know_their_base():
    x = xp.zeros((4, 6), dtype=xp.float32)
    views = x[1:], x[0, 0], x.T, x.reshape(6, 4)[2:], x.view(xp.uint16), x.swapaxes(0, 1), x[None, ..., 0]
    assert all(view.base is x and not view.flags.owndata for view in views)
    assert all(new.base is None for new in (x, x * 2, x.copy(), x[xp.asarray([0, 1])], x.astype(xp.float64)))
    assert cache_nbytes({"views": list(views)}) == cache_nbytes({"x": x}) == x.nbytes == 96
    x[0, 0] += 1.0
    x[1:2, 0] += x[:1, 0]
    number = x[2, 0]
    number += 3.0
    assert x.T[0].tolist() == [1.0, 1.0, 3.0, 0.0]
    assert xp.exp(x, out=x) is x and x.astype(xp.float32, copy=False) is x and x.astype(xp.float32) is not x
    assert copy.deepcopy(x).base is None and copy.deepcopy(x) is not x
    assert x.T.flags.f_contiguous and x.T.strides == (4, 24) and (x.ndim, x.size, x.shape) == (2, 24, (4, 6))


@pytest.mark.parametrize(
    "name", ["errstate", "vecdot", "einsum_path", "random.Generator", "linalg.multi_dot", "geomspace", "nditer"]
)
def test_names_that_cupy_lacks(name):
    operator.attrgetter(name)(np)
    with pytest.raises(AttributeError, match=name.split(".")[-1]):
        operator.attrgetter(name)(xp)


def test_takes_the_place_of_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", xp)
    monkeypatch.setattr(backend, "xp", np)
    monkeypatch.setattr(backend, "name", "numpy")
    monkeypatch.setattr(backend, "kernels", None)
    assert backend.use("cupy") is xp and backend.kernels is kernels
    assert backend.to_host(backend.to_device(X)).tolist() == X.tolist()


def test_random_names():
    generator = xp.random.default_rng(0)
    assert isinstance(generator.standard_normal(3), StrictArray) and isinstance(xp.random.permutation(4), StrictArray)
    for name in ("normal", "permutation", "choice", "shuffle"):
        with pytest.raises(AttributeError, match=f"Generator.{name}: CuPy has none"):
            getattr(generator, name)


@pytest.mark.parametrize("name", ["fuse", "cuda", "RawKernel", "save", "vectorize", "r_", "random.RandomState"])
def test_names_that_only_cupy_can_offer(name):
    with pytest.raises(AttributeError, match="CuPy has it, but this stand-in does not"):
        operator.attrgetter(name)(xp)


def test_ufunc_methods():
    x, rows = xp.arange(6.0), xp.asarray([0, 4])
    assert xp.add.reduceat(x, rows).tolist() == [6.0, 9.0]
    assert xp.multiply.reduce(x[1:]).tolist() == 120.0
    xp.add.at(x, xp.asarray([1, 1]), 1.0)
    assert x.tolist() == [0.0, 3.0, 2.0, 3.0, 4.0, 5.0]
    for method in (xp.maximum.reduce, xp.maximum.reduceat, xp.multiply.at, xp.exp.at, xp.logical_or.reduce):
        with pytest.raises(NotImplementedError):
            method(x, rows)
    with pytest.raises(TypeError):
        xp.add.reduceat(x, np.array([0, 4]))


def training_step(module, monkeypatch):
    """Embedding, layer norm, linear, gelu, cross-entropy, all gradients, and AdamW with clipping; on that module."""
    monkeypatch.setattr(backend, "xp", module)
    monkeypatch.setattr(backend, "name", "numpy" if module is np else "cupy")
    rng = np.random.default_rng(0)
    shapes = {"table": (7, 8), "gain": (8,), "bias": (8,), "head.weight": (8, 5), "head.bias": (5,)}
    params = {n: module.asarray(rng.standard_normal(shape).astype(np.float32)) for n, shape in shapes.items()}
    state = optim.adamw_init(params)
    tokens, labels = module.asarray(rng.integers(0, 7, (3, 6))), module.asarray(rng.integers(0, 5, 3))
    strict_device.reset_synchronisations()
    strict_device.reset_uploads()
    grads = {}
    x, token_cache = layers.embedding_forward(tokens, params["table"])
    x, norm_cache = layers.layer_norm_forward(x, params["gain"], params["bias"])
    x, gelu_cache = layers.gelu_forward(x)
    logits, head_cache = layers.linear_forward(x.mean(axis=1), params["head.weight"], params["head.bias"])
    loss, loss_cache = layers.softmax_cross_entropy_forward(logits, labels, 1 / 3)
    dlogits = layers.softmax_cross_entropy_backward(1.0, loss_cache)
    dz, grads["head.weight"], grads["head.bias"] = layers.linear_backward(dlogits, head_cache)
    dx = layers.gelu_backward(module.broadcast_to(dz[:, None] / 6, x.shape), gelu_cache)
    dx, grads["gain"], grads["bias"] = layers.layer_norm_backward(dx, norm_cache)
    grads["table"] = layers.embedding_backward(dx, token_cache)
    norm = optim.adamw_step(params, grads, state, 0, 1e-3, clip_norm=0.1)
    return {"loss": loss, "norm": norm} | params | {f"d{name}": gradient for name, gradient in grads.items()}


def test_a_training_step_equals_numpy_and_never_waits(monkeypatch):
    expected = training_step(np, monkeypatch)
    on_device = training_step(xp, monkeypatch)
    assert (strict_device.synchronisations(), strict_device.uploads()) == (0, 0)
    for name, array in on_device.items():
        assert isinstance(array, StrictArray) and array.dtype == np.float32, name
        assert np.array_equal(array.get(), expected[name]), name


def parameters_of(function) -> str | None:
    """Its parameter names, a star before those that are keyword-only; None if it does not tell."""
    if getattr(function, "__name__", "") == "einsum":
        return "*operands dtype optimize"  # says its docstring; the signature is (*operands, **kwargs)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled: the signature is the first line of the docstring
        found = re.match(r"[\w.]+\((.*)\)", function.__doc__ or "")
        names = found and [parameter.split("=")[0].split()[-1] for parameter in filter(None, found[1].split(", "))]
    else:
        names = [str(p.replace(annotation=p.empty, default=p.empty)) for p in parameters]
        kinds = [p.kind for p in parameters]
        if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
            names.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return None if names is None else " ".join(name for name in names if name != "self")


def ufunc_methods(ufunc) -> str:
    """The methods that do not answer at once that they are not supported."""
    offered = ["outer"]
    for method in ("accumulate", "at", "reduce", "reduceat"):
        try:
            getattr(ufunc, method)(None, None)
        except NotImplementedError:
            continue
        except AttributeError:  # it is supported, and None is no array
            offered.append(method)
    return " ".join(sorted(offered))


def describe(cupy) -> str:
    """The text of cupy_names.txt, read from an installed CuPy; that needs no GPU."""

    def functions(owner, names):
        found = {name: parameters_of(getattr(owner, name)) for name in names if callable(getattr(owner, name))}
        return {name: parameters for name, parameters in found.items() if parameters is not None}

    def public(owner):
        return [name for name in dir(owner) if not name.startswith("_") and name != "annotations"]

    names = public(cupy)
    numpys = [name for name in names if getattr(cupy, name) is getattr(np, name, NotImplemented)]
    ufuncs = {name: ufunc_methods(getattr(cupy, name)) for name in names if isinstance(getattr(cupy, name), cupy.ufunc)}
    rest = [name for name in names if name not in numpys and name not in ufuncs]
    plain = functions(cupy, [name for name in rest if not isinstance(getattr(cupy, name), type)])
    methods = functions(cupy.ndarray, public(cupy.ndarray))
    operators = [name for name in dir(cupy.ndarray) if OPERATOR.fullmatch(name)]
    sections = {
        "numpy": dict.fromkeys(numpys, ""),
        "ufunc": ufuncs,
        "function": plain,
        "other": dict.fromkeys([name for name in rest if name not in plain], ""),
        "linalg": functions(cupy.linalg, public(cupy.linalg)),
        "random": functions(cupy.random, public(cupy.random)),
        "Generator": functions(cupy.random.Generator, public(cupy.random.Generator)),
        "ndarray": methods | dict.fromkeys(operators, "*operands"),
        "attribute": dict.fromkeys([name for name in public(cupy.ndarray) if name not in methods], ""),
    }
    lines = [line for line in NAMES_FILE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines[0] = re.sub(r"CuPy [\w.]+", f"CuPy {cupy.__version__}", lines[0])
    for section, entries in sections.items():
        lines += ["", f"[{section}]", *(f"{name} {said}".strip() for name, said in entries.items())]
    return "\n".join([*lines, ""])


def test_the_list_of_names_is_that_of_the_installed_cupy():
    cupy = pytest.importorskip("cupy")
    if f"CuPy {cupy.__version__} " not in NAMES_FILE.read_text(encoding="utf-8"):
        pytest.skip(f"the list is of another version than {cupy.__version__}")
    assert not set(NAMES_FILE.read_text(encoding="utf-8").splitlines()) - set(describe(cupy).splitlines())


if __name__ == "__main__":
    import cupy

    NAMES_FILE.write_text(describe(cupy), encoding="utf-8")
