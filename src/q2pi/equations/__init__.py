"""Pure functions of tensors or arrays; they depend on no network, no device and no configuration.

Shapes: `B` batch, `T` time, `N` environments, `A` actions, `D` action dimensions, `S` states, `O` observations.
"""
