"""The measurements that `bench/` and `fedsec bench` both call: seconds, and ratios to a named peer.

Machines differ and are noisy, so what counts is a ratio within one run: candidates take turns, and the
medians are compared.
"""
