"""One file is one algorithm: the files of this package are the list."""
