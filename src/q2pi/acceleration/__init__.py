"""What makes training fast on one machine: precision, CUDA graphs, the allocator."""
