"""``python -m gpumlp`` is the command ``gpumlp``."""

from gpumlp.cli import main

main(prog_name="gpumlp")
