"""What is printed by the million.

    record_text   records of the history as lines of JSON
"""
