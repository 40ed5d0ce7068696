"""What crosses a process: gRPC stubs, events, subjects, streams and the bus. Runs on Python 3.9 and newer."""
