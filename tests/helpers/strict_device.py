"""A stand-in for CuPy: computes with NumPy and refuses what CuPy refuses, so code for the GPU is tested without one.

`module` takes the place of `cupy`, in `sys.modules` too. It offers the names, and of each function the arguments, that
cupy_names.txt lists. An array on the "device" is a `StrictArray`; data moves only where the code says so, and every
move is counted: `uploads()` from the host to the device, `synchronisations()` how often the host waits for an answer.

Where CuPy is lenient the stand-in is not: it refuses host arrays and lists as indices or assigned values (CuPy uploads
them silently), NumPy functions called on device arrays (CuPy takes over some), and indices out of bounds (CuPy wraps).
"""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np


def _words(text):
    return frozenset(text.split())


DTYPES = "?bBhHiIlLqQefdFD"  # characters of the dtypes that CuPy has: no objects, no text, no long double
NAMES_FILE = Path(__file__).with_name("cupy_names.txt")
UFUNC_PARAMETERS = "*operands out dtype casting"
UFUNC_METHODS = {
    "accumulate": "array axis dtype out",
    "at": "a indices b",
    "outer": "A B **",
    "reduce": "array axis dtype out keepdims",
    "reduceat": "array indices axis dtype out",
}
UPLOADS = {"array", "asanyarray", "asarray", "ascontiguousarray", "asfortranarray"}
# Functions that read a value back to the host, mostly the size of their result.
SYNCHRONISES = _words(
    "argwhere asarray_chkfinite average bincount choose compress delete extract flatnonzero histogram histogram2d "
    "histogramdd interp intersect1d ix_ mask_indices nanmax nanmin nonzero percentile place put quantile "
    "ravel_multi_index real_if_close setdiff1d setxor1d trim_zeros union1d unique unique_all unique_counts "
    "unique_inverse unique_values unravel_index"
)
NUMBERS_ON_DEVICE = {"allclose", "array_equal", "array_equiv", "count_nonzero"}  # NumPy answers with a Python number
# Parameters that are read on the host: shapes, axes, counts. The others take device arrays and single numbers.
HOST_PARAMETERS = _words(
    "M N axes axis axis1 axis2 base casting ddof decimals destination dimensions dims dtype indices_or_sections k "
    "keepdims mode n ndim new_shape newshape num offset order pad_width range repeats reps seed shape shift size "
    "source start step stop"
)
SEQUENCE_PARAMETERS = {"choicelist", "condlist", "out", "tup"}  # these also take several arrays
# CuPy has them; here they would hand host arrays to a callback, or to a file without counting it.
NOT_IMITATED = _words(
    "apply_along_axis apply_over_axes array2string array_repr array_str dump dumps frombuffer fromfile fromfunction "
    "fromiter fromstring genfromtxt load loadtxt piecewise save savetxt savez savez_compressed tofile"
)
INDICES = (slice, int, np.integer, type(None), type(Ellipsis))
ATTRIBUTES = ("T", "dtype", "imag", "itemsize", "mT", "nbytes", "ndim", "real", "shape", "size", "strides")
READS = ("__bool__", "__complex__", "__float__", "__format__", "__int__", "__repr__", "__str__")
READS += ("item", "tobytes", "tolist")

_lock = threading.Lock()
_counts = {"synchronisations": 0, "uploads": 0}


def synchronisations() -> int:
    """How often the host has waited for a value from the device since the last reset."""
    return _counts["synchronisations"]


def uploads() -> int:
    """How often host data was moved to the device since the last reset."""
    return _counts["uploads"]


def reset_synchronisations() -> None:
    """Start counting synchronisations from 0."""
    _counts["synchronisations"] = 0


def reset_uploads() -> None:
    """Start counting uploads from 0."""
    _counts["uploads"] = 0


def read_names() -> dict[str, dict[str, str]]:
    """cupy_names.txt as section -> name -> what follows the name: parameters, or a ufunc's methods."""
    sections, section = {}, None
    for line in NAMES_FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            section[name] = rest
    return sections


