"""The benchmark: this system beside bare calls and beside others, over one model server of constant latency.

`make bench` runs it; docs/performance.md says what is measured and how. `python -m bench --help` lists the options.
"""
