"""What the kernels cost: times of every operation beside the machine's own copies and other libraries."""
