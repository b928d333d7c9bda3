"""Sizes, timestamps and paths: read from text and written as text.

    sizes       64MiB, 10G, 250ms, and back
    timestamps  RFC 3339 with all nine digits of the nanoseconds
    paths       what is wrong with a path, before the file system is asked
    pictures    a drawn picture into a file
"""
