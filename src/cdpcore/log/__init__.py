"""The log: pool, frame ring, segments, appending, sealing."""
