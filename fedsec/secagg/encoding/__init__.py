"""From named arrays to one vector, from reals to a public grid, and from there to residues of a ring."""
