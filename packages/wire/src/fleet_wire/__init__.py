"""What crosses a process: gRPC stubs, events, subjects, streams and the bus. Runs on Python 3.9 and newer."""

import os

# Set before gRPC is first imported. Its handlers for fork serve processes that go on using gRPC in a forked child; none of ours
# does, and between fork and exec of a child they tripped over threads ("epoll_wait error: Bad file descriptor") and hung it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
