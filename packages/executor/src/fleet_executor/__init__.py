"""Runs agent jobs on Ray and answers for their state. Runs on Python 3.9 to 3.13, whichever the cluster has."""
