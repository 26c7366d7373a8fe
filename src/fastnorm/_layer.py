"""What all layers have: parameters, a mode, a backward, a state to save, a representation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from . import _arguments as check
from ._types import Array, DTypeLike


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find, and what it found and has no place for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class TensorFile(Protocol):
    """A file of named arrays that is not a mapping: ``safetensors.safe_open``."""

    def keys(self) -> Iterable[str]: ...
    def get_tensor(self, name: str, /) -> Any: ...


class Kept(NamedTuple):
    """What the backward of a call needs of that call."""

    x: Array  # the input itself, no copy
    stats: tuple[Array, ...]  # as the function returns them
    weight: Array | None
    names: tuple[str, ...]  # of the parameters that there were
    frozen: bool  # whether the statistics were running ones, not the input's


# What a layer has kept instead, where there is nothing: the reason.
_NOT_CALLED = "the layer has not been called in training, or after eval(backward=True)"
_TAKEN = "the gradients of the last call have been taken; takes another call first"
_RELEASED = "eval() has released what the last call in training kept"
_OVERWRITTEN = (
    "the last call stored its result in its own input (out), which backward needs; takes a call "
    "whose out does not overlap x"
)


def _is_float(dtype: np.dtype[Any]) -> bool:
    # By name and size: bfloat16 is a type of ml_dtypes, which the package does without.
    known = {("float32", 4), ("float64", 8), ("float16", 2), ("bfloat16", 2)}
    return (dtype.name, dtype.itemsize) in known


def _parameter_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        # np.dtype(None) would be float64.
        found: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not _is_float(found):
        raise check.unsupported_dtype("dtype", repr(dtype) if found is None else found)
    return np.dtype(found.type)  # in the machine's byte order


def _converted(key: str, value: Any, target: Array) -> Array:
    """Return `value` as a new array of `target`'s shape and dtype, or say why it cannot be."""
    if not isinstance(target, np.ndarray) or not target.flags.writeable:
        kind = type(target).__name__
        raise ValueError(f"{key}: the layer's {kind} is not writeable; takes a writeable array")
    try:
        array = check.as_array(key, value)
    except (TypeError, RuntimeError) as error:  # a torch tensor that requires a gradient
        raise TypeError(f"{key}: cannot be made an array: {error}") from error
    counts = target.dtype.kind == "i"
    numbers = array.dtype.kind in ("iu" if counts else "iuf")
    if not numbers and (counts or not _is_float(array.dtype)):
        raise check.wrong_dtype(key, array.dtype, "integers" if counts else "real numbers")
    if array.shape != target.shape:
        raise check.wrong_shape(key, array.shape, target.shape)
    new: Array = array.astype(target.dtype)
    if counts and new.min(initial=0) < 0:
        raise ValueError(f"{key}: is {new.min()}; takes 0 or a positive integer")
    return new


