"""The processor backend: kernels compiled for the machine at hand, products, threads and memory of their own."""
