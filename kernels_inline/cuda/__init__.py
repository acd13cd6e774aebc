"""The CUDA kernels, one .cu file a stage, and the three ways to run them: nvcc, NVRTC, and on the CPU."""
