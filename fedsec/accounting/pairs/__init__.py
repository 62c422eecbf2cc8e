"""Dominating pairs: the two output laws that stand for the worst two neighbours of one mechanism."""
