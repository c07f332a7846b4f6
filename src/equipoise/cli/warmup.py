"""``equipoise warmup``: compile everything now, so that no first call has to."""

from __future__ import annotations

from time import perf_counter

from equipoise.cli import options
from equipoise.cli.output import out, print_json, working


def warmup(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Compile all kernels and cache them on disk: once a machine, before an engine starts.

    Example: equipoise warmup
    """
    start = perf_counter()
    with working("compiling, once a machine", quiet=quiet or json):
        from equipoise.simulating.warming import warm_up

        warm_up(everything=True)
    seconds = perf_counter() - start
    if json:
        print_json({"seconds": seconds})
    elif not quiet:
        out.print(f"kernels ready after {seconds:.1f} s")
