"""Block traces: native parsers, the replay driver, the check of its result."""
