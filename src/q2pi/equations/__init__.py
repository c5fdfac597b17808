"""Pure functions: tensors or arrays in, the same out; they know no networks, no devices and no config.

Shapes: `B` batch, `T` time, `N` environments, `A` actions, `D` action dimensions, `S` states, `O` observations.
"""
