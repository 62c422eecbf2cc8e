"""fedsec inside other engines: thin rooms at the edge, each behind an extra of its own.

`flower` gives an app of Flower secure aggregation and privacy; `node` is one client's folder, and
`terms` what all rounds of a run have in common.
"""
