"""One module for each group of goldens: runs the official code, its own checkout given, and writes down its answers.

Run from the root of the repository: `python -m parity.recorders.NAME ...`.
"""
