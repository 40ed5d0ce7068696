"""The control plane of SWE AI Fleet."""
