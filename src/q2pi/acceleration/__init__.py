"""Speed on one machine: precision, CUDA graphs, the memory allocator."""
