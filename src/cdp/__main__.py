"""`python -m cdp` is the command line `cdp`."""
from cdp.cli import main

main()
