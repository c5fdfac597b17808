"""One file per claim, each with a `CLAIM`; `q2pi.lab.road` has their order."""
