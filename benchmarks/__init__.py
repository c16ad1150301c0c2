"""What troth costs: measured side by side with what it is compared to, in one run.

`python -m benchmarks` runs them; README.md beside this file says how to read and to add one.
"""
