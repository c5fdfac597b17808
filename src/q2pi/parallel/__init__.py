"""Jobs in separate processes: the protocol `executor.Executor` and its implementation `local.LocalProcesses`."""