class StrictArray:
    """An array on the device: wraps a NumPy array that only this file looks at.

    base: the array whose memory this one shares, or None, as in CuPy. Methods, operators and attributes are added
    below from the list of CuPy's names.
    """

    __slots__ = ("_host", "base")
    __hash__ = None
    __array_ufunc__ = None  # NumPy's ufuncs refuse, and `host + device` asks the device array, which refuses too

    def __init__(self, host: np.ndarray, base=None):
        if host.dtype.char not in DTYPES:
            raise ValueError(f"CuPy has no arrays of dtype {host.dtype}")
        self._host, self.base = host, base

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion of a device array to a NumPy array; use asnumpy or .get()")

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called on a device array; use the array module's function")

    def __reduce__(self):
        raise TypeError("pickling a device array would be an implicit conversion; use asnumpy or .get()")

    def __getattr__(self, name):
        raise AttributeError(_missing("ndarray", name, name in NAMES["ndarray"] or name in NAMES["attribute"]))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return _to_device(self._host[_index(key)], [self])

    def __setitem__(self, key, value):
        self._host[_index(key)] = _to_host("ndarray.__setitem__", "value", value, [])

    def get(self) -> np.ndarray:
        """Copy to the host."""
        _count("synchronisations")
        return self._host.copy()

    @property
    def flags(self):
        """Only the three flags that CuPy has."""
        flags = self._host.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=self.base is None
        )


def _count(event):
    with _lock:
        _counts[event] += 1


def _missing(owner, name, offered):
    said = "CuPy has it, but this stand-in does not imitate it" if offered else "CuPy has none"
    return f"{owner}.{name}: {said}"


def _index(key):
    """The index for the wrapped array; with an Ellipsis at its end NumPy gives views where CuPy does, never scalars."""
    items = key if isinstance(key, tuple) else (key,)
    host = []
    for item in items:
        if isinstance(item, StrictArray):
            if item.dtype == bool:
                _count("synchronisations")  # how many are True decides the shape
            item = item._host
        elif isinstance(item, bool) or not isinstance(item, INDICES):
            raise TypeError(f"index of type {type(item).__name__}; move it to the device with asarray first")
        host.append(item)
    return tuple(host) if any(item is Ellipsis for item in host) else (*host, Ellipsis)


def _to_host(label, parameter, value, sources):
    """What NumPy gets for one argument. Device arrays among it are added to `sources`; what CuPy refuses is refused."""
    if isinstance(value, StrictArray):
        if parameter in HOST_PARAMETERS:
            raise TypeError(f"{label}: {parameter} is read on the host, but it is a device array")
        sources.append(value)
        return value._host
    if hasattr(value, "__array__") and not isinstance(value, np.generic | type):
        raise TypeError(f"{label}: {parameter} is a host array; move it to the device with asarray first")
    if isinstance(value, list | tuple):
        if parameter in HOST_PARAMETERS:
            return type(value)(_to_host(label, parameter, item, sources) for item in value)
        if parameter not in SEQUENCE_PARAMETERS or not all(isinstance(item, StrictArray) for item in value):
            raise TypeError(f"{label}: {parameter} is a {type(value).__name__}, but it must be made of device arrays")
        return type(value)(_to_host(label, parameter, item, sources) for item in value)
    return value


def _to_device(result, sources):
    """Wrap what NumPy returned: `out` is itself again, views know whose memory they share, scalars are 0-d arrays."""
    if isinstance(result, list | tuple):
        return (list if isinstance(result, list) else tuple)(_to_device(item, sources) for item in result)
    if isinstance(result, np.generic | float):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    for source in sources:
        if source._host is result:
            return source
    for source in sources:
        if result.base is not None and _owner(result) is _owner(source._host):
            return StrictArray(result, source if source.base is None else source.base)
    return StrictArray(result)


def _owner(host):
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


def _imitate(label, parameters, function):
    """A function that takes CuPy's arguments, checks them as CuPy would, and lets NumPy's function compute."""
    name, any_keyword = label.rpartition(".")[2], "**" in parameters
    tokens = [token for token in parameters.split() if not token.startswith("**")]
    star = next((i for i, token in enumerate(tokens) if token.startswith("*")), len(tokens))
    positional, variadic, keywords = tokens[:star], "".join(tokens[star : star + 1])[1:], tokens[star + 1 :]

    def call(*args, **kwargs):
        if len(args) > len(positional) and not variadic:
            raise TypeError(f"{label}: CuPy takes {len(positional)} positional arguments, but {len(args)} were given")
        if (unknown := kwargs.keys() - {*positional, *keywords}) and not any_keyword:
            raise TypeError(f"{label}: CuPy takes no argument {sorted(unknown)[0]!r}")
        names = positional + [variadic] * (len(args) - len(positional))
        if name in SYNCHRONISES or (name == "where" and len(args) == 1):
            _count("synchronisations")
        if name in UPLOADS and args:
            args = (_uploaded(args[0]), *args[1:])
        sources = []
        args = [_to_host(label, parameter, value, sources) for parameter, value in zip(names, args, strict=False)]
        kwargs = {parameter: _to_host(label, parameter, value, sources) for parameter, value in kwargs.items()}
        result = function(*args, **kwargs)
        return _to_device(np.asarray(result) if name in NUMBERS_ON_DEVICE else result, sources)

    call.__name__ = name
    return call


