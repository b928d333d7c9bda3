"""python -m cdp.trace"""
import sys

from cdp.trace.cli import main

sys.exit(main())
