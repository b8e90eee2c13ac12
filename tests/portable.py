"""Run the tests as a processor without AVX would: `python tests/portable.py [default|avx2] [arguments of pytest …]`.

The libraries choose their kernels when they are loaded, so what they may choose stands in the environment before pytest
starts. Sums are then split in other ways, and a test that holds the last digit of this machine fails.
"""

from __future__ import annotations

import os
import subprocess
import sys

PROCESSORS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
        "OMP_NUM_THREADS": "1",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "OMP_NUM_THREADS": "2",
    },
}
"""What the libraries may use of each processor, and how many threads share a sum."""


def environment(processor: str) -> dict[str, str]:
    """Return this environment with the kernels of a processor; NumPy is told to leave out all that it could dispatch to."""
    settings = dict(PROCESSORS[processor])
    if processor == "default":
        from numpy._core._multiarray_umath import __cpu_dispatch__

        settings["NPY_DISABLE_CPU_FEATURES"] = " ".join(__cpu_dispatch__)
    return {**os.environ, **settings}


def main(arguments: list[str]) -> int:
    """Run pytest under one processor, `default` unless the first argument names another."""
    processor = arguments.pop(0) if arguments and arguments[0] in PROCESSORS else "default"
    settings = environment(processor)
    print(f"as a processor of the kind {processor!r} with {settings['OMP_NUM_THREADS']} thread(s)", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], env=settings, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
