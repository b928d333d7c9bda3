"""The engine: Cython owner classes over C leaf algorithms; hot paths run without the GIL."""
