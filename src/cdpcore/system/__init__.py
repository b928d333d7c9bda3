"""The operating system as one table of functions: real, plain POSIX, simulated."""
