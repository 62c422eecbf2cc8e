"""Whose key is whose: key files, signed statements, and the directory that a participant trusts."""
