"""What the kernels do and what they cost: examples of every operation, agreement, times beside the machine's own."""
