"""The kernels, over a ladder of sizes: the same as ``gpumlp bench kernels``.

python benchmarks/kernels.py [--backend NAME] [--only PATTERN] [--quick] [--json FILE] [--plot FILE]
"""

import sys

from gpumlp.cli import main

if __name__ == "__main__":
    main(["bench", "kernels", *sys.argv[1:]], prog_name="gpumlp")
