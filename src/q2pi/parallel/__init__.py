"""Jobs in processes of their own: one protocol (`executor.Executor`), implemented by `local.LocalProcesses`."""