class Layer:
    """What all layers have: parameters, a mode, a backward, a state to save, a representation."""

    # The arrays that make up the state, in the order of torch's keys.
    _state: ClassVar[tuple[str, ...]] = ("weight", "bias")
    # The arguments that the representation always shows: without and with their names.
    _positional: ClassVar[tuple[str, ...]]
    _named: ClassVar[tuple[str, ...]]

    weight: Array | None
    bias: Array | None
    # The gradients of the parameters, by their names, from the last `backward`.
    grads: dict[str, Array]

    _keeps_in_evaluation = False
    _kept: Kept | str = _NOT_CALLED

    def __init__(self, shape: tuple[int, ...], affine: bool, bias: bool, dtype: DTypeLike) -> None:
        self.dtype = _parameter_dtype(dtype)
        self.training = True
        self.grads = {}
        self.weight = np.ones(shape, self.dtype) if affine else None
        if "bias" in self._state:
            self.bias = np.zeros(shape, self.dtype) if affine and bias else None

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or with ``mode=False`` to evaluation; return the layer."""
        if not isinstance(mode, (bool, np.bool_)):
            raise TypeError(f"mode: is {mode!r}; takes True or False")
        if not mode:
            return self.eval()
        self.training, self._keeps_in_evaluation = True, False
        return self

    def eval(self, *, backward: bool = False) -> Self:
        """Switch to evaluation and release what was kept for `backward`; return the layer.

        Parameters
        ----------
        backward : bool
            Whether calls keep what `backward` needs, as they do in training: for gradients
            through a network with frozen statistics. Otherwise they keep nothing, so that no
            input stays in memory for the layer's sake.
        """
        if not isinstance(backward, (bool, np.bool_)):
            raise TypeError(f"backward: is {backward!r}; takes True or False")
        self.training, self._keeps_in_evaluation = False, bool(backward)
        if isinstance(self._kept, Kept):
            self._kept = _RELEASED
        return self

    @property
    def _frozen(self) -> bool:
        """Whether the next call uses running statistics, not the input's."""
        return False

    def _call(self, x: Array, out: Array | None, return_stats: bool) -> Array | tuple[Array, ...]:
        """Call the layer's function; everything that it does not return is done then."""
        raise NotImplementedError

    def __call__(self, x: Array, /, *, out: Array | None = None) -> Array:
        """Normalise `x`; see the class."""
        result = self._call(x, out, self.training or self._keeps_in_evaluation)
        if not isinstance(result, tuple):
            return result
        self._keep(x, out, result[1:])
        return result[0]

    def _keep(self, x: Array, out: Array | None, stats: tuple[Array, ...]) -> None:
        """Keep what `backward` needs of a call that has just succeeded."""
        # With a bound on the work, for an exact answer may take for ever; beyond it, it is yes.
        # (NumPy takes any integer, its stubs do not know.)
        work: Any = 1000
        if out is not None and np.may_share_memory(x, out, max_work=work):
            self._kept = _OVERWRITTEN
            return
        names = tuple(n for n in ("weight", "bias") if getattr(self, n, None) is not None)
        self._kept = Kept(x, stats, self.weight, names, self._frozen)

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        """Return the gradients of the input, of the weight and, where there is one, of the bias."""
        raise NotImplementedError

    def backward(self, grad: Array, /, *, out: Array | None = None) -> Array:
        """Take the gradients of the last call in training, or after ``eval(backward=True)``.

        Parameters
        ----------
        grad : array
            The gradient of the loss by the call's result, of its shape and dtype.
        out : array, optional
            Where to store the gradient by the input: of the input's shape and dtype; may be
            `grad` or the input itself.

        Returns
        -------
        array
            The gradient by the input, or `out`. The parameters' gradients replace what is in
            `grads`: under ``"weight"`` and ``"bias"``, where the layer has these; float32,
            float64 for float64 input.

        Raises
        ------
        RuntimeError
            Without such a call, for a second time, after `eval`, and where the call's `out`
            was its own input.
        TypeError, ValueError
            If `grad` or `out` does not fit. Nothing has changed then.

        Notes
        -----
        The call keeps its input and the weight themselves, no copies: change them (an
        optimiser's step, say) only after `backward`. Of several calls only the last one is kept;
        neither it nor `grads` is copied, pickled or part of `state_dict`.

        In evaluation with running statistics, these are constants. Everywhere else mean and
        variance depend on the input, and the gradient accounts for that.
        """
        kept = self._kept
        if isinstance(kept, str):
            raise RuntimeError(f"backward: {kept}")
        dx, *gradients = self._gradients(grad, kept, out)
        named = zip(("weight", "bias"), gradients, strict=False)
        self.grads = {name: gradient for name, gradient in named if name in kept.names}
        self._kept = _TAKEN
        return dx

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one call, in copies and pickles."""
        state = {name: value for name, value in self.__dict__.items() if name != "_kept"}
        return {**state, "grads": {}}

    def _arrays(self) -> dict[str, Array]:
        arrays = {name: getattr(self, name) for name in self._state}
        return {name: array for name, array in arrays.items() if array is not None}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the layer's arrays under torch's names, without those switched off.

        Unlike torch's they are no views, so that a saved state stays what it was.
        """
        return {name: np.array(array) for name, array in self._arrays().items()}

    def load_state_dict(
        self, mapping: Mapping[str, Any] | TensorFile, strict: bool = True, prefix: str = ""
    ) -> IncompatibleKeys:
        """Copy values into the layer's arrays, in place and in the dtypes that these have.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Such as a `state_dict`, what `numpy.load` gives for an ``.npz`` file, or an open
            ``safetensors.safe_open``. Only the values that are needed are looked up. They
            may be integers or floating-point numbers of any precision.
        strict : bool
            Whether missing or unexpected keys are refused. ``num_batches_tracked`` is never
            missed, for old checkpoints do not have it; the layer's own count then stays.
        prefix : str
            What the keys start with, such as ``"encoder.layer.0.norm."``. Keys that start
            otherwise are ignored.

        Returns
        -------
        missing_keys, unexpected_keys : list of str
            A named tuple; the keys are given with the prefix.

        Raises
        ------
        ValueError
            For missing or unexpected keys when `strict`, for other shapes, for an array of
            the layer that cannot be written to.
        TypeError
            For values that are not real numbers. Nothing is copied when anything is refused.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: is {prefix!r}; takes a string")
        fetch = getattr(mapping, "get_tensor", None) or getattr(mapping, "__getitem__", None)
        if fetch is None or not hasattr(mapping, "keys"):
            kind = type(mapping).__name__
            raise TypeError(f"mapping: is a {kind}; takes a mapping of names to arrays")
        found = [key for key in mapping.keys() if str(key).startswith(prefix)]  # noqa: SIM118
        targets = {prefix + name: array for name, array in self._arrays().items()}
        optional = prefix + "num_batches_tracked"
        keys = IncompatibleKeys(
            [key for key in targets if key not in found and key != optional],
            [key for key in found if key not in targets],
        )
        if strict and (keys.missing_keys or keys.unexpected_keys):
            raise ValueError(
                f"mapping: is missing {keys.missing_keys} and has unexpected "
                f"{keys.unexpected_keys}; takes the keys of {self!r}"
            )
        # Every value is converted before the first is copied: a refusal changes nothing.
        news = {key: _converted(key, fetch(key), targets[key]) for key in targets if key in found}
        for key, new in news.items():
            np.copyto(targets[key], new)
        return keys

    def __repr__(self) -> str:
        """Return the call that makes such a layer, without keywords that are at their defaults."""
        parts = [repr(getattr(self, name)) for name in self._positional]
        parts += [f"{name}={getattr(self, name)!r}" for name in self._named]
        if "bias" in self._state and self.weight is not None and self.bias is None:
            parts.append("bias=False")
        for name, default in (("channel_axis", 1), ("axis", None)):
            if getattr(self, name, default) != default:
                parts.append(f"{name}={getattr(self, name)!r}")
        if self.dtype != np.float32:
            parts.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join(parts)})"
