"""The GPU backend: kernels compiled by NVRTC, products by cuBLASLt, a step as one CUDA graph."""