def _imitate_ufunc(name, methods):
    function = getattr(np, name)
    call = _imitate(f"cupy.{name}", UFUNC_PARAMETERS, function)
    for method, parameters in UFUNC_METHODS.items():
        label = f"cupy.{name}.{method}"
        offered = method in methods.split() and hasattr(function, method)
        setattr(call, method, _imitate(label, parameters, getattr(function, method)) if offered else _refuse(label))
    return call


def _refuse(label):
    def call(*args, **kwargs):
        raise NotImplementedError(f"{label}: CuPy does not support it")

    return call


def _uploaded(value):
    """The argument of asarray and its kin: host data becomes a new device array; device data stays where it is."""
    if isinstance(value, StrictArray):
        return value
    if isinstance(value, list | tuple) and any(isinstance(item, StrictArray) for item in value):
        return StrictArray(np.array(_to_host("cupy.array", "tup", value, [])))
    _count("uploads")
    return StrictArray(np.array(value))


def _asnumpy(a):
    return a.get() if isinstance(a, StrictArray) else np.asarray(a)


def _reader(name):
    function = getattr(np.ndarray, name)

    def read(self, *args):
        _count("synchronisations")
        return function(self._host, *args)

    return read


class _Namespace:
    """A module or random generator that offers only CuPy's names, and says of every other what is the matter."""

    def __init__(self, label, offered, contents):
        self.__dict__ |= contents | {"_label": label, "_offered": offered}

    def __getattr__(self, name):
        raise AttributeError(_missing(self._label, name, name in self._offered))


def _imitate_all(label, section, target):
    """Every function of a section of the list that NumPy's `target` has too."""
    found = {name: getattr(target, name, None) for name in NAMES[section].keys() - NOT_IMITATED}
    functions = {name: value for name, value in found.items() if callable(value) and not isinstance(value, type)}
    return {name: _imitate(f"{label}.{name}", NAMES[section][name], value) for name, value in functions.items()}


def _default_rng(seed=None):
    generator = _imitate_all("cupy.random.Generator", "Generator", np.random.default_rng(seed))
    return _Namespace("cupy.random.Generator", NAMES["Generator"], generator)


def _build_module():
    linalg, random = _imitate_all("cupy.linalg", "linalg", np.linalg), _imitate_all("cupy.random", "random", np.random)
    contents = _imitate_all("cupy", "function", np)
    contents |= {name: getattr(np, name) for name in NAMES["numpy"] if hasattr(np, name)}
    contents |= {name: _imitate_ufunc(name, m) for name, m in NAMES["ufunc"].items() if hasattr(np, name)}
    contents |= {"ndarray": StrictArray, "asnumpy": _asnumpy, "is_available": lambda: True}
    contents["linalg"] = _Namespace("cupy.linalg", NAMES["linalg"], linalg)
    contents["random"] = _Namespace("cupy.random", NAMES["random"], random | {"default_rng": _default_rng})
    offered = set().union(*(NAMES[section] for section in ("numpy", "ufunc", "function", "other")))
    return _Namespace("cupy", offered, contents)


def _equip_array():
    """Give StrictArray CuPy's methods, operators and attributes."""
    for name, parameters in NAMES["ndarray"].items():
        if name not in NOT_IMITATED and name not in vars(StrictArray) and hasattr(np.ndarray, name):
            setattr(StrictArray, name, _imitate(f"ndarray.{name}", f"self {parameters}", getattr(np.ndarray, name)))
    for name in ATTRIBUTES:
        setattr(StrictArray, name, property(lambda self, name=name: _to_device(getattr(self._host, name), [self])))
    for name in READS:
        setattr(StrictArray, name, _reader(name))


NAMES = read_names()
_equip_array()
module = _build_module()
