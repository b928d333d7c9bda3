#!/usr/lib/cdp/bin/python3 -I
from cdp.__main__ import main

main()
