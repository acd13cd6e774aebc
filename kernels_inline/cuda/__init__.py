"""The CUDA kernels (.cu files without headers), and the three ways to run them: nvcc, NVRTC, and on the CPU."""
