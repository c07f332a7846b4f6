"""How every kernel is compiled: the options, and the reason for each.

- ``nogil``: layers are spread over Python threads, so a kernel must let go of the interpreter lock.
- ``cache``: compiling takes seconds, an engine's step milliseconds. The cache is keyed by CPU and by source file.
- ``error_model="numpy"``: division by zero gives inf or nan as in numpy, without a branch a division.
- no wrappers for names with an underscore, which only kernels call: unpacking a dozen arrays takes longer to compile than many
  a kernel itself.
- no ``fastmath``: it lets the compiler reorder sums and fuse multiply-adds, and plans must be the same on any machine.
- no ``parallel``: its default threading layer aborts the process when two Python threads use it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., object])


class UncachedKernelsWarning(UserWarning):
    """No folder can hold compiled kernels, so this process compiles them for itself."""


def kernel(function: Function) -> Function:
    """Compile ``function`` on its first call, with the options above.

    Where neither the package's folder, the home folder nor ``NUMBA_CACHE_DIR`` can be written, numba refuses to cache when
    the function is *defined*; the kernel then runs uncached, with one warning a process.
    """
    return _compiled(function, {"nogil": True, "error_model": "numpy"})


def part(function: Function) -> Function:
    """Compile a small part of kernels, as :func:`kernel` does, to be inlined wherever it is called.

    Handing a tuple of a dozen arrays to a function costs 50 to 100 ns, as much as such a part does.
    """
    return _compiled(function, {"nogil": True, "error_model": "numpy", "forceinline": True})


def is_interpreted() -> bool:
    """Tell whether numba was told to compile nothing (NUMBA_DISABLE_JIT), so that there is nothing to warm up."""
    return bool(numba.config.DISABLE_JIT)


def _compiled(function: Function, options: dict[str, Any]) -> Function:
    if function.__name__.startswith("_"):
        options = options | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _warn_uncached()
        return numba.njit(cache=False, **options)(function)  # type: ignore[no-any-return]


_warned = False


def _warn_uncached() -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        "compiled kernels cannot be cached: neither the package folder nor the home folder is writable, so every process "
        "compiles them anew (10 to 30 s); set NUMBA_CACHE_DIR to a writable folder",
        UncachedKernelsWarning,
        stacklevel=3,
    )
