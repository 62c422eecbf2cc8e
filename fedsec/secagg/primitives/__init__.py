"""What the protocol is built from: secrets drawn and wiped, shares of them, and roots of many keys."""
