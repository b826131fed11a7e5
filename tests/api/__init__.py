"""The market's processes from outside: real ones, on loopback, in temporary homes."""
